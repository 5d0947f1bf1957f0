r"""Gaussian processes at given dates, and their exact posterior given Gaussian sites.

At the union dates of all modalities :math:`u \sim N(0, K)`. The encoder emits *sites*, Gaussian pseudo-observations
:math:`N(m_t \mid u_t, \lambda_t^{-1})` with :math:`\lambda_t = 0` where nothing was seen. The posterior is

.. math:: u \sim N(\mu, S), \quad S = (K^{-1} + \Lambda)^{-1}, \quad \mu = S \Lambda m,

and its divergence from the prior is closed,

.. math:: KL = \tfrac12 \left( \log|I + K\Lambda| - tr\,\Lambda S + \mu^\top K^{-1} \mu \right)
             = E_q\Big[\sum_t \log N(m_t \mid u_t, \lambda_t^{-1})\Big] - \log Z .

How these are computed is up to the representation of `K`: `pi_vae.priors.dense`, `.eigen` and `.state_space` offer the
same methods, and the distributions here are written once against them.

What the data leave open about one latent depends on another: a steeper leaf needs more leaf area. So a site mean may
lean on latents drawn before, :math:`m_{vt} + f_{vt}(s) + \sum_a c_{vta}\,(z_{at} - E z_{at})`: in any way on static
ones, linearly on how far earlier processes lie from their means. Given the static ones, all processes of a pixel are
jointly Gaussian, with the means and the factorisations of independent ones: a chain, drawn one after the other.

Where a signal saturates, the data say what a latent exceeds and not what it falls short of. So the distance of a latent
from its mean, over its standard deviation, may be a bend of a normal score (`pi_vae.priors.skew`), of skewness
:math:`\epsilon_{vt} (1 - S_{tt})`: none where nothing was seen. Means and variances stay as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl

from pi_vae.priors.skew import bend, straighten

__all__ = ["Covariance", "GaussianProcess", "SitePosterior"]

SCALAR = torch.Size()


class Given(Protocol):
    """What site precisions make of a covariance; see `pi_vae.priors.dense.DenseGiven` for shapes."""

    precision: Tensor

    @property
    def log_det(self) -> Tensor: ...
    @property
    def reduction(self) -> Tensor: ...
    @property
    def variance(self) -> Tensor: ...
    @property
    def covariance(self) -> Tensor: ...
    def solve(self, mean: Tensor, v: int | None = None) -> Tensor: ...
    def values(self, coordinates: Tensor, v: int | None = None) -> Tensor: ...
    def energy(self, coordinates: Tensor) -> Tensor: ...
    def draw(self, shape: torch.Size) -> Tensor: ...


class Covariance(Protocol):
    """A covariance `K` at the dates; see `pi_vae.priors.dense.Dense` for shapes."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def matrix(self) -> Tensor: ...
    @property
    def log_det(self) -> Tensor: ...
    @property
    def defining(self) -> tuple[Tensor, ...]: ...
    def draw(self, shape: torch.Size) -> Tensor: ...
    def energy(self, value: Tensor) -> Tensor: ...
    def given(self, precision: Tensor) -> Given: ...


class GaussianProcess(TorchDistribution):
    """Zero-mean Gaussian over `V` variables at `T` dates.

    Args:
        gram: the covariance at the dates.
        elsewhere: what `TemporalGP.prior` knows of other dates; without it there are none.
        batch_shape: shape of independent copies (pixels).
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, gram: Covariance, elsewhere: Elsewhere | None = None, batch_shape: torch.Size = SCALAR) -> None:
        self.gram, self.elsewhere = gram, elsewhere
        super().__init__(torch.Size(batch_shape), torch.Size(gram.shape), validate_args=False)

    def expand(self, batch_shape: list[int] | tuple[int, ...], _instance: None = None) -> GaussianProcess:
        """Independent copies for the batch."""
        return GaussianProcess(self.gram, self.elsewhere, torch.Size(batch_shape))

    @property
    def covariance(self) -> Tensor:
        """`[V, T, T]` covariance of each variable."""
        return self.gram.matrix

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = SCALAR) -> Tensor:
        """`[*sample, *batch, V, T]` reparametrised draws."""
        return self.gram.draw(self._extended_shape(sample_shape)[:-2])

    def log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` log density of `[*batch, V, T]` values."""
        return -0.5 * (self.gram.energy(value) + self.gram.log_det).sum(-1) - _half_log_2pi(self)

    def condition(
        self,
        mean: Tensor,
        precision: Tensor,
        coupling: Tensor | None = None,
        caution: Tensor | None = None,
        skewness: Tensor | None = None,
    ) -> SitePosterior:
        """Exact posterior given sites (both `[*batch, V, T]`; precision 0 where nothing was seen), see there."""
        return SitePosterior(self, mean, precision, coupling, caution, skewness)

    def at(self, dates: Tensor) -> GaussianProcess:
        """The process at its own dates and, after them, at `[S]` others; event `[V, T + S]`."""
        return self._elsewhere().process(dates)

    def between(self, value: Tensor, dates: Tensor, slopes: bool = False) -> MultivariateNormal:
        r"""The process at any dates, in the past, between or in the future, given its values at its own.

        :math:`u_* \mid u \sim N(K_* K^{-1} u, K_{**} - K_* K^{-1} K_*^\top)`, computed in float64; the covariance is
        shared by all series.

        Args:
            value: `[..., V, T]` values, for example draws of a posterior: the result then is a joint draw with them.
            dates: `[S]` in days.
            slopes: the time derivative [1/day] at the dates as well, after the values.

        Returns:
            Normal of batch shape `[..., V]` and event shape `[S]`, or `[2 S]` with slopes.

        Raises:
            ValueError: slopes of a kernel that has none.
        """
        gain, covariance = self._elsewhere().gain(dates, slopes)
        mean = torch.einsum("vst,...vt->...vs", gain, value.double())
        return MultivariateNormal(mean.to(value.dtype), scale_tril=torch.linalg.cholesky(covariance).to(value.dtype))

    def _elsewhere(self) -> Elsewhere:
        if self.elsewhere is None:
            raise ValueError("This process knows its own dates only: build it with TemporalGP.prior.")
        return self.elsewhere


