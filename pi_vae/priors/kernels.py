r"""Kernels in time, read from a short text.

A kernel is a weighted sum of products of unit-variance factors of the lag :math:`\tau` in days,

.. math:: k(\tau) = \sum_i w_i \prod_j k_{ij}(\tau), \qquad \sum_i w_i = 1,

evaluated by GPyTorch:

=============  ============================================================================================
``matern12``   :math:`e^{-a}`, :math:`a = |\tau| / \ell`: rough, nowhere differentiable
``matern32``   :math:`(1 + a)\,e^{-a}`, :math:`a = \sqrt 3 |\tau| / \ell`: once differentiable
``matern52``   :math:`(1 + a + a^2/3)\,e^{-a}`, :math:`a = \sqrt 5 |\tau| / \ell`: twice differentiable
``rbf``        :math:`e^{-\tau^2 / 2\ell^2}`: smooth
``periodic``   :math:`e^{-2 \sin^2(\pi\tau / 365.25)}`: repeats every year; half a year apart correlates 0.14
=============  ============================================================================================

(Rasmussen & Williams 2006, eqs. 4.9, 4.14, 4.17 and 4.31.) The lengthscale :math:`\ell` is that of all factors but the
periodic one, whose shape is fixed. ``"rbf * periodic"`` is a season that changes over the years; ``"0.7 * matern32 +
0.3 * periodic"`` weighs its terms; terms without a number weigh 1, and the weights are divided by their sum.

Example:
    >>> from pi_vae.priors.kernels import Kernel
    >>> Kernel("3 * matern32 + rbf * periodic").terms
    ((0.75, ('matern32',)), (0.25, ('rbf', 'periodic')))
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence

import gpytorch
import torch
from torch import Tensor, nn

from pi_vae.modules import ModuleDict

__all__ = ["FACTORS", "Kernel"]

YEAR = 365.25
FACTORS = {
    "matern12": lambda: gpytorch.kernels.MaternKernel(nu=0.5),
    "matern32": lambda: gpytorch.kernels.MaternKernel(nu=1.5),
    "matern52": lambda: gpytorch.kernels.MaternKernel(nu=2.5),
    "rbf": lambda: gpytorch.kernels.RBFKernel(),
    "periodic": lambda: gpytorch.kernels.PeriodicKernel(),
}
FILTERS = {"matern12": 1, "matern32": 2, "matern52": 3}  # of the cascade that makes the process, see `markov`
Terms = tuple[tuple[float, tuple[str, ...]], ...]


class Kernel(nn.Module):
    """A unit-variance stationary kernel.

    Args:
        text: names of factors joined by ``+``, ``*`` and parentheses; numbers weigh the terms of a sum.

    Attributes:
        terms: weight and factors of each term, products multiplied out; the weights add up to 1.

    Raises:
        ValueError: the text cannot be read, names an unknown factor, or weighs a term by a number that is not positive.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        terms = _read(text)
        total = sum(weight for weight, _ in terms)
        self.terms: Terms = tuple((weight / total, factors) for weight, factors in terms)
        names = dict.fromkeys(name for _, factors in self.terms for name in factors)
        self.factors: ModuleDict[gpytorch.kernels.Kernel] = ModuleDict({name: FACTORS[name]() for name in names})
        for name, factor in self.factors.items():
            # Lengthscales are latents of the model and enter by scaling the dates; the kernel's own stays at 1.
            factor.lengthscale = 1.0
            if name == "periodic":
                factor.period_length = YEAR
        self.requires_grad_(False)

    @property
    def filters(self) -> tuple[int, ...] | None:
        """Filters of the Markov process behind each term; None where a term is no Matern process."""
        if any(len(factors) > 1 or factors[0] not in FILTERS for _, factors in self.terms):
            return None
        return tuple(FILTERS[factors[0]] for _, factors in self.terms)

    def forward(self, first: Tensor, second: Tensor, lengthscale: Tensor) -> Tensor:
        """Covariance `[V, S, T]` of the process at `[S]` and at `[T]` dates in days; ``lengthscale`` `[V]`."""
        values = {name: self._factor(name, first, second, lengthscale) for name in self.factors}
        first_term, *others = (weight * _product(values, factors) for weight, factors in self.terms)
        return sum(others, first_term)

    def slopes(self, first: Tensor, second: Tensor, lengthscale: Tensor) -> tuple[Tensor, Tensor]:
        r"""First and second derivative by the lag first - second, `[V, S, T]` each, in 1/day and 1/day².

        Every factor has :math:`k' = f k` and :math:`k'' = s k`; in a product, `f` adds up and
        :math:`s = s_1 + 2 f_1 f_2 + s_2`. The covariance of :math:`u'(t)` with :math:`u(t')` is :math:`k'`, that of
        :math:`u'(t)` with :math:`u'(t')` is :math:`-k''` (Rasmussen & Williams 2006, eq. 9.1).

        Raises:
            ValueError: a factor is ``matern12``, whose processes have no derivative.
        """
        if "matern12" in self.factors:
            raise ValueError(
                f"A process with kernel {self.text!r} has no derivative, since 'matern12' is rough: "
                "use 'matern32' or a smoother factor in its place."
            )
        lag = first[:, None] - second
        scale = lengthscale[:, None, None]
        rates = {name: _rates(name, lag, scale) for name in self.factors}
        values = {name: self._factor(name, first, second, lengthscale) for name in self.factors}
        slope = curvature = torch.zeros((), dtype=lag.dtype, device=lag.device)
        for weight, factors in self.terms:
            f = s = torch.zeros_like(slope)
            for name in factors:
                own_f, own_s = rates[name]
                f, s = f + own_f, s + 2 * f * own_f + own_s
            value = weight * _product(values, factors)
            slope, curvature = slope + f * value, curvature + s * value
        return slope, curvature

    def _factor(self, name: str, first: Tensor, second: Tensor, lengthscale: Tensor) -> Tensor:
        scale = torch.ones_like(lengthscale) if name == "periodic" else lengthscale
        scale = scale[:, None, None]
        return self.factors[name](first[:, None] / scale, second[:, None] / scale).to_dense()


