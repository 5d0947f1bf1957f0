r"""Simulation-based calibration: on cubes drawn from the prior, the rank of the truth among the draws is uniform.

If :math:`\theta \sim p(\theta)`, :math:`y \sim p(y \mid \theta)` and draws come from :math:`p(\theta \mid y)`,
truth and draws are exchangeable, so that the rank of the truth among them is uniform (Talts et al. 2018,
arXiv:1804.06788).
One simulated cube holds many pixels, and given the global latents every pixel is a simulation of its own; the dates of
a pixel are not, so one of them is picked at random. Uniformity is tested by `uniformity_test` of ArviZ
(`arviz_stats.base.array_stats`), the p-values of the variables are corrected by Holm's method.

Example:
    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats

from inference.calibration.intervals import pit

__all__ = ["holm", "one_per_group", "simulation_based_calibration"]


def simulation_based_calibration(
    draws: xr.Dataset,
    truth: xr.Dataset,
    group: str = "pixel",
    level: float = 0.05,
    seed: int = 0,
    method: str = "pot_c",
) -> xr.Dataset:
    """Test of every variable for calibration against a simulated truth.

    Args:
        draws: `(chain, draw, ...)` of each variable, see `coverage`; MCMC draws should be thinned to independence.
        truth: `(...)` values that the data were simulated from, see `at_pixels`.
        group: dimension whose members are independent simulations (given the global latents). One value of each is
            used, at random; variables without it (global latents) are left out: one cube is one simulation of them.
        level: probability that at least one calibrated variable is called uncalibrated.
        seed: of the randomised ranks and of the choice within the groups.
        method: of `arviz_stats.base.array_stats.uniformity_test`: ``"pot_c"`` (order statistics), ``"prit_c"``
            (ranks, as Säilynoja et al. 2022) or ``"piet_c"`` (tails).

    Returns:
        Dataset over ``variable``: ``p_value``, ``p_holm``, ``calibrated`` (bool), ``n``; ``bias``, the mean PIT value
        less 1/2 (> 0: the draws lie below the truth), and ``spread``, the variance of the PIT values over that of a
        uniform variable (> 1: the posterior is too narrow, < 1: too wide); and ``pit (variable, group)``.

    Raises:
        ValueError: no variable can be tested, or fewer than 20 groups hold a value.
    """
    thinned = one_per_group(pit(draws, truth, seed), group, seed)
    kept = {str(name): array for name, array in thinned.data_vars.items() if array.dims == (group,)}
    if not kept:
        raise ValueError(f"No variable has the dimension '{group}', along which simulations are independent.")
    rows = []
    for name, array in kept.items():
        places = array.values[np.isfinite(array.values)]
        if len(places) < 20:
            raise ValueError(f"'{name}' has a known value in {len(places)} groups: a test takes 20 at least.")
        p = float(array_stats.uniformity_test(places, method=method)[0])
        rows.append((p, len(places), places.mean() - 0.5, 12 * places.var()))
    p_value, count, bias, spread = (np.array(column) for column in zip(*rows, strict=True))
    corrected = holm(p_value)
    return xr.Dataset(
        {
            "p_value": ("variable", p_value),
            "p_holm": ("variable", corrected, {"long_name": "p-value after Holm's correction over the variables"}),
            "calibrated": ("variable", corrected > level),
            "n": ("variable", count),
            "bias": ("variable", bias),
            "spread": ("variable", spread),
            "pit": (("variable", group), np.stack([array.values for array in kept.values()])),
        },
        {"variable": list(kept)},
        {"level": level, "method": method, "draws": thinned.attrs["draws"]},
    )


def one_per_group(values: xr.Dataset, group: str = "pixel", seed: int = 0) -> xr.Dataset:
    """One finite value of every group, each equally likely; variables without other dimensions stay as they are.

    Args:
        values: such as PIT values `(pixel, time)`.
        group: the dimension that stays.
        seed: of the choice.

    Returns:
        Dataset of the variables that have the dimension, `(group)`; NaN where a group has no finite value.
    """
    rng = np.random.default_rng(seed)
    chosen: dict[Hashable, tuple] = {}
    for name, array in values.data_vars.items():
        if group not in array.dims:
            continue
        flat = array.transpose(group, ...).values.reshape(array.sizes[group], -1)
        lot = np.where(np.isfinite(flat), rng.uniform(size=flat.shape), -1.0)
        chosen[name] = (group, flat[np.arange(len(flat)), lot.argmax(1)], array.attrs)
    return xr.Dataset(chosen, attrs=values.attrs)


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values corrected for their number by the step-down method of Holm (1979, Scandinavian J. of Statistics 6).

    Args:
        p_values: `[K]`, of tests that may depend on each other.

    Returns:
        `[K]`, in the same order; calling those below a level significant keeps the chance of any false call below it.
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
