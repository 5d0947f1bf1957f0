r"""Joint posterior draws of states and their time derivatives, at any dates.

A state :math:`x(\cdot)` is a Gaussian process, or a smooth function of some. Its derivative is Gaussian jointly with it
(Rasmussen & Williams 2006, section 9.4), so that draws of :math:`(x, \dot x)` follow from the kernel: nothing is
differenced, and dates may be as irregular as clouds leave them. `draw_states` reads a fitted run; for series of plain
numbers see `inference.discovery.dynamics.smoothing`.

A function :math:`v = f(u, t)` of processes, such as a bounded variable or a residual, has the derivative

.. math:: \dot v = \frac{\partial f}{\partial u}\,\dot u + \frac{\partial f}{\partial t},

taken forward by automatic differentiation, draw by draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.func import jvp

from inference.discovery.dataset import DRIVERS
from inference.draws import present, seeded
from inference.posterior import choose_pixels
from inference.training import Run
from pi_vae import PhysicsVAE
from pi_vae.data import validate
from pi_vae.data.batches import Batch
from pi_vae.data.scene import open_tensors

__all__ = ["DAY_OF_YEAR", "DynamicsSamples", "draw_states"]

DAY_OF_YEAR = "day_of_year"
YEAR = 365.25
STEPS = 200
MIN_DRAWS, MIN_DATES = 8, 16
SHARED_DRAWS = 8
LASTING = 1.0  # days of lengthscale from which on a process is not new at every date


@dataclass(frozen=True)
class DynamicsSamples:
    """Draws of states and of their derivatives.

    Attributes:
        states: names.
        times: `[time]` days since 1970-01-01, increasing; dense enough for a trapezoid rule.
        value: `[draw, pixel, time, state]`.
        slope: `[draw, pixel, time, state]` time derivative, per day, joint with the value.
        drivers: name -> `[time]` or `[pixel, time]`, known without error.
        units: state or driver -> unit.

    Raises:
        ValueError: shapes do not agree, a value is not finite, dates do not increase, there are too few draws or dates,
            or a name occurs twice or is not a name.
    """

    states: tuple[str, ...]
    times: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    drivers: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (*self.states, *self.drivers)
        wrong = [n for n in names if not n.isidentifier() or n == DAY_OF_YEAR or names.count(n) > 1]
        if wrong:
            raise ValueError(f"{wrong[0]!r} cannot name a state or driver here: use a word that occurs once.")
        shape = (*np.shape(self.value)[:2], len(self.times), len(self.states))
        if np.shape(self.value) != shape or np.shape(self.slope) != shape or not self.states:
            raise ValueError(
                f"Samples have value {np.shape(self.value)} and slope {np.shape(self.slope)}: give both as "
                f"[draw, pixel, time, state] with {len(self.times)} dates and {len(self.states)} states."
            )
        if shape[0] < MIN_DRAWS or shape[2] < MIN_DATES:
            raise ValueError(
                f"Samples have {shape[0]} draws at {shape[2]} dates: give at least {MIN_DRAWS} at {MIN_DATES}."
            )
        if not (np.diff(self.times) > 0).all():
            raise ValueError("The dates of the samples do not increase: sort them and leave out what occurs twice.")
        for name, driver in self.drivers.items():
            if np.shape(driver) not in (shape[2:3], shape[1:3]):
                raise ValueError(f"Driver {name!r} has shape {np.shape(driver)}: give [time] or [pixel, time].")
        for name, array in {"value": self.value, "slope": self.slope, **self.drivers}.items():
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{name!r} of the samples is not finite everywhere: fill or leave out what is missing."
                )

    @property
    def day_of_year(self) -> np.ndarray:
        """`[time]` days since the first of January, within a day of the calendar's."""
        return self.times % YEAR

    def inputs(self) -> dict[str, np.ndarray]:
        """Name -> what broadcasts to `[draw, pixel, time]`: states, drivers, the day of year."""
        states = {name: self.value[..., i] for i, name in enumerate(self.states)}
        return states | dict(self.drivers) | {DAY_OF_YEAR: self.day_of_year}

    def replace(self, **changes) -> DynamicsSamples:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


