"""Log determinant, posterior variances, and what of the prior variance the sites have taken away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vae.priors.markov.cascade import Matrix, State, Transitions
from pi_vae.priors.markov.filter import Filter, add_outer, dot, summed

__all__ = ["Spread"]

STRETCH = 256  # dates whose state covariances are held at once in the derivative


class Spread(torch.autograd.Function):
    """``Spread.apply(filter, precision, column, *steps)``: log|I + K Lambda|, tr(Lambda S), and the variances.

    The first two are `[G, V, n]`, the diagonal of S `[G, T, V, n]`.
    """

    @staticmethod
    def forward(ctx, filtered: Filter, precision: Tensor, column: Tensor, *steps: Tensor):
        log_det, reduction, variance = _spread(filtered)
        ctx.filtered, ctx.learns = filtered, any(ctx.needs_input_grad[2:])
        ctx.save_for_backward(variance)
        ctx.set_materialize_grads(False)
        return log_det, reduction, variance

    @staticmethod
    def backward(ctx, by_log_det: Tensor | None, by_reduction: Tensor | None, by_variance: Tensor | None):
        move, precision = ctx.filtered.transitions, ctx.filtered.precision
        alone = by_reduction is None and by_variance is None and not ctx.learns
        if alone and by_log_det is not None:  # the variances are this derivative
            return None, ctx.saved_tensors[0] * by_log_det.unsqueeze(1), *[None] * (1 + len(move.sizes))
        none = torch.zeros_like(precision[:, 0])
        by_log_det, by_reduction = (none if x is None else x for x in (by_log_det, by_reduction))
        if ctx.filtered.lanes is not None:
            found = ctx.filtered.lanes.spread_adjoint(by_log_det, by_reduction, by_variance, ctx.learns)
        else:
            along = None if by_variance is None else by_variance[0]
            found = _adjoint(ctx.filtered, _Weights(by_log_det[0], by_reduction[0], along), ctx.learns)
        by_precision, by_column, by_steps = found
        return None, by_precision, *((by_column, *by_steps) if ctx.learns else [None] * (1 + len(by_steps)))


@dataclass
class _Weights:
    """Derivatives of the objective by what `Spread` returns."""

    log_det: Tensor
    reduction: Tensor
    variance: Tensor | None

    def direction(self, precision: Tensor, t: int) -> Tensor:
        """By the variance at a date, the reduction included."""
        along = self.reduction * precision[t]
        return along if self.variance is None else along.add_(self.variance[t])


def _spread(filtered: Filter) -> tuple[Tensor, Tensor, Tensor]:
    """Back over the dates with N, the derivative of log|I + K Lambda| by the state's covariance."""
    if filtered.lanes is not None:
        return filtered.lanes.spread()
    move, gains, precision = filtered.transitions, filtered.gains, filtered.precision[0]
    variance = torch.empty_like(precision)
    log_det, reduction = torch.zeros_like(precision[0]), torch.zeros_like(precision[0])
    later = move.nothing(precision[0])
    for t in reversed(range(len(precision))):
        p, g, q = gains.p[t], gains.g[t], gains.q[t]
        z = _times(later, p)
        along = dot(p, z)
        variance[t] = (gains.v[t] - along / q) / q
        reduction.addcmul_(precision[t], variance[t])
        log_det.add_(q.log())
        if t:
            later = move.gather(_subtract_heads(move, later, [g * x for x in z], torch.addcmul(g, g * g, along)), t)
    return log_det.unsqueeze(0), reduction.unsqueeze(0), variance.unsqueeze(0)


