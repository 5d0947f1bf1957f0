r"""Draws of states and their derivatives from noisy series at irregular dates, by Gaussian processes.

.. math:: y_{pt} = \mu + \sum_j \beta_j h_j(t) + a\,u_p(t) + \sigma\varepsilon_{pt}, \qquad
          u_p \sim GP(0, k), \quad \varepsilon \sim N(0, 1), \qquad \tau_j \dot h_j = d_j - h_j

for every state. The memories :math:`h_j` of the drivers :math:`d` over some times :math:`\tau` tell what clouds hide
after rain; among the :math:`h_j` are waves over the record as well, lest drivers stand for any course that the pixels
share. Pixels :math:`p` have in common :math:`\beta \sim N(0, \rho^2)` (in sd of state and memory), which is integrated
out, and amplitude, noise, lengthscale, static share, and the relevance :math:`\rho` of the waves and of every driver,
which maximise the evidence (Rasmussen & Williams 2006, sections 2.7 and 5.4.1). Kernels and posterior are those of
`pi_vae.priors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import minimize
from torch import Tensor

from inference.discovery.dynamics.samples import STEPS, DynamicsSamples
from pi_vae.priors import TemporalGP

__all__ = ["smooth"]

KERNELS = ("matern32", "matern52", "rbf")
START = 0.08  # lengthscale from which the evidence is climbed, in parts of the record
MEMORIES = (10.0, 30.0, 90.0, 270.0)  # days
WAVES = 24  # half-periods in the record, at most
TOLERANCE = 1e-5  # of the evidence, relative
MIN_SEEN = 4


def smooth(
    days: np.ndarray,
    values: np.ndarray,
    states: Sequence[str],
    dates: np.ndarray | None = None,
    drivers: Mapping[str, np.ndarray] | None = None,
    draws: int = 64,
    kernel: str | None = None,
    seed: int = 0,
) -> DynamicsSamples:
    """Samples of the states; see the module.

    Args:
        days: `[observed]` days since 1970-01-01, increasing.
        values: `[pixel, observed, state]`, NaN where nothing was seen.
        states: names.
        dates: `[time]` days of the draws; by default 200 equal steps over the record.
        drivers: name -> `[time]` or `[pixel, time]` at ``dates``: means over the step that a date stands for.
        draws: how many.
        kernel: of `pi_vae.priors.kernels`; by default, for every state, the one of greatest evidence among Matern 3/2,
            Matern 5/2 and the Gaussian.
        seed: of the draws.

    Raises:
        ValueError: shapes do not agree, dates do not increase, a pixel has less than four observations of a state, a
            state does not vary, a driver has gaps or ends before the observations, or the kernel has no derivative.
    """
    days, values = np.asarray(days, float), np.asarray(values, float)
    if values.ndim != 3 or values.shape[1:] != (len(days), len(states)):
        raise ValueError(
            f"Values have shape {values.shape}: give [pixel, observed, state] with {len(days)} dates and "
            f"{len(states)} states."
        )
    if not (np.diff(days) > 0).all():
        raise ValueError("The days of the observations do not increase: sort them and merge what occurs twice.")
    few = np.argwhere(np.isfinite(values).sum(1) < MIN_SEEN)
    if len(few):
        raise ValueError(
            f"Pixel {few[0][0]} has less than {MIN_SEEN} observations of {states[few[0][1]]!r}: leave it out."
        )
    dates = np.linspace(days[0], days[-1], STEPS + 1) if dates is None else np.asarray(dates, float)
    basis = _basis(days, dates, drivers or {}, len(values))
    joint = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, series in zip(states, np.moveaxis(values, -1, 0), strict=True):
            if not np.nanstd(series) > 0:
                raise ValueError(f"State {name!r} does not vary: leave it out.")
            joint.append(_drawn(days, series, dates, basis, draws, KERNELS if kernel is None else (kernel,)))
    value, slope = np.moveaxis(np.stack(joint), 0, -1)
    return DynamicsSamples(tuple(states), dates, value, slope, dict(drivers or {}))


def _drawn(
    days: np.ndarray,
    series: np.ndarray,
    dates: np.ndarray,
    basis: tuple[Tensor, Tensor],
    draws: int,
    kernels: Sequence[str],
) -> np.ndarray:
    """`[2, draw, pixel, time]` values and derivatives of one state, observed as `[pixel, observed]`."""
    seen = torch.from_numpy(np.isfinite(series))
    centre, spread = np.nanmean(series), np.nanstd(series)
    y, t, there = torch.from_numpy(np.nan_to_num((series - centre) / spread)), torch.from_numpy(days), _double(dates)
    near, far = basis
    first, *others = (TemporalGP(kernel, backend="dense") for kernel in kernels)
    best = _Fit(first, t, y, seen, near)
    for temporal in others:  # each starts where the best one before it ended
        fit = _Fit(temporal, t, y, seen, near, best.logs)
        best = fit if fit.evidence > best.evidence else best
    beta = best.beta(draws)
    prior = best.temporal.prior(t, best.lengthscale[None], best.odds[None])
    precision = (seen * (best.amplitude / best.noise) ** 2).unsqueeze(-2)
    shift = torch.einsum("ptf,df->dpt", near, beta)
    sites = ((y - shift) / best.amplitude).unsqueeze(-2)
    # The covariance does not depend on the sites: it is factorised once, the draws lie around means that do.
    across = best.temporal.joint_covariance(t, there, best.lengthscale[None], best.odds[None])[0, : len(days)]
    around = prior.condition(sites, precision).mean @ torch.linalg.solve(prior.covariance[0], across)
    factor = prior.condition(sites[0], precision).slopes(there).scale_tril.squeeze(1)
    noise = (factor @ torch.randn(len(series), 2 * len(dates), draws, dtype=factor.dtype)).movedim(-1, 0)
    joint = best.amplitude * (around.squeeze(-2) + noise) + torch.einsum("ptf,df->dpt", far, beta)
    value, slope = joint.numpy().reshape(draws, len(series), 2, len(dates)).transpose(2, 0, 1, 3)
    return np.stack([value * spread + centre, slope * spread])


class _Fit:
    """Hyperparameters of greatest evidence for series `[pixel, observed]` of unit variance.

    Args:
        basis: `[pixel, observed, F]` what the mean is a sum of: 1, `WAVES`, then `MEMORIES` of each driver.
        start: logarithms to start from.

    Attributes:
        evidence: in nats.
        amplitude, noise, lengthscale, odds: of the process.
    """

    def __init__(
        self, temporal: TemporalGP, days: Tensor, y: Tensor, seen: Tensor, basis: Tensor, start: Tensor | None = None
    ) -> None:
        self.temporal, self.days = temporal, days
        # What was seen comes first in every pixel, and what is then not seen anywhere is left out.
        order = (~seen).long().argsort(dim=1, stable=True)[:, : int(seen.sum(1).max())]
        self.order, self.seen, self.y = order, seen.gather(1, order), y.gather(1, order)
        self.basis = basis.gather(1, order.unsqueeze(-1).expand(-1, -1, basis.shape[-1]))
        span = float(days[-1] - days[0])
        count = 1 + (basis.shape[-1] - 1 - WAVES) // len(MEMORIES)
        bounds = [(-3, 3), (-6, 1), (np.log(span / 400), np.log(3 * span)), (-7, 5), *[(-9, 2)] * count]
        guess = [0.0, -1.0, np.log(START * span), -1.0, *[-2.0] * count] if start is None else start.numpy()
        best = minimize(self._loss, guess, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": TOLERANCE})
        self.evidence, self.logs = -float(best.fun), _double(best.x)
        self.amplitude, self.noise, self.lengthscale, self.odds = self.logs[:4].exp()

    def beta(self, draws: int) -> Tensor:
        """`[draw, F]` draws of the weights of the basis."""
        _, _, gain, factor = self._white(self.logs)
        mean = torch.cholesky_solve(gain.unsqueeze(-1), factor)
        noise = torch.randn(len(gain), draws, dtype=gain.dtype)
        white = mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True)
        return white.mT * self._scales(self.logs)

    @staticmethod
    def _scales(logs: Tensor) -> Tensor:
        """`[F]` prior sd of the weights."""
        waves, drivers = logs[4:5].exp().expand(WAVES), logs[5:].exp().repeat_interleave(len(MEMORIES))
        return torch.cat([logs.new_ones(1), waves, drivers])

    def _white(self, logs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energy and log determinant without basis, `[F]` projection on it, factor of its `[F, F]` precision."""
        amplitude, noise, lengthscale, odds = logs[:4].exp()
        kernel = self.temporal.covariance(self.days, self.days, lengthscale[None], odds[None])[0]
        both = (self.seen.unsqueeze(-1) & self.seen.unsqueeze(-2)).double()
        within = amplitude**2 * kernel + noise**2 * torch.eye(len(kernel), dtype=kernel.dtype)
        within = within[self.order.unsqueeze(-1), self.order.unsqueeze(-2)]
        # What was not seen is a standard normal of its own, and 0.
        factor = torch.linalg.cholesky(within * both + torch.diag_embed((~self.seen).double()))
        told = torch.cat([self.y.unsqueeze(-1), self.basis * self._scales(logs)], -1) * self.seen.unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor, told, upper=False).flatten(0, 1)
        y, x = white[:, 0], white[:, 1:]
        inner = torch.linalg.cholesky(torch.eye(x.shape[-1], dtype=x.dtype) + x.mT @ x)
        return y.square().sum(), 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(), x.mT @ y, inner

    def _loss(self, logs: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(logs, requires_grad=True)
        energy, log_det, gain, factor = self._white(at)
        explained = torch.linalg.solve_triangular(factor, gain.unsqueeze(-1), upper=False).square().sum()
        value = 0.5 * (energy - explained + log_det) + factor.diagonal().log().sum()
        # Of odds and relevances the order of magnitude is expected: few pixels tell it badly.
        value = value + 0.5 * (at[3] / 3) ** 2 + 0.5 * ((at[4:] + 2) / 3).square().sum()
        (slope,) = torch.autograd.grad(value, at)
        return float(value.detach()), slope.numpy()


def _basis(
    days: np.ndarray, dates: np.ndarray, drivers: Mapping[str, np.ndarray], pixels: int
) -> tuple[Tensor, Tensor]:
    """What the mean is a sum of: `[pixel, observed, F]` values, `[pixel, 2 time, F]` values and then derivatives."""
    start, span = dates[0], dates[-1] - dates[0]
    near, far = [np.ones((pixels, len(days)))], [np.repeat([[1.0] * len(dates) + [0.0] * len(dates)], pixels, 0)]
    for k in range(1, WAVES + 1):  # as rough together as a process that has a derivative
        rate, size = np.pi * k / span, k**-2.0
        wave = np.concatenate([np.cos(rate * (dates - start)), -rate * np.sin(rate * (dates - start))])
        near.append(np.repeat([size * np.cos(rate * (days - start))], pixels, 0))
        far.append(np.repeat([size * wave], pixels, 0))
    for name, driver in drivers.items():
        if np.shape(driver) not in ((len(dates),), (pixels, len(dates))) or not np.isfinite(driver).all():
            raise ValueError(
                f"Driver {name!r} has shape {np.shape(driver)} or gaps: give [time] or [pixel, time] at dates."
            )
        if days[0] < dates[0] or days[-1] > dates[-1]:
            raise ValueError(
                f"Driver {name!r} does not reach over all observations: let dates begin and end with them."
            )
        d = np.broadcast_to(driver, (pixels, len(dates)))
        for memory in MEMORIES if np.ptp(d) > 0 else ():
            h = _remembered(d, dates, memory)
            rate = (d - h) / memory
            scale = h.std() or 1.0
            near.append((CubicHermiteSpline(dates, h, rate, axis=1)(days) - h.mean()) / scale)
            far.append(np.concatenate([h - h.mean(), rate], 1) / scale)
    return _double(np.stack(near, -1)), _double(np.stack(far, -1))


def _remembered(driver: np.ndarray, dates: np.ndarray, memory: float) -> np.ndarray:
    r"""`[pixel, time]` solution of :math:`\tau \dot h = d - h`, :math:`h = d` at the start, for d linear in between."""
    h = np.array(driver, dtype=float)
    steps = np.diff(dates)
    for i, step in enumerate(steps):
        fade, slope = np.exp(-step / memory), (driver[:, i + 1] - driver[:, i]) / step
        level = driver[:, i] - memory * slope  # of the solution that only follows the line
        h[:, i + 1] = level + slope * step + (h[:, i] - level) * fade
    return h


def _double(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=float))
