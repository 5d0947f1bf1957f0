"""Marginals against SciPy's truncated normal and uniform."""

import pytest
import torch
from scipy import stats

from pi_vae.priors import Marginals
from pi_vae.variables import CATALOGUE, lookup


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_quantiles_are_those_of_the_truncated_normal(name):
    v = CATALOGUE[name]
    reference = stats.truncnorm((v.low - v.loc) / v.scale, (v.high - v.loc) / v.scale, v.loc, v.scale)
    u = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.from_numpy(reference.ppf(stats.norm.cdf(u.numpy())))
    found = Marginals([name])(u.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8 * (v.high - v.low))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_leaves_the_support_and_has_finite_gradients(dtype):
    marginals = Marginals(CATALOGUE)
    u = torch.linspace(-40, 40, 401, dtype=dtype).unsqueeze(-1).repeat(1, len(CATALOGUE)).requires_grad_()
    value = marginals(u)
    value.sum().backward()
    low, high = marginals.low.to(dtype), marginals.high.to(dtype)
    assert (value >= low).all() and (value <= high).all()
    assert torch.isfinite(u.grad).all() and (u.grad >= 0).all()


def test_gradient_is_the_derivative():
    u = torch.randn(5, len(CATALOGUE), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Marginals(CATALOGUE), (u,))


def test_inverse_returns_the_latent():
    u = torch.empty(200, len(CATALOGUE), dtype=torch.float64).uniform_(-3, 3)
    marginals = Marginals(CATALOGUE)
    assert torch.allclose(marginals.inverse(marginals(u)), u, atol=1e-6)


def test_variables_may_lie_on_any_dimension():
    marginals = Marginals(["lai", "cab"])
    u = torch.randn(3, 2, 7)
    assert torch.equal(marginals(u, dim=-2), marginals(u.movedim(1, 2)).movedim(2, 1))


def test_a_value_outside_the_support_is_refused():
    with pytest.raises(ValueError, match="'cab' lies outside its support"):
        Marginals(["lai", "cab"]).inverse(torch.tensor([3.0, 450.0]))


def test_an_unknown_variable_is_refused():
    with pytest.raises(ValueError, match="Unknown variable 'leaf_area'.*lai"):
        lookup(["lai", "leaf_area"])
