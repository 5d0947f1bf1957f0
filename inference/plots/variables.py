"""Posterior of the variables of one pixel: pair by pair, and the dates of its season."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from inference.plots.selection import nearest, of_pixel
from inference.plots.series import BANDS, band_keys, draw_bands
from inference.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, Figure, label, styled, unit_text
from pi_vae.season import YEAR

__all__ = ["corner", "phenology"]

AMBIGUOUS = ("lai", "ala", "cab", "cm", "soil_brightness", "soil_moisture")  # what an optical series tells apart badly
MAX_POINTS, FEW_POINTS = 1000, 200
EVENTS = {"start": ORANGE, "peak": PURPLE, "end": RED}
DAY = 86400  # seconds


@styled
def corner(tree: xr.DataTree, pixel: int = 0, names: Sequence[str] | None = None, date: Any = None) -> Figure:
    """Joint posterior of variables of one pixel, pair by pair.

    Where different variables explain the same signal, such as more leaves or flatter ones, a darker soil or a wetter
    one, their draws lie along a line: each of the two is known less well than both together.

    Args:
        tree: what `inference.posterior` returns.
        pixel: position along ``pixel``.
        names: two or more variables; by default leaf area, leaf angle, chlorophyll, dry matter, brightness and moisture
            of the soil, those of them that the posterior holds.
        date: dynamic variables are taken at the date nearest to it; by default where the median of the first dynamic
            one is greatest.

    Returns:
        The figure: histograms on the diagonal, with median and 90 % interval; below it draws (1000 at most); above it
        rank correlations (Spearman).

    Raises:
        ValueError: there is no such pixel or variable, fewer than two variables, or a date that cannot be read.
    """
    posterior = of_pixel(tree, pixel)["posterior"]
    held = [str(name) for name, array in posterior.data_vars.items()
            if {*array.dims} <= {"chain", "draw", "time"} and not str(name).startswith("global_")]  # fmt: skip
    chosen = list(dict.fromkeys(names if names is not None else [name for name in AMBIGUOUS if name in held]))
    for name in chosen:
        if name not in held:
            raise ValueError(f"The posterior holds no variable {name!r}: choose from {', '.join(held)}.")
    if len(chosen) < 2:
        raise ValueError(
            f"A joint posterior takes two variables or more, not {len(chosen)}: choose names from {', '.join(held)}."
        )
    moving = [name for name in chosen if "time" in posterior[name].dims]
    words = f"Joint posterior of pixel {pixel}"
    if moving:
        times = posterior["time"].values
        median = posterior[moving[0]].median(("chain", "draw")).values
        place = int(median.argmax()) if date is None else nearest(times, date)
        posterior = posterior.isel(time=place)
        words += f" at {np.datetime_as_string(times[place], 'D')}"
    draws = np.stack([posterior[name].transpose("chain", "draw").values.ravel() for name in chosen], -1)
    labels = [label(name, posterior[name].attrs.get("units", "1")) for name in chosen]
    figure = _draw_pairs(draws, labels)
    figure.suptitle(f"{words}\ndraws below, rank correlation above")
    return figure


@styled
def phenology(tree: xr.DataTree, pixel: int = 0) -> Figure:
    """Leaf area of one pixel, and the posterior of start, peak and end of its season.

    Start and end are the inflection points of green-up and senescence (`pi_vae.season`).

    Args:
        tree: what `inference.posterior` returns for a model with ``PhysicsVAE(..., phenology=1)`` or 2.
        pixel: position along ``pixel``.

    Returns:
        The figure. Above: leaf area with 50 and 90 % bands, and over it the intervals of start, peak and end in every
        year of the series. Below: the same with 50 and 90 % intervals, in days of the year (below 0 in the year before,
        above 365 in the next), with median and 90 % interval in numbers.

    Raises:
        ValueError: there is no such pixel, no leaf area, or no season.
    """
    posterior = of_pixel(tree, pixel)["posterior"]
    for name in ("lai", *(f"season_{event}" for event in EVENTS)):
        if name not in posterior:
            raise ValueError(
                f"The posterior holds no {name!r}: fit PhysicsVAE(..., phenology=1), whose leaf area follows a season."
            )
    found = {}
    for ending, season in (("", ""), ("_2", " 2")):
        for event, colour in EVENTS.items():
            if f"season_{event}{ending}" in posterior:
                draws = posterior[f"season_{event}{ending}"].values.ravel()
                found[event + season] = (colour, np.quantile(draws, (*BANDS, 0.5), method="weibull"))
    figure = Figure(figsize=(7.2, 3.0 + 0.28 * len(found)), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(2.2, 0.5 + 0.3 * len(found)))
    draw_bands(upper, posterior["lai"], "time", GREEN, BANDS)
    _mark_years(upper, posterior["time"].values, found)
    upper.set(ylabel=label("lai"), xlabel=f"date [UTC], pixel {pixel}")
    for place, (colour, (low, inner, outer, high, median)) in enumerate(found.values()):
        lower.plot([low, high], [place, place], color=colour, lw=7, alpha=0.28, solid_capstyle="butt")
        lower.plot([inner, outer], [place, place], color=colour, lw=7, alpha=0.5, solid_capstyle="butt")
        lower.plot(median, place, "|", ms=8, mew=1.4, color=colour)
        lower.text(1.01, place, f"{median:.0f} ({low:.0f} to {high:.0f})", transform=lower.get_yaxis_transform(),
                   va="center", fontsize=8)  # fmt: skip
    lower.text(1.01, -0.9, "median (90 %)", transform=lower.get_yaxis_transform(), va="center", fontsize=8, color=GREY)
    lower.set_yticks(range(len(found)), list(found))
    unit = posterior["season_start"].attrs.get("units", "day")
    lower.set(ylim=(len(found) - 0.4, -0.6), xlabel=f"day of year [{unit_text(unit)}]")
    keys = band_keys()
    keys |= {event: Line2D([], [], color=colour, lw=0.8, ls="--") for event, colour in EVENTS.items()}
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=6)
    return figure


def _draw_pairs(draws: np.ndarray, labels: Sequence[str]) -> Figure:
    """A triangle of panels from draws `[S, V]`."""
    count = len(labels)
    figure = Figure(figsize=(0.9 + 1.25 * count, 0.9 + 1.2 * count), layout="constrained")
    grid = figure.subplots(count, count, squeeze=False)
    some = draws[np.linspace(0, len(draws) - 1, min(len(draws), MAX_POINTS)).round().astype(int)]
    look = {"ms": 4.0, "alpha": 0.6} if len(some) < FEW_POINTS else {"ms": 2.5, "alpha": 0.4}
    ranks = rankdata(draws, axis=0)
    spread = np.where(np.ptp(draws, axis=0) > 0, np.ptp(draws, axis=0), 1.0)
    low, high = draws.min(0) - 0.04 * spread, draws.max(0) + 0.04 * spread
    for i, row in enumerate(grid):
        for j, axes in enumerate(row):
            if i < j:
                _draw_correlation(axes, ranks[:, i], ranks[:, j])
                continue
            axes.set_xlim(low[j], high[j])
            axes.xaxis.set_major_locator(MaxNLocator(3, prune="both")), axes.yaxis.set_major_locator(MaxNLocator(3))
            if i == j:
                _draw_marginal(axes, draws[:, i])
            else:
                axes.plot(some[:, j], some[:, i], ".", mew=0, color=BLUE, rasterized=True, **look)
                axes.set_ylim(low[i], high[i])
            axes.tick_params(labelbottom=i == count - 1, labelleft=j == 0 < i)
            if i == count - 1:
                axes.set_xlabel(labels[j])
        row[0].set_ylabel(labels[i] if i else "")
    figure.align_labels(grid)
    return figure


def _draw_marginal(axes: Axes, values: np.ndarray) -> None:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95), method="weibull")
    axes.hist(values, bins=int(min(40, 2 * len(values) ** (1 / 3))), color=BLUE, alpha=0.5)  # Rice rule
    axes.axvline(median, color=BLACK, lw=1.0)
    for edge in (low, high):
        axes.axvline(edge, color=BLACK, lw=0.8, ls=":")
    axes.set_title(f"{median:.3g} ({low:.3g}, {high:.3g})", fontsize=7)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_correlation(axes: Axes, first: np.ndarray, second: np.ndarray) -> None:
    """Correlation of ranks, on its colour; a variable that does not vary has none."""
    varies = np.ptp(first) > 0 and np.ptp(second) > 0
    correlation = float(np.corrcoef(first, second)[0, 1]) if varies else float("nan")
    axes.set_facecolor(matplotlib.colormaps["RdBu"](0.5 + 0.35 * correlation) if varies else "white")
    words = f"{round(correlation, 2) + 0.0:+.2f}".replace("-", "−") if varies else "–"
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=10)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _mark_years(axes: Axes, times: np.ndarray, found: dict[str, tuple[str, np.ndarray]]) -> None:
    """Intervals of the events in every year of the series, above the curve, a row an event.

    Years are of mean length from 1 January 1970, as in `pi_vae.season`.
    """
    days = times.astype("datetime64[s]").astype(float) / DAY
    first, last = days.min(), days.max()
    height = axes.get_ylim()[1]
    axes.set_ylim(0, height * (1 + 0.08 * len(found)))
    for year in range(int(first // YEAR) - 1, int(last // YEAR) + 2):
        for row, (colour, quantiles) in enumerate(found.values()):
            low, inner, outer, high, median = year * YEAR + quantiles
            y = height * (1 + 0.08 * (len(found) - row - 0.7))
            for start, end in ((low, high), (inner, outer)):
                if end >= first and start <= last:
                    axes.plot(_moment(start, end), [y, y], color=colour, lw=4, alpha=0.35, solid_capstyle="butt")
            if first <= median <= last:
                axes.plot(_moment(median, median), [0, y], color=colour, lw=0.8, ls="--")
    axes.set_xlim(times.min(), times.max())


def _moment(*days: float) -> np.ndarray:
    """Dates of days since 1970-01-01."""
    return (np.array(days) * DAY).round().astype("int64").astype("datetime64[s]")
