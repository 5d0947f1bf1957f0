"""Posterior variances, what the sites take away of the prior's, and the derivatives of both."""

from __future__ import annotations

import numpy as np

from pi_vae.priors.markov.cpu.lanes import (
    LANES,
    compiled,
    dot,
    gather_matrix,
    head,
    heads_of,
    load_gain,
    spread_matrix,
    steps_at,
    subtract_heads,
    times,
    variables_of,
)

__all__ = ["spread_pass", "spread_adjoint"]

STRETCH = 32  # dates whose state covariances are held at once in a derivative


@compiled
def spread_pass(steps, gains, variance, reduction):
    """Posterior variances `[T, V n]`, and their sum weighted by the precisions `[V n]`."""
    precision, p, g, q, v = gains
    dates, total = precision.shape
    size, starts, series = steps.size, steps.starts, total // steps.step.shape[2]
    heads, own = heads_of(starts, size), np.empty(LANES, np.intp)
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    later = np.empty((size * size, LANES))
    gain, z = np.empty((size, LANES)), np.empty((size, LANES))
    along, corner = np.empty(LANES), np.empty(LANES)
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        later[:] = 0.0
        for t in range(dates - 1, -1, -1):
            load_gain(p, t, gain, first, size, lanes)
            gg, qq = g[t, first : first + lanes], q[t, first : first + lanes]
            vv, w = v[t, first : first + lanes], precision[t, first : first + lanes]
            times(later, gain, size, z, lanes)
            dot(gain, z, size, along, lanes)
            found, sums = variance[t, first : first + lanes], reduction[first : first + lanes]
            for k in range(lanes):
                found[k] = (vv[k] - along[k] / qq[k]) / qq[k]
            for k in range(lanes):
                sums[k] += w[k] * found[k]
            if t:
                for i in range(size):
                    here = z[i]
                    for k in range(lanes):
                        here[k] *= gg[k]
                for k in range(lanes):
                    corner[k] = gg[k] + gg[k] * gg[k] * along[k]
                subtract_heads(later, z, corner, heads, size, lanes)
                steps_at(steps, t, a, e, lanes, own)
                gather_matrix(later, a, e, starts, size, lanes)


@compiled
def _change(change, direction, g, q, starts, size, fall, drop, by_gain, lanes):
    """-dot p, -dot v and dot g."""
    for i in range(size):
        head(change, i * size, starts, size, fall[i], lanes)
    head(fall, 0, starts, size, drop, lanes)
    for k in range(lanes):
        by_gain[k] = direction[k] / (q[k] * q[k]) + g[k] * g[k] * drop[k]


@compiled
def _by_step(loss, change, now, both, starts, size, b, out, lanes):
    """Sum over a block of what the state covariances lose per unit of the step, times their derivatives."""
    out[:] = 0.0
    end = starts[b + 1] if b + 1 < len(starts) else size - 1
    for i in range(starts[b], end):
        for j in range(size):
            one, two = both[i * size + j], now[i * size + j]
            here, there = loss[i * size + j], change[i * size + j]
            for k in range(lanes):
                out[k] += one[k] * here[k] + two[k] * there[k]
            if i + 1 < end:
                here, there = loss[(i + 1) * size + j], change[(i + 1) * size + j]
                for k in range(lanes):
                    out[k] -= one[k] * here[k] + two[k] * there[k]


