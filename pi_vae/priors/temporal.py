r"""Gaussian processes over irregular dates, and their exact posterior given Gaussian sites.

A dynamic latent is :math:`u(\cdot) \sim GP(0, k)` with unit variance: a part that differs between pixels but not in
time, and a part that changes, :math:`k(t, t') = s + (1 - s)\,\kappa(|t - t'| / \ell)`. At the union dates of all
modalities :math:`K = LL^\top`. The encoder emits *sites*, Gaussian pseudo-observations
:math:`N(m_t \mid u_t, \lambda_t^{-1})` with :math:`\lambda_t = 0` where nothing was seen. Their exact posterior,
whitened by :math:`u = Lw`, is

.. math:: w \sim N(\mu, P^{-1}), \quad P = I + L^\top \Lambda L, \quad P\mu = L^\top \Lambda m,

and its divergence from the prior is closed,

.. math:: KL = \tfrac12 \left( tr P^{-1} + \mu^\top\mu - T + \log|P| \right)
             = E_q\Big[\sum_t \log N(m_t \mid u_t, \lambda_t^{-1})\Big] - \log Z .

:math:`P \succeq I`, so the factorisation is stable in float32 whatever the lengthscale or the number of equal dates
(Rasmussen & Williams 2006, sections 2.2 and 3.4.3).

Example:
    >>> import torch
    >>> from pi_vae.priors import TemporalGP
    >>> gp = TemporalGP("matern32")
    >>> dates = torch.tensor([0.0, 10.0, 200.0])
    >>> prior = gp.prior(dates, lengthscale=torch.tensor([50.0]), static_odds=torch.tensor([0.0]))
    >>> prior.event_shape  # one variable, three dates
    torch.Size([1, 3])
    >>> posterior = prior.condition(mean=torch.ones(1, 3), precision=torch.tensor([[4.0, 0.0, 0.0]]))
    >>> posterior.mean.round(decimals=2)
    tensor([[0.8000, 0.7600, 0.0100]])
"""

from __future__ import annotations

import math

import gpytorch
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions import register_kl

__all__ = ["GaussianProcess", "SitePosterior", "TemporalGP"]

KERNELS = {
    "matern12": lambda: gpytorch.kernels.MaternKernel(nu=0.5),
    "matern32": lambda: gpytorch.kernels.MaternKernel(nu=1.5),
    "matern52": lambda: gpytorch.kernels.MaternKernel(nu=2.5),
    "rbf": lambda: gpytorch.kernels.RBFKernel(),
}
JITTER = 1e-5
SCALAR = torch.Size()


class TemporalGP(nn.Module):
    """Prior of dynamic latents: independent unit-variance processes that differ in lengthscale.

    Args:
        kernel: ``"matern12"``, ``"matern32"`` (default: rough enough for mowing, smooth enough for growth),
            ``"matern52"`` or ``"rbf"``.

    Raises:
        ValueError: unknown kernel.
    """

    def __init__(self, kernel: str = "matern32") -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"Unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}.")
        self.name = kernel
        self.kernel = KERNELS[kernel]()
        # The lengthscales are latents of the model and enter by scaling the dates; the kernel's own stays at 1.
        self.kernel.lengthscale = 1.0
        self.kernel.requires_grad_(False)

    def covariance(self, first: Tensor, second: Tensor, lengthscale: Tensor, static_odds: Tensor) -> Tensor:
        """Prior covariance between two sets of dates.

        Args:
            first, second: `[S]` and `[T]` dates in days, at any spacing; equal dates are allowed.
            lengthscale: `[V]` in days.
            static_odds: `[V]` variance of the part that does not change in time over that of the part that does.

        Returns:
            `[V, S, T]` in float64.
        """
        scale = lengthscale.double()[:, None, None]
        changing = self.kernel(first.double()[:, None] / scale, second.double()[:, None] / scale).to_dense()
        static = (static_odds / (1 + static_odds)).double()[:, None, None]
        return static + (1 - static) * changing

    def prior(self, dates: Tensor, lengthscale: Tensor, static_odds: Tensor) -> GaussianProcess:
        """The process at the dates.

        Args:
            dates: `[T]` in days.
            lengthscale, static_odds: `[V]`, see `covariance`.

        Returns:
            Distribution with event shape `[V, T]`.
        """
        covariance = self.covariance(dates, dates, lengthscale, static_odds)
        jitter = JITTER * torch.eye(len(dates), dtype=covariance.dtype, device=covariance.device)
        # Factorised in float64: T x T per variable is small beside everything that is done per pixel.
        return GaussianProcess(torch.linalg.cholesky(covariance + jitter).to(lengthscale.dtype))


