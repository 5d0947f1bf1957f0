"""Refinement: chains right on known targets, right derivatives, calibrated on cubes drawn from the prior."""

import arviz as az
import numpy as np
import pytest
import torch

from inference import posterior, translate
from inference.calibration import at_pixels, simulation_based_calibration
from inference.draws import seeded
from inference.refinement import WhitenedPosterior, hamiltonian, refined_groups
from pi_vae.data.tensors import CubeTensors

PIXELS = [(0, 0), (9, 11), (4, 5)]


def test_many_gaussians_at_once_have_their_means_and_variances() -> None:
    torch.manual_seed(0)
    scale = torch.tensor([[0.5, 1.0, 2.0], [1.0, 1.0, 0.3]])
    mean = torch.tensor([[1.0, 0.0, -3.0], [0.0, 2.0, 0.1]])

    def density(x: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((x - mean) / scale).square().sum(-1)

    draws, found = hamiltonian(density, torch.zeros(2, 3), draws=3000, warmup=300)
    assert ((draws.mean(0) - mean) / scale).abs().max() < 0.15
    assert (draws.std(0) / scale - 1).abs().max() < 0.1
    assert (found["acceptance"] - 0.8).abs().max() < 0.15


def test_a_skewed_target_has_its_moments() -> None:
    torch.manual_seed(0)
    rate = torch.tensor([1.0, 3.0, 8.0])  # log of gamma variables: mean digamma(rate), variance trigamma(rate)

    def density(x: torch.Tensor) -> torch.Tensor:
        return (rate * x - x.exp()).sum(-1)

    draws, _ = hamiltonian(density, torch.zeros(5, 3), draws=1500, warmup=300)
    assert (draws.mean((0, 1)) - torch.digamma(rate)).abs().max() < 0.1
    assert (draws.var((0, 1)) / torch.polygamma(1, rate) - 1).abs().max() < 0.2


@pytest.mark.slow
def test_chains_are_chains_of_arviz(run, simulated) -> None:
    tree = posterior(run, simulated, draws=80, pixels=[(4, 5), (0, 0)], refine="chains", chains=2, times=["2021-12-01"])
    assert tree["posterior"]["lai"].dims == ("chain", "draw", "pixel", "time")
    assert tree["posterior"]["lai"].shape[:3] == (2, 40, 2)
    assert tree["posterior_predictive"]["s2"].shape[:2] == (2, 40)
    assert float(az.rhat(tree["posterior"]["lai"].isel(pixel=1)).max()) < 1.5


def test_chains_of_a_target_share_its_step_and_its_masses() -> None:
    torch.manual_seed(0)
    scale = torch.tensor([[0.3, 1.0], [1.0, 4.0]])  # of two targets
    draws, found = hamiltonian(
        lambda x: -0.5 * (x / scale).square().sum(-1), torch.zeros(16, 2, 2), draws=300, warmup=90
    )
    assert draws.shape == (300, 16, 2, 2) and found["step"].shape == found["acceptance"].shape == (2,)
    assert torch.equal(found["last"], draws[-1])
    assert (draws.std((0, 1)) / scale - 1).abs().max() < 0.1
    assert draws.mean(0).abs().max() < 1.0 * scale.max(), "every chain moves"


def test_the_prior_stays_the_prior(run, simulated) -> None:
    data = CubeTensors.read(simulated, {n: m.channels for n, m in run.model.modalities.items()})
    batch = data.at(torch.zeros(40, dtype=torch.long), torch.zeros(40, dtype=torch.long), run.model.encoder.radius)
    torch.manual_seed(0)
    (group,) = refined_groups(run.model, batch, draws=20, chains=4, warmup=60)
    assert abs(float(group.latents.dynamic.mean())) < 0.05 and abs(float(group.latents.dynamic.std()) - 1) < 0.05


def test_draws_must_be_shared_out(run, simulated) -> None:
    with pytest.raises(ValueError, match="20 chains"):
        posterior(run, simulated, draws=50, pixels=[(0, 0)], refine="chains")


def test_no_other_refinement_is_known(run, simulated) -> None:
    with pytest.raises(ValueError, match="refine is True: give one of 'laplace', 'chains', or None"):
        posterior(run, simulated, draws=4, pixels=1, refine=True)
    with pytest.raises(ValueError, match="refine is 'chains': give 'laplace', or None"):
        translate(run, simulated, ["s1"], "s2", draws=4, pixels=1, refine="chains")


def test_modes_keep_the_prior_of_a_pixel_never_seen_and_find_the_others(run, simulated, truth) -> None:
    run.model.draw_globals = lambda which="posterior": truth
    tree = posterior(run, simulated, draws=400, pixels=[(0, 0), (4, 5), (2, 9)], refine="laplace")["posterior"]
    assert tree["lai"].shape[:2] == (1, 400)
    leaf = run.model.dynamic.index("lai")
    median = float(run.model.dynamic_marginals(torch.zeros(len(run.model.dynamic)), dim=-1)[leaf])
    never, seen = tree["lai"].isel(pixel=0), tree["lai"].isel(pixel=[1, 2])
    assert abs(float((never < median).mean()) - 0.5) < 0.05
    known = at_pixels(simulated["truth"].to_dataset(), tree.to_dataset())["lai"].isel(pixel=[1, 2])
    assert float(seen.std("draw").mean()) < 0.7 * float(never.std("draw").mean())
    low, high = seen.quantile([0.01, 0.99], ("chain", "draw"))
    assert float(((low <= known) & (known <= high)).mean()) > 0.85


def test_a_mode_is_found_again_from_where_it_was(run, simulated, truth) -> None:
    data = CubeTensors.read(simulated, {n: m.channels for n, m in run.model.modalities.items()})
    batch = data.at(torch.tensor([4, 2]), torch.tensor([5, 9]), run.model.encoder.radius)
    with torch.no_grad():
        target = WhitenedPosterior(run.model, batch, truth)
        mode = target.mode()
        assert (target.log_prob(mode) > target.log_prob(torch.zeros_like(mode)) + 5).all()
        again = target.mode(3, mode)
        assert (target.log_prob(again) >= target.log_prob(mode)).all()
        assert (target.log_prob(again) - target.log_prob(mode)).max() < 0.5


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


def test_whitening_is_undone_by_latents(target):
    torch.manual_seed(0)
    w = torch.randn(2, 3, target.size)
    latents = target.latents(w)
    drawn = {"static": latents.static, "dynamic": latents.dynamic}
    drawn |= {f"residual_{name}": value for name, value in latents.residual.items()}
    assert torch.allclose(target.whitened(drawn), w, atol=1e-3)


def test_the_mode_is_one(target):
    with seeded(0):
        mode = target.mode()
        score, gradient = target.log_prob(mode), target.normal_equations(mode)[1]
        for scale in (0.02, 0.2):
            assert (target.log_prob(mode + scale * torch.randn_like(mode)) < score).all()
        start = target.normal_equations(torch.zeros_like(mode))[1]
    assert torch.equal(mode[0], torch.zeros(target.size))
    assert gradient[1:].norm() < 0.05 * start[1:].norm()


def test_the_gaussian_at_the_mode_of_a_pixel_without_observation_is_the_prior(target):
    with seeded(0):
        drawn = target.gaussian(target.mode(), 4000)[:, 0]
    assert drawn.mean(0).abs().max() < 0.08 and (drawn.std(0) - 1).abs().max() < 0.08


@pytest.mark.slow
def test_chains_are_calibrated_and_those_of_a_wrong_model_are_not(run, simulated, truth):
    """Simulation-based calibration of the whole: prior, operators, likelihood and sampler."""
    known = simulated["truth"].to_dataset()

    def judge(shared, pixels):
        run.model.draw_globals = lambda which="posterior": shared
        tree = posterior(run, simulated, draws=40, pixels=pixels, seed=1, refine="chains", chains=4)
        drawn = tree["posterior"].to_dataset()
        return simulation_based_calibration(drawn, at_pixels(known, drawn), level=0.01)

    result = judge(truth, 80)
    assert bool(result["calibrated"].all()), result["p_holm"].to_series()
    confident = {**truth, "s2_noise": truth["s2_noise"] / 5, "s1_noise": truth["s1_noise"] / 5}
    assert not bool(judge(confident, 40)["calibrated"].all())


def test_the_season_moves_with_its_own_latents(build, simulated):
    model = build(phenology=1).eval()
    data = CubeTensors.read(simulated, {n: m.channels for n, m in model.modalities.items()})
    rows, columns = torch.tensor(PIXELS).unbind(1)
    torch.manual_seed(0)
    target = WhitenedPosterior(model, data.at(rows, columns, 0), model.draw_globals())
    w = (0.3 * torch.randn(3, target.size)).requires_grad_()
    with seeded(0), torch.no_grad():
        gradient = target.normal_equations(w.detach())[1]
    (expected,) = torch.autograd.grad(target.log_prob(w).sum(), w)
    assert torch.allclose(gradient, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))
