"""Figures of a run: maps, series, skill and residuals. Those of laws are in `inference.discovery.figures`.

Every function returns a `matplotlib.figure.Figure` made without pyplot: nothing stays open, any backend can save it.
Lines have the colours of Okabe & Ito (2008), values viridis, standard deviations magma, residuals RdBu.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from inference.prediction import FLAGS
from inference.training import PHASE_IN
from pi_vae.data.kinds import kind_of
from pi_vae.variables import CATALOGUE

__all__ = ["elbo", "pixel_series", "reconstruction", "residual_map", "variable_map", "withheld_skill"]

BLACK, ORANGE, SKY, GREEN, BLUE, RED, GREY = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "0.45"
STYLE = {
    "figure.dpi": 150, "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "figure.titlesize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.4,
    "legend.frameon": False, "figure.facecolor": "white", "savefig.facecolor": "white", "date.converter": "concise",
}  # fmt: skip
MAX_DATES = 6
VARIABLES = {"lai": GREEN, "cab": ORANGE, "soil_moisture": BLUE}
SIGNALS = {"NDVI": ("s2", ("B08", "B04"), GREEN), "VV": ("s1", ("VV",), SKY), "VH": ("s1", ("VH",), RED)}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The house's style around a function that draws a figure."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        for axes in figure.axes:  # ticks are made when drawn, outside this context
            axes.tick_params(which="major", labelsize=8, width=0.6, length=3)
        return figure

    return in_style


@styled
def variable_map(maps: xr.Dataset, name: str, dates: Sequence | None = None) -> Figure:
    """Maps of the posterior mean and sd of a variable, a column per date, on common colour scales.

    Args:
        maps: what `inference.predict` returns.
        name: variable; a static one has a single column.
        dates: the nearest dates of the maps are shown; by default up to six, evenly chosen.

    Returns:
        The figure. Pixels that were never observed are grey.

    Raises:
        ValueError: there is no map of the variable.
    """
    if name not in CATALOGUE or f"{name}_mean" not in maps or f"{name}_sd" not in maps:
        raise ValueError(f"The maps hold no mean and sd of {name!r}: choose a variable of the fitted model.")
    mean, sd = (_layers(maps[f"{name}_{statistic}"], maps, "time", dates) for statistic in ("mean", "sd"))
    title = f"{CATALOGUE[name].long_name.capitalize()}: posterior mean and sd"
    looks = [(f"mean of {_label(name)}", "viridis", _quantiles(mean, 0.01, 0.99)),
             (f"sd of {_label(name)}", "magma", (0.0, *_quantiles(sd, 0.99)))]  # fmt: skip
    return _draw_maps(maps, (mean, sd), looks, title)


@styled
def residual_map(maps: xr.Dataset, modality: str, dates: Sequence | None = None) -> Figure:
    """Maps of the posterior mean of a residual: a row per channel, a column per date, one colour scale.

    Args:
        maps: what `inference.predict` returns.
        modality: whose residual.
        dates: the nearest dates of the modality are shown; by default up to six, evenly chosen.

    Returns:
        The figure. Pixels that were never observed are grey.

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
    count = tree["posterior"].sizes["pixel"]
    if not 0 <= pixel < count:
        raise ValueError(f"The posterior holds no pixel {pixel}: give one of 0 to {count - 1}.")
    groups = {key: group.to_dataset().isel(pixel=pixel, missing_dims="ignore") for key, group in tree.children.items()}
    posterior, predictive = groups["posterior"], groups.get("posterior_predictive", {})
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
            _draw_bands(axes, draws, "time", VARIABLES[name], (0.05, 0.25, 0.75, 0.95))
            axes.set_ylabel(_label(name))
            continue
        modality, _, colour = SIGNALS[name]
        time = f"{modality}_time"
        _draw_bands(axes, draws, time, colour, (0.05, 0.95))
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
    looks = {"median": (1.4, 1.0), "90 %": (7, 0.28), "50 % (variables)": (7, 0.5)}
    keys = {words: Line2D([], [], color=GREY, lw=lw, alpha=alpha) for words, (lw, alpha) in looks.items()}
    keys |= {line.get_label(): line for axes in panels for line in axes.lines if line.get_label()[0] != "_"}
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=len(keys))
    return figure


