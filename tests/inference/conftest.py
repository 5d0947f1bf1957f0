"""A pixel's season, maps and a cube of it, laws and scores: what figures are drawn from, with known numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy
import xarray as xr

from inference.discovery import Law, Laws
from pi_vae.law import parse

CHANNELS = {"s2": ("B04", "B08"), "s1": ("VV", "VH")}
DATES, PIXELS, DRAWS, HEIGHT, WIDTH = 14, 24, 60, 12, 16
NULL = tuple(np.linspace(-0.05, 0.12, 39).tolist())


def days(count: int = DATES) -> np.ndarray:
    return np.datetime64("2021-01-15T10:45", "ns") + np.arange(count) * np.timedelta64(26, "D")


def season(phase: float | np.ndarray = 0.0) -> np.ndarray:
    return 0.3 + 3.5 * np.exp(-0.5 * ((np.arange(DATES) - 6.0 - phase) / 2.2) ** 2)


@pytest.fixture(scope="session")
def tree() -> xr.DataTree:
    """A pixel is bare, green and bare again; VV has a residual that falls with LAI, VH noise."""
    rng = np.random.default_rng(0)
    lai = season(rng.normal(0, 1, (PIXELS, 1)))
    moisture = 0.2 + 0.06 * np.cos(np.arange(DATES)) + 0.02 * rng.normal(size=(PIXELS, 1))
    residual = np.stack([1.5 * np.exp(-0.6 * lai) - 0.6, 0.3 * rng.normal(size=lai.shape)], -1)
    red, nir = 0.12 - 0.02 * lai, 0.2 + 0.07 * lai
    signal = {"s2": np.stack([red, nir], -1), "s1": np.stack([-9 - lai, -17 + lai], -1)}

    def draws(mean: np.ndarray, sd: float) -> np.ndarray:
        return mean + sd * rng.normal(size=(1, DRAWS, *mean.shape))

    dims, time = ("chain", "draw", "pixel", "time"), days()
    posterior = {
        "lai": (dims, draws(lai, 0.3).clip(0.01)),
        "cab": (dims, draws(30 + 4 * lai, 6.0)),
        "soil_moisture": (dims, draws(moisture, 0.03).clip(0.03)),
        "residual_s1": ((*dims, "s1_channel"), draws(residual, 0.15), {"units": "dB"}),
    }
    predictive, observed, constant, coords = {}, {}, {}, {}
    for name, values in signal.items():
        axes = ("pixel", f"{name}_time", f"{name}_channel")
        unit, noise = {"s2": ("1", 0.012), "s1": ("dB", 0.8)}[name]
        seen = rng.random((PIXELS, DATES)) < (0.6 if name == "s2" else 0.95)
        predictive[name] = (("chain", "draw", *axes), draws(values, noise), {"units": unit})
        noisy = values + noise * rng.normal(size=values.shape)
        observed[name] = (axes, np.where(seen[..., None], noisy, np.nan), {"units": unit})
        constant[f"{name}_seen"] = (axes[:2], seen)
        coords |= {axes[1]: time, axes[2]: list(CHANNELS[name])}
    place = {"pixel_row": ("pixel", np.arange(PIXELS) // 6), "pixel_column": ("pixel", np.arange(PIXELS) % 6)}
    groups = {
        "posterior": (posterior, {"time": time, "s1_channel": coords["s1_channel"]}),
        "posterior_predictive": (predictive, coords),
        "observed_data": (observed, coords),
        "constant_data": (constant, {"s1_time": time, "s2_time": time, "time": time}),
    }
    return xr.DataTree.from_dict({k: xr.Dataset(v, c | place) for k, (v, c) in groups.items()})


@pytest.fixture(scope="session")
def maps() -> xr.Dataset:
    """A field that greens from west to east; the first pixel was never observed, optics saw the other dates."""
    rng = np.random.default_rng(1)
    space, fields = ("y", "x"), np.repeat(season(np.linspace(-2, 2, WIDTH)[:, None])[None], HEIGHT, 0)
    lai = fields.transpose(2, 0, 1) * rng.uniform(0.8, 1.2, (HEIGHT, WIDTH))
    flags = np.zeros((DATES, HEIGHT, WIDTH), np.uint8)
    flags[:, 0, 0] = 1 | 2 | 4
    arrays = {
        "lai_mean": (("time", *space), lai.astype("f4"), {"units": "m2 m-2"}),
        "lai_sd": (("time", *space), (0.1 + 0.2 * lai).astype("f4"), {"units": "m2 m-2"}),
        "n_mean": (space, rng.normal(1.5, 0.1, (HEIGHT, WIDTH)), {"units": "1"}),
        "n_sd": (space, np.full((HEIGHT, WIDTH), 0.2), {"units": "1"}),
        "flags": (("time", *space), flags),
    }
    coords = {"time": days(), "y": 5e6 - 10.0 * np.arange(HEIGHT), "x": 5e5 + 10.0 * np.arange(WIDTH)}
    coords["spatial_ref"] = 0
    signal = {"s2": np.stack([0.12 - 0.02 * lai, 0.2 + 0.07 * lai], 1), "s1": np.stack([-9 - lai, -17 + lai], 1)}
    for name, values in signal.items():
        dims, attrs = (f"{name}_time", f"{name}_channel", *space), {"units": "1" if name == "s2" else "dB"}
        coords |= {dims[0]: days(), dims[1]: list(CHANNELS[name])}
        arrays[f"{name}_mean"] = (dims, values, attrs)
        arrays[f"residual_{name}_mean"] = (dims, values - values.mean(0), attrs)
    return xr.Dataset(arrays, coords)


@pytest.fixture(scope="session")
def cube(maps: xr.Dataset) -> xr.DataTree:
    """Observations 0.01 or 0.5 dB off, by turns up and down; one is withheld and absurd."""
    nodes = {}
    for name, (variable, dim) in {"s2": ("reflectance", "band"), "s1": ("backscatter", "pol")}.items():
        sign = np.where(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2, 1.0, -1.0)
        values = maps[f"{name}_mean"].values + (0.01 if name == "s2" else 0.5) * sign
        withheld = np.zeros((DATES, HEIGHT, WIDTH), bool)
        withheld[3, 2, 2], values[3, :, 2, 2] = True, 50.0
        values = 10 ** (values / 10) if name == "s1" else values
        nodes[name] = xr.Dataset(
            {
                variable: (("time", dim, "y", "x"), values),
                "valid": (("time", "y", "x"), np.ones_like(withheld)),
                "withheld": (("time", "y", "x"), withheld),
            },
            {"time": days(), dim: list(CHANNELS[name])},
        )
    return xr.DataTree.from_dict(nodes)


@pytest.fixture(scope="session")
def make_laws() -> Callable[[float], Laws]:
    """Two candidates for VV, the second with the held-out skill given, and one for VH that is worthless."""

    def law(channel: str, form: str, complexity: int, skill: float) -> Law:
        coefficients = {name: value for name, value in {"c0": 1.5, "c1": -0.6}.items() if name in form}
        symbols = {name: sympy.Symbol(name) for name in ("lai", "c0", "c1")}
        known = tuple(map(tuple, np.diag([0.01, 0.0025][-len(coefficients) :]).tolist()))
        return Law(
            "s1", channel, CHANNELS["s1"], sympy.sympify(form, symbols), coefficients, known, "dB",
            {"lai": "m2 m-2"}, {"lai": (0.3, 3.8)}, {"lai": 1.2}, complexity, -skill, skill + 0.05, skill, NULL,
        )  # fmt: skip

    def laws(heldout: float) -> Laws:
        candidates = ("VV", "c1*lai", 3, 0.05), ("VV", "c0*exp(c1*lai)", 6, heldout), ("VH", "c1*lai", 3, -4.0)
        return Laws("s1", tuple(law(*each) for each in candidates), NULL)

    return laws


@pytest.fixture(scope="session")
def leafy() -> Law:
    """A law of leaf area in VV, with a covariance whose constants go together, that passes."""
    return Law(
        modality="s1",
        channel="VV",
        channels=("VV", "VH"),
        form=parse("c0*exp(c1*lai)", ("lai", "c0", "c1")),
        coefficients={"c0": 1.5, "c1": -0.6},
        covariance=((0.01, -0.002), (-0.002, 0.0025)),
        unit="dB",
        units={"lai": "m2 m-2"},
        ranges={"lai": (0.3, 4.5)},
        typical={"lai": 1.2},
        complexity=6,
        description_length=-100.0,
        train_skill=0.9,
        heldout_skill=0.88,
        null=(0.0,) * 19,
    )


@pytest.fixture(scope="session")
def scores() -> dict:
    """Of two bands that are about right, and of a polarisation that is too sure and worse than interpolation."""
    return {
        "s2": {
            "n": 1200,
            "rmse": {"B04": 0.02, "B08": 0.03},
            "coverage_90": 0.9,
            "coverage_90_by_channel": {"B04": 0.88, "B08": 0.92},
            "baselines": {"linear": {"B04": 0.04, "B08": 0.04}, "date_mean": {"B04": 0.025, "B08": 0.06}},
        },
        "s1": {
            "n": 900,
            "rmse": {"VV": 1.2},
            "coverage_90": 0.75,
            "coverage_90_by_channel": {"VV": 0.75},
            "baselines": {"linear": {"VV": 1.0}, "date_mean": {"VV": None}},
        },
    }
