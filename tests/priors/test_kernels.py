"""Kernels: what their text means, their formulas, and their derivatives by finite differences."""

import math

import pytest
import torch

from pi_vae.priors import TemporalGP
from pi_vae.priors.kernels import Kernel

DAYS = torch.tensor([18000.0, 18003.0, 18003.0, 18040.0, 18200.0, 18900.0], dtype=torch.float64)
LENGTHSCALE = torch.tensor([7.0, 300.0], dtype=torch.float64)
LAG = (DAYS[:, None] - DAYS).abs()[None]
SCALE = LENGTHSCALE[:, None, None]


def _matern(order, a):
    return {1: 1.0, 3: 1 + a, 5: 1 + a + a**2 / 3}[order] * torch.exp(-a)


FORMULAS = {
    "matern12": lambda: _matern(1, LAG / SCALE),
    "matern32": lambda: _matern(3, 3**0.5 * LAG / SCALE),
    "matern52": lambda: _matern(5, 5**0.5 * LAG / SCALE),
    "rbf": lambda: torch.exp(-0.5 * (LAG / SCALE) ** 2),
    "periodic": lambda: torch.exp(-2 * torch.sin(math.pi * LAG / 365.25) ** 2).expand(2, -1, -1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_factors_are_the_textbook_formulas(name):
    assert torch.allclose(Kernel(name)(DAYS, DAYS, LENGTHSCALE), FORMULAS[name](), atol=1e-7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rbf * periodic", lambda f: f["rbf"] * f["periodic"]),
        ("matern32 + periodic", lambda f: 0.5 * f["matern32"] + 0.5 * f["periodic"]),
        ("matern12 + matern32 + rbf", lambda f: (f["matern12"] + f["matern32"] + f["rbf"]) / 3),
        ("3 * matern32 + 1.0 * rbf*periodic", lambda f: 0.75 * f["matern32"] + 0.25 * f["rbf"] * f["periodic"]),
        ("(matern12 + periodic) * rbf", lambda f: 0.5 * (f["matern12"] + f["periodic"]) * f["rbf"]),
    ],
)
def test_sums_and_products_have_unit_variance_and_shares(text, expected):
    found = Kernel(text)(DAYS, DAYS, LENGTHSCALE)
    assert torch.allclose(found, expected({name: formula() for name, formula in FORMULAS.items()}), atol=1e-7)
    assert torch.allclose(found.diagonal(dim1=-2, dim2=-1), torch.ones(2, 6, dtype=torch.float64), atol=1e-7)


def test_the_text_is_what_builds_the_same_process_again():
    text = "2 * matern32 + rbf * periodic"
    again = TemporalGP(TemporalGP(text).name)
    assert again.kernel.terms == TemporalGP(text).kernel.terms
    assert not list(again.parameters()) or not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("matern99", "Unknown kernel 'matern99': use matern12, .*periodic"),
        ("rbf * seasonal", "Unknown kernel 'seasonal'"),
        ("rbf +", "cannot be read: write names"),
        ("", "cannot be read"),
        ("rbf - periodic", "cannot be read"),
        ("rbf + 2", "cannot be read"),
        ("rbf(3)", "cannot be read"),
        ("-1 * rbf", "cannot be read"),
        ("0 * rbf + periodic", "Weight 0 in kernel .* must be positive"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        TemporalGP(text)


@pytest.mark.parametrize("text", ["matern32", "matern52", "rbf", "periodic", "rbf * periodic", "2 * matern52 + rbf"])
def test_slopes_are_finite_differences_of_the_covariance(text):
    kernel, other = Kernel(text), DAYS + 1.7
    slope, curvature = kernel.slopes(DAYS, other, LENGTHSCALE)
    step = 1e-3

    def at(move):
        return kernel(DAYS + move, other, LENGTHSCALE)

    assert torch.allclose(slope, (at(step) - at(-step)) / (2 * step), atol=1e-7)
    assert torch.allclose(curvature, (at(step) - 2 * at(0.0) + at(-step)) / step**2, atol=2e-6)


@pytest.mark.parametrize("text", ["matern32", "matern52", "rbf", "periodic", "rbf * periodic"])
def test_the_variance_of_the_slope_is_the_limit_of_that_of_increments(text):
    _, curvature = Kernel(text).slopes(DAYS[:1], DAYS[:1], LENGTHSCALE)
    step = 1e-3
    increments = 2 - 2 * Kernel(text)(DAYS[:1], DAYS[:1] + step, LENGTHSCALE)
    assert torch.allclose(-curvature, increments / step**2, rtol=1e-3)


def test_rough_kernels_have_no_slopes():
    with pytest.raises(ValueError, match="has no derivative, since 'matern12' is rough: use 'matern32'"):
        Kernel("matern12 + rbf").slopes(DAYS, DAYS, LENGTHSCALE)
