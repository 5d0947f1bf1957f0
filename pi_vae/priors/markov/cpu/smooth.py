"""Gains of the filter; posterior means, their weights, and how both depend on the covariance."""

from __future__ import annotations

import numpy as np

from pi_vae.priors.markov.cpu.lanes import (
    LANES,
    back,
    compiled,
    head,
    heads_of,
    load,
    move,
    spread_matrix,
    steps_at,
    variables_of,
)

__all__ = ["filter_pass", "smooth_pass", "along_steps"]


@compiled
def filter_pass(steps, column, nugget, gains):
    """Fill in the gains of their precisions; ``column`` is `[size, V]`."""
    precision, p, g, q, v = gains
    dates, total = precision.shape
    size, starts, series = steps.size, steps.starts, total // steps.step.shape[2]
    loss, gain = np.empty((size * size, LANES)), np.empty((size, LANES))
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    c, row, own = np.empty((size, LANES)), np.empty(LANES), np.empty(LANES, np.intp)
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        loss[:] = 0.0
        for i in range(size):
            load(column[i], c[i], first, lanes, own, True)
        for t in range(dates):
            if t:
                steps_at(steps, t, a, e, lanes, own)
                spread_matrix(loss, a, e, starts, size, lanes)
            for i in range(size):
                head(loss, i * size, starts, size, row, lanes)
                here, found, mean = gain[i], p[t, i, first : first + lanes], c[i]
                for k in range(lanes):
                    here[k] = mean[k] - row[k]
                    found[k] = here[k]
            head(gain, 0, starts, size, row, lanes)
            weight, found_g = precision[t, first : first + lanes], g[t, first : first + lanes]
            found_q, found_v = q[t, first : first + lanes], v[t, first : first + lanes]
            for k in range(lanes):
                found_v[k] = row[k] + nugget
                found_q[k] = 1.0 + weight[k] * found_v[k]
                found_g[k] = weight[k] / found_q[k]
            for i in range(size):
                one = gain[i]
                for j in range(size):
                    entry, two = loss[i * size + j], gain[j]
                    for k in range(lanes):
                        entry[k] += found_g[k] * one[k] * two[k]


@compiled
def smooth_pass(steps, gains, weighted, less, mean, weights):
    """Posterior means and weights of `[T, S, V n]` weighted site means, less the precisions times what is in ``less``.

    Gains of `n = 1` serve all series.
    """
    precision, p, g, q, v = gains
    dates, draws, total = weighted.shape
    size, starts = steps.size, steps.starts
    shared, has_less, series = precision.shape[1] != total, less.size > 0, total // steps.step.shape[2]
    heads, own = heads_of(starts, size), np.empty(LANES, np.intp)
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    x, gain = np.empty((size, LANES)), np.empty(LANES)
    w, gg, qq, vv, expected = np.empty((5, LANES))
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        for s in range(draws):
            x[:] = 0.0
            for t in range(dates):
                if t:
                    steps_at(steps, t, a, e, lanes, own)
                    move(x, 0, 1, a, e, starts, size, lanes)
                head(x, 0, starts, size, expected, lanes)
                load(precision[t], w, first, lanes, own, shared)
                load(q[t], qq, first, lanes, own, shared)
                site, means, leans = (
                    weighted[t, s, first : first + lanes],
                    mean[t, s, first : first + lanes],
                    weights[t, s, first : first + lanes],
                )
                if has_less:
                    more = less[t, s, first : first + lanes]
                    for k in range(lanes):
                        leans[k] = (site[k] - w[k] * (expected[k] + more[k])) / qq[k]
                else:
                    for k in range(lanes):
                        leans[k] = (site[k] - w[k] * expected[k]) / qq[k]
                for k in range(lanes):
                    means[k] = expected[k]
                for i in range(size):
                    load(p[t, i], gain, first, lanes, own, shared)
                    here = x[i]
                    for k in range(lanes):
                        here[k] += gain[k] * leans[k]
            x[:] = 0.0
            for t in range(dates - 1, -1, -1):
                expected[:] = 0.0
                for i in range(size):
                    load(p[t, i], gain, first, lanes, own, shared)
                    here = x[i]
                    for k in range(lanes):
                        expected[k] += gain[k] * here[k]
                load(g[t], gg, first, lanes, own, shared)
                load(v[t], vv, first, lanes, own, shared)
                means, leans = mean[t, s, first : first + lanes], weights[t, s, first : first + lanes]
                for k in range(lanes):
                    leans[k] -= gg[k] * expected[k]
                    means[k] += expected[k] + leans[k] * vv[k]
                if t:
                    for h in heads:
                        here = x[h]
                        for k in range(lanes):
                            here[k] += leans[k]
                    steps_at(steps, t, a, e, lanes, own)
                    back(x, 0, 1, a, e, starts, size, lanes)


@compiled
def along_steps(steps, column, first_value, second_value, by_column, by_steps):
    """Derivatives of first' K second, `[T, S, V n]` both, by the column and by the steps."""
    dates, draws, total = first_value.shape
    size, starts, series = steps.size, steps.starts, total // steps.step.shape[2]
    heads, own = heads_of(starts, size), np.empty(LANES, np.intp)
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    c, arrived, rest = np.empty((size, LANES)), np.empty((2, dates, size, LANES)), np.empty((2, size, LANES))
    out = np.empty(LANES)
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        for i in range(size):
            load(column[i], c[i], first, lanes, own, True)
        for s in range(draws):
            for one in range(2):
                values = first_value if one == 0 else second_value
                arrived[one, 0] = 0.0
                for t in range(1, dates):
                    before = values[t - 1, s, first : first + lanes]
                    steps_at(steps, t, a, e, lanes, own)
                    for i in range(size):
                        here, there, start = arrived[one, t, i], arrived[one, t - 1, i], c[i]
                        for k in range(lanes):
                            here[k] = there[k] + start[k] * before[k]
                    move(arrived[one, t], 0, 1, a, e, starts, size, lanes)
            rest[:] = 0.0
            for t in range(dates - 1, -1, -1):
                one, two = first_value[t, s, first : first + lanes], second_value[t, s, first : first + lanes]
                for i in range(size):
                    here, there = rest[0, i], rest[1, i]
                    for k in range(lanes):
                        by_column[i, own[k]] += one[k] * there[k] + two[k] * here[k]
                for i in heads:
                    for k in range(lanes):
                        by_column[i, own[k]] += one[k] * two[k]
                if not t:
                    break
                for i in heads:
                    here, there = rest[0, i], rest[1, i]
                    for k in range(lanes):
                        here[k] += one[k]
                    for k in range(lanes):
                        there[k] += two[k]
                for b in range(len(starts)):
                    out[:] = 0.0
                    end = starts[b + 1] if b + 1 < len(starts) else size - 1
                    for i in range(starts[b], end):
                        for n in range(2):
                            weight, here = rest[1 - n, i], arrived[n, t, i]
                            for k in range(lanes):
                                out[k] += weight[k] * here[k]
                            if i + 1 < end:
                                here = arrived[n, t, i + 1]
                                for k in range(lanes):
                                    out[k] -= weight[k] * here[k]
                    for k in range(lanes):
                        by_steps[b, t, own[k]] -= out[k]
                steps_at(steps, t, a, e, lanes, own)
                back(rest[0], 0, 1, a, e, starts, size, lanes)
                back(rest[1], 0, 1, a, e, starts, size, lanes)
