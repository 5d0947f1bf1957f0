"""Draws of a Markov process."""

from __future__ import annotations

import numpy as np

from pi_vae.priors.markov.cpu.lanes import LANES, back, compiled, head, heads_of, move, steps_at, variables_of

__all__ = ["simulate_pass", "simulate_adjoint"]


@compiled
def _course(steps, noise, level, factors, s, first, lanes, own, a, e, states):
    """States `[T, size, lanes]` of a draw."""
    size, starts = steps.size, steps.starts
    states[0] = 0.0
    last, drive = states[0, size - 1], noise[size - 1, 0, s, first : first + lanes]
    for k in range(lanes):
        last[k] = level[own[k]] * drive[k]
    for t in range(len(states)):
        if t:
            states[t] = states[t - 1]
            steps_at(steps, t, a, e, lanes, own)
            move(states[t], 0, 1, a, e, starts, size, lanes)
        for b in range(len(starts)):
            end = starts[b + 1] if b + 1 < len(starts) else size - 1
            for i in range(starts[b], end):
                here = states[t, i]
                for j in range(starts[b], i + 1):
                    drive = noise[j, t, s, first : first + lanes]
                    for k in range(lanes):
                        here[k] += factors[t, own[k], i, j - starts[b]] * drive[k]


@compiled
def simulate_pass(steps, noise, nugget, level, factors, draws):
    """Draws `[T, S, V n]` from noise `[size + 1, T, S, V n]`; factors are `[T, V, size - 1, d]`."""
    _, dates, count, total = noise.shape
    size, starts, series = steps.size, steps.starts, total // steps.step.shape[2]
    own, out = np.empty(LANES, np.intp), np.empty(LANES)
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    states = np.empty((dates, size, LANES))
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        for s in range(count):
            _course(steps, noise, level, factors, s, first, lanes, own, a, e, states)
            for t in range(dates):
                head(states[t], 0, starts, size, out, lanes)
                found, drive = draws[t, s, first : first + lanes], noise[size, t, s, first : first + lanes]
                for k in range(lanes):
                    found[k] = out[k] + nugget * drive[k]


@compiled
def simulate_adjoint(steps, noise, level, factors, by_draws, by_level, by_steps, by_factors):
    """Derivatives of `simulate_pass` by the level, the steps and the factors."""
    _, dates, count, total = noise.shape
    size, starts, series = steps.size, steps.starts, total // steps.step.shape[2]
    heads, own = heads_of(starts, size), np.empty(LANES, np.intp)
    a, e = np.empty((len(starts), LANES)), np.empty((len(starts), LANES))
    states, weight = np.empty((dates, size, LANES)), np.empty((size, LANES))
    for first in range(0, total, LANES):
        lanes = min(LANES, total - first)
        variables_of(first, lanes, series, own)
        for s in range(count):
            _course(steps, noise, level, factors, s, first, lanes, own, a, e, states)
            weight[:] = 0.0
            for t in range(dates - 1, -1, -1):
                given, came = by_draws[t, s, first : first + lanes], states[t]
                for i in heads:
                    here = weight[i]
                    for k in range(lanes):
                        here[k] += given[k]
                for b in range(len(starts)):
                    end = starts[b + 1] if b + 1 < len(starts) else size - 1
                    for i in range(starts[b], end):
                        here, state = weight[i], came[i]
                        for j in range(starts[b], i + 1):
                            drive = noise[j, t, s, first : first + lanes]
                            for k in range(lanes):
                                by_factors[t, own[k], i, j - starts[b]] += here[k] * drive[k]
                                # What the noise of the date brought did not pass the step to it.
                                state[k] -= factors[t, own[k], i, j - starts[b]] * drive[k]
                    for i in range(starts[b], end):
                        here, state = weight[i], came[i]
                        if t and i + 1 < end:
                            above = came[i + 1]
                            for k in range(lanes):
                                by_steps[b, t, own[k]] -= here[k] * (state[k] - above[k])
                        elif t:
                            for k in range(lanes):
                                by_steps[b, t, own[k]] -= here[k] * state[k]
                if t:
                    steps_at(steps, t, a, e, lanes, own)
                    back(weight, 0, 1, a, e, starts, size, lanes)
            last, drive = weight[size - 1], noise[size - 1, 0, s, first : first + lanes]
            for k in range(lanes):
                by_level[own[k]] += last[k] * drive[k]
