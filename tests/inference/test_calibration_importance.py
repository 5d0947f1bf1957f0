"""Importance ratios of the guide: right densities, small k-hat for the exact posterior, large for a bad one."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from inference.calibration import importance, log_joint, refine
from inference.calibration.importance import smoothed_weights
from inference.draws import seeded
from pi_vae.data.tensors import CubeTensors

PIXELS = [(0, 0), (9, 11), (4, 5), (2, 2)]
LATENTS, DRAWS = 20, 2000


def gaussian(shrink: float, latents: int = LATENTS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios of a standard normal over a guide of another width, and the draws of the first latent."""
    z = shrink * np.random.default_rng(seed).normal(size=(DRAWS, 3, latents))
    ratios = stats.norm.logpdf(z) - stats.norm.logpdf(z, scale=shrink)
    return ratios.sum(-1), z[..., 0]


def test_khat_is_small_for_the_posterior_itself_and_large_for_a_narrow_guide():
    weights, khat, effective = smoothed_weights(gaussian(1.0)[0])
    assert (khat < 0.5).all() and np.allclose(effective, DRAWS, rtol=1e-3)
    assert np.allclose(weights, 1 / DRAWS)
    assert (smoothed_weights(gaussian(1.05)[0])[1] < 0.5).all(), "a little too wide: light tails"
    # Guide sd 0.6: the tail index of the ratios is 1 - 0.6^2 for one latent and grows with their number.
    _, khat, effective = smoothed_weights(gaussian(0.6)[0])
    assert (khat > 0.7).all() and (effective < 0.2 * DRAWS).all()


def test_smoothed_weights_repair_a_guide_that_is_a_little_off():
    ratios, z = gaussian(0.8, latents=1)
    weights, khat, _ = smoothed_weights(ratios)
    assert (khat < 0.7).all()
    variance = (weights * z**2).sum(0)
    assert z.var(0).max() < 0.7 and np.allclose(variance, 1, atol=0.12)


def test_the_weights_do_not_depend_on_a_constant_and_ignore_impossible_draws():
    ratios = gaussian(0.9)[0]
    weights, khat, _ = smoothed_weights(ratios)
    moved, khat_moved, _ = smoothed_weights(ratios - 700.0)
    assert np.allclose(weights, moved) and np.allclose(khat, khat_moved)
    ratios[:10] = -np.inf
    assert (smoothed_weights(ratios)[0][:10] < 1e-12).all()


def test_the_log_density_is_that_of_the_program(run, simulated):
    model = run.model
    data = CubeTensors.read(simulated, {n: m.channels for n, m in model.modalities.items()})
    rows, columns = torch.tensor(PIXELS).unbind(1)
    batch = data.at(rows, columns, 0)
    with seeded(0):
        shared = model.draw_globals()
        drawn = model.posterior(model.encode(batch), batch.dates, shared).rsample()
        program = poutine.condition(model.model, {**shared, **drawn})
        trace = poutine.trace(program).get_trace(batch)
        trace.compute_log_prob()
        expected = sum(n["log_prob_sum"] for s, n in trace.nodes.items() if n["type"] == "sample" and s not in shared
                       and not isinstance(n["fn"], poutine.subsample_messenger._Subsample))  # fmt: skip
        found = log_joint(model, batch, drawn, shared)
    assert found.shape == (4,)
    assert float(found.sum()) == pytest.approx(float(expected), rel=1e-5)
    pyro.clear_param_store()


def test_a_pixel_without_observation_needs_no_correction_and_one_with_needs_it(run, simulated):
    """Nothing seen: the guide is the prior, hence exact; seen, an encoder that was never trained is far off."""
    table = importance(run, simulated, draws=400, pixels=PIXELS, seed=1)
    assert table["pixel_row"].values.tolist() == [0, 9, 4, 2]
    assert bool(table["reliable"][0]) and float(table["effective"][0]) == pytest.approx(400, rel=0.02)
    assert (table["khat"][1:] > table.attrs["threshold"]).all() and not table["reliable"][1:].any()
    assert (table["effective"][1:] < 40).all()
    assert table.attrs["threshold"] == pytest.approx(1 - 1 / np.log10(400))


def test_refined_draws_are_draws_of_the_guide_that_fit_better(run, simulated):
    tree = refine(run, simulated, draws=50, candidates=400, pixels=PIXELS, seed=1)
    drawn = tree["posterior"]
    assert drawn["lai"].dims == ("chain", "draw", "pixel", "time") and drawn["lai"].shape == (1, 50, 4, 11)
    assert drawn["ala"].dims == ("chain", "draw", "pixel") and drawn["lai"].attrs["units"] == "m2 m-2"
    distinct = [len(np.unique(drawn["ala"].values[0, :, i])) for i in range(4)]
    assert distinct[0] == 50 and max(distinct[1:]) < 50, "equal weights keep all draws, unequal ones repeat some"
    assert tree["sample_stats"]["khat"].dims == ("pixel",)
    same = importance(run, simulated, draws=400, pixels=PIXELS, seed=1)
    assert np.allclose(same["khat"], tree["sample_stats"]["khat"])


def test_the_seed_decides_and_disturbs_nobody(run, simulated):
    state = torch.get_rng_state()
    first, second = (importance(run, simulated, draws=100, pixels=3, seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and first.identical(second)


def test_few_draws_are_refused(run, simulated):
    with pytest.raises(ValueError, match="99 draws: the tail of importance ratios takes 100 at least"):
        importance(run, simulated, draws=99, pixels=2)
