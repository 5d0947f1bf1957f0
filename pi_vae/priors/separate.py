r"""Covariances that differ between series as well: every series has a lengthscale of its own.

`V` variables of `N` series are :math:`N V` variables of one series to the covariance behind, so that all of them are
worked on side by side, in whatever representation.

Example:
    >>> import torch
    >>> from pi_vae.priors import TemporalGP
    >>> dates, lengthscale = torch.tensor([0.0, 10.0]), torch.tensor([[10.0], [1000.0]])  # of two series
    >>> prior = TemporalGP().prior(dates, lengthscale, static_odds=0 * lengthscale)
    >>> prior.condition(torch.ones(2, 1, 2), torch.tensor([[[9.0, 0.0]], [[9.0, 0.0]]])).mean.round(decimals=2)
    tensor([[[0.9000, 0.4400]],
    <BLANKLINE>
            [[0.9000, 0.9000]]])
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vae.priors.sites import Covariance

__all__ = ["Separate", "SeparateGiven"]


class Separate:
    """Covariance of `V` variables at `T` dates, of `N` series; the last dimension of a batch is that of the series.

    Args:
        joint: covariance of `N V` variables (`Dense`, `Eigen`, `StateSpace`), those of a series together.
        series: `N`.
    """

    def __init__(self, joint: Covariance, series: int) -> None:
        self.joint, self.series = joint, series
        variables, dates = joint.shape
        self.shape = torch.Size([variables // series, dates])
        self.dtype, self.device, self.defining = joint.dtype, joint.device, joint.defining

    @property
    def matrix(self) -> Tensor:
        """`[N, V, T, T]` the covariance."""
        return self.apart(self.joint.matrix, -3)

    @property
    def log_det(self) -> Tensor:
        """`[N, V]` its log determinant."""
        return self.apart(self.joint.log_det, -1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of N(0, K); ``shape`` ends with `N`."""
        return self.apart(self.joint.draw(shape[:-1]), -2)

    def energy(self, value: Tensor) -> Tensor:
        """`[..., N, V]` of `[..., N, V, T]`: value' K^-1 value."""
        return self.apart(self.joint.energy(value.flatten(-3, -2)), -1)

    def given(self, precision: Tensor) -> SeparateGiven:
        """Posterior given sites of `[N, V, T]` precision."""
        return SeparateGiven(self, precision)

    def apart(self, value: Tensor, dim: int) -> Tensor:
        """Series and variables in dimensions of their own again."""
        return value.unflatten(dim, (self.series, self.shape[0]))


class SeparateGiven:
    """What the precisions of the sites make of the covariance; coordinates are `[..., N, V, C]`, those of the joint."""

    def __init__(self, prior: Separate, precision: Tensor) -> None:
        self.prior, self.precision = prior, precision
        self.joint = prior.joint.given(precision.flatten(-3, -2))

    def solve(self, mean: Tensor, v: int | None = None) -> Tensor:
        """Coordinates of the posterior means of site means `[..., N, V, T]`, or `[..., N, T]` of variable ``v``."""
        if v is not None:
            every = torch.zeros_like(mean).unsqueeze(-2).repeat_interleave(self.prior.shape[0], -2)
            every[..., v, :] = mean
            return self.solve(every)[..., v, :]
        return self.prior.apart(self.joint.solve(mean.flatten(-3, -2)), -2)

    def values(self, coordinates: Tensor, v: int | None = None) -> Tensor:
        """Values at the dates."""
        if v is not None:
            every = coordinates.unsqueeze(-2).expand(*coordinates.shape[:-1], self.prior.shape[0], -1)
            return self.values(every)[..., v, :]
        return self.prior.apart(self.joint.values(coordinates.flatten(-3, -2)), -2)

    def energy(self, coordinates: Tensor) -> Tensor:
        """`[..., N, V]`: values' K^-1 values."""
        return self.prior.apart(self.joint.energy(coordinates.flatten(-3, -2)), -1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of the posterior less its mean; ``shape`` ends with `N`."""
        return self.prior.apart(self.joint.draw(shape[:-1]), -2)

    @property
    def log_det(self) -> Tensor:
        """`[N, V]`: log|I + K Lambda|."""
        return self.prior.apart(self.joint.log_det, -1)

    @property
    def reduction(self) -> Tensor:
        """`[N, V]`: the trace of Lambda times the posterior covariance."""
        return self.prior.apart(self.joint.reduction, -1)

    @property
    def variance(self) -> Tensor:
        """`[N, V, T]` posterior variance."""
        return self.prior.apart(self.joint.variance, -2)

    @property
    def covariance(self) -> Tensor:
        """`[N, V, T, T]` posterior covariance."""
        return self.prior.apart(self.joint.covariance, -3)
