r"""A posterior of processes whose marginals lean to one side.

What a sensor says of a quantity is often one-sided: reflectance that saturates tells how small leaf area can be, hardly
how large. Every value `x` of a draw of the Gaussian `SitePosterior`, with mean `m` and standard deviation `s` at its
date, is bent by a sinh-arcsinh function of slope 1 at the mean (Jones & Pewsey 2009, Biometrika 96, 761-780, with tails
as they are),

.. math:: u = m + s\,\frac{\sinh(\sinh^{-1} z + \epsilon) - \sinh\epsilon}{\cosh\epsilon}, \qquad z = \frac{x - m}{s},

which leaves the median of the marginals, stretches the upper tail for :math:`\epsilon > 0` and shortens the lower one,
by factors of at most :math:`2 / (1 + e^{\mp 2\epsilon})`. With :math:`\epsilon = 0` it is the Gaussian itself.

Example:
    >>> import torch
    >>> from pi_vae.priors import SkewedPosterior, TemporalGP
    >>> one = torch.ones(1)
    >>> gaussian = TemporalGP().prior(torch.tensor([0.0]), 50 * one, 0 * one).condition(torch.zeros(1, 1), one[:, None])
    >>> SkewedPosterior(gaussian, torch.tensor([[0.5]])).mean > gaussian.mean
    tensor([[True]])
"""

from __future__ import annotations

import math

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pi_vae.priors.sites import SitePosterior

__all__ = ["SkewedPosterior"]

NODES, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(9))


class SkewedPosterior(TorchDistribution):
    """A `SitePosterior` bent date by date.

    Args:
        gaussian: the posterior that is bent, batch `[*batch]`, event `[V, T]`.
        skew: :math:`\\epsilon`, of a shape that goes with `[*batch, V, T]`.
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, gaussian: SitePosterior, skew: Tensor) -> None:
        self.gaussian, self.skew = gaussian, skew
        self._center, self._scale = gaussian.mean, gaussian.variance.sqrt()
        super().__init__(gaussian.batch_shape, gaussian.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """`[*batch, V, T]`, over the deviations that a site leans on; by Gauss-Hermite quadrature."""
        weights = (WEIGHTS / math.sqrt(2 * math.pi)).to(self._center).unbind()
        return self._center + self._scale * sum(w * self._bent(z) for w, z in zip(weights, self._nodes(), strict=True))

    @property
    def variance(self) -> Tensor:
        """`[*batch, V, T]`, given what a site leans on; by Gauss-Hermite quadrature."""
        shift = (self.mean - self._center) / self._scale
        weights = (WEIGHTS / math.sqrt(2 * math.pi)).to(self._center).unbind()
        squares = sum(w * (self._bent(z) - shift) ** 2 for w, z in zip(weights, self._nodes(), strict=True))
        return self._scale**2 * squares

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """`[*sample, *batch, V, T]` reparametrised draws, correlated in time."""
        z = (self.gaussian.rsample(sample_shape) - self._center) / self._scale
        return self._center + self._scale * self._bent(z)

    def log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` log density of `[*batch, V, T]` values."""
        straight, log_slope = self._straight(value)
        return self.gaussian.log_prob(straight) + log_slope.sum((-2, -1))

    def datewise_log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` sum over variables and dates of the log density of a value at its date, see `SitePosterior`."""
        straight, log_slope = self._straight(value)
        return self.gaussian.datewise_log_prob(straight) + log_slope.sum((-2, -1))

    def _nodes(self) -> list[Tensor]:
        return [node.expand(self._center.shape) for node in NODES.to(self._center)]

    def _bent(self, z: Tensor) -> Tensor:
        return (torch.sinh(torch.asinh(z) + self.skew) - torch.sinh(self.skew)) / torch.cosh(self.skew)

    def _straight(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """What a value was before it was bent, and the logarithm of the slope of the one by the other."""
        steep = torch.cosh(self.skew)
        y = torch.asinh(steep * (value - self._center) / self._scale + torch.sinh(self.skew))
        log_slope = _log_cosh(y - self.skew) + steep.log() - _log_cosh(y)
        return self._center + self._scale * torch.sinh(y - self.skew), log_slope


def _log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)
