"""Draws of a Markov process, and of sites that look at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pi_vae.priors.markov.cascade import State, Transitions
from pi_vae.priors.markov.filter import add_heads, summed
from pi_vae.priors.markov.layout import dates_of

__all__ = ["Observe", "Simulate"]


class Simulate(torch.autograd.Function):
    """``Simulate.apply(transitions, noise, nugget, level, *steps, *factors)``: draws of the process, `[G, T, S, V, n]`.

    Args:
        noise: `[G, size + 1, T, S, V, n]` standard normal: of the components of the state, of which the last takes the
            first date alone, and of the nugget.
        nugget: its sd, a number.
        level: `[V]` sd of the part that does not change.
        steps: per block `[T, V]`.
        factors: per block `[T, V, d, d]`, see `noise_factors`.
    """

    @staticmethod
    def forward(ctx, transitions: Transitions, noise: Tensor, nugget: float, level: Tensor, *inputs: Tensor):
        ctx.transitions, ctx.blocks = transitions, len(inputs) // 2
        ctx.learns = any(ctx.needs_input_grad[3:])
        ctx.save_for_backward(noise, level, *inputs[ctx.blocks :])
        if transitions.compiled:
            from pi_vae.priors.markov.cpu import draw  # imports numba

            return draw(transitions.arrays, noise, nugget, level, inputs[ctx.blocks :])
        noise = noise[0]
        draws = torch.empty(noise.shape[1:], dtype=level.dtype, device=noise.device)
        for t, state in _states(transitions, noise, level, inputs[ctx.blocks :]):
            torch.add(transitions.head(state), noise[-1, t], alpha=nugget, out=draws[t])
        return draws.unsqueeze(0)

    @staticmethod
    def backward(ctx, by_draws: Tensor):
        noise, level, *factors = ctx.saved_tensors
        move = ctx.transitions
        if not ctx.learns:
            return None, None, None, None, *[None] * (2 * ctx.blocks)
        if move.compiled:
            from pi_vae.priors.markov.cpu import draw_adjoint  # imports numba

            by_level, by_steps, by_factors = draw_adjoint(move.arrays, noise, level, factors, by_draws)
            return None, None, None, by_level, *by_steps, *by_factors
        noise, by_draws = noise[0], by_draws[0]
        by_level, by_factors = torch.zeros_like(level), [torch.zeros_like(f) for f in factors]
        by_steps = [torch.zeros_like(f[..., 0, 0]) for f in factors]
        states = [state for _, state in _states(move, noise, level, factors)]
        weight: State = []
        for t in reversed(range(len(states))):
            r = [torch.zeros_like(states[0][0])] * move.size if not weight else move.back(weight, t + 1)
            weight = add_heads(move, r, by_draws[t])
            for b, (start, size) in enumerate(zip(move.starts, move.sizes, strict=True)):
                came = states[t][start : start + size]
                for i in range(size):
                    for k in range(i + 1):
                        drive = noise[start + k, t].to(level.dtype)
                        by_factors[b][t, :, i, k] += summed(weight[start + i] * drive)
                        came[i] = came[i] - factors[b][t, :, i, k, None] * drive
                if t:
                    lost = (came[i] - came[i + 1] if i + 1 < size else came[i] for i in range(size))
                    by_steps[b][t] -= summed(sum(weight[start + i] * part for i, part in enumerate(lost)))
        by_level += summed(weight[-1] * noise[-2, 0])
        return None, None, None, by_level, *by_steps, *by_factors


class Observe(torch.autograd.Function):
    r"""``Observe.apply(course, noise, precision)``: weighted site means of draws that sites of a precision look at.

    .. math:: b_t = \lambda_t u^*_t + \lambda_t^{1/2} \varepsilon_t,

    with ``course`` and standard normal ``noise`` `[G, T, S, V, n]`, ``precision`` `[G, T, V, n]`. A few dates at a
    time: nothing else of the size of the draws is held.
    """

    @staticmethod
    def forward(ctx, course: Tensor, noise: Tensor, precision: Tensor) -> Tensor:
        ctx.save_for_backward(course, noise, precision)
        weighted = torch.empty_like(course)
        for found, drawn, drive, weight in dates_of(weighted, course, noise, precision.unsqueeze(2)):
            torch.mul(drawn, weight, out=found).addcmul_(weight.sqrt(), drive.to(course.dtype))
        return weighted

    @staticmethod
    def backward(ctx, by_weighted: Tensor):
        course, noise, precision = ctx.saved_tensors
        by_course, by_precision = torch.empty_like(course), torch.empty_like(precision)
        every = by_course, by_precision, by_weighted, course, noise, precision.unsqueeze(2)
        for found, found_precision, given, drawn, drive, weight in dates_of(*every):
            half = torch.where(weight > 0, 0.5 * weight.rsqrt(), 0.0)  # the square root has no slope at zero
            torch.mul(given, weight, out=found)
            lean = torch.addcmul(drawn, half, drive.to(course.dtype))
            torch.sum(lean.mul_(given), 1, out=found_precision)
        return by_course, None, by_precision


def _states(move: Transitions, noise: Tensor, level: Tensor, factors: Sequence[Tensor]) -> Iterator[tuple[int, State]]:
    """Draws of the state, date by date."""
    state = [torch.zeros(noise.shape[2:], dtype=level.dtype, device=noise.device)] * move.size
    state[-1] = level.unsqueeze(-1) * noise[-2, 0]
    for t in range(noise.shape[1]):
        state = move.move(state, t) if t else list(state)
        for start, size, factor in zip(move.starts, move.sizes, factors, strict=True):
            drive = [noise[start + k, t].to(level.dtype) for k in range(size)]
            for i in range(size):
                for k in range(i + 1):
                    state[start + i] = torch.addcmul(state[start + i], factor[t, :, i, k, None], drive[k])
        yield t, state
