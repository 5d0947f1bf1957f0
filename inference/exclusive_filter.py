r"""Exclusive residuals given the physics by a Kalman filter: time linear in the dates, compiled, pixel by pixel.

The `K` processes of a modality are independent before they are seen and looked at together, :math:`L\,r_t`. So the
recursions of `pi_vae.priors.markov` hold with matrices in the place of its scalars: with the states of all processes
in one, :math:`C` and :math:`H` of a column for each process, and :math:`\Lambda_t = \sum_c \lambda_{tc} L_c L_c^\top`,

.. math:: p = C - D H, \quad v = H^\top p + \epsilon I, \quad M = (I + v \Lambda)^{-1}, \quad g = \Lambda M, \quad
          D \leftarrow A (D + p\,g\,p^\top) A^\top .

Draws follow from draws of the prior (Matheron's rule), as there. All in float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pi_vae.priors.markov.cpu.lanes import compiled
from pi_vae.priors.state_space import StateSpace

__all__ = ["filtered"]


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
    values, drive, before, weights, scale = (
        x.detach().double().contiguous().numpy() for x in (left, white, prior, loading, noise)
    )
    column, heads = process.column.detach().numpy(), np.array(process.transitions.heads)
    given = (_moves(process), np.ascontiguousarray(column.T), heads, process.nugget)
    drawn = np.empty_like(before)
    looks = seen.contiguous().numpy(), index.numpy(), float(freedom), rounds
    _draw_all(given, looks, values, drive, before, weights, scale, drawn)
    return torch.from_numpy(drawn).to(left.dtype)


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
    """Pixel by pixel: rounds of weights of the observations and processes given these, then draws."""
    moves, column, heads, nugget = given
    seen, index, freedom, rounds = looked
    dates, count, size = moves.shape[:3]
    draws, pixels, looks, channels = left.shape
    inner, shrink, g, v, spread = np.empty((5, dates, count, count))
    p, b, mean = np.empty((dates, count * size, count)), np.empty((dates, count)), np.empty((dates, count))
    lean = np.empty((dates, count))
    weight, square, total = np.empty((looks, channels)), np.empty((looks, channels)), np.empty((looks, channels))
    for n in range(pixels):
        square[:] = 0.0
        for d in range(draws):
            for t in range(looks):
                for c in range(channels):
                    if seen[n, t, c]:
                        square[t, c] += left[d, n, t, c] ** 2 / draws
        for turn in range(rounds):
            inner[:] = 0.0
            for t in range(looks):
                for c in range(channels):
                    found = (freedom + 1.0) / (freedom * noise[c] ** 2 + square[t, c])
                    weight[t, c] = found if seen[n, t, c] else 0.0
                    for k in range(count):
                        for j in range(count):
                            inner[index[t], k, j] += weight[t, c] * loading[c, k] * loading[c, j]
            _filter(moves, column, heads, nugget, inner, p, v, g, shrink)
            if turn + 1 == rounds:
                break
            _variances(moves, heads, p, v, g, shrink, spread)
            total[:] = 0.0
            for d in range(draws):
                _weighted(left[d, n], seen[n], weight, loading, index, b)
                _smooth(moves, heads, inner, p, v, g, shrink, b, mean, lean)
                for t in range(looks):
                    for c in range(channels):
                        if seen[n, t, c]:
                            total[t, c] += (left[d, n, t, c] - _dot(loading[c], mean[index[t]])) ** 2 / draws
            for t in range(looks):
                for c in range(channels):
                    for k in range(count):
                        for j in range(count):
                            total[t, c] += loading[c, k] * spread[index[t], k, j] * loading[c, j]
            square[:] = total
        for d in range(draws):
            # The sites of what is left, less those of a draw of the prior that is seen with noise of its own.
            for t in range(looks):
                for c in range(channels):
                    total[t, c] = 0.0
                    if weight[t, c] > 0.0:
                        lies = _dot(loading[c], prior[d, n, :, index[t]])
                        total[t, c] = left[d, n, t, c] - lies - white[d, n, t, c] / np.sqrt(weight[t, c])
            _weighted(total, seen[n], weight, loading, index, b)
            _smooth(moves, heads, inner, p, v, g, shrink, b, mean, lean)
            for t in range(dates):
                for k in range(count):
                    drawn[d, n, k, t] = prior[d, n, k, t] + mean[t, k]


@compiled
def _weighted(value, seen, weight, loading, index, b):
    """b = sum over channels of L w e."""
    b[:] = 0.0
    for t in range(len(value)):
        for c in range(len(loading)):
            if seen[t, c]:
                for k in range(loading.shape[1]):
                    b[index[t], k] += loading[c, k] * weight[t, c] * value[t, c]


@compiled
def _filter(moves, column, heads, nugget, inner, p, v, g, shrink):
    """p, v, g and M of every date."""
    dates, count, size = moves.shape[:3]
    every = count * size
    loss, image, both = np.zeros((every, every)), np.empty((every, count)), np.empty((count, count))
    for t in range(dates):
        if t:
            for k in range(count):  # D <- A D A'
                for j in range(every):
                    _up(moves[t, k], loss[k * size : (k + 1) * size, j])
            for k in range(count):
                for j in range(every):
                    _up(moves[t, k], loss[j, k * size : (k + 1) * size])
        for i in range(every):
            for k in range(count):
                total = column[k, i - k * size] if i // size == k else 0.0
                for h in heads:
                    total -= loss[i, k * size + h]
                p[t, i, k] = total
        for k in range(count):
            for j in range(count):
                total = nugget if k == j else 0.0
                for h in heads:
                    total += p[t, k * size + h, j]
                v[t, k, j] = total
        _product(v[t], inner[t], both)
        for k in range(count):
            both[k, k] += 1.0
        _invert(both, shrink[t])
        _product(inner[t], shrink[t], g[t])
        _product(p[t], g[t], image)
        for i in range(every):
            for j in range(every):
                for k in range(count):
                    loss[i, j] += image[i, k] * p[t, j, k]


@compiled
def _smooth(moves, heads, inner, p, v, g, shrink, b, mean, lean):
    """Posterior means, and their weights, of sites with weighted means b."""
    dates, count, size = moves.shape[:3]
    x, ahead = np.zeros(count * size), np.empty(count)
    for t in range(dates):
        for k in range(count):
            state = x[k * size : (k + 1) * size]
            if t:
                _up(moves[t, k], state)
            mean[t, k] = 0.0
            for h in heads:
                mean[t, k] += state[h]
        for k in range(count):
            ahead[k] = b[t, k]
            for j in range(count):
                ahead[k] -= inner[t, k, j] * mean[t, j]
        for k in range(count):
            lean[t, k] = 0.0
            for j in range(count):
                lean[t, k] += shrink[t, j, k] * ahead[j]
        for i in range(count * size):
            for k in range(count):
                x[i] += p[t, i, k] * lean[t, k]
    x[:] = 0.0
    for t in range(dates - 1, -1, -1):
        for k in range(count):
            ahead[k] = 0.0
            for i in range(count * size):
                ahead[k] += p[t, i, k] * x[i]
        for k in range(count):
            for j in range(count):
                lean[t, k] -= g[t, k, j] * ahead[j]
        for k in range(count):
            mean[t, k] += ahead[k]
            for j in range(count):
                mean[t, k] += v[t, k, j] * lean[t, j]
        if t:
            for k in range(count):
                state = x[k * size : (k + 1) * size]
                for h in heads:
                    state[h] += lean[t, k]
                _down(moves[t, k], state)


@compiled
def _variances(moves, heads, p, v, g, shrink, spread):
    """Posterior covariances `[T, K, K]` of the processes at a date."""
    dates, count, size = moves.shape[:3]
    every = count * size
    later, z, image = np.zeros((every, every)), np.empty((every, count)), np.empty((every, count))
    along, corner, both = np.empty((3, count, count))
    for t in range(dates - 1, -1, -1):
        _product(later, p[t], z)
        _product(p[t].T, z, along)
        _product(along, shrink[t].T, both)
        for k in range(count):
            for j in range(count):
                both[k, j] = v[t, k, j] - both[k, j]
        _product(shrink[t], both, spread[t])
        if not t:
            break
        _product(g[t], along, both)
        _product(both, g[t], corner)
        corner += g[t]
        _product(z, g[t], image)
        for k in range(count):
            for h in heads:
                for i in range(every):
                    later[k * size + h, i] -= image[i, k]
                    later[i, k * size + h] -= image[i, k]
        for k in range(count):
            for j in range(count):
                for h in heads:
                    for i in heads:
                        later[k * size + h, j * size + i] += corner[k, j]
        for k in range(count):  # N <- A' N A
            for j in range(every):
                _down(moves[t, k], later[k * size : (k + 1) * size, j])
        for k in range(count):
            for j in range(every):
                _down(moves[t, k], later[j, k * size : (k + 1) * size])


@compiled
def _invert(a, out):
    """Gauss and Jordan, with pivots; ``a`` is used up."""
    size = len(a)
    out[:] = 0.0
    for i in range(size):
        out[i, i] = 1.0
    for i in range(size):
        best = i
        for j in range(i + 1, size):
            if abs(a[j, i]) > abs(a[best, i]):
                best = j
        if best != i:
            for k in range(size):
                a[i, k], a[best, k] = a[best, k], a[i, k]
                out[i, k], out[best, k] = out[best, k], out[i, k]
        pivot = 1.0 / a[i, i]
        for k in range(size):
            a[i, k] *= pivot
            out[i, k] *= pivot
        for j in range(size):
            if j != i:
                factor = a[j, i]
                for k in range(size):
                    a[j, k] -= factor * a[i, k]
                    out[j, k] -= factor * out[i, k]


@compiled
def _up(move, x):
    """x <- A x, in place: A is upper triangular."""
    for i in range(len(x)):
        total = 0.0
        for j in range(i, len(x)):
            total += move[i, j] * x[j]
        x[i] = total


@compiled
def _down(move, x):
    """x <- A' x."""
    for i in range(len(x) - 1, -1, -1):
        total = 0.0
        for j in range(i + 1):
            total += move[j, i] * x[j]
        x[i] = total


@compiled
def _dot(a, b):
    total = 0.0
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@compiled
def _product(a, b, out):
    for i in range(a.shape[0]):
        for k in range(b.shape[1]):
            total = 0.0
            for j in range(a.shape[1]):
                total += a[i, j] * b[j, k]
            out[i, k] = total