class Elsewhere(Protocol):
    """A process beyond its own dates."""

    def process(self, dates: Tensor) -> GaussianProcess: ...
    def gain(self, dates: Tensor, slopes: bool) -> tuple[Tensor, Tensor]: ...


class SitePosterior(TorchDistribution):
    """Posterior of a `GaussianProcess` given Gaussian sites.

    Args:
        prior: the process.
        mean: `[*batch, V, T]` site means.
        precision: `[*batch, V, T]` site precisions, >= 0.
        coupling: `[*batch, V, T, A + V]` how the mean of a site moves with `A` processes drawn before, then
            with those of the process itself, of which a site leans on earlier ones only (the rest is not read).
        caution: `[*batch, V, T]` share of the precision that counts for the spread (default 1): below 1 where site
            means are known to err more than their precision says. The means stay as they are.
        skewness: `[*batch, V, T]` of the marginals, where something was seen (default: they are normal).
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        prior: GaussianProcess,
        mean: Tensor,
        precision: Tensor,
        coupling: Tensor | None = None,
        caution: Tensor | None = None,
        skewness: Tensor | None = None,
    ) -> None:
        self.prior, self.coupling, self.skewness = prior, coupling, skewness
        self.sites: tuple[Tensor, Tensor, Tensor | None] = (mean, precision, caution)
        self.earlier = mean.new_zeros(*mean.shape[:-2], 0, mean.shape[-1])
        self.sharp = prior.gram.given(precision)  # site means -> posterior means
        self.spread = self.sharp if caution is None else prior.gram.given(precision * caution)
        self.coordinates = self.sharp.solve(mean)
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
        mean, precision, caution = self.sites
        conditional.sites = (mean + shift, precision, caution)
        conditional.coordinates = self.coordinates + self.sharp.solve(shift)
        conditional.earlier, conditional._batch_shape = deviations, shift.shape[:-2]
        return conditional

    def at(self, dates: Tensor) -> SitePosterior:
        """The posterior at its own dates and, after them, at `[S]` others, which are exact: sites of precision zero.

        Its event shape is `[V, T + S]`; draws at the new dates are joint with those at the old ones.
        """
        more = (0, len(dates))
        mean, precision = (F.pad(x, more) for x in self.sites[:2])
        caution, skewness = (x if x is None else F.pad(x, more) for x in (self.sites[2], self.skewness))
        coupling = self.coupling if self.coupling is None else F.pad(self.coupling, (0, 0, *more))
        extended = SitePosterior(self.prior.at(dates), mean, precision.expand_as(mean), coupling, caution, skewness)
        extended.earlier = F.pad(self.earlier, (0, len(dates)))
        return extended

    def slopes(self, dates: Tensor) -> MultivariateNormal:
        """Joint posterior of each latent and of its time derivative [1/day] at any `[S]` dates.

        Dense in the dates whatever the covariance, hence for some series at a time; joint draws over many series come
        from `GaussianProcess.between` with draws of this posterior.

        Returns:
            Normal of batch shape `[*batch, V]` and event shape `[2 S]`: values, then derivatives; given what the
            sites lean on.

        Raises:
            ValueError: the kernel has no derivative.
        """
        around = self.prior.between(self.mean, dates, slopes=True)
        gain, _ = self.prior._elsewhere().gain(dates, slopes=True)
        gain = gain.to(self.mean.dtype)
        return MultivariateNormal(around.loc, around.covariance_matrix + gain @ self.covariance @ gain.mT)

    @property
    def mean(self) -> Tensor:
        """`[*batch, V, T]` posterior mean, over the deviations that a site leans on."""
        return self.sharp.values(self.coordinates)

    @property
    def covariance(self) -> Tensor:
        """`[*batch, V, T, T]` posterior covariance of each latent, given what its sites lean on, before any bend."""
        return self.spread.covariance

    @property
    def variance(self) -> Tensor:
        """`[*batch, V, T]` diagonal of `covariance`."""
        return self.spread.variance

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = SCALAR) -> Tensor:
        """`[*sample, *batch, V, T]` reparametrised draws, correlated in time."""
        noise = self._noise(self._extended_shape(sample_shape)[:-2])
        return self.sharp.values(self._centre(noise)) + noise

    def log_prob(self, value: Tensor) -> Tensor:
        """`[*batch]` log density of `[*batch, V, T]` values."""
        deviation, log_slope = self._straightened(self._deviation(value))
        _, precision, caution = self.sites
        precision = precision if caution is None else precision * caution
        energy = self.prior.gram.energy(deviation) + (precision * deviation.square()).sum(-1)
        log_det = self.spread.log_det - self.prior.gram.log_det
        return (0.5 * (log_det - energy) + log_slope.sum(-1)).sum(-1) - _half_log_2pi(self)

    def datewise_log_prob(self, value: Tensor) -> Tensor:
        """`[*batch, V, T]` log density of each value at its date, whatever the other dates.

        Given, as in `log_prob`, what its site leans on.
        """
        deviation, log_slope = self._straightened(self._deviation(value))
        scaled = deviation.square() / self.variance
        return log_slope - 0.5 * (scaled + self.variance.log() + math.log(2 * math.pi))

    def _noise(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of the distances from the means, given what the sites lean on."""
        noise = self.spread.draw(shape)
        if self.skewness is None:
            return noise
        scale = self.variance.sqrt()
        return scale * bend(noise / scale, self._skewness)

    def _straightened(self, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Normal distances that bent ones come from, and the log derivatives of these by those."""
        if self.skewness is None:
            return deviation, torch.zeros_like(deviation)
        scale = self.variance.sqrt()
        scores, log_slope = straighten(deviation / scale, self._skewness)
        return scale * scores, log_slope

    @property
    def _skewness(self) -> Tensor:
        return (0.0 if self.skewness is None else self.skewness) * (1 - self.variance).clamp_min(0.0)

    def _deviation(self, value: Tensor) -> Tensor:
        """`[*batch, V, T]` how far values lie from their means given what the sites lean on."""
        deviation = value - self.mean
        if self.coupling is None:
            return deviation
        earlier = self.earlier.expand(*deviation.shape[:-2], *self.earlier.shape[-2:])
        known = torch.cat([earlier, deviation], -2).transpose(-1, -2).unsqueeze(-3)
        read = torch.ones(self.coupling.shape[-3], known.shape[-1], device=value.device).tril(earlier.shape[-2] - 1)
        leans = (self.coupling * read.unsqueeze(-2) * known).sum(-1)
        return deviation - self.sharp.values(self.sharp.solve(leans))

    def divergence(self) -> Tensor:
        """`[*batch]` Kullback-Leibler divergence from the prior, in nats.

        Closed given what the sites lean on; over the earlier latents of the same process, and of skewed marginals, an
        unbiased mean by one draw.
        """
        if self.skewness is not None:
            drawn = self.rsample()
            return self.log_prob(drawn) - self.prior.log_prob(drawn)
        centre = self.coordinates if self.coupling is None else self._centre(self.spread.draw(self.batch_shape))
        spread = self.spread.log_det - self.spread.reduction
        return 0.5 * (spread + self.sharp.energy(centre)).sum(-1)

    def _centre(self, noise: Tensor) -> Tensor:
        """Coordinates of the means given what the sites lean on, in the draw that `[..., V, T]` noise makes."""
        if self.coupling is None:
            return self.coordinates
        own: list[Tensor] = []
        leans: list[Tensor] = []
        for v, part in enumerate(noise.unbind(-2)):
            leans.append(self._lean(self.coupling, v, own, part.shape[:-1]))
            own.append(self.sharp.values(leans[-1], v) + part)
        return self.coordinates + torch.stack(leans, -2)

    def _lean(self, coupling: Tensor, v: int, own: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """`[*shape, C]` shift of the coordinates of latent `v` by the deviations of earlier ones."""
        lean = coupling.new_zeros(()).expand(*shape, coupling.shape[-2])
        for weight, deviation in zip(coupling[..., v, :, :].unbind(-1), [*self.earlier.unbind(-2), *own], strict=False):
            lean = torch.addcmul(lean, weight.contiguous(), deviation)
        return self.sharp.solve(lean, v)


def _half_log_2pi(distribution: TorchDistribution) -> float:
    return 0.5 * math.log(2 * math.pi) * distribution.event_shape.numel()


def _same(first: Covariance, second: Covariance) -> bool:
    if type(first) is not type(second) or len(first.defining) != len(second.defining):
        return False
    return all(a is b or torch.equal(a, b) for a, b in zip(first.defining, second.defining, strict=True))


@register_kl(SitePosterior, GaussianProcess)
def _kl_site_posterior(posterior: SitePosterior, prior: GaussianProcess) -> Tensor:
    if not _same(posterior.prior.gram, prior.gram):
        raise ValueError("The posterior was conditioned on another process: build both from the same lengthscales.")
    return posterior.divergence()