def _product(values: Mapping[str, Tensor], factors: Sequence[str]) -> Tensor:
    product = values[factors[0]]
    for name in factors[1:]:
        product = product * values[name]
    return product


def _rates(name: str, lag: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of a factor by the lag, over its value."""
    if name == "periodic":
        rate = 2 * math.pi / YEAR
        sine, cosine = torch.sin(rate * lag), torch.cos(rate * lag)
        return -rate * sine, rate**2 * (sine.square() - cosine)
    if name == "rbf":
        return -lag / scale**2, lag.square() / scale**4 - scale**-2
    root = math.sqrt(2 * FILTERS[name] - 1) / scale
    a = root * lag.abs()
    if name == "matern32":
        return -(root**2) * lag / (1 + a), -(root**2) * (1 - a) / (1 + a)
    value = 1 + a + a.square() / 3
    return -(root**2) / 3 * lag * (1 + a) / value, -(root**2) / 3 * (1 + a - a.square()) / value


def _read(text: str) -> list[tuple[float, tuple[str, ...]]]:
    """Terms of a text, weights as they stand."""
    try:
        return _terms(ast.parse(text.strip(), mode="eval").body, text)
    except SyntaxError:
        raise _unreadable(text) from None


def _terms(node: ast.expr, text: str) -> list[tuple[float, tuple[str, ...]]]:
    match node:
        case ast.Name(id=name) if name in FACTORS:
            return [(1.0, (name,))]
        case ast.Name(id=name):
            raise ValueError(f"Unknown kernel {name!r}: use {', '.join(FACTORS)}, joined by '+' and '*'.")
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _terms(left, text) + _terms(right, text)
        case ast.BinOp(left=ast.Constant(value=float() | int() as weight), op=ast.Mult(), right=right):
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"Weight {weight} in kernel {text!r} must be positive and finite.")
            return [(weight * other, factors) for other, factors in _terms(right, text)]
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return [(v * w, f + g) for v, f in _terms(left, text) for w, g in _terms(right, text)]
    raise _unreadable(text)


def _unreadable(text: str) -> ValueError:
    return ValueError(
        f"Kernel {text!r} cannot be read: write names joined by '+' and '*', with a number before a term to weigh it, "
        "such as 'matern32', 'rbf * periodic' or '2 * matern32 + periodic'."
    )
