"""`discover`: look for the equation behind a residual, and for the same in data where there is none."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import xarray as xr

from inference.discovery.dataset import Table, read_table
from inference.discovery.dimensions import Units
from inference.discovery.engines import Budget, Engine, Together, load_engine
from inference.discovery.evidence import weighed
from inference.discovery.fitting import Fitted, Rows, pareto_front, skill
from inference.discovery.law import LEVEL, WORTHWHILE, Law, Laws
from inference.discovery.null import permute, split
from inference.discovery.template import Template

__all__ = ["discover"]

log = logging.getLogger(__name__)

RESAMPLES, RESAMPLED = 8, 0.7


def discover(
    tree: xr.DataTree | Table,
    target: str = "s1",
    template: Template | None = None,
    engine: str = "auto",
    seed: int = 0,
    permutations: int = 19,
    budget: Budget | None = None,
) -> Laws:
    """Laws for the residual of a modality, with their evidence.

    Laws are found and fitted on two thirds of the blocks of pixels at two thirds of the stretches of dates, and judged
    on the other pixels at the other dates: at the same dates, a course that all pixels share would be held out from
    nobody, and any input with a season would seem to explain some of it. The search is repeated on
    permuted targets (`inference.discovery.null`); a law passes if its held-out skill is above all but 5 % of the
    greatest ones, over lengths and channels, of the permutations, and is at least 0.02. Taking the greatest over both
    controls the chance of any false law at 5 % (Westfall & Young 1993) without the many permutations that a correction
    of the level by the number of channels would need.

    Args:
        tree: posterior draws (`inference.posterior`), at least 20; or a table made of them (`read_table`).
        target: modality whose residual is to be explained; that of the table, if one is given.
        template: what a law must satisfy.
        engine: ``"auto"`` or the name of an engine (`inference.discovery.engines.ENGINES`).
        seed: the same one gives the same laws.
        permutations: searches in permuted data; 19 is the least with which a law can pass.
        budget: effort of one search.

    Returns:
        The Pareto fronts; `Laws.best` is empty if no law passes.

    Raises:
        ValueError: there are fewer than 19 permutations, the target or the engine is unknown, the engine cannot honour
            the template, or the tree does not hold what the template asks for.
        ImportError: the engine is not installed.
    """
    template = template if template is not None else Template()
    budget = budget if budget is not None else Budget()
    if permutations < round(1 / LEVEL) - 1:
        raise ValueError(f"With {permutations} permutations no law can pass at the level {LEVEL}: give at least 19.")
    name, engine_ = load_engine(engine, template)
    table = tree if isinstance(tree, Table) else read_table(tree, target, template.inputs)
    unused = sorted(template.constrained - set(table.names))
    if unused:
        raise ValueError(
            f"The template constrains {unused[0]!r}, which is no input here "
            f"({table.dropped.get(unused[0], 'not among those by default')}): add it to inputs or drop the constraint."
        )
    search = _Search(engine_, template, budget, split(table.block, seed)[:, None], split(table.season, seed))
    seeds = np.random.default_rng(seed).integers(2**31, size=1 + permutations + RESAMPLES).tolist()
    channels = range(len(table.channels))
    fronts = [search.judged(table, c, seeds[0]) for c in channels]
    null = []
    for i, each in enumerate(seeds[1 : 1 + permutations], 1):
        permuted = permute(table, each)
        found = [judged for c in channels for _, judged in search.judged(permuted, c, each)]
        null.append(max(found, default=0.0))
        log.info("Permutation %d of %d: greatest held-out skill %.3f.", i, permutations, null[-1])
    laws: list[Law] = []
    for c in channels:
        drafts = _laws(search, table, c, fronts[c], tuple(null))
        if any(law.passes for law in drafts):
            supports = [search.supports(table, c, each) for each in seeds[1 + permutations :]]
            drafts = [_with_stability(law, table, supports) for law in drafts]
        laws += drafts
    settings = {
        "engine": name,
        "seed": seed,
        "permutations": permutations,
        "rows": int(table.seen.sum()),
        "pixels": len(table.block),
        "blocks": int(table.block.max() + 1),
        "dates": len(table.times),
        "level": LEVEL,
        "worthwhile": WORTHWHILE,
    }
    return Laws(table.modality, tuple(laws), tuple(null), table.dropped, settings)


@dataclass(frozen=True)
class _Search:
    """What stays the same from the data to the null."""

    engine: Engine | Together
    template: Template
    budget: Budget
    pixels: np.ndarray  # [pixel, 1] held out
    dates: np.ndarray  # [time] held out

    def front(self, table: Table, channel: int, where: np.ndarray, seed: int) -> list[Fitted]:
        rows = Rows(*table.rows(channel, where), table.drawn(where))
        if len(rows.y) < 4:
            return []
        hull = table.x[table.seen]
        units = Units(table.units, table.unit)
        return pareto_front(self.engine, rows, table.names, self.template, hull, seed, self.budget, units)

    def judged(self, table: Table, channel: int, seed: int) -> list[tuple[Fitted, float]]:
        """The front found on the training blocks, each law with its skill on the held-out ones."""
        inside = ~self.pixels & ~self.dates
        train, test = (
            Rows(*table.rows(channel, where), table.drawn(where)) for where in (inside, self.pixels & self.dates)
        )
        if not len(test.y):
            return []
        front = self.front(table, channel, inside, seed)
        level = float(np.average(train.y, weights=train.weights)) if front else 0.0
        return [(fitted, skill(fitted, table.names, test, level)) for fitted in front]

    def supports(self, table: Table, channel: int, seed: int) -> list[tuple[int, tuple[str, ...]]]:
        """(complexity, inputs) of the front found with another seed on some of the blocks."""
        left_out = split(table.block, seed, 1 - RESAMPLED)[:, None]
        return [(f.complexity, f.inputs(table.names)) for f in self.front(table, channel, ~left_out, seed)]


def _laws(
    search: _Search, table: Table, channel: int, front: list[tuple[Fitted, float]], null: tuple[float, ...]
) -> list[Law]:
    """Evidence around the laws of a front; their constants are fitted anew to the rows of all blocks."""
    fits = [fitted for fitted, _ in front]
    gathered = weighed(fits, table, channel, 3 * search.budget.rows, search.template)
    laws = []
    for (fitted, heldout), (evidence, length) in zip(front, gathered, strict=True):
        inputs = fitted.inputs(table.names)
        laws.append(
            Law(
                modality=table.modality,
                channel=table.channels[channel],
                channels=table.channels,
                form=fitted.form,
                coefficients=evidence.coefficients,
                covariance=tuple(map(tuple, evidence.covariance.tolist())),
                unit=table.unit,
                units={name: table.units[name] for name in inputs},
                ranges={name: table.ranges[name] for name in inputs},
                typical={name: float(np.median(table.x[..., table.names.index(name)][table.seen])) for name in inputs},
                complexity=fitted.complexity,
                description_length=length,
                train_skill=fitted.skill,
                heldout_skill=heldout,
                null=null,
            )
        )
    return laws


def _with_stability(law: Law, table: Table, supports: list[list[tuple[int, tuple[str, ...]]]]) -> Law:
    # A front is ordered: the last one that is not longer is the best one.
    best = [next((s for k, s in reversed(front) if k <= law.complexity), ()) for front in supports]
    inclusion = {name: float(np.mean([name in s for s in best])) for name in table.names}
    stability = float(np.mean([s == law.inputs for s in best]))
    return Law(**{**law.__dict__, "stability": stability, "inclusion": inclusion})
