r"""Covariance at the dates by few features and independent noise, :math:`K \approx \Phi\Phi^\top + J`.

The features are the projection on the leading eigenvectors `U` of the covariance :math:`\tilde K`,
:math:`\Phi = \tilde K U (U^\top \tilde K U)^{-1/2}`, `R` of them: as many as leave at most `loss` of the variance on
average over the dates. What is left goes into the diagonal `J`, with the nugget, so that every latent keeps its unit
variance (Snelson & Ghahramani 2006 do so with inducing points). With :math:`\Lambda' = \Lambda (I + J\Lambda)^{-1}`
the posterior of the features is `R x R`,

.. math:: w \sim N(\mu, P^{-1}), \quad P = I + \Phi^\top \Lambda' \Phi, \quad P\mu = \Phi^\top \Lambda' m,
          \qquad u = \Phi w + J\alpha, \quad \alpha = \Lambda'(m - \Phi w).

Any kernel; it pays where the process is smooth or repeats, so that `R` is far below the number of dates. Derivatives
are those of the projection on a subspace held fixed: eigenvectors of equal eigenvalues have none of their own.

Example:
    >>> import torch
    >>> from pi_vae.priors.eigen import Eigen
    >>> dates = torch.arange(100, dtype=torch.float64)
    >>> lag = dates[:, None] - dates
    >>> Eigen(torch.exp(-0.5 * (lag / 50) ** 2)[None], nugget=1e-5, loss=1e-5).rank
    5
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from pi_vae.priors.noise import standard_normal

__all__ = ["Eigen", "EigenGiven"]


class Eigen:
    """Covariance of `V` variables at `T` dates.

    Args:
        covariance: `[V, T, T]` of unit variance, without nugget, float64.
        nugget: variance added at every date, > 0.
        loss: variance that features may lose on average over the dates, of a total of 1.
        dtype: of what comes in and goes out.
    """

    def __init__(self, covariance: Tensor, nugget: float, loss: float, dtype: torch.dtype | None = None) -> None:
        values, vectors = torch.linalg.eigh(covariance.detach())
        lost = values.clamp_min(0).cumsum(-1) / covariance.shape[-1]  # by leaving out the first, the second, ...
        self.rank = max(int((lost > loss).sum(-1).max()), 1)
        basis = vectors[..., -self.rank :]
        image = covariance @ basis
        inner = torch.linalg.cholesky(basis.mT @ image + 1e-12 * torch.eye(self.rank, device=image.device).to(image))
        features = torch.linalg.solve_triangular(inner, image.mT, upper=False).mT
        rest = (covariance.diagonal(dim1=-2, dim2=-1) - features.square().sum(-1)).clamp_min(0)
        self.dtype, self.device = dtype or covariance.dtype, covariance.device
        self.features, self.noise = features.to(self.dtype), (rest + nugget).to(self.dtype)
        self.shape = covariance.shape[:2]
        self.defining = (self.features, self.noise)

    @functools.cached_property
    def pairs(self) -> Tensor:
        """`[V, T, R * R]` products of the features at a date."""
        return (self.features.unsqueeze(-1) * self.features.unsqueeze(-2)).flatten(-2)

    @property
    def matrix(self) -> Tensor:
        """`[V, T, T]` the covariance."""
        return self.features @ self.features.mT + torch.diag_embed(self.noise)

    @property
    def log_det(self) -> Tensor:
        """`[V]` its log determinant."""
        return self._certain.log_det_of_features + self.noise.log().sum(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of N(0, K)."""
        white = standard_normal((*shape, self.shape[0], self.rank), -3, self.features)
        noise = standard_normal((*shape, *self.shape), -3, self.features)
        return self.course(white) + self.noise.sqrt() * noise

    def energy(self, value: Tensor) -> Tensor:
        """`[..., V]` of `[..., V, T]`: value' K^-1 value."""
        white = self._certain.white(value / self.noise)
        return white.square().sum(-1) + ((value - self.course(white)).square() / self.noise).sum(-1)

    def given(self, precision: Tensor) -> EigenGiven:
        """Posterior given sites of `[*batch, V, T]` precision."""
        return EigenGiven(self, precision, precision / (1 + self.noise * precision))

    def course(self, white: Tensor, v: int | None = None) -> Tensor:
        """`[..., V, R]` -> `[..., V, T]`: the process without its noise."""
        return torch.einsum("vtr,...vr->...vt", self.features, white) if v is None else white @ self.features[v].mT

    @functools.cached_property
    def _certain(self) -> EigenGiven:
        """Values that are known: the features seen through the noise."""
        return EigenGiven(self, 1 / self.noise, 1 / self.noise)


