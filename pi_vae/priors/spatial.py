r"""Processes of neighbouring pixels that go together.

A sheet over the pixels of a patch, with the covariance of pixels `i`, `j` at dates `s`, `t`

.. math:: \exp\left(-\frac{|x_i - x_j| + |y_i - y_j|}{\ell}\right) k(s, t)

(the Ornstein-Uhlenbeck sheet: exponential along rows and along columns; Sacks, Welch, Mitchell & Wynn 1989,
Statistical Science 4, 409-435), so that a series of one pixel has the temporal prior that it has without neighbours,
and with the Cholesky factor :math:`L` of the spatial part, :math:`L^{-1} r` are independent series. Patches know
nothing of each other, and points have no neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["SpatialPrior"]

NUGGET = 1e-4  # of the variance; keeps the factor of float32 sound


class SpatialPrior(TorchDistribution):
    """Prior of the series of several pixels, batch `[N]` and event `[K, T]`; the elements of the batch depend.

    The log density of a pixel is that given the pixels before it, so that their sum is that of all.

    Args:
        temporal: prior of a pixel's series, event `[K, T]`, no batch.
        reach: `[K]` distance, in pixels, at which the correlation has fallen to 1/e.
        pixels: `[N]` different indices into a flattened `patch * y * x`.
        shape: (patches, y, x).
    """

    arg_constraints: dict = {}

    def __init__(self, temporal: TorchDistribution, reach: Tensor, pixels: Tensor, shape: tuple[int, int, int]) -> None:
        self.temporal = temporal
        self.factor = _factor(reach, pixels, shape)
        super().__init__(torch.Size([len(pixels)]), temporal.event_shape, validate_args=False)

    has_rsample = True

    @property
    def support(self):
        return self.temporal.support

    def expand(self, batch_shape: Sequence[int], _instance=None) -> SpatialPrior:
        """Itself: its pixels are those that it was made for."""
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(f"A prior of {self.batch_shape[0]} pixels cannot be that of {tuple(batch_shape)}.")
        return self

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """`[..., N, K, T]` draws."""
        own = self.temporal.expand([*sample_shape, *self.batch_shape]).rsample()
        return (self.factor @ own.transpose(-3, -2)).transpose(-3, -2)

    def log_prob(self, value: Tensor) -> Tensor:
        """`[..., N]` log density of every pixel given those before it."""
        own = torch.linalg.solve_triangular(self.factor, value.transpose(-3, -2), upper=False).transpose(-3, -2)
        spread = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(0)
        return self.temporal.expand(own.shape[:-2]).log_prob(own) - value.shape[-1] * spread


def _factor(reach: Tensor, pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`[K, N, N]` lower Cholesky factors of the spatial covariance."""
    _, height, width = shape
    patch, y, x = pixels // (height * width), pixels // width % height, pixels % width
    distance = (y[:, None] - y).abs() + (x[:, None] - x).abs()
    together = (patch[:, None] == patch).to(reach.dtype)
    covariance = together * torch.exp(-distance / reach[:, None, None])
    identity = torch.eye(len(pixels), dtype=reach.dtype, device=reach.device)
    return torch.linalg.cholesky((1 - NUGGET) * covariance + NUGGET * identity)
