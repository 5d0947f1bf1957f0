r"""Covariance at the dates by a small Markov state: Matern kernels and their sums, time linear in the dates.

The state holds a cascade of filters for every Matern term and one component for the part that does not change; the
recursions are in `pi_vae.priors.markov`. Draws of the posterior follow from draws of the prior (Matheron's rule; Durbin
& Koopman 2002): with :math:`u^* \sim N(0, K)`, :math:`\varepsilon \sim N(0, I)`,

.. math:: u^* - (K^{-1} + \Lambda)^{-1} (\Lambda u^* + \Lambda^{1/2} \varepsilon) \sim N(0, (K^{-1} + \Lambda)^{-1}).

Tensors of all series and dates are float64, and beyond 32 MB each glibc maps and unmaps them at every use, which for
long series costs up to a third more; ``MALLOC_MMAP_THRESHOLD_=68719476736 MALLOC_TRIM_THRESHOLD_=68719476736`` in the
environment of the process keeps the memory instead (benchmarks/temporal.py measures with it).

The coordinates of a posterior mean :math:`\mu` are :math:`\mu` itself and its weights :math:`K^{-1}\mu`.

Example:
    >>> import torch
    >>> from pi_vae.priors.state_space import StateSpace
    >>> dates, one = torch.tensor([0.0, 10.0]), torch.ones(1, dtype=torch.float64)
    >>> StateSpace((1,), one, dates, 10 * one, static=0 * one, nugget=0.0).matrix.round(decimals=3)  # exp(-1)
    tensor([[[1.0000, 0.3680],
             [0.3680, 1.0000]]], dtype=torch.float64)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pi_vae.priors.markov import (
    Enter,
    Filter,
    Leave,
    Observe,
    Simulate,
    Smooth,
    Spread,
    Transitions,
    columns,
    grouped,
    grouping,
    noise_factors,
)
from pi_vae.priors.noise import standard_normal

__all__ = ["StateSpace", "StateSpaceGiven"]


class StateSpace:
    """Covariance of `V` variables at `T` dates.

    Args:
        filters: number of filters of every Matern term: its smoothness plus a half.
        weights: variance of every term, shares of the part that changes.
        dates: `[T]` in days, in any order; equal dates are allowed.
        lengthscale: `[V]` in days.
        static: `[V]` variance of the part that does not change, of a total of 1.
        nugget: variance added at every date, > 0 if densities are asked for.
        dtype: of what comes in and goes out; computed in float64.
    """

    def __init__(
        self,
        filters: Sequence[int],
        weights: Sequence[float] | Tensor,
        dates: Tensor,
        lengthscale: Tensor,
        static: Tensor,
        nugget: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.filters, self.nugget = tuple(filters), nugget
        self.shape = torch.Size([len(lengthscale), len(dates)])
        self.dtype, self.device = dtype or lengthscale.dtype, lengthscale.device
        lengthscale, static, dates = lengthscale.double(), static.double(), dates.double()
        self.order = None if bool((dates.diff() >= 0).all()) else torch.argsort(dates, stable=True)
        if self.order is not None:
            dates = dates[self.order]
        gaps = torch.cat([-torch.ones_like(dates[:1]), dates.diff()])  # the first: from nowhere
        self.steps = [math.sqrt(2 * d - 1) * gaps.unsqueeze(-1) / lengthscale for d in self.filters]
        self.shares = [weight * (1 - static) for weight in weights]
        parts = [c * share for d, share in zip(self.filters, self.shares, strict=True) for c in columns(d)]
        self.column = torch.stack([*parts, static])
        self.transitions = Transitions(self.filters, self.steps)
        self.defining = (self.column, *self.steps)

    @property
    def matrix(self) -> Tensor:
        """`[V, T, T]` the covariance."""
        matrix = torch.eye(self.shape[1], dtype=torch.float64, device=self.device) * self.nugget
        matrix = matrix + self.column[-1, :, None, None]
        for d, steps, share in zip(self.filters, self.steps, self.shares, strict=True):
            place = steps.cumsum(0).T
            lag = (place.unsqueeze(-1) - place.unsqueeze(-2)).abs()
            terms = (c * lag**k / math.factorial(k) for k, c in enumerate(columns(d)))
            matrix = matrix + share[:, None, None] * torch.exp(-lag) * sum(terms)
        if self.order is not None:
            back = torch.argsort(self.order)
            matrix = matrix[:, back][:, :, back]
        return matrix.to(self.dtype)

    @property
    def log_det(self) -> Tensor:
        """`[V]` its log determinant."""
        log_det, *_ = Spread.apply(self._certain, self._certain.precision, self.column, *self.steps)
        return (log_det.flatten() + self.shape[1] * math.log(self.nugget)).to(self.dtype)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of N(0, K)."""
        return self.leave(self.simulate(1, math.prod(shape)), shape)

    def energy(self, value: Tensor) -> Tensor:
        """`[..., V]` of `[..., V, T]`: value' K^-1 value."""
        given = self.enter(value, 1)
        # The nugget is what is left to the sites: the process without it, seen with precision 1 / nugget.
        certain = self._certain
        _, weights = Smooth.apply(certain, given / self.nugget, certain.precision, self.column, *self.steps)
        return self.by_series((given * weights).sum(1), value.shape[:-1])

    def given(self, precision: Tensor) -> StateSpaceGiven:
        """Posterior given sites of `[*batch, V, T]` precision."""
        return StateSpaceGiven(self, precision)

    def simulate(self, draws: int, series: int) -> Tensor:
        """`[G, T, draws, V, n]` draws in the order of the recursions."""
        noise = self.noise(draws, series, (self.transitions.size + 1,))
        factors = [
            share.sqrt()[:, None, None] * noise_factors(d, steps)
            for d, steps, share in zip(self.filters, self.steps, self.shares, strict=True)
        ]
        level = torch.where(self.column[-1] > 0, self.column[-1], 1.0).sqrt() * (self.column[-1] > 0)
        return Simulate.apply(self.transitions, noise, math.sqrt(self.nugget), level, *self.steps, *factors)

    def noise(self, draws: int, series: int, more: Sequence[int] = ()) -> Tensor:
        """`[G, *more, T, draws, V, n]` standard normal."""
        variables, dates = self.shape
        like = self.column.new_empty(0, dtype=self.dtype)
        noise = standard_normal((*more, dates, draws, variables, series), -1, like)
        return grouped(noise, self._grouping(series))

    def enter(self, value: Tensor, batch: int | None = None) -> Tensor:
        """`[*draws, *batch, V, T]` -> `[G, T, draws, V, n]`, float64, dates sorted; ``batch``: its dimensions."""
        batch = value.dim() - 2 if batch is None else batch
        series = math.prod(value.shape[max(value.dim() - 2 - batch, 0) : -2])
        value = value.reshape(-1, series, *value.shape[-2:])
        if self.order is not None:
            value = value[..., self.order]
        return Enter.apply(value, self._grouping(series))

    def leave(self, value: Tensor, shape: torch.Size) -> Tensor:
        """`[G, T, draws, V, n]` -> `[*shape, V, T]` in the order of the dates."""
        series = math.prod(shape) // max(value.shape[2], 1)
        value = Leave.apply(value, series, self.dtype).reshape(*shape, value.shape[3], self.shape[1])
        return value if self.order is None else value[..., torch.argsort(self.order)]

    def by_series(self, value: Tensor, shape: torch.Size) -> Tensor:
        """`[G, draws, V, n]` -> ``shape``, `[*draws, *batch, V]`."""
        series = math.prod(shape[:-1]) // max(value.shape[1], 1)
        turned = value.permute(1, 0, 3, 2).flatten(1, 2)[:, :series]
        return turned.reshape(shape).to(self.dtype)

    def _grouping(self, series: int) -> tuple[int, int]:
        return grouping(series, self.shape[0], self.transitions.compiled)

    @functools.cached_property
    def _certain(self) -> Filter:
        """The filter of values that are known but for the nugget, shared by all series."""
        precision = torch.full((1, *self.shape[::-1], 1), 1 / self.nugget, dtype=torch.float64, device=self.device)
        return Filter(self.transitions, self.column, 0.0, precision)