def draw_states(
    run: Run,
    cube: xr.DataTree,
    states: Sequence[str],
    dates: np.ndarray | None = None,
    draws: int = 64,
    pixels: int | list[tuple[int, int]] | None = 64,
    drivers: Sequence[str] | None = None,
    seed: int = 0,
) -> DynamicsSamples:
    """Draws from the posterior of a run.

    Args:
        run: a fitted run.
        cube: a valid cube.
        states: dynamic variables such as ``"lai"``, or channels of a residual such as ``"residual_s1_VV"``, without
            those of its processes that are new at every date and follow no law.
        dates: `[time]` days since 1970-01-01, observed or not; by default 200 equal steps over the record.
        draws: how many.
        pixels: which pixels: a number drawn at random, a list of (row, column), or all of them.
        drivers: weather of the cube's node ``drivers``; by default what is there.
        seed: of the draws and of the choice of pixels.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: a state or driver is not there, or the kernel of a state has no derivative.
    """
    validate(cube)
    model = run.model
    data = open_tensors(cube, present(model, cube), partial=True)
    readers = {name: _reader(model, name) for name in states}
    dates = np.linspace(float(data.dates[0]), float(data.dates[-1]), STEPS + 1) if dates is None else dates
    weather = _weather(cube, np.asarray(dates, float), drivers)
    rows, columns = choose_pixels(pixels, data, seed)
    with seeded(seed):
        batch = data.at(rows, columns, model.encoder.radius)
        there = torch.as_tensor(np.asarray(dates, float))
        parts = list(_joint(model, batch, draws, there, list(readers.values())))
    value, slope = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    units = {name: unit for name, (_, _, unit) in readers.items()} | {k: u for k, u in DRIVERS.items() if k in weather}
    return DynamicsSamples(tuple(states), there.numpy(), value, slope, weather, units)


def _joint(
    model: PhysicsVAE, batch: Batch, draws: int, dates: Tensor, readers: list[tuple[str, int, str]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Values and slopes `[draw, pixel, time, state]`, a draw of the global latents at a time."""
    sites = model.encode(batch)
    needed = {"dynamic", *(f"residual_{source}" for source, _, _ in readers if source)}
    count = min(draws, SHARED_DRAWS)
    for i, shared in enumerate([model.draw_globals() for _ in range(count)]):
        size = draws // count + (i < draws % count)
        drawn = model.posterior(sites, batch.dates, shared, size).rsample((size,))
        priors = model.priors(batch.dates, shared, len(batch.pixels))
        value, slope = {}, {}
        for site in needed:
            joint = priors[site].between(drawn[site].double(), dates, slopes=True).sample()
            if site != "dynamic":
                lasting = shared[f"{site.removeprefix('residual_')}_lengthscale"] >= LASTING
                joint = joint * lasting.unsqueeze(-1)
            value[site], slope[site] = joint.split(len(dates), -1)
        static, known = drawn["static"].double(), {k: v.double() for k, v in shared.items()}

        def read(processes: dict[str, Tensor], t: Tensor, static: Tensor = static, known: dict = known) -> Tensor:
            latents = model.latents(processes | {"static": static}, t, known)
            named = model.variables(latents)
            columns = [
                model.residual(source, latents, known)[..., k] if source else named[model.dynamic[k]]
                for source, k, _ in readers
            ]
            return torch.stack(torch.broadcast_tensors(*columns), -1)

        yield jvp(read, (value, dates), (slope, torch.ones_like(dates)))[:2]


def _reader(model: PhysicsVAE, name: str) -> tuple[str, int, str]:
    """Modality whose residual a state is of ("" for a variable), index of channel or variable, unit."""
    known = {v: ("", i, model.catalogue[v].unit) for i, v in enumerate(model.dynamic)}
    for source, modality in model.modalities.items():
        if modality.residual is not None:
            known |= {f"residual_{source}_{c}": (source, i, modality.unit) for i, c in enumerate(modality.channels)}
    if name not in known:
        raise ValueError(f"The model has no state {name!r} that changes in time: use one of {', '.join(known)}.")
    return known[name]


def _weather(cube: xr.DataTree, dates: np.ndarray, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Drivers of the cube at the dates; a step of dates holds the mean of the days in it."""
    node = cube["drivers"].to_dataset() if "drivers" in cube.children else xr.Dataset()
    there = [name for name in DRIVERS if name in node]
    missing = [name for name in names or () if name not in there]
    if missing:
        raise ValueError(f"The cube has no driver {missing[0]!r}: use one of {', '.join(there) or 'none'}.")
    if not there:
        return {}
    days = (node.time.values - np.datetime64(0, "s")) / np.timedelta64(1, "D")
    step = float(np.diff(dates).mean())
    fine = dates[:, None] + step * (np.arange(16) - 7.5) / 16
    series = {name: node[name].mean([d for d in node[name].dims if d != "time"]).values for name in names or there}
    return {name: np.interp(fine, days, values).mean(1) for name, values in series.items()}