class GaussianProcess(TorchDistribution):
    """Zero-mean Gaussian over `V` variables at `T` dates.

    Args:
        factor: `[V, T, T]` lower Cholesky factor of the covariance.
        batch_shape: shape of independent copies (pixels).
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, factor: Tensor, batch_shape: torch.Size = SCALAR) -> None:
        self.factor = factor
        super().__init__(torch.Size(batch_shape), factor.shape[:2], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> GaussianProcess:
        """Independent copies for the batch."""
        return GaussianProcess(self.factor, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size = SCALAR) -> Tensor:
        """`[*sample, *batch, V, T]` reparametrised draws."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.factor.dtype, device=self.factor.device)
        return (self.factor @ noise.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` log density of `[*batch, V, T]` values."""
        white = torch.linalg.solve_triangular(self.factor, value.unsqueeze(-1), upper=False).squeeze(-1)
        return -0.5 * white.square().sum((-2, -1)) - _log_diagonal(self.factor) - _half_log_2pi(self)

    def condition(self, mean: Tensor, precision: Tensor) -> SitePosterior:
        """Exact posterior given sites (both `[*batch, V, T]`; precision 0 where nothing was seen)."""
        return SitePosterior(self.factor, mean, precision)


class SitePosterior(TorchDistribution):
    """Posterior of a `GaussianProcess` given Gaussian sites.

    Args:
        factor: `[V, T, T]` Cholesky factor of the prior covariance.
        mean: `[*batch, V, T]` site means.
        precision: `[*batch, V, T]` site precisions, >= 0.
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, factor: Tensor, mean: Tensor, precision: Tensor) -> None:
        self.factor = factor
        weighted = factor.transpose(-1, -2) * precision.unsqueeze(-2)
        information = weighted @ factor + torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        self.cholesky = torch.linalg.cholesky(information)
        self.white_mean = torch.cholesky_solve(weighted @ mean.unsqueeze(-1), self.cholesky).squeeze(-1)
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """`[*batch, V, T]` posterior mean."""
        return (self.factor @ self.white_mean.unsqueeze(-1)).squeeze(-1)

    @property
    def covariance(self) -> Tensor:
        """`[*batch, V, T, T]` posterior covariance."""
        half = torch.linalg.solve_triangular(self.cholesky, self.factor.transpose(-1, -2), upper=False)
        return half.transpose(-1, -2) @ half

    @property
    def variance(self) -> Tensor:
        """`[*batch, V, T]` posterior variance."""
        half = torch.linalg.solve_triangular(self.cholesky, self.factor.transpose(-1, -2), upper=False)
        return half.square().sum(-2)

    def rsample(self, sample_shape: torch.Size = SCALAR) -> Tensor:
        """`[*sample, *batch, V, T]` reparametrised draws, correlated in time."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.factor.dtype, device=self.factor.device)
        white = torch.linalg.solve_triangular(self.cholesky.transpose(-1, -2), noise.unsqueeze(-1), upper=True)
        return (self.factor @ (self.white_mean.unsqueeze(-1) + white)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` log density of `[*batch, V, T]` values."""
        white = torch.linalg.solve_triangular(self.factor, value.unsqueeze(-1), upper=False)
        deviation = self.cholesky.transpose(-1, -2) @ (white - self.white_mean.unsqueeze(-1))
        log_det = _log_diagonal(self.cholesky) - _log_diagonal(self.factor)
        return log_det - 0.5 * deviation.square().sum((-3, -2, -1)) - _half_log_2pi(self)

    def divergence(self) -> Tensor:
        """`[*batch]` Kullback-Leibler divergence from the prior, in nats."""
        identity = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype, device=self.factor.device)
        inverse = torch.linalg.solve_triangular(self.cholesky, identity.expand_as(self.cholesky), upper=False)
        trace = inverse.square().sum((-3, -2, -1))
        quadratic = self.white_mean.square().sum((-2, -1))
        return 0.5 * (trace + quadratic - self.event_shape.numel()) + _log_diagonal(self.cholesky)


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))


def _half_log_2pi(distribution: TorchDistribution) -> float:
    return 0.5 * math.log(2 * math.pi) * distribution.event_shape.numel()


@register_kl(SitePosterior, GaussianProcess)
def _kl_site_posterior(posterior: SitePosterior, prior: GaussianProcess) -> Tensor:
    if posterior.factor is not prior.factor and not torch.equal(posterior.factor, prior.factor):
        raise ValueError("The posterior was conditioned on another process: build both from the same lengthscales.")
    return posterior.divergence()
