"""Maps: posterior mean and standard deviation of a variable, and the residual of a modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from inference.plots.style import Figure, label, styled, unit_text
from inference.prediction import FLAGS
from pi_vae.variables import CATALOGUE

__all__ = ["residual_map", "variable_map"]

MAX_DATES = 6
DOMINATED = 0.9  # of the prior's standard deviation: what is left to a posterior that learned next to nothing
NEVER, PRIOR = "0.85", "0.55"  # greys


@styled
def variable_map(maps: xr.Dataset, name: str, dates: Sequence | None = None) -> Figure:
    """Maps of the posterior mean and sd of a variable, a column per date, on common colour scales.

    Where the sd is at least 0.9 of the prior's, the mean says what was expected rather than what was seen: it is hidden
    under dark grey, and a legend says so. `inference.predict` leaves the prior's sd in the attribute ``prior_sd`` of
    ``<name>_sd``, a number or one a date; maps without it are drawn without this mask.

    Args:
        maps: what `inference.predict` returns.
        name: variable; a static one has a single column.
        dates: the nearest dates of the maps are shown; by default up to six, evenly chosen.

    Returns:
        The figure. Pixels that were never observed are light grey.

    Raises:
        ValueError: there is no map of the variable, or ``prior_sd`` holds another number of dates than the maps.
    """
    if name not in CATALOGUE or f"{name}_mean" not in maps or f"{name}_sd" not in maps:
        raise ValueError(f"The maps hold no mean and sd of {name!r}: choose a variable of the fitted model.")
    mean, sd = (_layers(maps[f"{name}_{statistic}"], maps, "time", dates) for statistic in ("mean", "sd"))
    hidden = _prior_dominates(maps, name, dates)
    if hidden is not None:
        mean = [(day, np.ma.masked_where(mask, image)) for (day, image), mask in zip(mean, hidden, strict=True)]
    title = f"{CATALOGUE[name].long_name.capitalize()}: posterior mean and sd"
    looks = [(f"mean of {label(name)}", "viridis", _quantiles(mean, 0.01, 0.99)),
             (f"sd of {label(name)}", "magma", (0.0, *_quantiles(sd, 0.99)))]  # fmt: skip
    return _draw_maps(maps, (mean, sd), looks, title, hidden)


@styled
def residual_map(maps: xr.Dataset, modality: str, dates: Sequence | None = None) -> Figure:
    """Maps of the posterior mean of a residual: a row per channel, a column per date, one colour scale.

    Args:
        maps: what `inference.predict` returns.
        modality: whose residual.
        dates: the nearest dates of the modality are shown; by default up to six, evenly chosen.

    Returns:
        The figure. Pixels that were never observed are light grey.

    Raises:
        ValueError: there is no residual of the modality.
    """
    if f"residual_{modality}_mean" not in maps:
        raise ValueError(f"The maps hold no residual of modality {modality!r}: fit a model that has one.")
    residual, channel = maps[f"residual_{modality}_mean"], f"{modality}_channel"
    rows = [_layers(row, maps, f"{modality}_time", dates) for row in residual.transpose(channel, ...)]
    largest = max(map(abs, _quantiles(sum(rows, []), 0.005, 0.995)))
    looks = [(f"{c} [{unit_text(residual.units)}]", "RdBu", (-largest, largest)) for c in maps[channel].values]
    return _draw_maps(maps, rows, looks, f"Residual of {modality}, posterior mean")


def _prior_dominates(maps: xr.Dataset, name: str, dates: Sequence | None) -> list[np.ndarray] | None:
    """Where the sd is that of the prior, date by date; None where the maps do not say what the prior's is."""
    sd = maps[f"{name}_sd"]
    if "prior_sd" not in sd.attrs:
        return None
    prior: Any = np.asarray(sd.attrs["prior_sd"], float)
    if prior.ndim:
        if prior.shape != (sd.sizes.get("time"),):
            raise ValueError(
                f"The attribute prior_sd of {name}_sd holds {prior.size} dates, the maps {sd.sizes.get('time')}: give "
                "whole maps, and choose dates with dates=."
            )
        prior = xr.DataArray(prior, dims="time")
    return [image.filled(0) > 0 for _, image in _layers((sd >= DOMINATED * prior).astype(float), maps, "time", dates)]


