r"""Matern processes as a cascade of equal filters: the transitions of the state space.

White noise through `d` filters :math:`\dot x_i = \kappa (x_{i+1} - x_i)` gives :math:`x_0`, a Matern process of
smoothness :math:`d - 1/2` with :math:`\kappa = \sqrt{2d - 1}/\ell` (Hartikainen & Särkkä 2010, eq. 12, in the basis in
which the companion matrix is a Jordan block). Over a step :math:`a = \kappa\,\Delta t` the state moves by

.. math:: A = e^{-a} \begin{pmatrix} 1 & a & a^2/2 \\ & 1 & a \\ & & 1 \end{pmatrix},

and :math:`k(\Delta t) = h^\top A c` with :math:`h = (1, 0, 0)` and the first column `c` of the stationary covariance.
A part that does not change is a state of one component with :math:`A = 1`.

A state is a list of tensors, one per component, and every component holds all series side by side: small matrices are
multiplied by hand, entry by entry, so that each operation runs over thousands of series that lie next to each other.
So it is on an accelerator; what a processor does instead is in `pi_vae.priors.markov.cpu`.

Example:
    >>> import torch
    >>> from pi_vae.priors.markov.cascade import Transitions, columns
    >>> steps = torch.tensor([[0.0], [1.0]])  # two dates, one series; a = 1 between the dates
    >>> state = [torch.tensor([[c]]) for c in columns(2)]
    >>> Transitions([2], [steps]).move([*state, 0 * state[0]], 1)[0]  # (1 + a) exp(-a)
    tensor([[0.7358]])
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pi_vae.priors.markov.cpu.lanes import Steps

__all__ = ["Transitions", "columns", "noise_factors"]

State = list[Tensor]
Matrix = list[list[Tensor]]  # symmetric: entries (i, j) and (j, i) are one tensor

COMPILED = ("cpu",)  # kinds of devices whose recursions are compiled loops, see `pi_vae.priors.markov.cpu`
COLUMNS = {1: (1.0,), 2: (1.0, 1.0), 3: (1.0, 1.0, 2.0 / 3.0)}
LAST_VARIANCE = {1: 1.0, 2: 2.0, 3: 8.0 / 3.0}


def columns(size: int) -> tuple[float, ...]:
    """Covariance of the components of a unit-variance cascade of ``size`` filters with its first component."""
    return COLUMNS[size]


def noise_factors(size: int, steps: Tensor) -> Tensor:
    r"""Lower factors of the covariance of what a cascade takes up from the noise during a step.

    .. math:: Q_{ij} = 2 c \int_0^a e^{-2s} \frac{s^{d-1-i}}{(d-1-i)!} \frac{s^{d-1-j}}{(d-1-j)!}\,ds,

    an incomplete gamma function: no difference of nearly equal numbers, however short the step.

    Args:
        size: number `d` of filters.
        steps: `[T, V]` steps :math:`a`; a negative one starts the process from its stationary distribution.

    Returns:
        `[T, V, d, d]`, zero where the step is zero.
    """
    moving = steps != 0
    # An endless step has forgotten where it began: the stationary distribution.
    length = torch.where(moving, torch.where(steps < 0, 200.0, steps), 1.0)
    power = torch.arange(size - 1, -1, -1, dtype=steps.dtype, device=steps.device)
    factorial = torch.lgamma(power + 1).exp()
    order = power + power.unsqueeze(-1) + 1
    integral = torch.special.gammainc(order.expand(*length.shape, size, size), 2 * length[..., None, None])
    scale = torch.lgamma(order).exp() / 2**order / (factorial * factorial.unsqueeze(-1))
    factor = torch.linalg.cholesky(2 * LAST_VARIANCE[size] * scale * integral)
    return torch.where(moving[..., None, None], factor, 0.0)


class Transitions:
    """Steps of a block-diagonal state between sorted dates.

    Args:
        sizes: filters of each Matern block; a block of one component that does not change follows them.
        steps: per block `[T, V]`, the step :math:`a` to each date from the one before (that to the first is not used).
    """

    def __init__(self, sizes: Sequence[int], steps: Sequence[Tensor]) -> None:
        self.sizes = tuple(sizes)
        self.starts = tuple(sum(self.sizes[:b]) for b in range(len(self.sizes)))
        self.size = sum(self.sizes) + 1
        self.heads = (*self.starts, self.size - 1)  # the components that add up to the process
        self.ends = {start + size - 1 for start, size in zip(self.starts, self.sizes, strict=True)}
        self.steps = [a.detach() for a in steps]
        self.block = [b for b, size in enumerate(self.sizes) for _ in range(size)] + [len(self.sizes)]
        self.place = [i for size in self.sizes for i in range(size)] + [0]

    @property
    def compiled(self) -> bool:
        """Whether the recursions are compiled loops here."""
        return self.steps[0].device.type in COMPILED

    @functools.cached_property
    def arrays(self) -> Steps:
        """The same for the compiled loops."""
        from pi_vae.priors.markov.cpu import steps_of  # imports numba

        return steps_of(self.sizes, self.steps)

    @functools.cached_property
    def takes(self) -> list[list[list[Tensor]]]:
        """Per block, order k and date: what component i takes from i + k, a^k / k!."""
        return [[_by_date(power) for power in (a, 0.5 * a.square())] for a in self.steps]

    @functools.cached_property
    def decay(self) -> list[list[Tensor]]:
        """Per block and date."""
        return [_by_date(torch.exp(-a)) for a in self.steps]

    @functools.cached_property
    def decays(self) -> dict[tuple[int, int], list[Tensor]]:
        """Of the products of two blocks, per date."""
        pairs = itertools.combinations_with_replacement(range(len(self.steps)), 2)
        return {(b, c): _by_date(torch.exp(-self.steps[b]) * torch.exp(-self.steps[c])) for b, c in pairs}

    def of(self, v: int) -> Transitions:
        """The same of one variable alone."""
        return Transitions(self.sizes, [a[:, v : v + 1] for a in self.steps])

    def nothing(self, like: Tensor) -> Matrix:
        """A matrix of zeros."""
        return [[torch.zeros_like(like)] * self.size] * self.size

    def move(self, state: State, t: int) -> State:
        """A x: the state at date `t` expected from that at the date before."""
        return [self._decayed(self._up(state, i, t), i, t) for i in range(self.size)]

    def back(self, state: State, t: int) -> State:
        """A' r: the adjoint of `move`."""
        return [self._decayed(self._down(state, i, t), i, t) for i in range(self.size)]

    def spread(self, matrix: Matrix, t: int) -> Matrix:
        """A D A', symmetric."""
        size = range(self.size)
        rows: list[list[Any]]  # what lies below the diagonal is not read
        rows = [[self._up([matrix[m][j] for m in size], i, t) if j >= i else None for j in size] for i in size]
        return self._symmetric(lambda i, j: self._up(rows[i], j, t), t)

    def gather(self, matrix: Matrix, t: int) -> Matrix:
        """A' N A, symmetric: the adjoint of `spread`."""
        size = range(self.size)
        rows: list[list[Any]]  # what lies above the diagonal is not read
        rows = [[self._down([matrix[m][j] for m in size], i, t) if j <= i else None for j in size] for i in size]
        return self._symmetric(lambda i, j: self._down(rows[j], i, t), t)

    def drift(self, state: State, i: int) -> Tensor:
        """Component i of -dA/da x where ``state`` is A x: what it loses per unit of the step."""
        return state[i] if i in self.ends else state[i] - state[i + 1]

    def head(self, state: State) -> Tensor:
        """h' x: the process."""
        total = state[self.heads[0]]
        for i in self.heads[1:]:
            total = total + state[i]
        return total

    def _up(self, state: State, i: int, t: int) -> Tensor:
        if self.block[i] == len(self.sizes):
            return state[i]
        b, value = self.block[i], state[i]
        for k in range(1, self.sizes[b] - self.place[i]):
            value = torch.addcmul(value, self.takes[b][k - 1][t], state[i + k])
        return value

    def _down(self, state: State, i: int, t: int) -> Tensor:
        value = state[i]
        for k in range(1, self.place[i] + 1):
            value = torch.addcmul(value, self.takes[self.block[i]][k - 1][t], state[i - k])
        return value

    def _decayed(self, value: Tensor, i: int, t: int) -> Tensor:
        return value if self.block[i] == len(self.sizes) else value * self.decay[self.block[i]][t]

    def _symmetric(self, entry: Callable[[int, int], Tensor], t: int) -> Matrix:
        """Fill a symmetric matrix from its upper triangle, decayed."""
        matrix: list[list[Any]] = [[None] * self.size for _ in range(self.size)]
        last = len(self.sizes)
        for i in range(self.size):
            for j in range(i, self.size):
                value, b, c = entry(i, j), self.block[i], self.block[j]
                if c < last:
                    value = value * self.decays[b, c][t]
                elif b < last:
                    value = value * self.decay[b][t]
                matrix[i][j] = matrix[j][i] = value
        return matrix


def _by_date(value: Tensor) -> list[Tensor]:
    """`[T, V]` -> `[V, 1]` per date."""
    return [v.unsqueeze(-1) for v in value.unbind(0)]
