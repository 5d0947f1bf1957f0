"""A bent posterior is a distribution: its density is that of its draws, and without skew it is the Gaussian."""

import pytest
import torch

from pi_vae.priors import SkewedPosterior, TemporalGP


@pytest.fixture
def gaussian():
    torch.manual_seed(0)
    dates = torch.tensor([0.0, 20.0, 90.0], dtype=torch.float64)
    prior = TemporalGP().prior(dates, torch.full((2,), 50.0).double(), torch.full((2,), 0.3).double())
    mean, precision = torch.randn(1, 2, 3, dtype=torch.float64), 3 * torch.rand(1, 2, 3, dtype=torch.float64)
    coupling = 0.5 * torch.randn(1, 2, 3, 2, dtype=torch.float64)
    return prior.condition(mean, precision, coupling)


@pytest.fixture
def bent(gaussian):
    return SkewedPosterior(gaussian, torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64).expand(2, 3))


def test_without_skew_it_is_the_gaussian(gaussian):
    straight = SkewedPosterior(gaussian, torch.zeros(2, 3, dtype=torch.float64))
    value = gaussian.rsample((5,)).squeeze(1)
    for density in ("log_prob", "datewise_log_prob"):
        assert torch.allclose(getattr(straight, density)(value), getattr(gaussian, density)(value), atol=1e-10)
    assert torch.allclose(straight.mean, gaussian.mean) and torch.allclose(straight.variance, gaussian.variance)


def test_what_is_bent_is_straightened_again(bent):
    torch.manual_seed(1)
    value = bent.rsample((50,))
    torch.manual_seed(1)
    assert torch.allclose(bent._straight(value)[0], bent.gaussian.rsample((50,)), atol=1e-9)


def test_the_density_is_that_of_the_draws(bent):
    """By the change of variables with the slope found by differentiation."""
    value = bent.rsample((1,)).requires_grad_()
    straight, log_slope = bent._straight(value)
    (slope,) = torch.autograd.grad(straight.sum(), value)
    assert torch.allclose(log_slope, slope.log(), atol=1e-10)
    assert torch.allclose(bent.log_prob(value), bent.gaussian.log_prob(straight) + slope.log().sum((-2, -1)))


def test_one_date_integrates_to_one_and_has_the_mean_and_variance_it_says():
    one = torch.ones(1, 1, dtype=torch.float64)
    prior = TemporalGP().prior(torch.zeros(1, dtype=torch.float64), 50 * one[0], 0.1 * one[0])
    bent = SkewedPosterior(prior.condition(one, 2 * one), 0.8 * one)
    grid = torch.linspace(-6, 12, 20_001, dtype=torch.float64)
    density = bent.log_prob(grid.view(-1, 1, 1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    mean = torch.trapezoid(density * grid, grid)
    assert bent.mean.item() == pytest.approx(mean.item(), abs=1e-3)
    assert bent.variance.item() == pytest.approx(torch.trapezoid(density * (grid - mean) ** 2, grid).item(), rel=1e-2)
    below = torch.trapezoid(density[grid <= bent.gaussian.mean.item()], grid[grid <= bent.gaussian.mean.item()])
    assert below.item() == pytest.approx(0.5, abs=1e-3), "the median stays"


def test_gradients_are_finite_far_from_the_mean():
    prior = TemporalGP().prior(torch.zeros(1), torch.ones(1), torch.ones(1))
    skew = torch.full((1, 1), 1.5, requires_grad=True)
    mean = torch.zeros(1, 1, requires_grad=True)
    bent = SkewedPosterior(prior.condition(mean, torch.full((1, 1), 1e4)), skew)
    found = bent.log_prob(torch.tensor([[[9.0]], [[-9.0]]])).sum()
    assert torch.isfinite(torch.stack(torch.autograd.grad(found, (skew, mean)))).all()
