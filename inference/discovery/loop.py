"""`refine`: fit, discover, couple, fit again, until no law passes the null or makes the model better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator

from inference.discovery.coupling import couple
from inference.discovery.dataset import DAY_OF_YEAR
from inference.discovery.law import Law, Laws
from inference.discovery.search import discover
from inference.discovery.template import Template
from inference.evaluation import withheld_scores
from inference.plots.style import BLUE, GREEN, ORANGE, RED, Figure, styled
from inference.posterior import posterior
from inference.training import Run, fit
from pi_vae import PhysicsVAE
from pi_vae.data import withhold

__all__ = ["Refinement", "Round", "refine"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """One fit and what was found in its residuals.

    Attributes:
        run: the fit; its model holds the laws of the rounds before.
        laws: modality -> what `discover` returned; empty where the round is no better than the one before.
        log_density: modality -> log posterior predictive density of a withheld observation (`withheld_scores`), nats.
        energy: modality -> `residual_energy`.
    """

    run: Run
    laws: Mapping[str, Laws]
    log_density: Mapping[str, float]
    energy: Mapping[str, float]

    @property
    def found(self) -> list[Law]:
        """The laws that pass, of all modalities."""
        return [law for laws in self.laws.values() for law in laws.best]


@dataclass(frozen=True)
class Refinement:
    """What `refine` returns.

    Attributes:
        rounds: in their order; round `i` has the laws of all rounds before in its operators.
        kept: number of the round to use; the last, unless the laws coupled for that did not make it better.
        reason: why there was no other round.
    """

    rounds: tuple[Round, ...]
    kept: int
    reason: str

    @property
    def run(self) -> Run:
        """The fit of the round to use."""
        return self.rounds[self.kept].run

    @property
    def laws(self) -> list[Law]:
        """The laws in the operators of the round to use."""
        return [law for each in self.rounds[: self.kept] for law in each.found]

    def __str__(self) -> str:
        names = self.rounds[0].log_density
        lines = [f"{'round':5}" + "".join(f" {f'{n} log density':>18} {f'{n} energy':>12}" for n in names) + "  found"]
        for i, each in enumerate(self.rounds):
            figures = "".join(f" {each.log_density[n]:18.4f} {each.energy[n]:12.4f}" for n in names)
            found = "; ".join(map(str, each.found)) or ("none" if each.laws else "not looked for")
            lines.append(f"{i:5d}{figures}  {found}")
        return "\n".join([*lines, self.reason])

    @styled
    def plot(self) -> Figure:
        """Log density of withheld observations and energy of the residual of every modality, by round."""
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = range(len(self.rounds))
        for name, colour in zip(self.rounds[0].log_density, (BLUE, RED, GREEN, ORANGE), strict=False):
            gain = [each.log_density[name] - self.rounds[0].log_density[name] for each in self.rounds]
            left.plot(steps, gain, "o-", color=colour, label=name)
            right.plot(steps, [100 * each.energy[name] for each in self.rounds], "o-", color=colour, label=name)
        left.set(xlabel="round", ylabel="gain in log density\nof a withheld observation [nat]")
        right.set(xlabel="round", ylabel="energy of the residual [%]")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.legend()
        return figure


def refine(
    model: PhysicsVAE,
    cube: xr.DataTree,
    rounds: int = 3,
    template: Template | Mapping[str, Template] | None = None,
    folder: str | Path | None = None,
    draws: int = 100,
    pixels: int | None = 250,
    seed: int = 0,
    training: Mapping | None = None,
    search: Mapping | None = None,
) -> Refinement:
    """Fit, discover, couple and fit again; stop when no law passes the null, or those that did make nothing better.

    Every round fits a copy of the model as it was given, with all laws found so far in its operators, with the same
    seed and as many steps: rounds differ by their laws alone, and a gain on withheld observations is theirs. Laws that
    do not raise the log density of withheld observations, summed over the modalities that they are coupled to, are not
    kept (`Refinement.kept`): what passed the null was an error of the fit, or of the form of an earlier law.

    Args:
        model: model to begin with; it stays as it is.
        cube: a valid cube. A tenth of it is withheld (`pi_vae.data.withhold`) unless it marks some itself.
        rounds: couplings at most.
        template: what laws must satisfy, one for all or modality -> template; modalities without a residual, or not
            named there, are not searched.
        folder: for the checkpoints of the fits, ``round0``, ``round1``, ...; a loop that was stopped goes on there.
        draws: of the posterior that laws are searched in.
        pixels: number of pixels of it, drawn at random; all by default.
        seed: of everything random.
        training: other arguments of `inference.fit`, such as ``steps``.
        search: other arguments of `discover`, such as ``engine``, ``permutations`` or ``budget``.

    Returns:
        The rounds with their runs, laws and scores.

    Raises:
        ValueError: rounds is negative, no modality is to be searched, a template allows what cannot be coupled, or what
            `fit` and `discover` refuse.
    """
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}: give 0, which only looks for laws, or more.")
    residuals = [name for name, modality in model.modalities.items() if modality.residual is not None]
    templates = dict(template) if isinstance(template, Mapping) else dict.fromkeys(residuals, template)
    unknown = [name for name in templates if name not in residuals]
    if unknown or not templates:
        raise ValueError(
            f"{repr(unknown[0]) + ' has' if unknown else 'There is'} no residual in which a law could be found: build "
            "the model with one, and name modalities that have one."
        )
    timed = [name for name, each in templates.items() if each is not None and DAY_OF_YEAR in (each.inputs or ())]
    if timed and rounds:
        raise ValueError(
            f"The template of {timed[0]!r} allows {DAY_OF_YEAR!r}, which no operator is given, so that no law of it "
            "can be coupled: leave it out of the inputs, or give rounds=0."
        )
    if not any("withheld" in node for node in cube.children.values()):
        cube = withhold(cube, seed=seed)
    done: list[Round] = []
    coupled = model
    while True:
        checkpoint = None if folder is None else Path(folder) / f"round{len(done)}"
        run = fit(couple(coupled, []), cube, seed=seed, checkpoint=checkpoint, **(training or {}))
        tree = posterior(run, cube, draws=draws, pixels=pixels, seed=seed)
        scores = withheld_scores(run, cube, seed=seed)
        density = {name: scores[name]["log_density"] for name in templates if name in scores}
        energy = {name: residual_energy(tree, name) for name in templates}
        number, before = len(done), done[-1] if done else None
        if before is not None:
            given = {law.modality for law in before.found} & set(density)
            gain = sum(density[name] - before.log_density[name] for name in given)
            if given and gain <= 0:
                done.append(Round(run, {}, density, energy))
                reason = (
                    f"Round {number}: the laws coupled for it gain {gain:.4f} nats an observation and are not kept."
                )
                return Refinement(tuple(done), number - 1, reason)
        found = {
            name: discover(tree, name, template=each, seed=seed, **(search or {})) for name, each in templates.items()
        }
        done.append(Round(run, found, density, energy))
        log.info("Round %d: %s.", number, "; ".join(map(str, done[-1].found)) or "no law passes the null")
        if not done[-1].found:
            return Refinement(tuple(done), number, f"Round {number}: no law passes the null.")
        if number >= rounds:
            reason = f"{rounds} rounds were asked for; the laws of the last are not coupled."
            return Refinement(tuple(done), number, reason)
        coupled = couple(coupled, done[-1].found)


def residual_energy(tree: xr.DataTree, modality: str) -> float:
    """Mean square of the residual's posterior mean over the variance of the observations, where there are any.

    Args:
        tree: posterior draws.
        modality: whose residual.

    Returns:
        The mean over channels.
    """
    time, channel = f"{modality}_time", f"{modality}_channel"
    dates, observed = tree["constant_data"][time].values, tree["observed_data"][modality]
    residual = tree["posterior"][f"residual_{modality}"].mean(("chain", "draw")).sel(time=dates)
    power = residual.transpose("pixel", "time", channel).values ** 2
    values = observed.transpose("pixel", time, channel).values
    seen = np.isfinite(values)
    return float(np.nanmean(np.nanmean(np.where(seen, power, np.nan), (0, 1)) / np.nanvar(values, (0, 1))))
