"""Series of one pixel: variables, observations and residuals, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from inference.plots.selection import of_pixel
from inference.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY, Figure, label, styled, unit_text

__all__ = ["band_keys", "draw_bands", "pixel_series", "residual_series"]

BANDS = (0.05, 0.25, 0.75, 0.95)  # 90 and 50 %
VARIABLES = {"lai": GREEN, "cab": ORANGE, "soil_moisture": BLUE}
SIGNALS = {"NDVI": ("s2", ("B08", "B04"), GREEN), "VV": ("s1", ("VV",), SKY), "VH": ("s1", ("VH",), RED)}


@styled
def pixel_series(tree: xr.DataTree, pixel: int = 0, withheld: Mapping | None = None) -> Figure:
    """Series of one pixel: variables with 50 and 90 % bands; NDVI and backscatter with predictive bands and data.

    Args:
        tree: what `inference.posterior` returns.
        pixel: position along ``pixel``.
        withheld: modality -> (times `[time]`, values `[time, channel]`), channels and units as in the tree; drawn as
            open circles.

    Returns:
        The figure: a panel for each of LAI, chlorophyll, soil moisture, NDVI, VV and VH that the tree holds. NDVI is
        that of predictive draws of B08 and B04, cut to [-1, 1], as noise alone can leave that range.

    Raises:
        ValueError: there is no such pixel, or nothing to show.
    """
    groups = of_pixel(tree, pixel)
    posterior, predictive = groups["posterior"], groups.get("posterior_predictive", xr.Dataset())
    drawn = {name: posterior[name] for name in VARIABLES if name in posterior}
    for name, (modality, channels, _) in SIGNALS.items():
        if modality in predictive and set(channels) <= set(predictive[f"{modality}_channel"].values.tolist()):
            drawn[name] = _signal(predictive[modality], name)
    if not drawn:
        raise ValueError(f"The tree holds none of {', '.join((*VARIABLES, *SIGNALS))}: give what posterior returns.")
    figure = Figure(figsize=(7.2, 0.9 + 1.2 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, draws) in zip(panels, drawn.items(), strict=True):
        if name in VARIABLES:
            draw_bands(axes, draws, "time", VARIABLES[name], BANDS)
            axes.set_ylabel(label(name))
            continue
        modality, _, colour = SIGNALS[name]
        time = f"{modality}_time"
        draw_bands(axes, draws, time, colour, BANDS[::3])
        observed = _signal(groups["observed_data"][modality], name)
        axes.plot(observed[time].values, observed.values, "o", ms=3.5, color=BLACK, label="observed")
        if withheld is not None and modality in withheld:
            coords = {time: withheld[modality][0], f"{modality}_channel": predictive[f"{modality}_channel"].values}
            hidden = _signal(xr.DataArray(withheld[modality][1], coords), name)
            axes.plot(hidden[time].values, hidden.values, "o", ms=5, mfc="white", mec=BLACK, label="withheld")
        unit = predictive[modality].attrs.get("units", "1") if name != "NDVI" else "1"
        axes.set_ylabel(f"{name} [{unit_text(unit)}]")
    panels[-1].set_xlabel(f"date [UTC], pixel {pixel}")
    figure.align_ylabels(panels)
    keys = band_keys("50 % (variables)")
    keys |= {str(line.get_label()): line for axes in panels for line in axes.lines if str(line.get_label())[0] != "_"}
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=len(keys))
    return figure


@styled
def residual_series(tree: xr.DataTree, pixel: int, modality: str) -> Figure:
    """Residual of one pixel with 50 and 90 % bands, a panel per channel, all on one scale.

    Args:
        tree: what `inference.posterior` returns.
        pixel: position along ``pixel``.
        modality: whose residual.

    Returns:
        The figure. Strokes at the foot of a panel are the dates at which the modality saw the pixel.

    Raises:
        ValueError: there is no such pixel, or no residual of the modality.
    """
    groups = of_pixel(tree, pixel)
    if f"residual_{modality}" not in groups["posterior"]:
        held = [str(n).removeprefix("residual_") for n in groups["posterior"] if str(n).startswith("residual_")]
        raise ValueError(
            f"The posterior holds no residual of modality {modality!r}: "
            + (f"choose {' or '.join(held)}." if held else "fit a model that has one, such as Radar(residual=2).")
        )
    residual, dimension = groups["posterior"][f"residual_{modality}"], f"{modality}_channel"
    channels, constant = residual[dimension].values.tolist(), groups.get("constant_data", xr.Dataset())
    figure = Figure(figsize=(7.2, 0.9 + 0.9 * len(channels)), layout="constrained")
    panels = figure.subplots(len(channels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, channel in zip(panels, channels, strict=True):
        axes.axhline(0, color=BLACK, lw=0.6)
        draw_bands(axes, residual.sel({dimension: channel}), "time", RED, BANDS)
        axes.set_ylabel(f"{channel} [{unit_text(residual.attrs.get('units', '1'))}]")
        if f"{modality}_seen" in constant:
            dates = constant[f"{modality}_time"].values[constant[f"{modality}_seen"].values.astype(bool)]
            foot = np.full(len(dates), 0.02)
            axes.plot(dates, foot, "|", ms=5, mew=0.8, color=BLACK, transform=axes.get_xaxis_transform())
    panels[-1].set_xlabel(f"date [UTC], pixel {pixel}")
    figure.align_ylabels(panels)
    keys = band_keys()
    if f"{modality}_seen" in constant:
        keys["observed"] = Line2D([], [], ls="", marker="|", ms=5, mew=0.8, color=BLACK)
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=len(keys), title=f"Residual of {modality}")
    return figure


def draw_bands(axes: Axes, draws: xr.DataArray, time: str, colour: str, levels: Sequence[float]) -> None:
    """Median and bands between pairs of quantiles, the outermost first.

    Args:
        axes: to draw on.
        draws: `(chain, draw, <time>)`.
        time: dimension along the axis.
        colour: of line and bands.
        levels: ascending and even in number, such as ``(0.05, 0.95)``.
    """
    quantiles = draws.quantile([*levels, 0.5], ("chain", "draw"), method="weibull").transpose("quantile", time).values
    for i in range(len(levels) // 2):
        axes.fill_between(draws[time].values, quantiles[i], quantiles[-2 - i], color=colour, alpha=0.28, lw=0)
    axes.plot(draws[time].values, quantiles[-1], color=colour)


def band_keys(inner: str = "50 %") -> dict[str, Line2D]:
    """Entries of a legend for what `draw_bands` draws."""
    looks = {"median": (1.4, 1.0), "90 %": (7, 0.28), inner: (7, 0.5)}
    return {words: Line2D([], [], color=GREY, lw=lw, alpha=alpha) for words, (lw, alpha) in looks.items()}


def _signal(values: xr.DataArray, signal: str) -> xr.DataArray:
    modality, names, _ = SIGNALS[signal]
    first, *second = (values.sel({f"{modality}_channel": name}) for name in names)
    return ((first - second[0]) / (first + second[0])).clip(-1, 1) if second else first
