"""The recursions compiled for the processor by numba: one pass over the dates each, some series at a time.

On an accelerator `pi_vae.priors.markov` does one small operation after another, each on all series. On a processor most
of such an operation is what surrounds it, so here a recursion is one compiled loop, in the same order and notation, and
what it needs of its series stays in the cache. The first use on a machine compiles, for about half a minute.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pi_vae.priors.markov.cpu.lanes import Gains, Steps
from pi_vae.priors.markov.cpu.simulate import simulate_adjoint, simulate_pass
from pi_vae.priors.markov.cpu.smooth import along_steps, filter_pass, smooth_pass
from pi_vae.priors.markov.cpu.spread import spread_adjoint, spread_pass

__all__ = ["Lanes", "draw", "draw_adjoint", "steps_of"]


def steps_of(sizes: Sequence[int], steps: Sequence[Tensor]) -> Steps:
    """Transitions for the loops; ``steps`` are `[T, V]` per block of ``sizes`` components."""
    step = torch.stack([s.detach() for s in steps]).numpy()
    starts = np.cumsum([0, *sizes[:-1]])
    return Steps(step, np.exp(-step), starts, sum(sizes) + 1)


class Lanes:
    """What the filter of given precisions finds, and the passes that need it, one group of series after another.

    Args:
        steps: transitions.
        column: `[size, V]`, see `pi_vae.priors.markov.filter.Filter`.
        nugget: variance of what differs from date to date.
        precision: `[G, T, V, n]`, float64; `G = n = 1` where all series share it.
    """

    def __init__(self, steps: Steps, column: Tensor, nugget: float, precision: Tensor) -> None:
        self.steps, self.column, self.shape = steps, _array(column), precision.shape
        self.gains = []
        for weights in _array(precision.flatten(2)):
            dates, lanes = weights.shape
            found = Gains(weights, np.empty((dates, steps.size, lanes)), *np.empty((3, dates, lanes)))
            filter_pass(steps, self.column, nugget, found)
            self.gains.append(found)

    def of(self, v: int) -> Lanes:
        """The same of one variable alone."""
        part, n = copy.copy(self), self.shape[3]
        one, own = slice(v, v + 1), slice(v * n, (v + 1) * n)
        step, decay = (np.ascontiguousarray(x[..., one]) for x in (self.steps.step, self.steps.decay))
        part.steps, part.column = self.steps._replace(step=step, decay=decay), np.ascontiguousarray(self.column[:, one])
        part.gains = [Gains(*(np.ascontiguousarray(x[..., own]) for x in gains)) for gains in self.gains]
        part.shape = torch.Size([*self.shape[:2], 1, n])
        return part

    def smooth(self, weighted: Tensor, less: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`[G, T, S, V, n]` weighted site means, less the precisions times ``less`` -> posterior means and weights."""
        given = _array(weighted.flatten(3))
        mean, weights = np.empty_like(given), np.empty_like(given)
        other = np.empty((len(given), 0, 0, 0)) if less is None else _array(less.flatten(3))
        for group, values in enumerate(zip(given, other, mean, weights, strict=True)):
            smooth_pass(self.steps, self.gains[group if len(self.gains) > 1 else 0], *values)
        return torch.from_numpy(mean).view(weighted.shape), torch.from_numpy(weights).view(weighted.shape)

    def along_covariance(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Derivatives of first' K second by the column and by the steps."""
        by_column, by_steps = np.zeros_like(self.column), np.zeros_like(self.steps.step)
        for one, other in zip(*(_array(x.flatten(3)) for x in (first, second)), strict=True):
            along_steps(self.steps, self.column, one, other, by_column, by_steps)
        return [torch.from_numpy(by_column), *torch.from_numpy(by_steps)]

    def spread(self) -> tuple[Tensor, Tensor, Tensor]:
        """log|I + K Lambda| and tr(Lambda S), `[G, V, n]` both, and the diagonal of S, `[G, T, V, n]`."""
        groups, dates, *own = self.shape
        variance = np.empty((groups, dates, math.prod(own)))
        log_det, reduction = np.zeros((2, groups, math.prod(own)))
        for gains, *found in zip(self.gains, variance, reduction, strict=True):
            spread_pass(self.steps, gains, *found)
        for gains, total in zip(self.gains, log_det, strict=True):
            np.log(gains.q).sum(0, out=total)
        one, other = (torch.from_numpy(x).view(groups, *own) for x in (log_det, reduction))
        return one, other, torch.from_numpy(variance).view(self.shape)

    def spread_adjoint(
        self, by_log_det: Tensor, by_reduction: Tensor, by_variance: Tensor | None, learns: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Derivatives by the precisions, the column and the steps; of the last two only if they learn."""
        groups, dates, *own = self.shape
        by_precision = np.empty((groups, dates, math.prod(own)))
        variances = np.zeros_like(by_precision) if by_variance is None else _array(by_variance.flatten(2))
        by_column, by_steps = np.zeros_like(self.column), np.zeros_like(self.steps.step)
        weights = zip(*(_array(x.flatten(1)) for x in (by_log_det, by_reduction)), variances, strict=True)
        for gains, given, found in zip(self.gains, weights, by_precision, strict=True):
            spread_adjoint(self.steps, gains, given, learns, found, by_column, by_steps)
        found_precision = torch.from_numpy(by_precision).view(self.shape)
        return found_precision, torch.from_numpy(by_column), [*torch.from_numpy(by_steps)]


def draw(steps: Steps, noise: Tensor, nugget: float, level: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Draws of the process, see `pi_vae.priors.markov.simulate.Simulate`."""
    groups, _, dates, count, *own = noise.shape
    draws, joint, start = np.empty((groups, dates, count, math.prod(own))), _joint(factors), _array(level)
    for drive, found in zip(_array(noise.flatten(4)), draws, strict=True):
        simulate_pass(steps, drive, nugget, start, joint, found)
    return torch.from_numpy(draws).view(groups, dates, count, *own)


def draw_adjoint(
    steps: Steps, noise: Tensor, level: Tensor, factors: Sequence[Tensor], by_draws: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Derivatives of `draw` by the level, the steps and the factors."""
    joint, start = _joint(factors), _array(level)
    by_level, by_steps, by_factors = np.zeros(len(level)), np.zeros_like(steps.step), np.zeros_like(joint)
    for drive, given in zip(_array(noise.flatten(4)), _array(by_draws.flatten(3)), strict=True):
        simulate_adjoint(steps, drive, start, joint, given, by_level, by_steps, by_factors)
    parts, first = [], 0
    for factor in factors:
        size = factor.shape[-1]
        parts.append(torch.from_numpy(by_factors[:, :, first : first + size, :size]))
        first += size
    return torch.from_numpy(by_level), [*torch.from_numpy(by_steps)], parts


def _joint(factors: Sequence[Tensor]) -> np.ndarray:
    """`[T, V, size - 1, d]` rows of the factors of all blocks."""
    widest = max(f.shape[-1] for f in factors)
    rows = [torch.nn.functional.pad(f.detach(), (0, widest - f.shape[-1])) for f in factors]
    return torch.cat(rows, -2).numpy()


def _array(value: Tensor) -> np.ndarray:
    return value.detach().contiguous().numpy()
