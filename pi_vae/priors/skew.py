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
    # sinh(arsinh x + e) = x cosh e + sqrt(1 + x^2) sinh e: a root is several times as fast as the two functions
    slope = torch.sinh(skewness)
    bent = scores * torch.cosh(skewness) + ((1 + scores.square()).sqrt() - CENTER) * slope
    return bent / _scale(slope)


def straighten(values: Tensor, skewness: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `bend`: the scores, and the log derivative of a score by its value."""
    slope, growth = torch.sinh(skewness), torch.cosh(skewness)
    scale = _scale(slope)
    raw = scale * values + CENTER * slope
    root = (1 + raw.square()).sqrt()
    return raw * growth - root * slope, torch.log(scale * (growth - slope * raw / root))


def _scale(slope: Tensor) -> Tensor:
    """Standard deviation of the transformation as it stands in the literature; ``slope`` is sinh of the skewness."""
    return (1 + (3 - CENTER**2) * slope.square()).sqrt()