class StateSpaceGiven:
    """What the precisions of the sites make of the covariance; coordinates are `[..., V, 2 T]`, means and weights."""

    def __init__(self, prior: StateSpace, precision: Tensor) -> None:
        self.prior, self.batch = prior, precision.shape[:-2]
        self.precision = prior.enter(precision).squeeze(2)
        self.filter = Filter(prior.transitions, prior.column, prior.nugget, self.precision)

    def solve(self, mean: Tensor, v: int | None = None) -> Tensor:
        """Coordinates of the posterior means of site means `[..., V, T]`, or `[..., T]` of variable ``v`` alone."""
        if v is not None:
            mean = mean.unsqueeze(-2)
        prior, which = self.prior, slice(None) if v is None else slice(v, v + 1)
        filtered = self.filter if v is None else self.filter.of(v)
        precision, column = self.precision[:, :, which], prior.column[:, which]
        weighted = prior.enter(mean, len(self.batch)) * precision.unsqueeze(2)
        found = Smooth.apply(filtered, weighted, precision, column, *(steps[:, which] for steps in prior.steps))
        coordinates = torch.cat([prior.leave(part, mean.shape[:-2]) for part in found], -1)
        return coordinates if v is None else coordinates.squeeze(-2)

    def values(self, coordinates: Tensor, v: int | None = None) -> Tensor:
        """Values at the dates."""
        return coordinates[..., : self.prior.shape[1]]

    def energy(self, coordinates: Tensor) -> Tensor:
        """`[..., V]`: values' K^-1 values."""
        values, weights = coordinates.chunk(2, -1)
        return (values * weights).sum(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """`[*shape, V, T]` draws of the posterior less its mean; ``shape`` ends with the batch."""
        prior, series = self.prior, math.prod(self.batch)
        draws = math.prod(shape) // max(series, 1)
        course = prior.simulate(draws, series)
        weighted = Observe.apply(course, prior.noise(draws, series), self.precision)
        mean, _ = Smooth.apply(self.filter, weighted, self.precision, prior.column, *prior.steps)
        return prior.leave(course - mean, shape)

    @property
    def log_det(self) -> Tensor:
        """`[*batch, V]`: log|I + K Lambda|."""
        return self._by_series(0)

    @property
    def reduction(self) -> Tensor:
        """`[*batch, V]`: the trace of Lambda times the posterior covariance."""
        return self._by_series(1)

    @property
    def variance(self) -> Tensor:
        """`[*batch, V, T]` posterior variance."""
        return self.prior.leave(self._spread[2].unsqueeze(2), self.batch)

    @property
    def covariance(self) -> Tensor:
        """`[*batch, V, T, T]` posterior covariance: as many smoother passes as there are dates."""
        dates = self.prior.shape[1]
        one = torch.eye(dates, dtype=torch.float64, device=self.prior.device)
        if self.prior.order is not None:
            one = one[self.prior.order]
        groups, _, *own = self.precision.shape
        sites = one[..., None, None].expand(groups, -1, -1, *own).contiguous()
        mean, _ = Smooth.apply(self.filter, sites, self.precision, self.prior.column, *self.prior.steps)
        return self.prior.leave(mean, torch.Size([dates, *self.batch])).movedim(0, -1)

    @functools.cached_property
    def _spread(self) -> tuple[Tensor, Tensor, Tensor]:
        return Spread.apply(self.filter, self.precision, self.prior.column, *self.prior.steps)

    def _by_series(self, which: int) -> Tensor:
        return self.prior.by_series(self._spread[which].unsqueeze(1), torch.Size([*self.batch, self.prior.shape[0]]))
