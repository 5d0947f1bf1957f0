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

What the data leave open about one latent depends on another: a steeper leaf needs more leaf area. So a site mean may
lean on latents drawn before, :math:`m_{vt} + f_{vt}(s) + \sum_a c_{vta}\,(z_{at} - E z_{at})`: in any way on static
ones, linearly on how far earlier processes lie from their means. Given the static ones, all processes of a pixel are
jointly Gaussian, with the means and the factorisations of independent ones: a chain, drawn one after the other.

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

import copy
import math
from collections.abc import Sequence

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

    def condition(
        self, mean: Tensor, precision: Tensor, coupling: Tensor | None = None, caution: Tensor | None = None
    ) -> SitePosterior:
        """Exact posterior given sites (both `[*batch, V, T]`; precision 0 where nothing was seen), see there."""
        return SitePosterior(self.factor, mean, precision, coupling, caution)


class SitePosterior(TorchDistribution):
    """Posterior of a `GaussianProcess` given Gaussian sites.

    Args:
        factor: `[V, T, T]` Cholesky factor of the prior covariance.
        mean: `[*batch, V, T]` site means.
        precision: `[*batch, V, T]` site precisions, >= 0.
        coupling: `[*batch, V, T, A + V]` how the mean of a site moves with `A` processes drawn before, then
            with those of the process itself, of which a site leans on earlier ones only (the rest is not read).
        caution: `[*batch, V, T]` share of the precision that counts for the spread (default 1): below 1 where site
            means are known to err more than their precision says. The means stay as they are.
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        factor: Tensor,
        mean: Tensor,
        precision: Tensor,
        coupling: Tensor | None = None,
        caution: Tensor | None = None,
    ) -> None:
        self.factor, self.coupling = factor, coupling
        self.earlier = mean.new_zeros(*mean.shape[:-2], 0, mean.shape[-1])
        weighted = factor.transpose(-1, -2) * precision.unsqueeze(-2)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        self.cholesky = torch.linalg.cholesky(identity + weighted @ factor)
        self.gain = torch.cholesky_solve(weighted, self.cholesky)  # site means -> whitened latents
        self.white_mean = (self.gain @ mean.unsqueeze(-1)).squeeze(-1)
        if caution is not None:
            self.cholesky = torch.linalg.cholesky(identity + (weighted * caution.unsqueeze(-2)) @ factor)
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=False)

    def after(self, shift: Tensor, deviations: Tensor) -> SitePosterior:
        """The posterior once earlier latents are drawn.

        Args:
            shift: `[*draws, *batch, V, T]` what is added to the site means.
            deviations: `[*draws, *batch, A, T]` how far earlier processes lie from their posterior means.

        Returns:
            The conditional posterior, of batch shape `[*draws, *batch]`.
        """
        conditional = copy.copy(self)
        conditional.white_mean = self.white_mean + (self.gain @ shift.unsqueeze(-1)).squeeze(-1)
        conditional.earlier, conditional._batch_shape = deviations, shift.shape[:-2]
        return conditional

    @property
    def mean(self) -> Tensor:
        """`[*batch, V, T]` posterior mean, over the deviations that a site leans on."""
        return (self.factor @ self.white_mean.unsqueeze(-1)).squeeze(-1)

    @property
    def covariance(self) -> Tensor:
        """`[*batch, V, T, T]` posterior covariance of each latent, given what its sites lean on."""
        half = torch.linalg.solve_triangular(self.cholesky, self.factor.transpose(-1, -2), upper=False)
        return half.transpose(-1, -2) @ half

    @property
    def variance(self) -> Tensor:
        """`[*batch, V, T]` diagonal of `covariance`."""
        half = torch.linalg.solve_triangular(self.cholesky, self.factor.transpose(-1, -2), upper=False)
        return half.square().sum(-2)

    def rsample(self, sample_shape: torch.Size = SCALAR) -> Tensor:
        """`[*sample, *batch, V, T]` reparametrised draws, correlated in time."""
        return self.transport(self._standard(sample_shape))

    def transport(self, noise: Tensor) -> Tensor:
        """The draw that standard normal noise `[*sample, *batch, V, T]` makes: affine, one to one."""
        spread = self._spread(noise)
        return (self.factor @ (self._centre(spread) + spread).unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` log density of `[*batch, V, T]` values."""
        white = torch.linalg.solve_triangular(self.factor, value.unsqueeze(-1), upper=False).squeeze(-1)
        centre = self.white_mean
        if self.coupling is not None:
            own = (value - self.mean).unbind(-2)
            centre = centre + torch.stack([self._lean(v, own[:v], value.shape[:-2]) for v in range(len(own))], -2)
        deviation = self.cholesky.transpose(-1, -2) @ (white - centre).unsqueeze(-1)
        log_det = _log_diagonal(self.cholesky) - _log_diagonal(self.factor)
        return log_det - 0.5 * deviation.square().sum((-3, -2, -1)) - _half_log_2pi(self)

    def divergence(self) -> Tensor:
        """`[*batch]` Kullback-Leibler divergence from the prior, in nats.

        Closed given what the sites lean on; over the earlier latents of the same process, an unbiased mean by one draw.
        """
        identity = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype, device=self.factor.device)
        inverse = torch.linalg.solve_triangular(self.cholesky, identity.expand_as(self.cholesky), upper=False)
        trace = inverse.square().sum((-3, -2, -1))
        centre = self.white_mean if self.coupling is None else self._centre(self._spread(self._standard()))
        quadratic = centre.square().sum((-2, -1))
        return 0.5 * (trace + quadratic - self.event_shape.numel()) + _log_diagonal(self.cholesky)

    def _standard(self, sample_shape: torch.Size = SCALAR) -> Tensor:
        return torch.randn(self._extended_shape(sample_shape), dtype=self.factor.dtype, device=self.factor.device)

    def _spread(self, noise: Tensor) -> Tensor:
        """`[*sample, *batch, V, T]` whitened draws less their means, given what the sites lean on."""
        return torch.linalg.solve_triangular(self.cholesky.transpose(-1, -2), noise.unsqueeze(-1), upper=True).squeeze(
            -1
        )

    def _centre(self, noise: Tensor) -> Tensor:
        """Means of the whitened latents given what the sites lean on, in the draw that the noise makes."""
        if self.coupling is None:
            return self.white_mean
        own: list[Tensor] = []
        leans: list[Tensor] = []
        for v, white in enumerate(noise.unbind(-2)):
            leans.append(self._lean(v, own, white.shape[:-1]))
            own.append((self.factor[v] @ (leans[-1] + white).unsqueeze(-1)).squeeze(-1))
        return self.white_mean + torch.stack(leans, -2)

    def _lean(self, v: int, own: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """`[*shape, T]` shift of whitened latent `v` by the deviations of earlier ones."""
        before = self.earlier.expand(*shape, *self.earlier.shape[-2:])
        earlier = torch.cat([before, *(o.unsqueeze(-2) for o in own)], -2).transpose(-1, -2)
        site = (self.coupling[..., v, :, : earlier.shape[-1]] * earlier).sum(-1)
        return (self.gain[..., v, :, :] @ site.unsqueeze(-1)).squeeze(-1)


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))


def _half_log_2pi(distribution: TorchDistribution) -> float:
    return 0.5 * math.log(2 * math.pi) * distribution.event_shape.numel()


@register_kl(SitePosterior, GaussianProcess)
def _kl_site_posterior(posterior: SitePosterior, prior: GaussianProcess) -> Tensor:
    if posterior.factor is not prior.factor and not torch.equal(posterior.factor, prior.factor):
        raise ValueError("The posterior was conditioned on another process: build both from the same lengthscales.")
    return posterior.divergence()
