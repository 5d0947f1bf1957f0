"""Figures of calibration: coverage curves, and the ECDF of PIT values within its simultaneous band.

The band is that of Säilynoja et al. (2022, Statistics and Computing 32), by `arviz_stats.ecdf_utils.ecdf_pit`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from arviz_stats.ecdf_utils import ecdf_pit

from inference.plots.style import BLUE, COLOURS, RED, Figure, styled

__all__ = ["coverage_curves", "rank_ecdf"]

LINES = ("-", "--", ":", "-.")  # where colours run out


@styled
def coverage_curves(table: xr.Dataset) -> Figure:
    """Empirical against nominal coverage of every variable, with two standard errors.

    Args:
        table: what `inference.calibration.coverage` returns.

    Returns:
        The figure; above the diagonal intervals are too wide, below it too narrow.
    """
    names = table["variable"].values
    figure = Figure(figsize=(4.6 + 1.2 * -(-len(names) // 18), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
    levels = table["level"].values
    for i, name in enumerate(names):
        share, error = (table[key].sel(variable=name).values for key in ("coverage", "standard_error"))
        colour, line = COLOURS[i % len(COLOURS)], LINES[i // len(COLOURS) % len(LINES)]
        axes.fill_between(levels, share - 2 * error, share + 2 * error, color=colour, alpha=0.15, lw=0)
        axes.plot(levels, share, marker=".", label=str(name), color=colour, ls=line)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="nominal level [–]", ylabel="share of known values inside [–]")
    figure.legend(loc="outside right upper", ncols=-(-len(names) // 18))
    return figure


@styled
def rank_ecdf(result: xr.Dataset, level: float = 0.95, simulations: int = 1000) -> Figure:
    """ECDF of the PIT values less that of a uniform variable, one panel a variable.

    Args:
        result: what `inference.calibration.simulation_based_calibration` returns.
        level: of the simultaneous band.
        simulations: that the band is found by.

    Returns:
        The figure; a curve that leaves the band is not uniform. An S from above to below the line is a posterior that
        is too narrow, the reverse one that is too wide.
    """
    names = result["variable"].values
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(0.4 + 1.9 * columns, 0.4 + 1.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, name in zip(panels, names, strict=False):
        places = result["pit"].sel(variable=name).values
        places = places[np.isfinite(places)]
        at, ecdf, low, high = ecdf_pit(places, level, simulations, rng=np.random.default_rng(0))
        axes.fill_between(at, low - at, high - at, color="0.85", lw=0)
        inside = bool(result["calibrated"].sel(variable=name))
        axes.plot(at, ecdf - at, color=BLUE if inside else RED, lw=1.2)
        axes.set_title(f"{name}, p = {float(result['p_holm'].sel(variable=name)):.2g}")
        axes.set_xticks([0, 0.5, 1])
    for place, axes in enumerate(panels[len(names) :], len(names)):
        axes.remove()
        panels[place - columns].tick_params(labelbottom=True)
    figure.supxlabel("PIT value [–]", fontsize=9)
    figure.supylabel("ECDF less uniform [–]", fontsize=9)
    return figure
