"""Skewed marginals: mean and variance stay, the density is that of the draws, and nothing bends what was not seen."""

import math

import pytest
import torch
from scipy import stats

from pi_vae.priors import TemporalGP
from pi_vae.priors.skew import bend, straighten

DATES = torch.tensor([0.0, 10.0, 15.0, 60.0], dtype=torch.float64)
SCORES = torch.linspace(-8, 8, 40_001, dtype=torch.float64)


@pytest.fixture(params=["dense", "kalman"])
def posterior(request):
    torch.manual_seed(0)
    lengthscale, odds = torch.tensor([20.0, 50.0]).double(), torch.tensor([0.3, 0.1]).double()
    prior = TemporalGP("matern32", request.param).prior(DATES, lengthscale, odds)
    mean, precision = torch.randn(3, 2, 4).double(), torch.tensor([3.0, 8.0, 0.5, 0.0]).double()
    precision = precision.expand(3, 2, 4) * torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    coupling = torch.randn(3, 2, 4, 2).double()
    skewness = torch.tensor([0.9, -0.7]).double().view(2, 1).expand(3, 2, 4)
    return prior.condition(mean, precision, coupling, skewness=skewness)


@pytest.mark.parametrize("skewness", [-1.0, -0.2, 0.0, 0.6, 1.0])
def test_a_bend_has_mean_zero_and_variance_one(skewness):
    weight = torch.exp(-0.5 * SCORES.square())
    value = bend(SCORES, torch.tensor(skewness).double())
    mean, square, cube = ((weight * value**k).sum() / weight.sum() for k in (1, 2, 3))
    assert abs(mean) < 1e-6 and abs(square - 1) < 1e-6
    assert (cube > 1e-6).item() == (skewness > 0) and (cube < -1e-6).item() == (skewness < 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_straightened_it_is_the_score_again_far_out_too(dtype):
    scores = torch.linspace(-50, 50, 2001, dtype=dtype).requires_grad_()
    skewness = torch.tensor(-0.8, dtype=dtype)
    value = bend(scores, skewness)
    (slope,) = torch.autograd.grad(value.sum(), scores)
    back, log_slope = straighten(value, skewness)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    assert torch.allclose(back, scores, rtol=tolerance, atol=tolerance)
    assert torch.allclose(log_slope, -slope.log(), atol=tolerance)


def test_draws_have_the_moments_of_the_gaussian_and_a_tail(posterior):
    draws = posterior.rsample((60_000,))[:, 1:]
    error = draws.mean(0) - posterior.mean[1:]
    assert (error.abs() < 5 * draws.std(0) / 60_000**0.5).all()
    first, asked = draws[:, :, 0], posterior._skewness[1:, 0]  # the other latent leans on it
    assert torch.allclose(first.var(0), posterior.variance[1:, 0], rtol=0.05)
    expected = (torch.exp(-0.5 * SCORES.square()) * bend(SCORES, asked.unsqueeze(-1)) ** 3).sum(-1)
    expected = expected / torch.exp(-0.5 * SCORES.square()).sum()
    assert torch.allclose(torch.from_numpy(stats.skew(first.numpy())), expected, atol=0.1) and expected.max() > 0.5


def test_the_density_is_that_of_the_draws(posterior):
    noise = torch.randn(2, 4).double()

    def value(scores):
        """Draws as a function of independent normal scores, the first pixel that was seen."""
        factor = torch.linalg.cholesky(posterior.covariance[1])
        bent = (factor @ scores.view(2, 4, 1)).squeeze(-1)
        scale = posterior.variance[1].sqrt()
        bent = scale * bend(bent / scale, posterior._skewness[1])
        bent = torch.stack([torch.zeros_like(bent), bent, torch.zeros_like(bent)])
        return (posterior.sharp.values(posterior._centre(bent)) + bent)[1].flatten()

    jacobian = torch.autograd.functional.jacobian(value, noise.flatten())
    expected = -0.5 * noise.square().sum() - 4 * math.log(2 * math.pi) - torch.logdet(jacobian)
    drawn = value(noise.flatten()).view(2, 4).expand(3, 2, 4)
    assert posterior.log_prob(drawn)[1].item() == pytest.approx(expected.item(), abs=1e-8)


def test_what_was_not_seen_keeps_its_prior(posterior):
    assert posterior._skewness[0].abs().max() < 1e-9
    value = torch.randn(3, 2, 4).double()
    assert torch.allclose(posterior.log_prob(value)[0], posterior.prior.log_prob(value)[0])


def test_one_draw_of_the_divergence_is_right_on_average(posterior):
    plain = posterior.prior.condition(*posterior.sites[:2], posterior.coupling)
    bent = posterior.prior.condition(*posterior.sites[:2], posterior.coupling, skewness=0 * posterior.skewness)
    one = torch.stack([bent.divergence() for _ in range(800)])
    many = torch.stack([plain.divergence() for _ in range(800)])
    error = one.mean(0) - many.mean(0)
    assert (error.abs() < 5 * (one.var(0) + many.var(0)).sqrt() / 800**0.5 + 1e-9).all()
    assert (torch.stack([posterior.divergence() for _ in range(200)]).mean(0)[1:] > many.mean(0)[1:] - 0.3).all()


def test_dates_added_are_normal_and_the_others_stay_bent(posterior):
    extended = posterior.at(torch.tensor([200.0], dtype=torch.float64))
    assert extended._skewness.shape[-1] == 5 and extended._skewness[..., -1].abs().max() == 0
    assert torch.allclose(extended._skewness[..., :4], posterior._skewness)
