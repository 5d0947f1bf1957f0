"""Series side by side as lanes of an array, and the little algebra of states that the recursions share.

Lane `m` of `V n` is series `m % n` of variable `m // n`. A state is `[size, lanes]`, a matrix `[size * size, lanes]`:
every loop runs over lanes that lie next to each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = [
    "back",
    "compiled",
    "dot",
    "gather_matrix",
    "head",
    "heads_of",
    "LANES",
    "Gains",
    "load",
    "load_gain",
    "move",
    "spread_matrix",
    "Steps",
    "steps_at",
    "subtract_heads",
    "times",
    "variables_of",
]

LANES = 256  # enough to hide what a loop costs and to read memory in long rows, few enough for the cache

compiled = njit(nogil=True, cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")


class Steps(NamedTuple):
    """Transitions: steps and decays `[B, T, V]`, the first component of each block, and the number of components."""

    step: np.ndarray
    decay: np.ndarray
    starts: np.ndarray
    size: int


class Gains(NamedTuple):
    """Precisions `[T, V n]` and what the filter makes of them: p `[T, size, V n]`, the others `[T, V n]`."""

    precision: np.ndarray
    p: np.ndarray
    g: np.ndarray
    q: np.ndarray
    v: np.ndarray


@compiled
def variables_of(first, lanes, series, own):
    """The variable of every lane."""
    for k in range(lanes):
        own[k] = (first + k) // series


@compiled
def load(here, row, first, lanes, own, shared):
    """Lanes of a date; of one value per variable where series share it."""
    if shared:
        for k in range(lanes):
            row[k] = here[own[k]]
    else:
        for k in range(lanes):
            row[k] = here[first + k]


@compiled
def load_gain(p, t, gain, first, size, lanes):
    for i in range(size):
        here, there = gain[i], p[t, i, first : first + lanes]
        for k in range(lanes):
            here[k] = there[k]


@compiled
def steps_at(steps, t, a, e, lanes, own):
    for b in range(len(steps.starts)):
        step, decay = steps.step[b, t], steps.decay[b, t]
        for k in range(lanes):
            a[b, k] = step[own[k]]
            e[b, k] = decay[own[k]]


@compiled
def move(x, base, stride, a, e, starts, size, lanes):
    """x <- A x, where component i is row ``base + i * stride``."""
    for b in range(len(starts)):
        end = starts[b + 1] if b + 1 < len(starts) else size - 1
        step, decay = a[b], e[b]
        for i in range(starts[b], end):
            here = x[base + i * stride]
            if i + 1 < end:
                one = x[base + (i + 1) * stride]
                if i + 2 < end:
                    two = x[base + (i + 2) * stride]
                    for k in range(lanes):
                        here[k] += step[k] * (one[k] + 0.5 * step[k] * two[k])
                else:
                    for k in range(lanes):
                        here[k] += step[k] * one[k]
            for k in range(lanes):
                here[k] *= decay[k]


@compiled
def back(x, base, stride, a, e, starts, size, lanes):
    """x <- A' x, where component i is row ``base + i * stride``."""
    for b in range(len(starts)):
        end = starts[b + 1] if b + 1 < len(starts) else size - 1
        step, decay = a[b], e[b]
        for i in range(end - 1, starts[b] - 1, -1):
            here = x[base + i * stride]
            if i - 1 >= starts[b]:
                one = x[base + (i - 1) * stride]
                if i - 2 >= starts[b]:
                    two = x[base + (i - 2) * stride]
                    for k in range(lanes):
                        here[k] += step[k] * (one[k] + 0.5 * step[k] * two[k])
                else:
                    for k in range(lanes):
                        here[k] += step[k] * one[k]
            for k in range(lanes):
                here[k] *= decay[k]


@compiled
def spread_matrix(matrix, a, e, starts, size, lanes):
    """M <- A M A', for `[size * size, lanes]`."""
    for j in range(size):
        move(matrix, j, size, a, e, starts, size, lanes)
    for i in range(size):
        move(matrix, i * size, 1, a, e, starts, size, lanes)


@compiled
def gather_matrix(matrix, a, e, starts, size, lanes):
    """M <- A' M A, for `[size * size, lanes]`."""
    for j in range(size):
        back(matrix, j, size, a, e, starts, size, lanes)
    for i in range(size):
        back(matrix, i * size, 1, a, e, starts, size, lanes)


@compiled
def head(x, base, starts, size, out, lanes):
    """h' x."""
    last = x[base + size - 1]
    for k in range(lanes):
        out[k] = last[k]
    for b in range(len(starts)):
        here = x[base + starts[b]]
        for k in range(lanes):
            out[k] += here[k]


@compiled
def heads_of(starts, size):
    heads = np.empty(len(starts) + 1, np.intp)
    heads[:-1] = starts
    heads[-1] = size - 1
    return heads


@compiled
def times(matrix, x, size, out, lanes):
    """M x."""
    for i in range(size):
        total = out[i]
        total[:] = 0.0
        for j in range(size):
            entry, here = matrix[i * size + j], x[j]
            for k in range(lanes):
                total[k] += entry[k] * here[k]


@compiled
def dot(first, second, size, out, lanes):
    out[:] = 0.0
    for i in range(size):
        one, two = first[i], second[i]
        for k in range(lanes):
            out[k] += one[k] * two[k]


@compiled
def subtract_heads(matrix, row, corner, heads, size, lanes):
    """M <- M - h row' - row h' + corner h h'."""
    for i in heads:
        for j in range(size):
            here, there, value = matrix[i * size + j], matrix[j * size + i], row[j]
            for k in range(lanes):
                here[k] -= value[k]
            for k in range(lanes):
                there[k] -= value[k]
        for j in heads:
            here = matrix[i * size + j]
            for k in range(lanes):
                here[k] += corner[k]
