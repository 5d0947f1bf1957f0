r"""Covariance at the dates as a Cholesky factor, :math:`K = LL^\top`; the posterior whitened by :math:`u = Lw`.

.. math:: w \sim N(\mu, P^{-1}), \quad P = I + L^\top \Lambda L, \quad P\mu = L^\top \Lambda m .

:math:`P \succeq I`, so the factorisation is stable in float32 whatever the lengthscale or the number of equal dates
(Rasmussen & Williams 2006, sections 2.2 and 3.4.3). Any kernel; cost and memory of a series grow with the cube and the
square of the dates.

Example:
    >>> import torch
    >>> from pi_vae.priors.dense import Dense
    >>> given = Dense(torch.eye(2)[None]).given(torch.tensor([[3.0, 0.0]]))
    >>> given.values(given.solve(torch.ones(1, 2))), given.variance
    (tensor([[0.7500, 0.0000]]), tensor([[0.2500, 1.0000]]))
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from pi_vae.priors.noise import standard_normal

__all__ = ["Dense", "DenseGiven"]


class Dense:
    """Covariance of `V` variables at `T` dates.

    Args:
        factor: `[V, T, T]` lower Cholesky factor.
    """

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor
        self.shape, self.dtype, self.device = factor.shape[:2], factor.dtype, factor.device
        self.defining = (factor,)

    @property
    def matrix(self) -> Tensor:
        """`[V, T, T]` the covariance."""
        return self.factor @ self.factor.mT

    @property
    def log_det(self) -> Tensor:
        """`[V]` its log determinant."""
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of N(0, K)."""
        noise = standard_normal((*shape, *self.shape), -3, self.factor)
        return torch.einsum("vts,...vs->...vt", self.factor, noise)

    def energy(self, value: Tensor) -> Tensor:
        """`[..., V]` of `[..., V, T]`: value' K^-1 value."""
        return torch.linalg.solve_triangular(self.factor, value.unsqueeze(-1), upper=False).square().sum((-2, -1))

    def given(self, precision: Tensor) -> DenseGiven:
        """Posterior given sites of `[*batch, V, T]` precision."""
        return DenseGiven(self.factor, precision)


class DenseGiven:
    """What the precisions of the sites make of the covariance; coordinates are whitened, `[..., V, T]`."""

    def __init__(self, factor: Tensor, precision: Tensor) -> None:
        self.factor, self.precision = factor, precision
        # Variables first: their factors then multiply all series in one product, without a copy for each.
        weights = precision.movedim(-2, 0).unsqueeze(-2)
        batch = weights.shape[1:-2]
        across = factor.mT.reshape(len(factor), *(1 for _ in batch), *factor.shape[1:]) * weights
        inner = (across.flatten(1, -2) @ factor).view_as(across)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        self.cholesky = torch.linalg.cholesky(identity + inner).movedim(0, len(batch))

    def solve(self, mean: Tensor, v: int | None = None) -> Tensor:
        """Coordinates of the posterior means of site means `[..., V, T]`, or `[..., T]` of variable ``v`` alone."""
        if v is not None:
            weighted, cholesky = (self.precision[..., v, :] * mean) @ self.factor[v], self.cholesky[..., v, :, :]
        else:
            weighted, cholesky = torch.einsum("vts,...vt->...vs", self.factor, self.precision * mean), self.cholesky
        return _by_columns(lambda columns: torch.cholesky_solve(columns, cholesky), weighted, cholesky.dim() - 1)

    def values(self, coordinates: Tensor, v: int | None = None) -> Tensor:
        """Values at the dates."""
        if v is not None:
            return coordinates @ self.factor[v].mT
        return torch.einsum("vts,...vs->...vt", self.factor, coordinates)

    def energy(self, coordinates: Tensor) -> Tensor:
        """`[..., V]`: values' K^-1 values."""
        return coordinates.square().sum(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of the posterior less its mean; ``shape`` ends with the batch."""
        noise = standard_normal((*shape, *self.precision.shape[-2:]), -3, self.factor)
        upper = self.cholesky.mT
        return self.values(
            _by_columns(
                lambda columns: torch.linalg.solve_triangular(upper, columns, upper=True), noise, upper.dim() - 1
            )
        )

    @property
    def log_det(self) -> Tensor:
        """`[*batch, V]`: log|I + K Lambda|."""
        return 2 * self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def reduction(self) -> Tensor:
        """`[*batch, V]`: the trace of Lambda times the posterior covariance."""
        identity = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype, device=self.factor.device)
        inverse = torch.linalg.solve_triangular(self.cholesky, identity.expand_as(self.cholesky), upper=False)
        return self.factor.shape[-1] - inverse.square().sum((-2, -1))

    @property
    def covariance(self) -> Tensor:
        """`[*batch, V, T, T]` posterior covariance."""
        half = self._half()
        return half.mT @ half

    @functools.cached_property
    def variance(self) -> Tensor:
        """`[*batch, V, T]` its diagonal."""
        return self._half().square().sum(-2)

    def _half(self) -> Tensor:
        factor = self.factor.mT.expand_as(self.cholesky)
        return torch.linalg.solve_triangular(self.cholesky, factor, upper=False)


def _by_columns(solve: Callable[[Tensor], Tensor], value: Tensor, dims: int) -> Tensor:
    """Solve for vectors in the last of ``dims`` dimensions; what stands before, draws, are columns of one solution."""
    draws = value.shape[: value.dim() - dims]
    columns = value.reshape(-1, *value.shape[len(draws) :]).movedim(0, -1)
    return solve(columns).movedim(-1, 0).reshape(value.shape)
