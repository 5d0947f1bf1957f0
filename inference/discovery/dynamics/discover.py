"""`discover_dynamics`: look for equations in time, and for the same in series where there are none."""

from __future__ import annotations

import logging

import numpy as np

from inference.discovery.dynamics.constraints import Constraints, Rows
from inference.discovery.dynamics.law import DynamicalLaw
from inference.discovery.dynamics.library import Library
from inference.discovery.dynamics.null import surrogate
from inference.discovery.dynamics.samples import DynamicsSamples
from inference.discovery.dynamics.sparse import Fit, coefficients_on, fit
from inference.discovery.dynamics.weak import BLOCKS, WeakForm
from inference.discovery.law import LEVEL

__all__ = ["discover_dynamics"]

log = logging.getLogger(__name__)


def discover_dynamics(
    samples: DynamicsSamples,
    constraints: Constraints | None = None,
    library: Library | None = None,
    seed: int = 0,
    resamples: int = 40,
    permutations: int = 19,
    widths: tuple[float, ...] | None = None,
) -> DynamicalLaw:
    """Equations in time of all states, with their evidence.

    Terms are chosen and fitted on all dates (`inference.discovery.dynamics.sparse`). Held-out skill comes from choosing
    and fitting anew without a block of dates of every pixel and all that overlaps with it. The same is done in
    surrogates without a law (`.null`): an equation passes if its skill is above the greatest one over all equations in
    all but 5 % of them (Westfall & Young 1993).

    Intervals and inclusion come from fits to single posterior draws, with pixels and blocks of dates both drawn with
    replacement, as errors may be common to either (Owen 2007, Annals of Applied Statistics 1, 386-411). A draw scatters
    around the mean as the mean does around the truth, and flattens the law once more; so the fits are reflected about
    the one to the means, :math:`2 c - c_b` (the basic bootstrap: Davison & Hinkley 1997, Bootstrap Methods, section
    5.2). That keeps equalities, but a reflected coefficient may lie beyond a bound.

    Args:
        samples: joint draws of states and rates.
        constraints: what physics says of the coefficients.
        library: candidate terms; by default polynomials of degree two, drivers, and one harmonic of the year.
        seed: the same one gives the same law.
        resamples: for intervals and inclusion.
        permutations: surrogates; 19 is the least with which a law can pass.
        widths: half-widths [day] of the test functions, see `WeakForm`.

    Returns:
        The law; `DynamicalLaw.passes` tells whether to believe it.

    Raises:
        ValueError: constraints contradict each other or name unknown terms, the library reads what the samples do not
            have, a width does not suit the dates, or there are too few resamples or permutations.
    """
    if permutations < round(1 / LEVEL) - 1 or resamples < 2:
        raise ValueError(
            f"With {permutations} permutations and {resamples} resamples no law can pass at the level {LEVEL}: give at "
            "least 19 and 2."
        )
    constraints = Constraints() if constraints is None else constraints
    library = Library.build(samples.states, tuple(samples.drivers)) if library is None else library
    known = (*samples.states, *samples.drivers)
    if library.inputs != known:
        raise ValueError(
            f"The library is made for {', '.join(library.inputs)} and the samples hold {', '.join(known)}: build it "
            "with their states and drivers."
        )
    rows = constraints.rows(samples.states, library)
    weak = WeakForm(samples, library, widths)
    found = fit(weak, rows)
    skill = heldout_skill(weak, rows)
    seeds = np.random.default_rng(seed).integers(2**31, size=permutations + 1)
    null = []
    for i, each in enumerate(seeds[1:], 1):
        null.append(float(heldout_skill(WeakForm(surrogate(samples, each), library, widths), rows).max()))
        log.info("Surrogate %d of %d: greatest held-out skill %.3f.", i, permutations, null[-1])
    resampled, chosen = _resampled(weak, rows, found, resamples, seeds[0])
    settings = {
        "seed": seed,
        "resamples": resamples,
        "permutations": permutations,
        "draws": samples.value.shape[0],
        "pixels": samples.value.shape[1],
        "dates": len(samples.times),
        "level": LEVEL,
    }
    return DynamicalLaw(
        states=samples.states,
        library=library,
        coefficients=found.coefficients,
        resampled=resampled,
        inclusion=chosen.mean(0),
        heldout_skill=skill,
        null=tuple(null),
        constraints=constraints,
        units=dict(samples.units),
        settings=settings,
    )


def heldout_skill(weak: WeakForm, rows: Rows) -> np.ndarray:
    """`[S]` share of the weighted square of the rate that laws explain in rows that they were not found on.

    A fold holds out a block of dates of every pixel, another one for the next pixel, with all that overlaps with it.
    """
    pixels, states = weak.left.shape[1], weak.right.shape[-1]
    missed, whole = np.zeros(states), np.zeros(states)
    low, high = weak.interval.T
    for fold in range(BLOCKS):
        out = weak.block == (fold + np.arange(pixels)[:, None]) % BLOCKS
        used = np.array([(high <= low[o].min()) | (low >= high[o].max()) if o.any() else ~o for o in out])
        if not used.any():
            continue
        c = fit(weak, rows, used=used).coefficients
        for i, m in enumerate(weak.moments(c, used=out)):
            missed[i] += m.loss(c[i])
            whole[i] += m.energy.sum()
    return 1 - missed / np.maximum(whole, 1e-300)


def _resampled(weak: WeakForm, rows: Rows, found: Fit, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`[B, S, J]` reflected coefficients on the support found, and `[B, S, J]` the support that each would choose."""
    rng = np.random.default_rng(seed)
    draws, pixels = weak.left.shape[:2]
    values, chosen = [], []
    for _ in range(count):
        often = [np.bincount(rng.integers(size, size=size), minlength=size) for size in (pixels, BLOCKS)]
        weights, taken = np.outer(*often).ravel().astype(float), rng.integers(draws, size=1)
        chosen.append(fit(weak, rows, weights, taken).support)
        values.append(2 * found.coefficients - coefficients_on(weak, rows, found, weights, taken))
    return np.array(values), np.array(chosen)