@compiled
def spread_adjoint(steps, gains, weights, learns, by_precision, by_column, by_steps):
    """Derivative of what `spread_pass` finds, and of the log determinant, by the precisions, the column and the steps.

    ``weights`` are the derivatives by the log determinant, the reduction and the variances; the last two are found if
    they are learnt. A change is along the direction in which the precisions move, as a dot in `markov.spread`.
    """
    precision, p, g, q, v = gains
    by_log_det, by_reduction, by_variance = weights
    dates, total = precision.shape
    size, starts, series = steps.size, steps.starts, total // steps.step.shape[2]
    heads, own = heads_of(starts, size), np.empty(LANES, np.intp)
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    square = size * size
    stretches = (dates + STRETCH - 1) // STRETCH
    kept = np.empty((stretches, 2 * square, LANES))
    held = np.empty((min(STRETCH, dates), 2 * square, LANES))
    later, both = np.empty((square, LANES)), np.empty((square, LANES))
    gain, fall, half = np.empty((size, LANES)), np.empty((size, LANES)), np.empty((size, LANES))
    z, y, lean = np.empty((size, LANES)), np.empty((size, LANES)), np.empty((size, LANES))
    drop, by_gain, direction, along, turn, other, corner = np.empty((7, LANES))
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        weight, reduced = by_log_det[first : first + lanes], by_reduction[first : first + lanes]
        later[:] = 0.0
        both[:] = 0.0
        for stretch in range(-stretches + 1, stretches):
            # First from start to start, then from the last stretch to the first, whose dates are gone through again.
            number = stretch + stretches - 1 if stretch < 0 else stretches - 1 - stretch
            begin = number * STRETCH
            end = min(begin + STRETCH, dates)
            if number == 0:
                kept[0] = 0.0
            held[0] = kept[number]
            for t in range(begin, end if stretch < 0 else end - 1):
                loss, change = held[t - begin, :square], held[t - begin, square:]
                load_gain(p, t, gain, first, size, lanes)
                gg, qq = g[t, first : first + lanes], q[t, first : first + lanes]
                w, by_here = precision[t, first : first + lanes], by_variance[t, first : first + lanes]
                for k in range(lanes):
                    direction[k] = reduced[k] * w[k] + by_here[k]
                _change(change, direction, gg, qq, starts, size, fall, drop, by_gain, lanes)
                for i in range(size):
                    one, two, out = gain[i], fall[i], half[i]
                    for k in range(lanes):
                        out[k] = 0.5 * by_gain[k] * one[k] - gg[k] * two[k]
                after = kept[number + 1] if t + 1 == end else held[t + 1 - begin]
                after_loss, after_change = after[:square], after[square:]
                for i in range(size):
                    for j in range(size):
                        one, two, three, four = gain[i], gain[j], half[i], half[j]
                        here, out = loss[i * size + j], after_loss[i * size + j]
                        for k in range(lanes):
                            out[k] = here[k] + gg[k] * one[k] * two[k]
                        here, out = change[i * size + j], after_change[i * size + j]
                        for k in range(lanes):
                            out[k] = here[k] + (one[k] * four[k] + three[k] * two[k])
                steps_at(steps, t + 1, a, e, lanes, own)
                spread_matrix(after_loss, a, e, starts, size, lanes)
                spread_matrix(after_change, a, e, starts, size, lanes)
            if stretch < 0:
                continue
            for t in range(end - 1, begin - 1, -1):
                loss, change = held[t - begin, :square], held[t - begin, square:]
                load_gain(p, t, gain, first, size, lanes)
                gg, qq = g[t, first : first + lanes], q[t, first : first + lanes]
                vv, w = v[t, first : first + lanes], precision[t, first : first + lanes]
                by_here = by_variance[t, first : first + lanes]
                for k in range(lanes):
                    direction[k] = reduced[k] * w[k] + by_here[k]
                _change(change, direction, gg, qq, starts, size, fall, drop, by_gain, lanes)
                times(later, gain, size, z, lanes)
                times(both, gain, size, y, lanes)
                times(later, fall, size, lean, lanes)
                dot(gain, z, size, along, lanes)
                dot(gain, y, size, turn, lanes)
                dot(fall, z, size, other, lanes)
                found = by_precision[t, first : first + lanes]
                for k in range(lanes):
                    turn[k] -= 2.0 * other[k]
                    by_q = direction[k] * vv[k] - w[k] * drop[k]
                    moved = (by_q * (vv[k] - 2.0 * along[k] / qq[k]) + turn[k] + reduced[k] * along[k]) / qq[k]
                    found[k] = ((weight[k] + reduced[k]) * vv[k] - drop[k] - moved) / qq[k]
                for i in range(size):  # y becomes the mixed row, z that of the matrix
                    one, two, three = z[i], y[i], lean[i]
                    for k in range(lanes):
                        two[k] = by_gain[k] * one[k] + gg[k] * (two[k] - three[k])
                        one[k] *= gg[k]
                for k in range(lanes):
                    corner[k] = by_gain[k] * (1.0 + 2.0 * gg[k] * along[k]) + gg[k] * (weight[k] + gg[k] * turn[k])
                    along[k] = gg[k] + gg[k] * gg[k] * along[k]
                subtract_heads(later, z, along, heads, size, lanes)
                subtract_heads(both, y, corner, heads, size, lanes)
                if learns:
                    for i in range(size):
                        one = y[i]
                        for k in range(lanes):
                            by_column[i, own[k]] -= 2.0 * one[k]
                    for i in heads:
                        for k in range(lanes):
                            by_column[i, own[k]] += corner[k]
                    if t:
                        for b in range(len(starts)):
                            one = lean[b]
                            _by_step(loss, change, later, both, starts, size, b, one, lanes)
                            for k in range(lanes):
                                by_steps[b, t, own[k]] += 2.0 * one[k]
                if t:
                    steps_at(steps, t, a, e, lanes, own)
                    gather_matrix(later, a, e, starts, size, lanes)
                    gather_matrix(both, a, e, starts, size, lanes)
