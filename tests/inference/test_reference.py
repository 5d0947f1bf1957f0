"""Reference chains: right derivatives, the prior where nothing was seen, calibrated on cubes drawn from the prior."""

import numpy as np
import pytest
import torch
from scipy import stats

from inference import reference
from inference.calibration import at_pixels, simulation_based_calibration
from inference.draws import seeded
from inference.reference import WhitenedPosterior
from pi_vae.data.batches import CubeTensors
from pi_vae.variables import CATALOGUE

PIXELS = [(0, 0), (9, 11), (4, 5)]


@pytest.fixture(scope="module")
def truth(simulated):
    """Global latents that the cube was drawn with."""
    node = simulated["truth"].to_dataset()
    return {n[7:]: torch.from_numpy(v.values.astype(np.float32)) for n, v in node.items() if n.startswith("global_")}


@pytest.fixture
def target(run, simulated, truth):
    data = CubeTensors.read(simulated, {n: m.channels for n, m in run.model.modalities.items()})
    rows, columns = torch.tensor(PIXELS).unbind(1)
    return WhitenedPosterior(run.model, data.at(rows, columns, 0), truth)


def test_the_gradient_of_the_normal_equations_is_that_of_the_density(target):
    torch.manual_seed(0)
    w = 0.5 * torch.randn(3, target.size)
    with seeded(0):
        curvature, gradient = target.normal_equations(w)
    w.requires_grad_()
    (expected,) = torch.autograd.grad(target.log_prob(w).sum(), w)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.allclose(curvature[0], torch.eye(target.size)), "nothing seen: the prior"
    assert torch.linalg.eigvalsh(curvature)[1:, 0].min() > 0.99


def test_the_mode_is_one(target):
    with seeded(0):
        mode = target.mode()
        score, gradient = target.log_prob(mode), target.normal_equations(mode)[1]
        for scale in (0.02, 0.2):
            assert (target.log_prob(mode + scale * torch.randn_like(mode)) < score).all()
        start = target.normal_equations(torch.zeros_like(mode))[1]
    assert torch.equal(mode[0], torch.zeros(target.size))
    assert gradient[1:].norm() < 0.05 * start[1:].norm()


def test_a_pixel_without_observation_has_the_prior(run, simulated, truth):
    tree = reference(run, simulated, draws=0, pixels=[(0, 0)], shared=truth)
    for name in ("lai", "ala", "soil_moisture"):
        v, values = CATALOGUE[name], tree["posterior"][name].values[0, :, 0]
        exact = stats.truncnorm((v.low - v.loc) / v.scale, (v.high - v.loc) / v.scale, v.loc, v.scale)
        assert stats.kstest(values[:, 4] if v.dynamic else values, exact.cdf).pvalue > 1e-3


def test_chains_leave_their_start_and_are_accepted(run, simulated, truth):
    tree = reference(run, simulated, draws=12, warmup=12, thin=1, pixels=PIXELS, shared=truth)
    assert tree["posterior"]["lai"].dims == ("chain", "draw", "pixel", "time")
    assert tree["posterior"]["lai"].sizes == {"chain": 1, "draw": 12, "pixel": 3, "time": 11}
    assert (tree["sample_stats"]["acceptance"] > 0.4).all() and (tree["sample_stats"]["step_size"] > 0.02).all()
    assert (tree["posterior"]["ala"].std("draw") > 1).all()


@pytest.mark.slow
def test_chains_are_calibrated_and_those_of_a_wrong_model_are_not(run, simulated, truth):
    """Simulation-based calibration of the whole: prior, operators, likelihood and sampler."""
    known = simulated["truth"].to_dataset()

    def judge(**options):
        tree = reference(run, simulated, pixels=100, seed=1, **options)
        drawn = tree["posterior"].to_dataset()
        return simulation_based_calibration(drawn, at_pixels(known, drawn), level=0.01), tree

    result, tree = judge(draws=40, warmup=50, thin=3, shared=truth)
    assert bool(result["calibrated"].all()), result["p_holm"].to_series()
    assert float(tree["sample_stats"]["acceptance"].median()) > 0.6
    confident = {**truth, "s2_noise": truth["s2_noise"] / 5, "s1_noise": truth["s1_noise"] / 5}
    assert not bool(judge(draws=0, shared=confident)[0]["calibrated"].all())


def test_the_seed_decides_and_disturbs_nobody(run, simulated):
    state = torch.get_rng_state()
    first, second = (reference(run, simulated, draws=2, warmup=2, pixels=3, seed=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and first.identical(second)
