"""Constants of a law, and what stands beside it."""

from __future__ import annotations

import numpy as np
import pytest

from inference.discovery.constants import unshrunk
from pi_vae.law import parse

BLOCKS, EACH, DRAWS = 40, 20, 10
FORM, TRUTH = parse("c0*exp(-c1*lai)", ("c0", "c1", "lai")), {"c0": 2.0, "c1": 0.5}


def found(level: float, seed: int = 0) -> tuple[dict[str, float], np.ndarray]:
    """Constants and their sd, of a law with a level beside it, from inputs known without error."""
    rng = np.random.default_rng(seed)
    lai = rng.uniform(0.2, 4.0, (1, BLOCKS * EACH, 1))
    y = TRUTH["c0"] * np.exp(-TRUTH["c1"] * lai[0, :, 0]) + level + 0.2 * rng.normal(size=BLOCKS * EACH)
    draws, left = np.repeat(lai, DRAWS, 0), np.repeat(y[None], DRAWS, 0)
    values, covariance = unshrunk(FORM, TRUTH, ["lai"], draws, left, np.repeat(np.arange(BLOCKS), EACH))
    return values, np.sqrt(np.diag(covariance))


@pytest.mark.parametrize("level", [0.0, -1.0, 0.5])
def test_what_physics_took_of_a_law_does_not_bend_it(level: float) -> None:
    values, sd = found(level)
    assert np.abs((np.array(list(values.values())) - list(TRUTH.values())) / sd).max() < 3


@pytest.mark.parametrize("level", [0.0, 0.05, 1.0])
def test_intervals_hold_whatever_the_level(level: float) -> None:
    z = [(np.array(list(v.values())) - list(TRUTH.values())) / sd for v, sd in (found(level, s) for s in range(60))]
    assert 0.83 < (np.abs(z) < 1.645).mean() < 0.97
