"""Cubes with known effects that the physical models do not have: what an exclusive residual is there to find.

Points are drawn from the prior of a model without residual, so that every physical variable is known, and to what the
sensors see is added, in units of the noise of each channel,

radar
    ``row``, the direction of rows: of a point, changing over months, VV more than VH; ``dew``: of some dates of a
    point, VH more than VV;
optical
    ``senescent`` material: it comes and goes once a year at a moment of the point's own, bright in the short-wave
    infrared, dark in the red edge; ``haze``, with adjacency: of some dates of a point, falling with the wavelength.

The effects of a modality together have a root mean square of ``level`` times the noise, over its dates and channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pi_vae import PhysicsVAE
from pi_vae.data import complete, pattern, simulate

__all__ = ["Planted", "planted", "points"]

YEAR = 365.25
ROW_DAYS = 90.0
EVENTS = 0.25  # share of the dates
SHAPES = {  # by channel; a positive number is brighter
    "row": (1.0, 0.3),
    "dew": (0.4, 1.0),
    "senescent": (0.1, 0.2, 0.3, -0.2, -0.6, -0.6, -0.5, -0.4, 0.7, 1.0),
    "haze": (1.0, 0.8, 0.6, 0.5, 0.45, 0.4, 0.36, 0.35, 0.12, 0.08),
}


@dataclass
class Planted:
    """A cube of points with its truth, and what was planted.

    Attributes:
        cube: observations, with the node ``truth`` of the physics.
        effect: modality -> `[T_m, C, point]` in the units of the likelihood.
        noise: modality -> `[C]` noise scale.
    """

    cube: xr.DataTree
    effect: dict[str, np.ndarray]
    noise: dict[str, np.ndarray]


def points(count: int, optical_days: int, radar_days: int, cloudy: float, seed: int) -> xr.DataTree:
    """An empty cube of points over a year, each with clouds of its own."""
    side, rng = int(np.ceil(np.sqrt(count))), np.random.default_rng(seed)
    nodes = {}
    for name, node in pattern(side, optical_days=optical_days, radar_days=radar_days, cloudy=0.0).children.items():
        flat = node.to_dataset().stack(point=("y", "x")).drop_vars(["point", "x", "y"]).isel(point=slice(count))
        nodes[name] = flat.transpose("time", ..., "point")
    clear = rng.random(nodes["s2"].valid.shape) >= cloudy
    nodes["s2"]["valid"] = (nodes["s2"].valid.dims, clear)
    return complete(xr.DataTree.from_dict(nodes))


def planted(model: PhysicsVAE, empty: xr.DataTree, level: float, seed: int) -> Planted:
    """A cube drawn from a model without residual, with effects of a level."""
    cube = simulate(model, empty, seed)
    rng = np.random.default_rng([seed, 1])
    noise = {name: cube["truth"][f"global_{name}_noise"].values for name in ("s2", "s1")}
    days = {name: (cube[name].time.values - cube["s2"].time.values[0]) / np.timedelta64(1, "D") for name in noise}
    count = cube["s2"].sizes["point"]
    courses = {
        "s1": {"row": _lasting(days["s1"], count, rng), "dew": _events(len(days["s1"]), count, rng)},
        "s2": {"senescent": _season(days["s2"], count, rng), "haze": _events(len(days["s2"]), count, rng)},
    }
    effect, nodes = {}, {name: node.to_dataset() for name, node in cube.children.items()}
    for name, parts in courses.items():
        shaped = [np.asarray(SHAPES[part])[None, :, None] * course[:, None] for part, course in parts.items()]
        whole = sum(one / np.sqrt(np.mean(one**2)) for one in shaped)  # each as loud as the other
        whole = level * whole / np.sqrt(np.mean(whole**2))
        effect[name] = whole * noise[name][None, :, None]
    nodes["s2"]["reflectance"] = nodes["s2"].reflectance + effect["s2"].astype(np.float32)
    nodes["s1"]["backscatter"] = nodes["s1"].backscatter * (10 ** (effect["s1"] / 10)).astype(np.float32)
    return Planted(xr.DataTree.from_dict(nodes), effect, noise)


def _lasting(days: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`[T, point]` processes of unit variance with an exponential covariance."""
    covariance = np.exp(-np.abs(days[:, None] - days) / ROW_DAYS)
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(days))) @ rng.standard_normal((len(days), count))


def _events(dates: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`[T, point]` positive amplitudes at some dates, nothing at the others."""
    return rng.exponential(size=(dates, count)) * (rng.random((dates, count)) < EVENTS)


def _season(days: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`[T, point]` one smooth rise and fall."""
    peak, width, height = rng.uniform(0, YEAR, count), rng.uniform(30, 60, count), rng.lognormal(0, 0.5, count)
    apart = (days[:, None] - peak + YEAR / 2) % YEAR - YEAR / 2
    return height * np.exp(-0.5 * (apart / width) ** 2)
