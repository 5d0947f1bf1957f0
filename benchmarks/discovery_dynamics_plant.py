"""Systems whose equations are known, seen through clouds and noise; for ``discovery_dynamics.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from inference.discovery.dynamics import Constraints

__all__ = ["SYSTEMS", "Planted", "plant", "public"]

YEAR = 365.25
START = 17532.0  # 2018-01-01
STEPS = 200
PUBLIC = (
    "Lorenz",
    "Rossler",
    "Chen",
    "Halvorsen",
    "Rucklidge",
    "SprottB",
    "SprottD",
    "SprottJ",
    "NoseHoover",
    "SprottE",
)
PERIOD, PERIODS = 100.0, 4  # days that a public system takes for its dominant period, and how many are seen

Inputs = dict[str, np.ndarray | float]


@dataclass(frozen=True)
class System:
    """States, coefficients by (state, term), how starts are drawn `[pixel, state]`, and what physics says."""

    states: tuple[str, ...]
    coefficients: dict[tuple[str, str], float]
    starts: Callable[[np.random.Generator, int], np.ndarray]
    rules: Constraints = Constraints()
    conserved: bool = False


@dataclass(frozen=True)
class Planted:
    """Observations `[pixel, date, state]` (NaN in clouds), the truth at the grid, drivers there."""

    days: np.ndarray
    values: np.ndarray
    grid: np.ndarray
    truth: np.ndarray
    drivers: dict[str, np.ndarray]


TURN = 2 * np.pi / 200
SYSTEMS = {
    "relaxation": System(
        ("x",),
        {("x", "x"): -0.02, ("x", "air_temperature"): 0.02},
        lambda rng, n: rng.normal(0, 12, (n, 1)),
        Constraints().sign("x", "x", -1),
    ),
    "logistic": System(
        ("x",),
        {("x", "x"): 0.02, ("x", "x**2"): -0.005},
        lambda rng, n: rng.uniform(0.05, 1.0, (n, 1)),
        Constraints().sign("x", "x", 1).sign("x", "x**2", -1),
    ),
    "oscillator": System(
        ("x", "v"),
        {("x", "v"): TURN, ("v", "x"): -TURN, ("v", "v"): -0.004},
        lambda rng, n: rng.normal(0, 1.5, (n, 2)),
        Constraints().equal(("v", "x"), ("x", "v"), -1),
    ),
    "exchange": System(
        ("x", "y", "z"),
        {
            ("x", "x*y"): 0.02,
            ("x", "x*z"): -0.016,
            ("y", "x*y"): -0.02,
            ("y", "y*z"): 0.024,
            ("z", "x*z"): 0.016,
            ("z", "y*z"): -0.024,
        },
        lambda rng, n: rng.dirichlet([3, 3, 3], n) * rng.uniform(1.5, 4, (n, 1)),
        Constraints().conserve({"x": 1, "y": 1, "z": 1}),
        conserved=True,
    ),
    "pools": System(
        ("x", "y"),
        {("x", "precipitation"): 1.0, ("x", "x"): -0.012, ("y", "x"): 0.012, ("y", "y"): -0.007},
        lambda rng, n: rng.uniform(20, 600, (n, 2)),
        Constraints().balance({("x", "y"): ["x"]}, gains={"x": ["precipitation"]}, losses={"y": ["y"]}),
    ),
    "season": System(
        ("x",),
        {("x", "x"): -0.008, ("x", "cos_year"): 0.02, ("x", "sin_year"): -0.012},
        lambda rng, n: rng.normal(0, 2.5, (n, 1)),
        Constraints().sign("x", "x", -1),
    ),
}


def plant(
    name: str, seed: int, noise: float, pixels: int = 8, dates: int = 90, years: float = 2.5, clouds: float = 0.4
) -> Planted:
    """A system observed at irregular dates.

    Args:
        name: of `SYSTEMS`.
        seed: of weather, starts, dates, clouds and noise.
        noise: sd of the errors in sd of the state.
        pixels: with a start of their own each.
        dates: acquisitions, of which a share `clouds` is lost in every pixel.
        years: that they lie in.
        clouds: that share.
    """
    rng = np.random.default_rng([seed, list(SYSTEMS).index(name)])
    system = SYSTEMS[name]
    days = START + np.sort(rng.choice(int(years * 365), dates, replace=False)).astype(float)
    grid = np.linspace(days[0], days[-1], STEPS + 1)
    daily, weather = _weather(rng, days[0], days[-1])

    def rate(t: float, x: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * t / YEAR
        inputs = dict(zip(system.states, x, strict=True)) | {"sin_year": np.sin(angle), "cos_year": np.cos(angle)}
        inputs |= {driver: np.interp(t, daily, series) for driver, series in weather.items()}
        out = np.zeros(len(x))
        for (state, term), c in system.coefficients.items():
            out[system.states.index(state)] += c * _term(term, inputs)
        return out

    runs = [
        solve_ivp(rate, days[[0, -1]], x0, dense_output=True, rtol=1e-7, atol=1e-8, max_step=2.0).sol
        for x0 in system.starts(rng, pixels)
    ]
    seen, truth = (np.array([run(at).T for run in runs]) for at in (days, grid))
    values = seen + noise * seen.std((0, 1)) * rng.normal(size=seen.shape)
    values[rng.random(values.shape[:2]) < clouds] = np.nan
    # What a date of the grid stands for is the mean of its step.
    fine = grid[:, None] + (grid[1] - grid[0]) * (np.arange(16) - 7.5) / 16
    return Planted(days, values, grid, truth, {k: np.interp(fine, daily, v).mean(1) for k, v in weather.items()})


def _term(name: str, inputs: Inputs) -> float:
    base, _, power = name.partition("**")
    return np.prod([inputs[factor] for factor in base.split("*")]) ** int(power or 1)


def _weather(rng: np.random.Generator, first: float, last: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Days, and temperature [deviation in K] with spells of two weeks and precipitation [mm/day] over eleven days."""
    t = np.arange(first - 30, last + 31)
    spell, fade = np.zeros(len(t)), np.exp(-1 / 12)
    for i, shock in enumerate(rng.normal(size=len(t) - 1), 1):
        spell[i] = fade * spell[i - 1] + np.sqrt(1 - fade**2) * shock
    rain = np.convolve(rng.gamma(0.25, 8.0, len(t)), np.ones(11) / 11, "same")
    return t, {"air_temperature": 4 * spell - 10 * np.cos(2 * np.pi * (t - 20) / YEAR), "precipitation": rain}