def _layers(array: xr.DataArray, maps: xr.Dataset, time: str, dates: Sequence | None) -> list[tuple]:
    """(title, image) of the dates nearest to those asked for, or of some evenly chosen; never-seen pixels masked."""
    never = maps["flags"].isel(time=0).values & FLAGS["pixel_without_observation"] > 0
    if time not in array.dims:
        return [("", np.ma.masked_invalid(np.ma.masked_where(never, array.values)))]
    every = array[time].values
    dates = every[np.linspace(0, len(every) - 1, MAX_DATES).round().astype(int)] if dates is None else dates
    some = array.sel({time: np.unique(np.asarray(dates, "datetime64[ns]"))}, method="nearest")
    images = np.ma.masked_invalid(np.ma.masked_where(np.broadcast_to(never, some.shape), some.values))
    return list(zip(np.datetime_as_string(some[time].values, "D"), images, strict=True))


def _quantiles(layers: Sequence[tuple], *levels: float) -> list[float]:
    """Of all that is shown: a few outliers must not take the scale."""
    values = np.concatenate([image.compressed() for _, image in layers])
    return np.quantile(values, levels).tolist() if values.size else list(levels)


def _draw_maps(
    maps: xr.Dataset,
    rows: Sequence[Sequence[tuple]],
    looks: Sequence[tuple],
    title: str,
    hidden: Sequence[np.ndarray] | None = None,
) -> Figure:
    """Rows of (title, image), each row with a look: label, colours and limits; masks of the first row."""
    (height, width), columns = rows[0][0][1].shape, len(rows[0])
    size = max(3.8, 1.5 + 1.6 * columns), 0.8 + 1.75 * np.clip(height / width, 0.5, 2.0) * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    place: dict[str, Any] = {"aspect": "auto" if 1 in (height, width) else "equal", "interpolation": "nearest"}
    unit = "pixel"
    if "spatial_ref" in maps and 1 not in (height, width):  # km from the corner: whole coordinates are unreadable
        x, y = maps["x"].values, maps["y"].values
        place["extent"] = (0, width * abs(x[1] - x[0]) / 1e3, 0, height * abs(y[1] - y[0]) / 1e3)
        place["origin"], unit = "upper" if y[1] < y[0] else "lower", "km"
    for row, layers, (words, colours, (low, high)) in zip(grid, rows, looks, strict=True):
        colours = matplotlib.colormaps[colours].with_extremes(bad=NEVER)
        for axes, (day, image) in zip(row, layers, strict=True):
            shown = axes.imshow(image, cmap=colours, vmin=low, vmax=high, **place)
            axes.set_title(day if axes.get_subplotspec().is_first_row() else "")
        row[0].set_ylabel(f"y [{unit}]")
        figure.colorbar(shown, ax=list(row), label=words, extend="both", pad=0.02, aspect=14)
    for axes, mask in zip(grid[0], hidden if hidden is not None else [], strict=False):
        axes.imshow(np.ma.masked_equal(mask.astype(float), 0), cmap=ListedColormap([PRIOR]), **place)
    for axes in grid[-1]:
        axes.set_xlabel(f"x [{unit}]")
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(3)), grid[0, 0].yaxis.set_major_locator(MaxNLocator(3))
    figure.suptitle(title)
    if hidden is not None and any(mask.any() for mask in hidden):
        words = {PRIOR: f"mean hidden: the prior dominates (sd ≥ {DOMINATED} of the prior's)"}
        if np.ma.getmaskarray(rows[-1][0][1]).any():
            words[NEVER] = "never observed"
        figure.legend(handles=[Patch(color=c, label=text) for c, text in words.items()], loc="outside lower center",
                      ncols=1 + (columns > 2))  # fmt: skip
    return figure
