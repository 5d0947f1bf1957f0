r"""A bend of normal scores that makes one tail longer and leaves mean and variance as they are.

The sinh-arcsinh transformation of Jones & Pewsey (2009, Biometrika 96, 761-780) with its skewness :math:`\epsilon`
alone, standardised:

.. math:: g(x) = \frac{\sinh(\operatorname{arsinh} x + \epsilon) - m \sinh\epsilon}{d}, \quad
          m = E\sqrt{1 + x^2}, \quad d^2 = \cosh^2\epsilon + (2 - m^2)\sinh^2\epsilon,

of mean 0 and variance 1 under :math:`x \sim N(0, 1)`; increasing, of the whole line onto itself, with a closed inverse.

Example:
    >>> import torch
    >>> scores = torch.tensor([-2.0, 0.0, 2.0])
    >>> bend(scores, torch.tensor(0.5)).round(decimals=2)
    tensor([-1.5700, -0.1600,  2.3700])
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["bend", "straighten"]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
CENTER = float((_WEIGHTS * np.sqrt(1 + _NODES**2)).sum() / _WEIGHTS.sum())  # m


def bend(scores: Tensor, skewness: Tensor) -> Tensor:
    """Skewed values of mean 0 and variance 1 of standard normal scores; of a shape that broadcasts."""
    shift, scale = _standard(skewness)
    return (torch.sinh(torch.asinh(scores) + skewness) - shift) / scale


def straighten(values: Tensor, skewness: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `bend`: the scores, and the log derivative of a score by its value."""
    shift, scale = _standard(skewness)
    raw = scale * values + shift
    angle = torch.asinh(raw) - skewness
    return torch.sinh(angle), torch.log(scale * torch.cosh(angle)) - 0.5 * torch.log1p(raw.square())


def _standard(skewness: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the transformation as it stands in the literature."""
    slope = torch.sinh(skewness)
    return CENTER * slope, (1 + (3 - CENTER**2) * slope.square()).sqrt()
