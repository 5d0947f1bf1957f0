"""Figures of laws: the Pareto front against its null, the residual against the law, and what each input does."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from inference.discovery.dataset import Table, read_table
from inference.discovery.law import LEVEL, Law, Laws
from inference.plots.style import BLACK, BLUE, GREEN, ORANGE, RED, SKY, Figure, styled, unit_text

__all__ = ["laws_figure", "residual_law"]

MAX_POINTS = 250
GRID = 60


@styled
def laws_figure(laws: Laws) -> Figure:
    """The Pareto front against the null, and what the laws say of each of their inputs.

    Args:
        laws: what `inference.discovery.discover` returns.

    Returns:
        The figure. A row per law that passes, or for the candidate of greatest held-out skill, which its title says. A
        panel per input: the law over the range it was found on, the other inputs at their medians, with the 50 and
        90 % intervals that the posterior of its coefficients gives.
    """
    shown = laws.best or sorted(laws.front, key=lambda law: law.heldout_skill)[-1:]
    width = 1 + max((len(law.inputs) for law in shown), default=0)
    figure = Figure(figsize=(3.1 * width + 0.4, 2.9 * max(len(shown), 1)), layout="constrained")
    grid = figure.subplots(max(len(shown), 1), width, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    grid[0, 0].set_axis_on()
    _draw_front(grid[0, 0], laws)
    for law, row in zip(shown, grid, strict=False):
        for axes, name in zip(row[1:], law.inputs, strict=False):
            axes.set_axis_on()
            _draw_dependence(axes, law, name)
        verdict = "" if law.passes else " (best candidate, fails the null)"
        row[1].set_title(f"{law.channel}{verdict}: ${law.latex}$", fontsize=float(np.clip(400 / len(str(law)), 5, 9)))
    figure.suptitle("Laws that pass the null" if laws.best else "No law passes the null", fontweight="bold")
    return figure


@styled
def residual_law(tree: xr.DataTree, laws: Laws, target: str = "s1") -> Figure:
    """What physics leaves against the law found for it, channel by channel, and the Pareto front against the null.

    Args:
        tree: the posterior that the laws were found in.
        laws: what `inference.discovery.discover` returns.
        target: modality.

    Returns:
        The figure. A channel without a law that passes shows its candidate of greatest held-out skill, and says so.
        Points are observations less the posterior mean of the physics, or the residual where a pixel has no observation
        of its own; bars are posterior sd of up to 250 random ones; squares are weighted means of ten classes of all.
        The line has slope one: physics may have taken a constant.

    Raises:
        ValueError: the laws are of another modality, or the tree lacks their inputs.
    """
    if laws.modality != target:
        raise ValueError(f"The laws are of modality {laws.modality!r}, not {target!r}: give target={laws.modality!r}.")
    shown = {law.channel: law for law in sorted(laws.front, key=lambda law: law.heldout_skill)}
    shown |= {law.channel: law for law in laws.best}
    inputs = {name for law in shown.values() for name in law.inputs}
    table = read_table(tree, target, sorted(inputs) or None)
    for name in inputs - set(table.names):
        raise ValueError(f"Input {name!r} is {table.dropped[name]} in the tree: give the one that the laws are from.")
    figure = Figure(figsize=(3.0 * len(table.channels) + 3.0, 3.4), layout="constrained")
    *panels, front = figure.subplots(1, len(table.channels) + 1)
    for c, (axes, channel) in enumerate(zip(panels, table.channels, strict=True)):
        axes.set(xlabel=f"law [{unit_text(table.unit)}]", ylabel=f"{channel} left by physics [{unit_text(table.unit)}]")
        axes.set_title(f"{channel}: no candidate")
        if channel in shown:
            _draw_fit(axes, table, c, shown[channel])
    _draw_front(front, laws)
    figure.suptitle("Laws that pass the null" if laws.best else "No law passes the null", fontweight="bold")
    return figure


def _draw_fit(axes: Axes, table: Table, c: int, law: Law) -> None:
    rows = {name: table.x[..., i][table.seen] for i, name in enumerate(table.names)}
    spread = np.where(np.isfinite(table.left[0]), table.left.std(0), table.sd)
    y, sd, weights = (array[..., c][table.seen] for array in (table.leftover, spread, table.weights))
    x = np.broadcast_to(law.evaluate(rows) if law.inputs else float(law.expression), y.shape)
    some = np.random.default_rng(0).permutation(y.size)[:MAX_POINTS]
    axes.errorbar(x[some], y[some], sd[some], fmt="o", ms=2.5, color=SKY, elinewidth=0.5, alpha=0.6, zorder=1)
    for part in np.array_split(np.argsort(x), min(10, y.size)):
        mean = [np.average(v[part], weights=weights[part]) for v in (x, y)]
        axes.plot(*mean, "s", ms=4.5, color=BLUE, mec="white", mew=0.5, zorder=3)
    axes.axline((x.mean(), y.mean()), slope=1, color=BLACK, lw=0.9, ls="--", zorder=2)
    verdict = "law" if law.passes else "best candidate, fails the null"
    axes.set_title(f"{law.channel}: {verdict}\n${law.latex}$", fontsize=float(np.clip(450 / len(str(law)), 5, 9)))


def _draw_front(axes: Axes, laws: Laws) -> None:
    skills = [law.heldout_skill for law in laws.front]
    floor = max(-0.3, min([0.0, *skills])) - 0.05  # skill has no lower bound: what lies below is drawn on the axis
    if laws.null:
        level = np.quantile(laws.null, 1 - LEVEL, method="higher")
        axes.axhspan(floor, level, color="0.9", lw=0, label=f"null, {100 * (1 - LEVEL):.0f} %")
    channels = dict.fromkeys(law.channel for law in laws.front)
    for channel, colour in zip(channels, (BLUE, RED, GREEN, ORANGE, SKY) * len(channels), strict=False):
        points = [(w.complexity, max(w.heldout_skill, floor), w.passes) for w in laws.front if w.channel == channel]
        axes.plot(*zip(*[point[:2] for point in points], strict=True), color=colour, lw=1, label=channel)
        for x, y, passes in points:
            axes.plot(x, y, "o", ms=5, mfc=colour if passes else "white", mec=colour, clip_on=False)
    axes.set(xlabel="complexity [count]", ylabel="held-out skill R² [–]", title="Pareto front (filled: passes)")
    axes.set_ylim(floor, max(0.1, 1.1 * max([0.0, *skills, *laws.null])))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(*axes.get_legend_handles_labels())


def _draw_dependence(axes: Axes, law: Law, name: str) -> None:
    x = np.linspace(*law.ranges[name], GRID)
    inputs = {other: np.full(GRID, law.typical[other]) for other in law.inputs} | {name: x}
    curves = law.evaluate_draws(inputs)
    for tail in (0.05, 0.25):
        axes.fill_between(x, *np.quantile(curves, [tail, 1 - tail], axis=0), color=BLUE, alpha=0.2, lw=0)
    axes.plot(x, law.evaluate(inputs), color=BLUE)
    axes.axhline(0, color=BLACK, lw=0.5)
    axes.set(xlabel=f"{name.replace('_', ' ')} [{unit_text(law.units[name])}]")
    axes.set(ylabel=f"law [{unit_text(law.unit)}]")
