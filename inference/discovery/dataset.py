"""From posterior draws to a table: what is to be explained, by what, how well each value is known."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import norm

from pi_vae.variables import CATALOGUE, Variable

__all__ = ["DRIVERS", "GEOMETRY", "KNOWN_INPUTS", "Table", "read_table"]

log = logging.getLogger(__name__)

DRIVERS = {"air_temperature": "K", "precipitation": "mm"}
GEOMETRY = ("incidence", "sza", "vza", "raa")
DAY_OF_YEAR = "day_of_year"
KNOWN_INPUTS = (*CATALOGUE, *DRIVERS, *GEOMETRY, DAY_OF_YEAR)
MIN_DRAWS, MAX_DRAWS = 20, 40
MIN_PIXELS, MIN_DATES = 8, 4
SAME = "14min"  # as in `pi_vae.date_effect`
MAX_BLOCKS, MAX_SEASONS = 12, 9


@dataclass(frozen=True)
class Table:
    """Residual and candidate inputs of one modality at its dates.

    Attributes:
        modality: the target.
        unit: unit of its residual.
        channels: names of its `C` channels.
        names: names of the `P` inputs.
        units: input -> unit.
        x: `[pixel, time, P]` posterior means of the inputs.
        x_draws: `[draw, pixel, time, P]` draws of them.
        y: `[pixel, time, C]` posterior mean of the residual, with what pixels have in common at a date beyond it
            (`date_means`): weather concerns all of them, which a model without `date_effect` takes for noise.
        sd: `[pixel, time, C]` its posterior sd.
        left: `[draw, pixel, time, C]` what draws of the physics, joint with `x_draws`, leave of an observation:
            residual, effect of the date and noise, drawn towards zero by no prior. NaN where a pixel has no observation
            of its own, and in trees without ``physics_<modality>``.
        seen: `[pixel, time]` bool: an observation was used there and every input is known.
        block: `[pixel]` label of the spatial block.
        season: `[time]` label of the stretch of consecutive dates.
        times: `[time]` dates.
        dropped: input -> why it is not in the table.
    """

    modality: str
    unit: str
    channels: tuple[str, ...]
    names: tuple[str, ...]
    units: dict[str, str]
    x: np.ndarray
    x_draws: np.ndarray
    y: np.ndarray
    sd: np.ndarray
    left: np.ndarray
    seen: np.ndarray
    block: np.ndarray
    season: np.ndarray
    times: np.ndarray
    dropped: dict[str, str]

    @property
    def weights(self) -> np.ndarray:
        r"""`[pixel, time, C]` precision of the residual, :math:`w = 1 / (\sigma^2 + \mathrm{median}\,\sigma^2)`.

        The median stands for what no law explains: without it, a few sharp posteriors would decide alone.
        """
        floor = np.array([np.median(self.sd[..., c][self.seen] ** 2) for c in range(len(self.channels))])
        return 1.0 / (self.sd**2 + np.maximum(floor, 1e-12))

    @property
    def leftover(self) -> np.ndarray:
        """`[pixel, time, C]` mean of `left`, and of the residual where there is nothing left."""
        return np.where(np.isfinite(self.left[0]), self.left.mean(0), self.y)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Input -> lowest and highest value among the rows."""
        rows = self.x[self.seen]
        return {name: (float(rows[:, i].min()), float(rows[:, i].max())) for i, name in enumerate(self.names)}

    def rows(self, channel: int, where: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seen rows of a channel.

        Args:
            channel: index.
            where: `[pixel, time]` bool, or what broadcasts to it: which of them; all by default.

        Returns:
            inputs `[row, P]`, residual `[row]`, weights `[row]`.
        """
        keep = self.seen if where is None else self.seen & where
        return self.x[keep], self.y[..., channel][keep], self.weights[..., channel][keep]

    def drawn(self, where: np.ndarray | None = None, draws: int = 4) -> np.ndarray:
        """Some draws of the inputs at the rows that `rows` gives, `[draw, row, P]`."""
        keep = self.seen if where is None else self.seen & where
        some = np.linspace(0, len(self.x_draws) - 1, min(draws, len(self.x_draws))).astype(int)
        return self.x_draws[some][:, keep].astype(float)

    def replace(self, **changes) -> Table:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


def read_table(tree: xr.DataTree, target: str, inputs: Sequence[str] | None = None) -> Table:
    """Table of a modality from a posterior tree (`inference.posterior`).

    Args:
        tree: groups `posterior`, `constant_data` and, for what physics leaves of observations, `observed_data` and
            `log_likelihood`.
        target: modality whose residual is to be explained.
        inputs: names of the inputs. Default: the dynamic variables that not only the target sees, weather, geometry;
            `day_of_year` (1–366) only on request, as a law of the calendar can not become part of an operator.

    Returns:
        The table. Inputs without variation are left out, named in the log and in `Table.dropped`.

    Raises:
        ValueError: the tree holds no residual of the target, too few draws, pixels or dates, no seen observation, an
            input is not in the tree, or no input varies.
    """
    posterior, constant = _group(tree, "posterior"), _group(tree, "constant_data")
    key = f"residual_{target}"
    if key not in posterior:
        known = [str(n).removeprefix("residual_") for n in posterior.data_vars if str(n).startswith("residual_")]
        raise ValueError(
            f"The posterior has no residual of modality {target!r}: choose one of {', '.join(known) or 'none'}, or "
            "build the model with a residual for it."
        )
    times, channel = posterior.indexes["time"], f"{target}_channel"
    dates = constant[f"{target}_time"].values
    at = times.get_indexer(dates)
    if (at < 0).any():
        raise ValueError(f"Dates of {target} are missing from the dates of the posterior: give the tree as it came.")
    posterior = posterior.stack(sample=("chain", "draw"), create_index=False)
    draws, pixels = posterior.sizes["sample"], posterior.sizes["pixel"]
    for count, least, what in (
        (draws, MIN_DRAWS, "draws"),
        (pixels, MIN_PIXELS, "pixels"),
        (len(dates), MIN_DATES, f"dates of {target}"),
    ):
        if count < least:
            raise ValueError(f"The posterior has {count} {what}: discovery needs at least {least}.")
    residual = posterior[key].transpose("sample", "pixel", "time", channel).values[:, :, at]
    kept = np.linspace(0, draws - 1, min(draws, MAX_DRAWS)).round().astype(int)
    shape = (pixels, len(dates))

    columns: dict[str, tuple[np.ndarray, np.ndarray, str]] = {}
    for name in _wanted(posterior, constant, target, inputs):
        if name in posterior:
            dynamic = "time" in posterior[name].dims
            values = posterior[name].transpose("sample", "pixel", *(["time"] if dynamic else [])).values
            values = values[:, :, at] if dynamic else values[:, :, None]
            full = np.broadcast_to(values, (draws, *shape))
            unit = CATALOGUE[name].unit if name in CATALOGUE else posterior[name].attrs.get("units", "1")
            columns[name] = (full.mean(0), full[kept], unit)
            continue
        if name == DAY_OF_YEAR:
            values, unit = times[at].day_of_year.to_numpy(float)[None], "day"
        elif name in DRIVERS:
            values, unit = constant[name].sel(time=dates).values[None], DRIVERS[name]
        else:
            values, unit = constant[f"{target}_{name}"].transpose("pixel", f"{target}_time").values, "degree"
        full = np.broadcast_to(values.astype(float), shape)
        columns[name] = (full, np.broadcast_to(full, (len(kept), *shape)), unit)

    seen = constant[f"{target}_seen"].transpose("pixel", f"{target}_time").values.astype(bool)
    seen = seen & np.isfinite(residual).all((0, 3))
    for mean, _, _ in columns.values():
        seen = seen & np.isfinite(mean)
    if not seen.any():
        raise ValueError(f"No seen observation of {target} has all its inputs: check the masks and the drivers.")
    dropped = {name: f"constant at {c[0][seen][0]:.6g}" for name, c in columns.items() if _constant(c[0][seen])}
    for name, why in dropped.items():
        log.info("Input %s is left out: it is %s in all rows.", name, why)
    names = tuple(name for name in columns if name not in dropped)
    if not names:
        raise ValueError(f"None of the inputs of {target} varies ({', '.join(columns)}): give others.")
    left = _left(tree, target, kept, residual)
    mean = residual.mean(0).astype(float)
    return Table(
        modality=target,
        unit=posterior[key].attrs.get("units", "1"),
        channels=tuple(str(c) for c in posterior[channel].values),
        names=names,
        units={name: columns[name][2] for name in names},
        x=np.stack([columns[name][0] for name in names], -1).astype(float),
        x_draws=np.stack([columns[name][1] for name in names], -1),
        y=mean + date_means(np.where(seen[..., None], left.mean(0) - mean, np.nan)),
        sd=residual.std(0).astype(float),
        left=left,
        seen=seen,
        block=_blocks(constant, pixels),
        season=np.arange(len(dates)) * min(MAX_SEASONS, len(dates) // 2) // len(dates),
        times=dates,
        dropped=dropped,
    )


def date_means(left: np.ndarray) -> np.ndarray:
    r"""What pixels have in common at single dates: medians, drawn towards zero as far as chance would make them.

    .. math:: \hat\delta_{tc} = \frac{s_c^2}{s_c^2 + v_{tc}} m_{tc}, \qquad
              s_c^2 = \Big(\overline{m_{tc}^2} - \overline{v_{tc}}\Big)_+, \qquad
              v_{tc} = \frac{\pi}{2} \frac{\sigma_{tc}^2}{n_t}

    with :math:`m` the medians over :math:`n_t` pixels and :math:`\sigma` the spread around them, by the median
    deviation (best linear prediction of a random effect: Searle, Casella & McCulloch 1992, Variance Components).

    Args:
        left: `[pixel, time, C]`, NaN where nothing is known.

    Returns:
        `[time, C]`, zero at dates with fewer than eight pixels.
    """
    count = np.isfinite(left).all(-1).sum(0)
    enough = count >= MIN_PIXELS
    found = np.zeros(left.shape[1:])
    if enough.any():
        some = left[:, enough]
        middle = np.nanmedian(some, 0)
        spread = np.nanmedian(np.abs(some - middle), 0) / norm.ppf(0.75)
        chance = np.pi / 2 * spread**2 / count[enough, None]
        size = np.maximum((middle**2 - chance).mean(0), 0.0)
        found[enough] = middle * size / np.maximum(size + chance, 1e-30)
    return found


def _group(tree: xr.DataTree, name: str) -> xr.Dataset:
    if name not in tree.children:
        raise ValueError(f"The tree has no group {name!r}: give what inference.posterior returns.")
    return tree[name].to_dataset()


def _left(tree: xr.DataTree, target: str, kept: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """`Table.left` at the draws that are kept; of the shape of the residual's, NaN where the tree does not say."""
    if f"physics_{target}" not in tree["posterior"]:
        return np.full_like(residual[kept], np.nan)
    time, channel = f"{target}_time", f"{target}_channel"
    posterior, density = (
        tree[group].to_dataset().stack(sample=("chain", "draw"), create_index=False).isel(sample=kept)
        for group in ("posterior", "log_likelihood")
    )
    physics = posterior[f"physics_{target}"].transpose("sample", "pixel", time, channel).values
    observed = tree["observed_data"][target].transpose("pixel", time, channel).values
    own = np.isfinite(density[target].transpose("sample", "pixel", time).values[0])[..., None]
    left = np.where(own, observed - physics, np.nan)
    if f"global_{target}_effect" in posterior:
        effect = posterior[f"global_{target}_effect"] * posterior[f"global_{target}_size"]
        effect = effect.rename({f"{target}_date": time}).sortby(time)
        effect = effect.reindex({time: posterior[time]}, method="nearest", tolerance=SAME, fill_value=0.0)
        left = left + effect.transpose("sample", time, channel).values[:, None]
    return left


def _wanted(posterior: xr.Dataset, constant: xr.Dataset, target: str, inputs: Sequence[str] | None) -> list[str]:
    """Names of the inputs, each of them in the tree."""
    there = [v for v in CATALOGUE if v in posterior]
    there += [d for d in DRIVERS if d in constant] + [g for g in GEOMETRY if f"{target}_{g}" in constant]
    if inputs is None:
        return [n for n in there if n not in CATALOGUE or _independent(CATALOGUE[n], target)]
    missing = [name for name in inputs if name not in (*there, DAY_OF_YEAR)]
    if missing:
        raise ValueError(
            f"The posterior holds no input {missing[0]!r}: choose from {', '.join((*there, DAY_OF_YEAR))}."
        )
    return list(inputs)


def _independent(variable: Variable, target: str) -> bool:
    """Whether a variable is a candidate unasked: it changes in time and not only the target's operator reads it.

    What the target alone informs comes from the same observations as the residual: their errors go together, and a
    relation between the two says more about the inference than about the surface.
    """
    return variable.dynamic and variable.seen_by != (target,)


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-5 * max(np.abs(values).max(), 1e-12))


def _blocks(constant: xr.Dataset, pixels: int) -> np.ndarray:
    """`[pixel]` labels of compact blocks of nearly equal size, by cutting the longer side again and again.

    Equal sizes let blocks trade places in the null; without row and column, neighbours in the list make a block.
    """
    if "pixel_row" in constant.coords and "pixel_column" in constant.coords:
        place = np.column_stack([constant.pixel_row.values, constant.pixel_column.values]).astype(float)
    else:
        place = np.arange(pixels, dtype=float)[:, None]
    labels = np.zeros(pixels, dtype=int)

    def cut(members: np.ndarray, first: int, count: int) -> None:
        if count == 1:
            labels[members] = first
            return
        side = int(np.ptp(place[members], axis=0).argmax())
        members = members[np.argsort(place[members, side], kind="stable")]
        half = count // 2
        middle = round(len(members) * half / count)
        cut(members[:middle], first, half)
        cut(members[middle:], first + half, count - half)

    cut(np.arange(pixels), 0, min(MAX_BLOCKS, pixels // 2))
    return labels
