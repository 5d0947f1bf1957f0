r"""The posterior of the static latents of a pixel: a Gaussian copula with marginals of any shape.

.. math:: z \sim N(0, R), \qquad s_v = \mu_v + \sigma_v\, \frac{f_v(z_v) - E[f_v]}{sd[f_v]}

with a correlation matrix :math:`R` and an increasing function :math:`f_v` of every latent, a linear rational spline
on [-4, 4] and the identity beyond (Dolatabadi, Erfani & Leckie 2020, AISTATS, PMLR 108, 4236-4246; Pyro's). What a
sensor says of a static variable is often one-sided: leaf angles that the reflectance excludes, others that it cannot
tell apart. A Gaussian wide enough for that holds too much in its 50 % intervals when its 90 % intervals are right.
"""

from __future__ import annotations

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
NODES = np.linspace(-6.0, 6.0, 97)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()


class _Spline(ConditionedSpline):
    """Pyro's, which also evaluates its fractions beyond the bound before it drops them: now and then 0 / 0."""

    def spline_op(self, x: Tensor, **kwargs) -> tuple[Tensor, Tensor]:
        inside = x.abs() < self.bound
        y, log_slope = super().spline_op(torch.where(inside, x, 0.0), **kwargs)
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


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
        # Mean and variance of a spline of normal scores by the trapezoidal rule.
        nodes, weights = (torch.as_tensor(x).to(mean) for x in (NODES, WEIGHTS))
        value, _ = spline.spline_op(nodes.view(-1, *(1 for _ in mean.shape)).expand(-1, *mean.shape).contiguous())
        center = torch.einsum("q,q...->...", weights, value)
        ratio = scale / torch.einsum("q,q...->...", weights, (value - center).square()).sqrt()
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
