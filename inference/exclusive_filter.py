r"""Exclusive residuals given the physics by a Kalman filter: time linear in the dates, compiled, pixels side by side.

The `K` processes of a modality are independent before they are seen and looked at together, :math:`L\,r_t`. So the
recursions of `pi_vae.priors.markov` hold with matrices in the place of its scalars: with the states of all processes
in one, :math:`C` and :math:`H` of a column for each process, and :math:`\Lambda_t = \sum_c \lambda_{tc} L_c L_c^\top`,

.. math:: p = C - D H, \quad v = H^\top p + \epsilon I, \quad M = (I + v \Lambda)^{-1}, \quad g = \Lambda M, \quad
          D \leftarrow A (D + p\,g\,p^\top) A^\top .

`M` comes from :math:`v = F F^\top` as :math:`F (I + F^\top \Lambda F)^{-1} F^{-1}`, which needs no pivots, so that
pixels can be lanes: the last dimension of all arrays, over which every inner loop runs. Draws follow from draws of the
prior (Matheron's rule), as there. All in float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pi_vae.priors.markov.cpu.lanes import compiled
from pi_vae.priors.state_space import StateSpace

__all__ = ["filtered"]

PIXELS = 64  # lanes: enough to hide what a loop costs, few enough for the cache


def filtered(
    left: Tensor,
    seen: Tensor,
    white: Tensor,
    prior: Tensor,
    loading: Tensor,
    noise: Tensor,
    freedom: float,
    process: StateSpace,
    index: Tensor,
    rounds: int,
) -> Tensor:
    """Draws `[D, N, K, T]` given what is left, see `inference.exclusive`.

    Args:
        left: `[D, N, T_m, C]` what the physics leaves.
        seen: `[N, T_m, C]` where it counts.
        white: like ``left``, standard normal numbers.
        prior: `[D, N, K, T]` draws of the processes before they are seen.
        loading: `[C, K]`.
        noise: `[C]` its scale.
        freedom: degrees of freedom of the noise.
        process: the prior of the `K` processes, at sorted dates.
        index: `[T_m]` position of the dates of the modality among all.
        rounds: of weights and processes.
    """
    values, drive, before = (x.detach().movedim(1, -1).double().contiguous().numpy() for x in (left, white, prior))
    weights, scale = (x.detach().double().contiguous().numpy() for x in (loading, noise))
    column, heads = process.column.detach().numpy(), np.array(process.transitions.heads)
    given = (_moves(process), np.ascontiguousarray(column.T), heads, process.nugget)
    drawn = np.empty_like(before)
    looks = seen.movedim(0, -1).contiguous().numpy(), index.numpy(), float(freedom), rounds
    _draw_all(given, looks, values, drive, before, weights, scale, drawn)
    return torch.from_numpy(drawn).movedim(-1, 1).to(left.dtype)


def _moves(process: StateSpace) -> np.ndarray:
    """`[T, K, m, m]`: what each process makes of its state from date to date."""
    variables, dates = process.shape
    size = process.transitions.size
    moves = np.zeros((dates, variables, size, size))
    start = 0
    for filters, steps in zip(process.filters, process.steps, strict=True):
        step = steps.detach().numpy()
        for i in range(filters):
            for j in range(i, filters):
                part = step ** (j - i) / math.factorial(j - i) * np.exp(-step)
                moves[:, :, start + i, start + j] = part
        start += filters
    moves[:, :, -1, -1] = 1.0
    return moves


@compiled
def _draw_all(given, looked, left, white, prior, loading, noise, drawn):
    """Some pixels at a time: rounds of weights of the observations and processes given these, then draws."""
    moves, column, heads, nugget = given
    seen, index, freedom, rounds = looked
    dates, count, size = moves.shape[:3]
    draws, looks, channels, pixels = left.shape
    for first in range(0, pixels, PIXELS):
        lanes = min(PIXELS, pixels - first)
        here = slice(first, first + lanes)
        inner, shrink, g, v, spread = np.empty((5, dates, count, count, lanes))
        p = np.empty((dates, count * size, count, lanes))
        b, mean, lean = np.empty((3, dates, count, lanes))
        weight, square, total = np.zeros((3, looks, channels, lanes))
        for d in range(draws):
            for t in range(looks):
                for c in range(channels):
                    value, valid, found = left[d, t, c, here], seen[t, c, here], square[t, c]
                    for m in range(lanes):
                        found[m] += value[m] ** 2 / draws if valid[m] else 0.0
        for turn in range(rounds):
            inner[:] = 0.0
            for t in range(looks):
                for c in range(channels):
                    found, valid, error = weight[t, c], seen[t, c, here], square[t, c]
                    for m in range(lanes):
                        found[m] = (freedom + 1.0) / (freedom * noise[c] ** 2 + error[m]) if valid[m] else 0.0
                    for k in range(count):
                        for j in range(count):
                            _add(loading[c, k] * loading[c, j], found, inner[index[t], k, j])
            _filter(moves, column, heads, nugget, inner, p, v, g, shrink)
            if turn + 1 == rounds:
                break
            _variances(moves, heads, p, v, g, shrink, spread)
            square[:] = 0.0
            for d in range(draws):
                _weighted(left[d, :, :, here], weight, loading, index, b)
                _smooth(moves, heads, inner, p, v, g, shrink, b, mean, lean)
                for t in range(looks):
                    for c in range(channels):
                        value, valid, found, added = left[d, t, c, here], seen[t, c, here], square[t, c], total[t, c]
                        added[:] = 0.0
                        for k in range(count):
                            _add(loading[c, k], mean[index[t], k], added)
                        for m in range(lanes):
                            found[m] += (value[m] - added[m]) ** 2 / draws if valid[m] else 0.0
            for t in range(looks):
                for c in range(channels):
                    for k in range(count):
                        for j in range(count):
                            _add(loading[c, k] * loading[c, j], spread[index[t], k, j], square[t, c])
        for d in range(draws):
            # The sites of what is left, less those of a draw of the prior that is seen with noise of its own.
            for t in range(looks):
                for c in range(channels):
                    value, drive, found, site = left[d, t, c, here], white[d, t, c, here], weight[t, c], total[t, c]
                    for m in range(lanes):
                        site[m] = value[m] - drive[m] / np.sqrt(found[m]) if found[m] > 0.0 else 0.0
                    for k in range(count):
                        _add(-loading[c, k], prior[d, k, index[t], here], site)
            _weighted(total, weight, loading, index, b)
            _smooth(moves, heads, inner, p, v, g, shrink, b, mean, lean)
            for k in range(count):
                for t in range(dates):
                    found, start, more = drawn[d, k, t, here], prior[d, k, t, here], mean[t, k]
                    for m in range(lanes):
                        found[m] = start[m] + more[m]


@compiled
def _weighted(value, weight, loading, index, b):
    """b = sum over channels of L w e."""
    b[:] = 0.0
    for t in range(len(value)):
        for c in range(len(loading)):
            row, found = value[t, c], weight[t, c]
            for k in range(loading.shape[1]):
                total = b[index[t], k]
                for m in range(len(total)):
                    total[m] += loading[c, k] * found[m] * row[m]


@compiled
def _filter(moves, column, heads, nugget, inner, p, v, g, shrink):
    """p, v, g and M of every date."""
    dates, count, size = moves.shape[:3]
    every, lanes = count * size, inner.shape[-1]
    loss, image = np.zeros((every, every, lanes)), np.empty((every, count, lanes))
    work = np.empty((4, count, count, lanes))
    for t in range(dates):
        if t:
            _both_sides(moves[t], False, loss)  # D <- A D A'
        for i in range(every):
            for k in range(count):
                p[t, i, k] = column[k, i - k * size] if i // size == k else 0.0
                for h in heads:
                    _add(-1.0, loss[i, k * size + h], p[t, i, k])
        for k in range(count):
            for j in range(count):
                v[t, k, j] = nugget if k == j else 0.0
                for h in heads:
                    _add(1.0, p[t, k * size + h, j], v[t, k, j])
        _shrinkage(v[t], inner[t], work, shrink[t])
        _product(inner[t], False, shrink[t], False, g[t])
        _product(p[t], False, g[t], False, image)
        _more_product(1.0, image, False, p[t], True, loss)


@compiled
def _smooth(moves, heads, inner, p, v, g, shrink, b, mean, lean):
    """Posterior means, and their weights, of sites with weighted means b."""
    dates, count, size = moves.shape[:3]
    x, ahead = np.zeros((count * size, b.shape[-1])), np.empty((count, b.shape[-1]))
    for t in range(dates):
        if t:
            _move(moves[t], False, x)
        mean[t] = 0.0
        for k in range(count):
            for h in heads:
                _add(1.0, x[k * size + h], mean[t, k])
        ahead[:] = b[t]
        lean[t] = 0.0
        _apply(-1.0, inner[t], False, mean[t], ahead)
        _apply(1.0, shrink[t], True, ahead, lean[t])
        _apply(1.0, p[t], False, lean[t], x)
    x[:] = 0.0
    for t in range(dates - 1, -1, -1):
        ahead[:] = 0.0
        _apply(1.0, p[t], True, x, ahead)
        _apply(-1.0, g[t], False, ahead, lean[t])
        for k in range(count):
            _add(1.0, ahead[k], mean[t, k])
            for h in heads:
                _add(1.0, lean[t, k], x[k * size + h])
        _apply(1.0, v[t], False, lean[t], mean[t])
        _move(moves[t], True, x)


@compiled
def _variances(moves, heads, p, v, g, shrink, spread):
    """Posterior covariances `[T, K, K]` of the processes at a date."""
    dates, count, size = moves.shape[:3]
    every, lanes = count * size, v.shape[-1]
    later, z, image = np.zeros((every, every, lanes)), np.empty((every, count, lanes)), np.empty((every, count, lanes))
    along, corner, both = np.empty((3, count, count, lanes))
    for t in range(dates - 1, -1, -1):
        _product(later, False, p[t], False, z)
        _product(p[t], True, z, False, along)
        both[:] = v[t]
        _more_product(-1.0, along, False, shrink[t], True, both)
        _product(shrink[t], False, both, False, spread[t])
        if not t:
            break
        _product(g[t], False, along, False, both)
        corner[:] = g[t]
        _more_product(1.0, both, False, g[t], False, corner)
        _product(z, False, g[t], False, image)
        for k in range(count):
            for h in heads:
                for i in range(every):
                    _add(-1.0, image[i, k], later[k * size + h, i])
                    _add(-1.0, image[i, k], later[i, k * size + h])
                for j in range(count):
                    for i in heads:
                        _add(1.0, corner[k, j], later[k * size + h, j * size + i])
        _both_sides(moves[t], True, later)  # N <- A' N A


@compiled
def _shrinkage(v, inner, work, out):
    """M = (I + v Lambda)^-1."""
    factor, back, seen, image = work
    _root(v, factor, back)
    _product(inner, False, factor, False, image)
    _product(factor, True, image, False, seen)
    for i in range(len(seen)):
        _add_number(1.0, seen[i, i])
    _root(seen, image, out)
    _product(out, True, out, False, seen)  # the inverse is that of the root, squared
    _product(factor, False, seen, False, image)
    _product(image, False, back, False, out)


@compiled
def _root(a, factor, inverse):
    """Lower triangular root of a positive matrix, and its inverse."""
    factor[:] = 0.0
    inverse[:] = 0.0
    for m in range(a.shape[-1]):
        for j in range(len(a)):
            for i in range(j, len(a)):
                total = a[i, j, m]
                for k in range(j):
                    total -= factor[i, k, m] * factor[j, k, m]
                factor[i, j, m] = np.sqrt(total) if i == j else total / factor[j, j, m]
        for j in range(len(a)):
            inverse[j, j, m] = 1.0 / factor[j, j, m]
            for i in range(j + 1, len(a)):
                total = 0.0
                for k in range(j, i):
                    total -= factor[i, k, m] * inverse[k, j, m]
                inverse[i, j, m] = total / factor[i, i, m]


@compiled
def _both_sides(moves, turned, matrix):
    """A D A' in place, or A' D A."""
    size = len(matrix)
    _move(moves, turned, matrix.reshape(size, -1))
    for i in range(size):
        _move(moves, turned, matrix[i])


@compiled
def _move(moves, turned, x):
    """x <- A x, or A' x, in place and of every lane: A is upper triangular for each of `K` processes."""
    count, size = moves.shape[:2]
    for k in range(count):
        for row in range(size):
            i = size - 1 - row if turned else row
            to = x[k * size + i]
            for m in range(len(to)):
                to[m] *= moves[k, i, i]
            for j in range(size):
                step = moves[k, j, i] if turned else moves[k, i, j]
                if j != i and step != 0.0:
                    _add(step, x[k * size + j], to)


@compiled
def _product(a, turned, b, over, out):
    """out = a b, or with the transposed of either."""
    out[:] = 0.0
    _more_product(1.0, a, turned, b, over, out)


@compiled
def _more_product(scale, a, turned, b, over, out):
    """out += scale a b."""
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            total = out[i, k]
            for j in range(a.shape[0] if turned else a.shape[1]):
                x, y = a[j, i] if turned else a[i, j], b[k, j] if over else b[j, k]
                for m in range(len(total)):
                    total[m] += scale * x[m] * y[m]


@compiled
def _apply(scale, a, turned, x, out):
    """out += scale a x."""
    for i in range(len(out)):
        total = out[i]
        for j in range(len(x)):
            weight, value = a[j, i] if turned else a[i, j], x[j]
            for m in range(len(total)):
                total[m] += scale * weight[m] * value[m]


@compiled
def _add(scale, x, out):
    for m in range(len(out)):
        out[m] += scale * x[m]


@compiled
def _add_number(number, out):
    for m in range(len(out)):
        out[m] += number
