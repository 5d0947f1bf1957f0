"""Exponential integrals against SciPy, derivatives against finite differences."""

import numpy as np
import pytest
import scipy.special
import torch

from pi_vae.physics.integrals import mean_decay, plate_absorption


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-7), (torch.float64, 1e-11)])
def test_plate_absorption_and_its_slope_match_scipy(dtype: torch.dtype, bound: float) -> None:
    k = np.concatenate([[0.0], np.logspace(-8, np.log10(60), 2000)])
    x = torch.tensor(k, dtype=dtype, requires_grad=True)
    y = plate_absorption(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert np.abs(y.detach().numpy() - (1 - 2 * scipy.special.expn(3, k))).max() < bound
    assert np.abs(slope.numpy() - 2 * scipy.special.expn(2, k)).max() < 2 * bound


def test_small_absorption_keeps_its_digits_in_float32() -> None:
    k = torch.logspace(-7, -2, 50)
    exact = plate_absorption(k.double())
    assert ((plate_absorption(k) - exact) / exact).abs().max() < 1e-6


def test_mean_decay_is_the_mean_of_the_exponential() -> None:
    x = torch.tensor([-3.0, -1e-9, 0.0, 1e-9, 0.02, 5.0], dtype=torch.float64)
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    assert torch.allclose(mean_decay(x), torch.exp(-x.unsqueeze(-1) * u).mean(-1), atol=1e-9)


@pytest.mark.parametrize("function", [plate_absorption, mean_decay])
def test_first_and_second_derivatives_match_finite_differences(function) -> None:
    x = torch.tensor([0.01, 0.029, 0.031, 0.5, 1.99, 2.01, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, x)
