"""The filter, and the little algebra of states and symmetric matrices that the recursions share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pi_vae.priors.markov.cascade import Matrix, State, Transitions

if TYPE_CHECKING:
    from pi_vae.priors.markov.cpu import Lanes

__all__ = ["Filter", "Gains", "add_heads", "add_outer", "dot", "summed"]


class Filter:
    """The filter of given precisions.

    Args:
        transitions: of the state.
        column: `[size, V]` the vector c of every variable.
        nugget: variance :math:`\\epsilon` of what differs from date to date.
        precision: `[G, T, V, n]`, float64; `G = n = 1` where all series share it.

    Attributes:
        lanes: what was found on a processor, compiled; None on an accelerator.
        gains: what was found on an accelerator.
    """

    gains: Gains

    def __init__(self, transitions: Transitions, column: Tensor, nugget: float, precision: Tensor) -> None:
        self.transitions, self.nugget, self.precision = transitions, nugget, precision.detach()
        self.column = [c.unsqueeze(-1) for c in column.detach().unbind(0)]
        self.lanes: Lanes | None = None
        if transitions.compiled:
            from pi_vae.priors.markov.cpu import Lanes  # imports numba

            self.lanes = Lanes(transitions.arrays, column, nugget, precision)
        else:
            self.gains = self._run(self.precision[0].unbind(0))

    def _run(self, precision: Sequence[Tensor]) -> Gains:
        move = self.transitions
        found = Gains([], [], [], [])
        loss = move.nothing(precision[0])
        for t, weight in enumerate(precision):
            if t:
                loss = move.spread(loss, t)
            p = [c - move.head(row) for c, row in zip(self.column, loss, strict=True)]
            v = move.head(p) + self.nugget
            q = torch.addcmul(torch.ones_like(v), weight, v)
            g = weight / q
            found.p.append(p)
            for values, value in ((found.g, g), (found.q, q), (found.v, v)):
                values.append(value)
            loss = add_outer(loss, [g * x for x in p], p)
        return found

    def of(self, v: int) -> Filter:
        """The same of one variable alone; it can smooth."""
        part, one = copy.copy(self), slice(v, v + 1)
        part.transitions, part.precision = self.transitions.of(v), self.precision[:, :, one]
        part.column = [c[one] for c in self.column]
        if self.lanes is None:
            part.gains = self.gains.of(one)
        else:
            part.lanes = self.lanes.of(v)
        return part


@dataclass
class Gains:
    """What the filter found at every date."""

    p: list[State]
    g: list[Tensor]
    q: list[Tensor]
    v: list[Tensor]

    def of(self, one: slice) -> Gains:
        """The same of some variables."""
        return Gains([[x[one] for x in p] for p in self.p], *([x[one] for x in y] for y in (self.g, self.q, self.v)))


def add_outer(matrix: Matrix, first: State, second: State) -> Matrix:
    """matrix + first second', of which the upper half is computed: it, or two calls together, must be symmetric."""
    size = len(first)
    result: list[list[Any]] = [[None] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            result[i][j] = result[j][i] = torch.addcmul(matrix[i][j], first[i], second[j])
    return result


def add_heads(move: Transitions, state: State, value: Tensor) -> State:
    """state + h value."""
    return [x + value if i in move.heads else x for i, x in enumerate(state)]


def dot(first: State, second: State) -> Tensor:
    total = first[0] * second[0]
    for a, b in zip(first[1:], second[1:], strict=True):
        total = torch.addcmul(total, a, b)
    return total


def summed(value: Tensor) -> Tensor:
    """`[..., V, n]` summed to `[V]`."""
    return value.sum(-1).reshape(-1, value.shape[-2]).sum(0)