def public(
    noise: float, seed: int, pixels: int = 6, dates: int = 160
) -> Iterator[tuple[str, tuple[str, ...], Planted, Callable[[np.ndarray], np.ndarray]]]:
    """Chaotic systems of ``dysts`` (Gilpin 2021), in sd of their states and a period of a hundred days.

    Yields:
        name, states, observations, right side ``[n, S] -> [n, S]`` per day
    """
    import dysts.flows

    rng = np.random.default_rng(seed)
    for name in PUBLIC:
        flow = getattr(dysts.flows, name)()

        def raw(x: np.ndarray, flow=flow) -> np.ndarray:
            return np.array(flow.rhs(x, 0.0), dtype=float)

        size = len(flow.ic) if np.ndim(flow.ic) == 1 else len(flow.ic[0])
        start = np.atleast_2d(flow.ic)[0]
        run = solve_ivp(lambda t, x: raw(x), (0, 60 * flow.period), start, rtol=1e-8, atol=1e-9, dense_output=True).sol
        at = np.linspace(10 * flow.period, 60 * flow.period, 4000)
        scale = run(at).std(1)
        days = START + np.sort(rng.uniform(0, PERIOD * PERIODS, dates))
        grid = np.linspace(days[0], days[-1], 2 * STEPS + 1)
        begin = rng.uniform(10, 60 - PERIODS, pixels) * flow.period

        def seen(when: np.ndarray, run=run, begin=begin, scale=scale, flow=flow) -> np.ndarray:
            return np.array([run(b + (when - START) / PERIOD * flow.period).T for b in begin]) / scale

        def right(x: np.ndarray, scale=scale, raw=raw, flow=flow) -> np.ndarray:
            return np.array([raw(row * scale) for row in x]) / scale * flow.period / PERIOD

        truth = seen(days)
        values = truth + noise * rng.normal(size=truth.shape)
        states = tuple("xyzw"[:size])
        yield name, states, Planted(days, values, grid, seen(grid), {}), right