class EigenGiven:
    """What the precisions of the sites make of the covariance.

    Coordinates are `[..., V, R + T]`: whitened features and weights :math:`\\alpha`. ``seen`` is the precision with
    which the sites see the features.
    """

    def __init__(self, prior: Eigen, precision: Tensor, seen: Tensor) -> None:
        self.prior, self.precision, self.seen = prior, precision, seen
        # Products of features serve all series in one matrix product; for few series they would be the larger part.
        self.many = seen[..., 0, 0].numel() >= prior.rank
        if self.many:
            inner = torch.einsum("vtp,...vt->...vp", prior.pairs, seen).unflatten(-1, (prior.rank, prior.rank))
        else:
            inner = prior.features.mT @ (seen.unsqueeze(-1) * prior.features)
        identity = torch.eye(prior.rank, dtype=prior.dtype, device=prior.device)
        self.cholesky = torch.linalg.cholesky(identity + inner)

    def white(self, weighted: Tensor, v: int | None = None) -> Tensor:
        """Whitened features given weighted site means."""
        if v is not None:
            right, cholesky = weighted @ self.prior.features[v], self.cholesky[..., v, :, :]
        else:
            right, cholesky = torch.einsum("vtr,...vt->...vr", self.prior.features, weighted), self.cholesky
        return torch.cholesky_solve(right.unsqueeze(-1), cholesky).squeeze(-1)

    def solve(self, mean: Tensor, v: int | None = None) -> Tensor:
        """Coordinates of the posterior means of site means `[..., V, T]`, or `[..., T]` of variable ``v`` alone."""
        seen = self.seen if v is None else self.seen[..., v, :]
        white = self.white(seen * mean, v)
        return torch.cat([white, seen * (mean - self.prior.course(white, v))], -1)

    def values(self, coordinates: Tensor, v: int | None = None) -> Tensor:
        """Values at the dates."""
        white, weights = self._split(coordinates)
        noise = self.prior.noise if v is None else self.prior.noise[v]
        return self.prior.course(white, v) + noise * weights

    def energy(self, coordinates: Tensor) -> Tensor:
        """`[..., V]`: values' K^-1 values."""
        white, weights = self._split(coordinates)
        return white.square().sum(-1) + (self.prior.noise * weights.square()).sum(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of the posterior less its mean; ``shape`` ends with the batch."""
        prior = self.prior
        noise = standard_normal((*shape, prior.shape[0], prior.rank), -3, prior.features).unsqueeze(-1)
        white = torch.linalg.solve_triangular(self.cholesky.mT, noise, upper=True).squeeze(-1)
        rest = standard_normal((*shape, *prior.shape), -3, prior.features)
        return self._kept * prior.course(white) + (prior.noise * self._kept).sqrt() * rest

    @property
    def log_det(self) -> Tensor:
        """`[*batch, V]`: log|I + K Lambda|."""
        return self.log_det_of_features + torch.log1p(self.prior.noise * self.precision).sum(-1)

    @property
    def log_det_of_features(self) -> Tensor:
        """`[*batch, V]`: log|P|."""
        return 2 * self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def reduction(self) -> Tensor:
        """`[*batch, V]`: the trace of Lambda times the posterior covariance."""
        return (self.precision * self.variance).sum(-1)

    @property
    def covariance(self) -> Tensor:
        """`[*batch, V, T, T]` posterior covariance."""
        features = self.prior.features.mT.expand(*self.seen.shape[:-1], -1, -1) * self._kept.unsqueeze(-2)
        half = torch.linalg.solve_triangular(self.cholesky, features, upper=False)
        return half.mT @ half + torch.diag_embed(self.prior.noise * self._kept)

    @functools.cached_property
    def variance(self) -> Tensor:
        """`[*batch, V, T]` its diagonal."""
        inverse = torch.cholesky_inverse(self.cholesky)
        if self.many:
            features = torch.einsum("vtp,...vp->...vt", self.prior.pairs, inverse.flatten(-2))
        else:
            features = ((self.prior.features @ inverse) * self.prior.features).sum(-1)
        return self._kept.square() * features + self.prior.noise * self._kept

    @property
    def _kept(self) -> Tensor:
        """Share of the noise at a date that the sites leave open."""
        return 1 / (1 + self.prior.noise * self.precision)

    def _split(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        return coordinates[..., : self.prior.rank], coordinates[..., self.prior.rank :]
