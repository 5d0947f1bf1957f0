r"""Two scalar functions that radiative transfer needs and that must be exact near zero, in float32 and float64.

1. The share of isotropic light absorbed by a plate of optical thickness :math:`k` (Allen et al. 1969; Jacquemoud &
   Baret 1990)

   .. math:: 1 - \tau(k) = 1 - (1 - k) e^{-k} - k^2 E_1(k) = 1 - 2 E_3(k), \qquad \frac{d}{dk}(1 - \tau) = 2 E_2(k).

   It is computed as :math:`-\mathrm{expm1}(-k) + k E_2(k)`, which loses no digits where leaves are almost transparent.

2. The mean of :math:`e^{-t}` over :math:`[0, x]`, :math:`\varphi(x) = (1 - e^{-x}) / x`, which removes the division
   by zero of every integral of a product of exponentials (the J-functions of 4SAIL, the steps of the hot-spot sum).

Both are ``autograd.Function`` objects: the derivatives have closed forms that cost a few operations, and
differentiating the series and the branches instead would dominate the time of training. They support forward mode,
``torch.func.vmap``, second derivatives and ``torch.compile``.

Example::

    >>> k = torch.tensor([0.0001, 0.1, 1.0])
    >>> plate_absorption(k)
    tensor([1.9990e-04, 1.6742e-01, 7.8062e-01])
    >>> mean_decay(torch.zeros(1))
    tensor([1.])
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["absorption_and_slope", "mean_decay", "mean_decay_slope", "plate_absorption"]

# Abramowitz & Stegun (1964), 5.1.53 (0 < k <= 1, |error| < 2e-7) and 5.1.56 (k > 1, |error| < 2e-8): enough for
# float32.
_LOW = (-0.57721566, 0.99999193, -0.24991055, 0.05519968, -0.00976004, 0.00107857)
_NUMERATOR = (0.2677737343, 8.6347608925, 18.0590169730, 8.5733287401, 1.0)
_DENOMINATOR = (3.9584969228, 21.0996530827, 25.6329561486, 9.5733223454, 1.0)
# Float64: the power series 5.1.11 up to k = 2 and the even part of the continued fraction 5.1.22 beyond.
_SERIES = (-0.5772156649015329, *((-1) ** (j + 1) / (j * math.factorial(j)) for j in range(1, 25)))
_LEVELS = 30


def plate_absorption(k: Tensor) -> Tensor:
    r"""Absorbed share :math:`1 - 2 E_3(k)` of isotropic light crossing a plate once.

    Args:
        k: optical thickness, any shape, >= 0 (negative values are taken as 0).

    Returns:
        Same shape as ``k``, in [0, 1]; absolute error below 3e-7 in float32 and 1e-11 in float64.
    """
    function = _PlateAbsorption if torch.compiler.is_compiling() else _PlateAbsorptionBothModes
    return function.apply(k)[0]


def mean_decay(x: Tensor) -> Tensor:
    r"""Mean of :math:`e^{-t}` over :math:`[0, x]`: :math:`\varphi(x) = (1 - e^{-x}) / x`, with :math:`\varphi(0) = 1`.

    Args:
        x: any shape, any sign (float32 overflows below -88).

    Returns:
        Same shape as ``x``, > 0.
    """
    function = _MeanDecay if torch.compiler.is_compiling() else _MeanDecayBothModes
    return function.apply(x)


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Polynomial with the coefficients in ascending order."""
    value = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        value = value.add_(c).mul_(x)
    return value.add_(coefficients[0])


def _scaled_e1(k: Tensor, decay: Tensor) -> Tensor:
    """``E1(k)`` for ``k > 0``, given ``decay = exp(-k)``."""
    if k.dtype == torch.float64:
        split, low = 2.0, _SERIES
        x = k.clamp_min(split)
        tail = x + (2 * _LEVELS + 1)
        for j in range(_LEVELS, 0, -1):
            tail = (x + (2 * j - 1)) - j * j / tail
        high = decay / tail
    else:
        split, low = 1.0, _LOW
        x = k.clamp_min(split)
        high = _horner(_NUMERATOR, x).div_(_horner(_DENOMINATOR, x)).mul_(decay).div_(x)
    near = _horner(low, k.clamp_max(split)).sub_(k.log())
    return torch.where(k > split, high, near)


class _PlateAbsorption(torch.autograd.Function):
    """Returns ``1 - 2 E3`` and ``E2``; only the first carries a first derivative, the second is kept for the backward
    pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor) -> tuple[Tensor, Tensor]:
        k = k.clamp_min(1e-30)
        decay = torch.exp(-k)
        e2 = decay - k * _scaled_e1(k, decay)
        return k * e2 - torch.expm1(-k), e2

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        (k,), (_, e2) = inputs, output
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(k, e2)

    @staticmethod
    def backward(ctx, grad: Tensor | None, grad_e2: Tensor | None) -> Tensor | None:
        k, e2 = ctx.saved_tensors
        first = None if grad is None else 2 * grad * e2
        if grad_e2 is None:
            return first
        second = -grad_e2 * _e1_from_e2(k, e2)
        return second if first is None else first + second


class _PlateAbsorptionBothModes(_PlateAbsorption):
    """With forward mode, which torch.compile does not trace."""

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        _PlateAbsorption.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], output[1])

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> tuple[Tensor, Tensor]:
        k, e2 = ctx.saved_tensors
        return 2 * tangent * e2, -tangent * _e1_from_e2(k, e2)


def absorption_and_slope(k: Tensor) -> tuple[Tensor, Tensor]:
    """`plate_absorption` and its derivative ``2 E2``, outside of automatic differentiation."""
    absorbed, e2 = _PlateAbsorption.forward(k)
    return absorbed, 2 * e2


def _e1_from_e2(k: Tensor, e2: Tensor) -> Tensor:
    """``E1 = (exp(-k) - E2) / k``; the floor keeps second derivatives finite at ``k = 0``, E1's pole."""
    k = k.clamp_min(1e-6)
    return (torch.exp(-k) - e2) / k


class _MeanDecay(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        t = torch.sub(-1e-30, x)  # minus x, and not zero
        return torch.expm1(t).div_(t)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * mean_decay_slope(*ctx.saved_tensors)


class _MeanDecayBothModes(_MeanDecay):
    """With forward mode, which torch.compile does not trace."""

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _MeanDecay.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        return tangent * mean_decay_slope(*ctx.saved_tensors)


def mean_decay_slope(x: Tensor, y: Tensor) -> Tensor:
    """Derivative ``(exp(-x) - y) / x`` of ``y = mean_decay(x)``; a series below 0.03, where the difference would lose
    its digits."""
    near = x.abs() < 0.03
    far = (torch.exp(-x) - y) / torch.where(near, 1.0, x)
    series = -0.5 + x * (1 / 3 + x * (-1 / 8 + x * (1 / 30 - x / 144)))
    return torch.where(near, series, far)
