"""The copula of the static latents: a Gaussian where its shape is zero, a proper density wherever it is not."""

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import spearmanr

from pi_vae.static import SHAPE, StaticPosterior

PIXELS, STATIC = 5, 3


def _posterior(shape, dtype=torch.float64):
    torch.manual_seed(1)
    mean, scale = torch.randn(PIXELS, STATIC, dtype=dtype), 0.1 + torch.rand(PIXELS, STATIC, dtype=dtype)
    rows = torch.eye(STATIC, dtype=dtype) + torch.randn(PIXELS, STATIC, STATIC, dtype=dtype).tril(-1)
    correlation = torch.nn.functional.normalize(rows, dim=-1)
    shape = shape * torch.randn(PIXELS, STATIC, SHAPE, dtype=dtype)
    return StaticPosterior(mean, scale, correlation, shape), mean, scale, correlation


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 5e-3)])
def test_without_a_shape_it_is_gaussian(dtype, tolerance):
    posterior, mean, scale, correlation = _posterior(0.0, dtype)
    gaussian = dist.MultivariateNormal(mean, scale_tril=scale.unsqueeze(-1) * correlation)
    drawn = gaussian.sample((100,))
    assert torch.allclose(posterior.log_prob(drawn), gaussian.log_prob(drawn), atol=tolerance)
    scores = torch.randn(7, PIXELS, STATIC, dtype=dtype)
    expected = mean + (gaussian.scale_tril @ scores.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(posterior.at(scores), expected, atol=tolerance)


@pytest.mark.parametrize(("shape", "error"), [(0.3, 0.02), (1.0, 0.02), (30.0, 0.02)])
def test_mean_and_variance_are_those_of_draws_whatever_the_shape(shape, error):
    posterior, mean, scale, _ = _posterior(shape)
    assert torch.equal(posterior.mean, mean) and torch.allclose(posterior.variance, scale.square())
    drawn = posterior.rsample((100_000,))
    assert ((drawn.mean(0) - mean).abs() < error * scale).all()
    assert torch.allclose(drawn.std(0), scale, rtol=2 * error)


@pytest.mark.parametrize(("shape", "error"), [(0.5, 1e-4), (3.0, 2e-3)])
def test_mean_and_variance_of_a_spline_are_its_integrals(shape, error):
    posterior, mean, scale, _ = _posterior(shape)
    scores = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * scores**2) / torch.exp(-0.5 * scores**2).sum()
    value = scores.view(-1, 1, 1).expand(-1, PIXELS, STATIC).contiguous()
    for transform in posterior.transforms:
        value = transform(value)
    found = torch.einsum("q,qps->ps", density, value)
    spread = torch.einsum("q,qps->ps", density, (value - found).square())
    assert ((found - mean).abs() < error * scale).all()
    assert torch.allclose(spread, scale.square(), rtol=2 * error, atol=0)


def test_a_shape_makes_tails_and_skewness_but_leaves_ranks_to_the_correlation():
    posterior, mean, scale, correlation = _posterior(1.0)
    drawn = posterior.sample((20_000,))
    normal = dist.MultivariateNormal(torch.zeros_like(mean), scale_tril=correlation).sample((20_000,))
    third = (((drawn - mean) / scale) ** 3).mean(0)
    assert (third.abs() > 0.3).any()
    for pixel in range(PIXELS):
        found, expected = (spearmanr(x[:, pixel].numpy()).statistic for x in (drawn, normal))
        assert abs(found - expected).max() < 0.04


@pytest.mark.parametrize("shape", [0.3, 1.0, 30.0])
def test_the_density_integrates_to_one_and_is_that_of_the_draws(shape):
    torch.manual_seed(0)
    one = torch.ones(1, 1, dtype=torch.float64)
    posterior = StaticPosterior(0 * one, one, one.unsqueeze(-1), shape * torch.randn(1, 1, SHAPE, dtype=torch.float64))
    grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64).view(-1, 1, 1)
    density = posterior.log_prob(grid).exp().squeeze(-1)
    below = torch.cumulative_trapezoid(density, grid.flatten())
    assert below[-1].item() == pytest.approx(1.0, abs=1e-3)
    drawn = posterior.sample((50_000,)).flatten()
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        quantile = grid.flatten()[1:][below >= level][0]
        assert (drawn <= quantile).double().mean().item() == pytest.approx(level, abs=0.008)


def test_gradients_are_finite_even_far_out_in_the_tails():
    torch.manual_seed(0)
    mean, scale = torch.zeros(4, STATIC), torch.full((4, STATIC), 0.05)
    shape = torch.zeros(4, STATIC, SHAPE, requires_grad=True)
    posterior = StaticPosterior(mean, scale, torch.eye(STATIC).expand(4, -1, -1), shape)
    posterior.log_prob(10 * torch.randn(4, STATIC)).sum().backward()
    assert torch.isfinite(shape.grad).all()


def test_no_density_and_no_gradient_is_lost_beyond_the_splines():
    torch.manual_seed(0)
    count = 20_000
    for _ in range(20):  # a fraction that is 0 / 0 comes once in a million
        shape = (2 * torch.randn(count, 1, SHAPE)).requires_grad_()
        mean = torch.zeros(count, 1, requires_grad=True)
        posterior = StaticPosterior(mean, torch.ones(count, 1), torch.ones(count, 1, 1), shape)
        density = posterior.log_prob(6 * torch.randn(count, 1))
        density.sum().backward()
        assert density.isfinite().all() and shape.grad.isfinite().all() and mean.grad.isfinite().all()