@styled
def reconstruction(maps: xr.Dataset, cube: xr.DataTree) -> Figure:
    """Observed against reconstructed values of every band and polarisation, as counts on a log scale.

    Args:
        maps: what `inference.predict` returns.
        cube: the cube that was mapped. Observations marked ``withheld`` are left out: they are scored elsewhere.

    Returns:
        The figure; titles give root-mean-square error and R2 = 1 - SSE / SST.

    Raises:
        ValueError: the maps hold no reconstruction.
        KeyError: a date or channel of it is not in the cube.
    """
    names = [d.removesuffix("_channel") for d in map(str, maps.sizes) if d.endswith("_channel")]
    pairs = [pair for name in names if f"{name}_mean" in maps for pair in _pairs(maps, cube, name)]
    if not pairs:
        raise ValueError("The maps hold no reconstruction of a valid observation: give what inference.predict returns.")
    rows, columns = -(-len(pairs) // 4), min(4, len(pairs))
    figure = Figure(figsize=(1.0 + 2.1 * columns, 0.1 + 2.3 * rows), layout="constrained")
    norm = LogNorm(1, 2)
    for i, (channel, unit, x, y) in enumerate(pairs):
        axes = figure.add_subplot(rows, columns, i + 1)
        edges = np.linspace(*(np.quantile(np.concatenate([x, y]), (0.001, 0.999)) + (0, 1e-6)), 61)
        number = np.histogram2d(x, y, bins=(edges, edges))[0].T
        norm.vmax = max(norm.vmax, number.max())
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(number, 0), norm=norm, cmap="viridis", rasterized=True)
        axes.axline(edges[[0, 0]], slope=1, color=RED, lw=0.9)
        axes.set(xlim=edges[[0, -1]], ylim=edges[[0, -1]], aspect="equal", ylabel=f"reconstructed [{unit_text(unit)}]")
        axes.set_xlabel(f"observed [{unit_text(unit)}]")
        axes.xaxis.set_major_locator(MaxNLocator(4)), axes.yaxis.set_major_locator(MaxNLocator(4))
        rmse, skill = np.sqrt(((y - x) ** 2).mean()), 1 - ((y - x) ** 2).mean() / max(x.var(), 1e-12)
        axes.set_title(f"{channel}   RMSE {rmse:.3g}{' dB' if unit == 'dB' else ''}   R² {skill:.2f}", fontsize=8)
    figure.colorbar(mesh, ax=figure.axes, shrink=0.6, aspect=30, label="observations [count]")
    return figure


