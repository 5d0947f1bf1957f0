"""The temporal prior and its posterior against a dense float64 reference."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pi_vae.priors import GaussianProcess, TemporalGP

DATES = torch.tensor([18000.0, 18003.0, 18003.0, 18040.0, 18200.0], dtype=torch.float64)


def _case(kernel="matern32", pixels=4, dtype=torch.float64):
    torch.manual_seed(1)
    odds = torch.tensor([0.0, 0.5], dtype=dtype)
    prior = TemporalGP(kernel).prior(DATES, torch.tensor([20.0, 300.0], dtype=dtype), odds)
    mean = torch.randn(pixels, 2, len(DATES), dtype=dtype)
    precision = 5 * torch.rand(pixels, 2, len(DATES), dtype=dtype)
    precision[:, :, 1] = 0
    return prior, mean, precision


def test_matern32_is_the_textbook_formula():
    distance = (DATES[:, None] - DATES).abs() * 3**0.5 / 20.0
    expected = (1 + distance) * torch.exp(-distance)
    lengthscale, odds = torch.tensor([20.0, 20.0], dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64)
    found = TemporalGP("matern32").covariance(DATES, DATES, lengthscale, odds)
    assert torch.allclose(found[0], expected, atol=1e-9)
    assert torch.allclose(found[1], 0.75 + 0.25 * expected, atol=1e-9)


@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52", "rbf"])
def test_posterior_is_gaussian_conditioning(kernel):
    prior, mean, precision = _case(kernel)
    covariance = prior.factor @ prior.factor.mT
    total = torch.linalg.inv(covariance) + torch.diag_embed(precision)
    expected_covariance = torch.linalg.inv(total)
    expected_mean = (expected_covariance @ (precision * mean).unsqueeze(-1)).squeeze(-1)
    posterior = prior.condition(mean, precision)
    assert torch.allclose(posterior.mean, expected_mean, atol=1e-6)
    assert torch.allclose(posterior.covariance, expected_covariance, atol=1e-6)
    assert torch.allclose(posterior.variance, posterior.covariance.diagonal(dim1=-2, dim2=-1), atol=1e-9)


def test_divergence_and_densities_are_those_of_the_dense_normals():
    prior, mean, precision = _case()
    posterior = prior.condition(mean, precision)
    dense_prior = MultivariateNormal(torch.zeros(5, dtype=torch.float64), prior.factor @ prior.factor.mT)
    dense = MultivariateNormal(posterior.mean, posterior.covariance)
    value = posterior.rsample()
    assert torch.allclose(
        kl_divergence(posterior, prior.expand([4])), kl_divergence(dense, dense_prior).sum(-1), atol=1e-5
    )
    assert torch.allclose(posterior.log_prob(value), dense.log_prob(value).sum(-1), atol=1e-5)
    assert torch.allclose(prior.log_prob(value), dense_prior.log_prob(value).sum(-1), atol=1e-5)


def test_divergence_is_expected_sites_minus_log_evidence():
    prior, mean, precision = _case(pixels=1)
    precision = precision + 0.1  # every site proper, so that the sites have densities
    posterior = prior.condition(mean, precision)
    covariance = prior.factor @ prior.factor.mT
    log_evidence = MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance + torch.diag_embed(1 / precision))
    expected = Normal(mean, precision.rsqrt()).log_prob(posterior.mean) - 0.5 * precision * posterior.variance
    difference = expected.sum((-2, -1)) - log_evidence.log_prob(mean).sum(-1)
    assert torch.allclose(posterior.divergence(), difference, atol=1e-6)


def test_nothing_seen_is_the_prior():
    prior, mean, precision = _case()
    posterior = prior.condition(mean, torch.zeros_like(precision))
    assert torch.allclose(posterior.divergence(), torch.zeros(4, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(posterior.covariance[0], prior.factor @ prior.factor.mT, atol=1e-9)


def test_draws_have_the_posterior_moments():
    prior, mean, precision = _case(pixels=1)
    posterior = prior.condition(mean, precision)
    draws = posterior.rsample((40_000,))[:, 0]
    assert torch.allclose(draws.mean(0), posterior.mean[0], atol=0.02)
    centred = draws - draws.mean(0)
    covariance = torch.einsum("svt,svu->vtu", centred, centred) / len(draws)
    assert torch.allclose(covariance, posterior.covariance[0], atol=0.03)


def test_float32_is_stable_for_long_lengthscales_and_equal_dates():
    dates = torch.linspace(18000, 18365, 200).double().repeat_interleave(2)
    lengthscale = torch.tensor([1.0, 3000.0], requires_grad=True)
    prior = TemporalGP().prior(dates, lengthscale, torch.tensor([0.3, 0.3]))
    posterior = prior.condition(torch.randn(3, 2, 400), 50 * torch.rand(3, 2, 400))
    loss = posterior.divergence().sum() + posterior.rsample().square().sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(lengthscale.grad).all()


def test_another_prior_is_refused():
    prior, mean, precision = _case()
    with pytest.raises(ValueError, match="conditioned on another process"):
        kl_divergence(prior.condition(mean, precision), GaussianProcess(2 * prior.factor))


def test_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="Unknown kernel 'matern99'"):
        TemporalGP("matern99")
