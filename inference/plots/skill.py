"""How well a run does: its bound, what it reconstructs, and its error on withheld observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from inference.plots.style import BLACK, BLUE, GREEN, ORANGE, RED, SKY, Figure, styled, unit_text
from inference.training import PHASE_IN
from pi_vae.data.kinds import kind_of

__all__ = ["elbo", "reconstruction", "withheld_skill"]


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
        low, high = np.quantile(np.concatenate([x, y]), (0.001, 0.999))
        edges = np.linspace(low, high + 1e-6, 61)
        number = np.histogram2d(x, y, bins=(edges, edges))[0].T
        norm.vmax = max(norm.vmax, number.max())
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(number, 0), norm=norm, cmap="viridis", rasterized=True)
        axes.axline((low, low), slope=1, color=RED, lw=0.9)
        axes.set(xlim=edges[[0, -1]], ylim=edges[[0, -1]], aspect="equal", ylabel=f"reconstructed [{unit_text(unit)}]")
        axes.set_xlabel(f"observed [{unit_text(unit)}]")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
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


def _pairs(maps: xr.Dataset, cube: xr.DataTree, modality: str) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(channel, unit, observed, reconstructed) of the observations that a fit may see."""
    node, rebuilt = cube[modality].to_dataset(), maps[f"{modality}_mean"]
    if "point" in node.dims:
        node = node.drop_vars(["x", "y"], errors="ignore").rename(point="y").expand_dims(x=1)
    kind = kind_of(modality)
    node = node.sel(time=maps[f"{modality}_time"].values)
    given = node["valid"] & ~node["withheld"] if "withheld" in node else node["valid"]
    seen = given.transpose("time", "y", "x").values & np.isfinite(rebuilt.isel({f"{modality}_channel": 0}).values)
    for channel in rebuilt[f"{modality}_channel"].values.tolist() if seen.any() else []:
        x = node[kind.values].sel({kind.channel: channel}).transpose("time", "y", "x").values[seen].astype(float)
        y = rebuilt.sel({f"{modality}_channel": channel}).values[seen]
        yield channel, rebuilt.attrs.get("units", "1"), kind.to_likelihood(torch.from_numpy(x)).numpy(), y.astype(float)
