"""Posterior means and their weights: one pass forth, one back, and the same again for the derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vae.priors.markov.cascade import State
from pi_vae.priors.markov.filter import Filter, add_heads, dot, summed
from pi_vae.priors.markov.layout import dates_of

__all__ = ["Smooth"]


class Smooth(torch.autograd.Function):
    """``Smooth.apply(filter, weighted, precision, column, *steps)``: posterior means and their weights.

    ``weighted`` is `[G, T, S, V, n]`, site means times precisions; means and weights have its shape. Of that size only
    what goes in and comes out is ever held: everything else is done a few dates at a time.
    """

    @staticmethod
    def forward(ctx, filtered: Filter, weighted: Tensor, precision: Tensor, column: Tensor, *steps: Tensor):
        mean, weights = _smooth(filtered, weighted.detach())
        ctx.filtered = filtered
        ctx.save_for_backward(precision, mean, weights)
        ctx.learns = any(ctx.needs_input_grad[3:])
        ctx.set_materialize_grads(False)
        return mean, weights

    @staticmethod
    def backward(ctx, by_mean: Tensor | None, by_weights: Tensor | None):
        precision, mean, weights = ctx.saved_tensors
        by_mean = torch.zeros_like(mean) if by_mean is None else by_mean
        by_weighted, other_weights = _smooth(ctx.filtered, by_mean, by_weights)
        if by_weights is not None:
            by_weighted.add_(by_weights)
        by_precision = None
        if ctx.needs_input_grad[2]:
            by_precision = torch.empty_like(precision)
            for found, b, m in dates_of(by_precision, by_weighted, mean):
                torch.sum(b * m, 1, out=found).neg_()
        if not ctx.learns:
            return None, by_weighted, by_precision, *[None] * (len(ctx.needs_input_grad) - 3)
        return None, by_weighted, by_precision, *_by_covariance(ctx.filtered, weights, other_weights)


def _smooth(filtered: Filter, weighted: Tensor, less: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`[G, T, S, V, n]` weighted site means, less the precisions times ``less`` -> posterior means and weights."""
    if filtered.lanes is not None:
        return filtered.lanes.smooth(weighted, less)
    move, gains, precision = filtered.transitions, filtered.gains, filtered.precision[0]
    weighted, less = weighted[0], None if less is None else less[0]
    mean, weights = torch.empty_like(weighted), torch.empty_like(weighted)
    # Forth: what was expected and how far the site lies from it wait where mean and weight will be.
    state = [torch.zeros_like(weighted[0])] * move.size
    for t, site in enumerate(weighted):
        if t:
            state = move.move(state, t)
        expected = move.head(state)
        known = expected if less is None else expected + less[t]
        surprise = torch.addcmul(site, precision[t], known, value=-1.0).div_(gains.q[t])
        state = [torch.addcmul(x, p, surprise) for x, p in zip(state, gains.p[t], strict=True)]
        mean[t].copy_(expected)
        weights[t].copy_(surprise)
    r = [torch.zeros_like(weighted[0])] * move.size
    for t in reversed(range(len(weighted))):
        ahead = dot(gains.p[t], r)
        weights[t].addcmul_(gains.g[t], ahead, value=-1.0)
        mean[t].add_(ahead).addcmul_(weights[t], gains.v[t])
        if t:
            r = move.back(add_heads(move, r, weights[t]), t)
    return mean.unsqueeze(0), weights.unsqueeze(0)


def _by_covariance(filtered: Filter, first: Tensor, second: Tensor) -> list[Tensor]:
    """Derivatives of first' K second by the column and by the steps."""
    if filtered.lanes is not None:
        return filtered.lanes.along_covariance(first, second)
    move, pair = filtered.transitions, (first[0], second[0])
    first = pair[0]
    by_column = [torch.zeros_like(c[:, 0]) for c in filtered.column]
    by_steps = [first.new_zeros(len(first), len(by_column[0])) for _ in move.sizes]
    zero = torch.zeros_like(first[0])
    arrived: list[list[State]] = []
    for x in pair:
        state, states = [zero] * move.size, []
        for t in range(len(x)):
            if t:
                state = move.move(
                    [torch.addcmul(s, c, x[t - 1]) for s, c in zip(state, filtered.column, strict=True)], t
                )
            states.append(state)
        arrived.append(states)
    rest = [[zero] * move.size for _ in pair]
    for t in reversed(range(len(first))):
        same = pair[0][t] * pair[1][t]
        for i, total in enumerate(by_column):
            value = pair[0][t] * rest[1][i] + pair[1][t] * rest[0][i]
            total += summed(value + same if i in move.heads else value)
        if not t:
            break
        weight = [add_heads(move, r, x[t]) for r, x in zip(rest, pair, strict=True)]
        for b, (start, size) in enumerate(zip(move.starts, move.sizes, strict=True)):
            value = zero
            for i in range(start, start + size):
                value = torch.addcmul(value, weight[1][i], move.drift(arrived[0][t], i))
                value = torch.addcmul(value, weight[0][i], move.drift(arrived[1][t], i))
            by_steps[b][t] -= summed(value)
        rest = [move.back(w, t) for w in weight]
    return [torch.stack(by_column), *by_steps]
