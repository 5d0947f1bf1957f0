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


def _coupled():
    """A posterior that leans on a static latent and an earlier process, and the same by dense algebra."""
    prior, mean, precision = _case(pixels=1)
    coupling, caution = torch.randn(1, 2, 5, 3, dtype=torch.float64), torch.rand(1, 2, 5, dtype=torch.float64)
    posterior = prior.condition(mean, precision, coupling, caution)
    inverse = torch.linalg.inv(prior.factor @ prior.factor.mT)
    sharp = torch.linalg.inv(inverse + torch.diag_embed(precision[0]))
    own = torch.linalg.inv(inverse + torch.diag_embed((precision * caution)[0]))
    static, given = torch.randn(1, 2, 5, dtype=torch.float64), torch.randn(1, 1, 5, dtype=torch.float64)
    gains = sharp * precision[0].unsqueeze(-2)  # site means -> posterior means
    moved = (gains @ static[0].unsqueeze(-1)).squeeze(-1)
    shift = torch.stack([gains[v] @ (coupling[0, v, :, 0] * given[0, 0]) for v in range(2)])
    second_on_first = gains[1] * coupling[0, 1, :, 1]
    shift[1] += second_on_first @ shift[0]
    joint = torch.zeros(10, 10, dtype=torch.float64)
    joint[:5, :5], joint[5:, :5] = own[0], second_on_first @ own[0]
    joint[:5, 5:] = joint[5:, :5].mT
    joint[5:, 5:] = own[1] + second_on_first @ own[0] @ second_on_first.mT
    return (
        prior,
        posterior.after(static, given),
        MultivariateNormal((posterior.mean[0] + moved + shift).flatten(), joint),
    )


def test_a_coupled_posterior_is_the_joint_gaussian_of_its_chain():
    _, posterior, dense = _coupled()
    draws = posterior.rsample((40_000,)).flatten(1)
    scale = dense.covariance_matrix.diagonal().sqrt()
    assert ((draws.mean(0) - dense.mean).abs() < 0.03 * scale).all()
    assert ((draws.T.cov() - dense.covariance_matrix).abs() < 0.04 * scale * scale[:, None]).all()
    value = torch.randn(1, 2, 5, dtype=torch.float64)
    assert torch.allclose(posterior.log_prob(value), dense.log_prob(value.flatten()), atol=1e-5)


def test_the_divergence_of_a_coupled_posterior_is_unbiased():
    prior, posterior, dense = _coupled()
    expected = kl_divergence(
        dense, MultivariateNormal(0 * dense.mean, torch.block_diag(*prior.factor @ prior.factor.mT))
    )
    found = torch.stack([posterior.divergence() for _ in range(4000)])
    assert abs(found.mean() - expected) < 4 * found.std() / 4000**0.5


def test_caution_widens_and_leaves_the_mean():
    prior, mean, precision = _case()
    sharp = prior.condition(mean, precision)
    wide = prior.condition(mean, precision, caution=0.2 * torch.ones_like(precision))
    assert torch.equal(wide.mean, sharp.mean)
    assert torch.allclose(wide.covariance, prior.condition(mean, 0.2 * precision).covariance)
    assert (wide.variance > sharp.variance).all()


def test_what_is_not_seen_leans_on_nothing():
    prior, mean, precision = _case()
    coupling = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    posterior = prior.condition(mean, torch.zeros_like(precision), coupling)
    posterior = posterior.after(torch.randn(4, 2, 5).double(), torch.randn(4, 1, 5).double())
    assert torch.allclose(posterior.divergence(), torch.zeros(4, dtype=torch.float64), atol=1e-9)


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