def _adjoint(filtered: Filter, weights: _Weights, learns: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Derivatives of what ``weights`` sums up, by the precisions, the column and the steps.

    The variances are the derivative of log_det by the precisions, so this is the gradient of log_det plus its change
    along the direction in which the precisions move; a dot marks that change in the names below.
    """
    move, gains, precision = filtered.transitions, filtered.gains, filtered.precision[0]
    dates, weight = len(precision), weights.log_det
    by_precision = torch.empty_like(precision)
    by_column = precision.new_zeros(move.size, precision.shape[1])
    by_steps = [torch.zeros_like(precision[..., 0]) for _ in move.sizes]
    # D and its change are kept where a stretch of dates starts and found again from there, stretch by stretch.
    starts = range(0, dates, dates if dates <= STRETCH else STRETCH)
    losses = [(move.nothing(gains.g[0]), move.nothing(gains.g[0]))]
    for start in starts[:-1]:
        *_, last = _losses(filtered, weights, *losses[-1], range(start, start + STRETCH + 1))
        losses.append(last)
    later = total = move.nothing(gains.g[0])  # M, and weight * M + dot M
    for start in reversed(starts):
        stretch = range(start, min(start + (starts.step), dates))
        found = list(_losses(filtered, weights, *losses.pop(), stretch))
        for t in reversed(stretch):
            loss, dot_loss = found.pop()
            p, g, q, v = gains.p[t], gains.g[t], gains.q[t], gains.v[t]
            direction = weights.direction(precision, t)
            fall, drop, dot_g = _change(move, dot_loss, direction, g, q)
            z, y, lean = _times(later, p), _times(total, p), _times(later, fall)
            along = dot(p, z)
            turn = torch.add(dot(p, y), dot(fall, z), alpha=-2.0)
            dot_q = direction * v - precision[t] * drop
            change = (dot_q * (v - 2.0 * along / q) + turn + weights.reduction * along) / q
            by_precision[t] = ((weight + weights.reduction) * v - drop - change) / q
            mixed = [torch.addcmul(dot_g * a, g, b - c) for a, b, c in zip(z, y, lean, strict=True)]
            corner = dot_g * (1.0 + 2.0 * g * along) + g * (weight + g * turn)
            now = _subtract_heads(move, later, [g * x for x in z], torch.addcmul(g, g * g, along))
            both = _subtract_heads(move, total, mixed, corner)
            if learns:
                _learn(move, t, loss, dot_loss, now, both, mixed, corner, by_column, by_steps)
            if t:
                later, total = move.gather(now, t), move.gather(both, t)
    return by_precision.unsqueeze(0), by_column, by_steps


def _losses(
    filtered: Filter,
    weights: _Weights,
    loss: Matrix,
    dot_loss: Matrix,
    dates: range,
) -> Iterator[tuple[Matrix, Matrix]]:
    """D and its change at consecutive dates, given both at the first."""
    move, gains, precision = filtered.transitions, filtered.gains, filtered.precision[0]
    for t in dates:
        yield loss, dot_loss
        if t + 1 in dates:
            p, g, q = gains.p[t], gains.g[t], gains.q[t]
            fall, _, dot_g = _change(move, dot_loss, weights.direction(precision, t), g, q)
            half = [torch.addcmul(0.5 * dot_g * a, g, b, value=-1.0) for a, b in zip(p, fall, strict=True)]
            loss = move.spread(add_outer(loss, [g * x for x in p], p), t + 1)
            dot_loss = move.spread(add_outer(add_outer(dot_loss, p, half), half, p), t + 1)


def _change(
    move: Transitions, dot_loss: Matrix, direction: Tensor, g: Tensor, q: Tensor
) -> tuple[State, Tensor, Tensor]:
    """-dot p, -dot v and dot g."""
    fall = [move.head(row) for row in dot_loss]
    drop = move.head(fall)
    return fall, drop, torch.addcmul(direction / (q * q), g * g, drop)


def _learn(move, t, loss, dot_loss, now, both, mixed, corner, by_column: Tensor, by_steps: list[Tensor]) -> None:
    """Add the derivatives by the column and by the step to date `t`."""
    for i in range(move.size):
        by_column[i] += summed(torch.add(corner, mixed[i], alpha=-2.0) if i in move.heads else -2.0 * mixed[i])
    if not t:
        return
    for b, (start, size) in enumerate(zip(move.starts, move.sizes, strict=True)):
        value = torch.zeros_like(corner)
        for i in range(start, start + size):
            for j in range(move.size):
                value = torch.addcmul(value, both[i][j], move.drift([row[j] for row in loss], i))
                value = torch.addcmul(value, now[i][j], move.drift([row[j] for row in dot_loss], i))
        by_steps[b][t] += 2.0 * summed(value)


def _subtract_heads(move: Transitions, matrix: Matrix, row: State, corner: Tensor) -> Matrix:
    """matrix - h row' - row h' + corner h h'."""
    result: Matrix = [list(entries) for entries in matrix]
    for i in range(move.size):
        for j in range(i, move.size):
            value = result[i][j]
            if i in move.heads:
                value = value - row[j]
            if j in move.heads:
                value = value - row[i]
            if i in move.heads and j in move.heads:
                value = value + corner
            result[i][j] = result[j][i] = value
    return result


def _times(matrix: Matrix, state: State) -> State:
    return [dot(row, state) for row in matrix]