@styled
def elbo(history: Mapping[str, Sequence[float]]) -> Figure:
    """Evidence lower bound per observation against step, raw and smoothed by a moving mean.

    Args:
        history: `Run.history`: ``step`` and ``loss``, the negative bound per observation.

    Returns:
        The figure. The lowest 5 % of the values lie below the axis; the steps in which the divergence from the prior
        is phased in, where the value is not yet a bound, are shaded.

    Raises:
        ValueError: the history is empty.
    """
    step, bound = np.asarray(history["step"], float), -np.asarray(history["loss"], float)
    if not step.size:
        raise ValueError("The history of the run is empty: fit at least one step.")
    window = np.ones(min(len(step), 2 * (len(step) // 40) + 1))
    smooth = np.convolve(bound, window, "same") / np.convolve(np.ones_like(bound), window, "same")
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(step[0], PHASE_IN * (step[-1] + 1), color="0.93", lw=0, label="prior phased in")
    axes.plot(step, bound, color=SKY, alpha=0.6, lw=0.8, label="raw")
    axes.plot(step, smooth, color=BLUE, lw=1.8, label="smoothed")
    low, high = np.nanquantile(bound, 0.05), np.nanmax(bound)
    margin = 0.06 * (high - low) or 1.0
    axes.set(ylim=(low - margin, high + margin), xlabel="step [count]", ylabel="ELBO [nat per observation]")
    axes.legend(loc="lower right")
    return figure


@styled
def withheld_skill(scores: Mapping[str, Mapping]) -> Figure:
    """Error on withheld observations relative to two baselines, and coverage of the 90 % intervals, by channel.

    Args:
        scores: what `inference.withheld_scores` returns.

    Returns:
        The figure: bars of RMSE over RMSE of the baseline, below 1 is better; coverage beside its nominal value.
    """
    bars = [(channel, score) for score in scores.values() for channel in score["rmse"]]
    place = np.arange(len(bars))
    figure = Figure(figsize=(max(4.2, 1.8 + 0.5 * len(bars)), 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for at, key, words, colour in ((-0.2, "linear", "interpolation", BLUE), (0.2, "date_mean", "date mean", ORANGE)):
        ratios = [np.divide(*np.array([s["rmse"][c], s["baselines"][key][c]], float)) for c, s in bars]
        upper.bar(place + at, ratios, 0.38, color=colour, label=f"against {words}")
    upper.axhline(1, color=BLACK, lw=0.8, ls="--")
    upper.set(xlim=(-0.6, len(bars) - 0.4), ylabel="RMSE / RMSE of baseline [–]")
    figure.legend(loc="outside upper center", ncols=2)
    coverage = np.array([s["coverage_90_by_channel"][c] for c, s in bars], float)
    lower.plot(place, coverage, "o", ms=5, color=GREEN)
    lower.axhline(0.9, color=BLACK, lw=0.8, ls="--")
    lower.set(ylim=(np.nanmin(coverage, initial=0.8) - 0.03, 1.01), ylabel="coverage\nof 90 % [–]")
    lower.set_xticks(place, [c for c, _ in bars])
    lower.set_xlabel("channel; withheld: " + ", ".join(f"{m} {s['n']:,}" for m, s in scores.items()))
    return figure


def unit_text(unit: str) -> str:
    """CF unit for an axis: ``m2 m-2`` -> m² m⁻²."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    pretty = re.sub(r"(?<=[A-Za-z])-?\d+", lambda match: match[0].translate(raised), unit)
    return {"1": "–", "degree": "°"}.get(unit, re.sub(r"\bug\b", "µg", pretty))


def _label(name: str) -> str:
    return rf"$\mathrm{{{CATALOGUE[name].symbol}}}$ [{unit_text(CATALOGUE[name].unit)}]"


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


def _draw_maps(maps: xr.Dataset, rows: Sequence[Sequence[tuple]], looks: Sequence[tuple], title: str) -> Figure:
    """Rows of (title, image), each row with a look: label, colours and limits."""
    (height, width), columns = rows[0][0][1].shape, len(rows[0])
    size = max(3.8, 1.5 + 1.6 * columns), 0.8 + 1.75 * np.clip(height / width, 0.5, 2.0) * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    place, unit = {"aspect": "auto" if 1 in (height, width) else "equal"}, "pixel"
    if "spatial_ref" in maps and 1 not in (height, width):  # km from the corner: whole coordinates are unreadable
        x, y = maps["x"].values, maps["y"].values
        extent = (0, width * abs(x[1] - x[0]) / 1e3, 0, height * abs(y[1] - y[0]) / 1e3)
        place, unit = {"extent": extent, "origin": "upper" if y[1] < y[0] else "lower"}, "km"
    for row, layers, (label, colours, (low, high)) in zip(grid, rows, looks, strict=True):
        colours = matplotlib.colormaps[colours].with_extremes(bad="0.85")
        for axes, (day, image) in zip(row, layers, strict=True):
            shown = axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest", **place)
            axes.set_title(day if axes.get_subplotspec().is_first_row() else "")
        row[0].set_ylabel(f"y [{unit}]")
        figure.colorbar(shown, ax=list(row), label=label, extend="both", pad=0.02, aspect=14)
    figure.supxlabel(f"x [{unit}]", fontsize=9)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(3)), grid[0, 0].yaxis.set_major_locator(MaxNLocator(3))
    figure.suptitle(title)
    return figure


def _signal(values: xr.DataArray, signal: str) -> xr.DataArray:
    modality, names, _ = SIGNALS[signal]
    first, *second = (values.sel({f"{modality}_channel": name}) for name in names)
    return ((first - second[0]) / (first + second[0])).clip(-1, 1) if second else first


def _draw_bands(axes: Axes, draws: xr.DataArray, time: str, colour: str, levels: Sequence[float]) -> None:
    quantiles = draws.quantile([*levels, 0.5], ("chain", "draw"), method="weibull").transpose("quantile", time).values
    for i in range(len(levels) // 2):
        axes.fill_between(draws[time].values, quantiles[i], quantiles[-2 - i], color=colour, alpha=0.28, lw=0)
    axes.plot(draws[time].values, quantiles[-1], color=colour)


def _pairs(maps: xr.Dataset, cube: xr.DataTree, modality: str):
    """(channel, unit, observed, reconstructed) of the observations that a fit may see."""
    node, rebuilt = cube[modality].to_dataset(), maps[f"{modality}_mean"]
    if "point" in node.dims:
        node = node.drop_vars(["x", "y"], errors="ignore").rename(point="y").expand_dims(x=1)
    kind = kind_of(modality)
    node = node.sel(time=maps[f"{modality}_time"].values)
    seen = node["valid"] & ~node["withheld"] if "withheld" in node else node["valid"]
    seen = seen.transpose("time", "y", "x").values & np.isfinite(rebuilt.isel({f"{modality}_channel": 0}).values)
    for channel in rebuilt[f"{modality}_channel"].values.tolist() if seen.any() else []:
        x = node[kind.values].sel({kind.channel: channel}).transpose("time", "y", "x").values[seen].astype(float)
        y = rebuilt.sel({f"{modality}_channel": channel}).values[seen]
        yield channel, rebuilt.attrs.get("units", "1"), kind.to_likelihood(torch.from_numpy(x)).numpy(), y.astype(float)
