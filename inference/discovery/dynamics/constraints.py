r"""What physics says of the coefficients of :math:`\dot x_i = \sum_j c_{ij}\,\theta_j`, across equations.

Every declaration becomes linear rows :math:`E c = e` and :math:`G c \ge h`, which the fit satisfies exactly. A weighted
sum :math:`\sum_i w_i x_i` is conserved whatever the states are doing if, for every term, :math:`\sum_i w_i c_{ij} = 0`:
its rate is then zero term by term, not on average over the data.

Example:
    >>> from inference.discovery.dynamics import Constraints, Library
    >>> rules = Constraints().conserve({"x": 1, "y": 1}).sign("x", "x", -1)
    >>> rows = rules.rows(("x", "y"), Library.build(["x", "y"], degree=1, season=0))
    >>> rows.equal.shape, rows.above.shape  # coefficients of x: 1, x, y; then those of y
    ((3, 6), (1, 6))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
from scipy.optimize import linprog

from inference.discovery.dynamics.library import Library

__all__ = ["Constraints", "Rows"]

Weights = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Rows:
    """Linear rules on `[N]` coefficients, equation after equation: ``equal @ c == level``, ``above @ c >= least``."""

    equal: np.ndarray
    level: np.ndarray
    above: np.ndarray
    least: np.ndarray

    @property
    def feasible(self) -> bool:
        """Whether some coefficients satisfy them all, by linear programming."""
        if not self.level.any() and (self.least <= 0).all():
            return True
        zeros = np.zeros(self.equal.shape[1])
        return linprog(zeros, -self.above, -self.least, self.equal, self.level, bounds=(None, None)).status == 0

    def without(self, gone: Sequence[int]) -> Rows:
        """With some coefficients zero."""
        extra = np.eye(self.equal.shape[1])[list(gone)]
        level = np.concatenate([self.level, np.zeros(len(extra))])
        return Rows(np.vstack([self.equal, extra]), level, self.above, self.least)


@dataclass(frozen=True)
class Constraints:
    """Rules on coefficients, declared one after the other; every method returns a new object.

    Attributes:
        declared: the rules as plain data.
    """

    declared: tuple[Mapping, ...] = ()

    def conserve(self, weights: Mapping[str, float]) -> Constraints:
        """The sum of states times weights never changes.

        Raises:
            ValueError: there is no weight other than zero, or one is not finite.
        """
        if not any(weights.values()) or not all(isfinite(w) for w in weights.values()):
            raise ValueError(f"Conserved weights {dict(weights)}: give finite numbers that are not all zero.")
        return self._with(kind="conserve", weights=dict(weights))

    def balance(
        self,
        transfers: Mapping[tuple[str, str], Sequence[str]],
        gains: Mapping[str, Sequence[str]] | None = None,
        losses: Mapping[str, Sequence[str]] | None = None,
    ) -> Constraints:
        """Pools: what leaves one by a transfer enters another, and nothing happens that is not named.

        A term that only transfers adds up to zero over the pools, falls in those it leaves and rises in those it
        enters; with a gain (loss) the sum may be above (below) zero; in pools that do not name it, it is absent.
        Terms stand for what is never negative: with a negative one the flow turns around.

        Args:
            transfers: (from, to) -> terms.
            gains: pool -> terms that come from outside.
            losses: pool -> terms that leave for good.

        Raises:
            ValueError: there is no transfer, or one goes from a pool to itself.
        """
        if not transfers or any(a == b for a, b in transfers):
            raise ValueError("A balance needs transfers from one pool to another: give {('x', 'y'): ['x']}.")
        flows = [[a, b, list(terms)] for (a, b), terms in transfers.items()]
        gains, losses = ({k: list(v) for k, v in (side or {}).items()} for side in (gains, losses))
        return self._with(kind="balance", transfers=flows, gains=gains, losses=losses)

    def sign(self, state: str, term: str, sign: int) -> Constraints:
        """A coefficient is at least (1) or at most (-1) zero.

        Raises:
            ValueError: the sign is neither.
        """
        if sign not in (1, -1):
            raise ValueError(f"The sign of {term!r} in the equation of {state!r} is {sign}: give 1 or -1.")
        return self.bound(state, term, *((0.0, inf) if sign == 1 else (-inf, 0.0)))

    def bound(self, state: str, term: str, low: float = -inf, high: float = inf) -> Constraints:
        """A coefficient lies between two values, per day.

        Raises:
            ValueError: the bounds are in the wrong order.
        """
        if not low <= high:
            raise ValueError(f"Bounds {low} to {high} of {term!r} in the equation of {state!r}: swap them.")
        ends = [float(x) if isfinite(x) else None for x in (low, high)]
        return self._with(kind="bound", state=state, term=term, low=ends[0], high=ends[1])

    def absent(self, state: str, *terms: str) -> Constraints:
        """Terms do not occur in an equation."""
        rules = self
        for term in terms:
            rules = rules.bound(state, term, 0.0, 0.0)
        return rules

    def equal(self, first: tuple[str, str], second: tuple[str, str], factor: float = 1.0) -> Constraints:
        """The coefficient of one (state, term) is a factor times that of another.

        Raises:
            ValueError: the factor is not finite.
        """
        if not isfinite(factor):
            raise ValueError(f"Coefficients of {first} and {second} differ by a factor of {factor}: give a number.")
        return self._with(kind="equal", first=list(first), second=list(second), factor=float(factor))

    def rows(self, states: Sequence[str], library: Library) -> Rows:
        """The rules as rows over `len(states) * len(library.names)` coefficients.

        Raises:
            ValueError: a rule names an unknown state or term, or no coefficients satisfy all rules.
        """
        size = len(states) * len(library.names)
        found: list[tuple[np.ndarray, float, float]] = []
        rows = _stacked(found, size)
        for rule in self.declared:
            for weights, low, high in _READERS[rule["kind"]](rule, states, library):
                row = np.zeros(size)
                for (state, term), weight in weights.items():
                    row[_position(state, term, states, library)] += weight
                found.append((row, low, high))
            rows = _stacked(found, size)
            if not rows.feasible:
                raise ValueError(
                    f"No coefficients satisfy all constraints: {_told(rule)} contradicts those before it; drop one."
                )
        return rows

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {"declared": [dict(rule) for rule in self.declared]}

    @classmethod
    def from_dict(cls, data: Mapping) -> Constraints:
        """The constraints that `to_dict` wrote.

        Raises:
            ValueError: a rule is of an unknown kind.
        """
        unknown = [rule["kind"] for rule in data["declared"] if rule["kind"] not in _READERS]
        if unknown:
            raise ValueError(f"Unknown constraint {unknown[0]!r}: use one of {', '.join(_READERS)}.")
        return cls(tuple(dict(rule) for rule in data["declared"]))

    def _with(self, **rule) -> Constraints:
        return Constraints((*self.declared, rule))


Read = Iterator[tuple[Weights, float, float]]


def _conserve(rule: Mapping, states: Sequence[str], library: Library) -> Read:
    for term in library.names:
        yield {(state, term): weight for state, weight in rule["weights"].items()}, 0.0, 0.0


def _balance(rule: Mapping, states: Sequence[str], library: Library) -> Read:
    def named(side: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        return [(pool, library.names[library.index(term)]) for pool, terms in side.items() for term in terms]

    flows = [(a, b, library.names[library.index(term)]) for a, b, terms in rule["transfers"] for term in terms]
    gains, losses = named(rule["gains"]), named(rule["losses"])
    falls, rises = {(a, t) for a, _, t in flows} | {*losses}, {(b, t) for _, b, t in flows} | {*gains}
    pools = dict.fromkeys([p for a, b, _ in flows for p in (a, b)] + [p for p, _ in (*gains, *losses)])
    for term in library.names:
        for pool in pools:
            low = -inf if (pool, term) in falls else 0.0
            high = inf if (pool, term) in rises else 0.0
            if isfinite(low) or isfinite(high):
                yield {(pool, term): 1.0}, low, high
        low = -inf if term in [t for _, t in losses] else 0.0
        high = inf if term in [t for _, t in gains] else 0.0
        if any(t == term for *_, t in flows) and (isfinite(low) or isfinite(high)):
            yield {(pool, term): 1.0 for pool in pools}, low, high


def _bound(rule: Mapping, states: Sequence[str], library: Library) -> Read:
    low, high = rule["low"], rule["high"]
    yield {(rule["state"], rule["term"]): 1.0}, -inf if low is None else low, inf if high is None else high


def _equal(rule: Mapping, states: Sequence[str], library: Library) -> Read:
    first, second = tuple(rule["first"]), tuple(rule["second"])
    if first == second:
        raise ValueError(f"The coefficient of {first} is set equal to itself: name two.")
    yield {first: 1.0, second: -rule["factor"]}, 0.0, 0.0


_READERS = {"conserve": _conserve, "balance": _balance, "bound": _bound, "equal": _equal}


def _position(state: str, term: str, states: Sequence[str], library: Library) -> int:
    if state not in states:
        raise ValueError(f"A constraint names the state {state!r}: use one of {', '.join(states)}.")
    return list(states).index(state) * len(library.names) + library.index(term)


def _stacked(found: list[tuple[np.ndarray, float, float]], size: int) -> Rows:
    equal = [(row, low) for row, low, high in found if low == high]
    above = [(row, low) for row, low, high in found if low != high and isfinite(low)]
    above += [(-row, -high) for row, low, high in found if low != high and isfinite(high)]
    parts = []
    for side in (equal, above):
        parts += [np.array([row for row, _ in side]).reshape(-1, size), np.array([x for _, x in side], dtype=float)]
    return Rows(*parts)


def _told(rule: Mapping) -> str:
    """A rule for a message."""
    return f"{rule['kind']}({', '.join(f'{k}={v}' for k, v in rule.items() if k != 'kind')})"
