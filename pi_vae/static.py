r"""The posterior of the static latents of a pixel: a Gaussian copula with marginals of any shape.

.. math:: z \sim N(0, R), \qquad s_v = \mu_v + \sigma_v\, \frac{f_v(z_v) - E[f_v]}{sd[f_v]}

with a correlation matrix :math:`R` and an increasing function :math:`f_v` of every latent, a linear rational spline
on [-4, 4] and the identity beyond (Dolatabadi, Erfani & Leckie 2020, AISTATS, PMLR 108, 4236-4246; Pyro's). What a
sensor says of a static variable is often one-sided: leaf angles that the reflectance excludes, others that it cannot
tell apart. A Gaussian wide enough for that holds too much in its 50 % intervals when its 90 % intervals are right.
"""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.transforms.spline import ConditionedSpline
from torch import Tensor
from torch.distributions.transforms import AffineTransform

from pi_vae.priors.noise import standard_normal

__all__ = ["SHAPE", "StaticPosterior"]

BINS, BOUND = 8, 4.0
SHAPE = 4 * BINS - 1  # numbers that make a spline
UNIT_SLOPE = float(np.log(np.expm1(1.0 - 1e-3)))  # Pyro adds 1e-3 to every slope
STEEPEST = 1.0  # bin of a spline, on the log scale
LEAST, LEAST_SPLIT = 1e-3, 0.025  # of a width, height or slope, and of a split: Pyro's
NODES, WEIGHTS = (np.polynomial.legendre.leggauss(5) + np.array([[1.0], [0.0]])) / 2.0  # over [0, 1]
BEYOND = math.erfc(BOUND / math.sqrt(2.0))  # probability that a normal score lies beyond the bound
BEYOND_SQUARE = BEYOND + 2.0 * BOUND * math.exp(-0.5 * BOUND**2) / math.sqrt(2.0 * math.pi)  # E[z^2; |z| > bound]


class _Spline(ConditionedSpline):
    """Pyro's, which also evaluates its fractions beyond the bound before it drops them: now and then 0 / 0."""

    def spline_op(self, x: Tensor, **kwargs) -> tuple[Tensor, Tensor]:
        inside = x.abs() < self.bound
        y, log_slope = super().spline_op(torch.where(inside, x, 0.0), **kwargs)
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def _moments(widths: Tensor, heights: Tensor, slopes: Tensor, splits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a spline of normal scores, by Gauss and Legendre on each of its 2 BINS smooth pieces.

    A bin is split in two, each the quotient of two linear functions made by weights at the three points (Dolatabadi et
    al.); the arguments are `[..., BINS]`, of slopes one less.
    """
    width, height = (2.0 * BOUND * (LEAST + (1.0 - LEAST * BINS) * x) for x in (widths, heights))
    slope = F.pad(LEAST + slopes, (1, 1), value=1.0)
    split = LEAST_SPLIT + (1.0 - 2.0 * LEAST_SPLIT) * splits
    end = (slope[..., :-1] / slope[..., 1:]).sqrt()  # the weight at the end of a bin; at its start it is 1
    middle = (split * slope[..., :-1] + (1.0 - split) * end * slope[..., 1:]) * width / height
    share = split * end / (1.0 - split + split * end)  # of the height, reached at the split
    length = torch.stack([split * width, (1.0 - split) * width], -1).flatten(-2)
    rise = torch.stack([share * height, (1.0 - share) * height], -1).flatten(-2)
    weight = torch.stack([middle, end / middle], -1).flatten(-2).unsqueeze(-1)  # at the end of a piece over its start
    nodes, weights = (torch.as_tensor(x).to(widths) for x in (NODES, WEIGHTS))
    place = (length.cumsum(-1) - length - BOUND).unsqueeze(-1) + length.unsqueeze(-1) * nodes
    done = weight * nodes
    value = (rise.cumsum(-1) - rise - BOUND).unsqueeze(-1) + rise.unsqueeze(-1) * done / (1.0 - nodes + done)
    mass = length.unsqueeze(-1) * weights * torch.exp(-0.5 * place.square()) / math.sqrt(2.0 * math.pi)
    center = (mass * value).sum((-2, -1))
    spread = (mass * (value - center[..., None, None]).square()).sum((-2, -1))
    return center, spread + BEYOND_SQUARE + BEYOND * center.square()


class StaticPosterior(dist.TransformedDistribution):
    """Distribution of the static latents, batch `[pixel]` and event `[S]`.

    Args:
        mean, scale: `[pixel, S]` mean and standard deviation.
        correlation: `[pixel, S, S]` Cholesky factor of the correlation matrix of the normal scores.
        shape: `[pixel, S, SHAPE]` of the splines; with zeros they are the identity and the posterior is Gaussian.
    """

    arg_constraints: dict = {}

    def __init__(self, mean: Tensor, scale: Tensor, correlation: Tensor, shape: Tensor) -> None:
        self._parts = mean, scale, correlation, shape
        shape = STEEPEST * torch.tanh(shape / STEEPEST)
        widths, heights, slopes, splits = shape.split([BINS, BINS, BINS - 1, BINS], -1)
        knots = (widths.softmax(-1), heights.softmax(-1), F.softplus(slopes + UNIT_SLOPE), splits.sigmoid())
        spline = _Spline(knots, BOUND, "linear")
        center, variance = _moments(*knots)
        ratio = scale / variance.sqrt()
        scores = dist.MultivariateNormal(torch.zeros_like(mean), scale_tril=correlation)
        super().__init__(scores, [spline, AffineTransform(mean - ratio * center, ratio)])

    def expand(self, batch_shape, _instance=None) -> StaticPosterior:
        """The same distribution with more batch dimensions."""
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        rank = len(self.batch_shape)
        return StaticPosterior(*(part.expand(batch_shape + part.shape[rank:]) for part in self._parts))

    def rsample(self, sample_shape=()) -> Tensor:
        """`[*sample, pixel, S]` reparametrised draws."""
        return self.at(standard_normal(self._extended_shape(torch.Size(sample_shape)), -2, self.mean))

    @property
    def mean(self) -> Tensor:
        """`[pixel, S]`."""
        return self._parts[0]

    @property
    def variance(self) -> Tensor:
        """`[pixel, S]`."""
        return self._parts[1].square()

    def at(self, scores: Tensor) -> Tensor:
        """Latents `[..., pixel, S]` that independent normal scores of this shape stand for."""
        value = (self.base_dist.scale_tril @ scores.unsqueeze(-1)).squeeze(-1)
        for transform in self.transforms:
            value = transform(value)
        return value
