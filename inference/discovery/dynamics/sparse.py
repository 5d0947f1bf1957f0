r"""Sparse regression of all equations at once, under linear rules, from moments of the weak form.

Coefficients minimise :math:`\sum_i Q_i(c_i)/\sigma_i^2` subject to :math:`Ec = e`, :math:`Gc \ge h`: exactly in the
null space of the equalities, and for the inequalities as a least distance problem by non-negative least squares (Lawson
& Hanson 1974, Solving Least Squares Problems, chapter 23). Terms are dropped one by one, the one whose loss costs least
first, so that supports are nested; of them the one of least extended information criterion is taken,

.. math:: \sum_i n_i \log Q_i + \nu \log \bar n + 2\nu\log J

(Chen & Chen 2008, Biometrika 95, 759-771), with :math:`\nu` free coefficients, `J` terms, and :math:`n_i` a third of
the independent rows of an equation: the rest pays for errors that pixels and widths share and that draws do not show
(chosen on seeds that benchmarks/discovery_dynamics.py leaves alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import nnls

from inference.discovery.dynamics.constraints import Rows
from inference.discovery.dynamics.weak import ROUNDS, Moments, WeakForm

__all__ = ["Fit", "coefficients_on", "fit", "path", "select"]

RIDGE = 1e-10  # of columns of unit norm: terms that say the same share a coefficient
SHARE = 1 / 3
ZERO = 1e-9


@dataclass(frozen=True)
class Fit:
    """Coefficients on one support.

    Attributes:
        coefficients: `[S, J]`, per day.
        free: number of free coefficients.
        loss: `[S]` weighted squared error of each equation.
    """

    coefficients: np.ndarray
    free: int
    loss: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """`[S, J]` bool."""
        return self.coefficients != 0


def fit(
    weak: WeakForm,
    rows: Rows,
    weights: np.ndarray | None = None,
    draws: np.ndarray | None = None,
    used: np.ndarray | None = None,
) -> Fit:
    """The sparse fit.

    Args:
        weak: the weak form of all equations.
        rows: rules on the coefficients.
        weights: `[cluster]` how often every cluster counts; by default once.
        draws: which draws to average.
        used: `[pixel, K]` bool, the rows that count.
    """
    count, terms = weak.right.shape[-1], weak.left.shape[-1]
    coefficients = np.zeros((count, terms))
    for _ in range(ROUNDS):
        moments = weak.moments(coefficients, draws, used)
        coefficients = path(moments, rows, weights, stop=True)[-1].coefficients
    return select(path(moments, rows, weights), moments)


def coefficients_on(weak: WeakForm, rows: Rows, found: Fit, weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`[S, J]` coefficients on the support of a fit, from other weights of clusters and other draws."""
    problem = _Problem(weak.moments(found.coefficients, draws), rows, weights)
    c, _, free = problem.solve(np.flatnonzero(found.support.ravel()))
    return problem.fit(c, free).coefficients


def select(fits: Sequence[Fit], moments: Sequence[Moments]) -> Fit:
    """The fit of least information criterion, see the module."""
    size = np.array([max(SHARE * m.independent, 2.0) for m in moments])
    terms = moments[0].hessian.shape[-1]

    def criterion(found: Fit) -> float:
        price = np.log(size).mean() + 2 * np.log(terms)
        return float(size @ np.log(np.maximum(found.loss, 1e-300)) + found.free * price)

    return min(fits, key=criterion)


def path(moments: Sequence[Moments], rows: Rows, weights: np.ndarray | None = None, stop: bool = False) -> list[Fit]:
    """Nested fits, from no more terms than the rules demand to all that they allow.

    Args:
        moments: of every equation.
        rows: rules on the coefficients.
        weights: `[cluster]`, see `fit`.
        stop: only the fit with all terms.
    """
    problem = _Problem(moments, rows, weights)
    alive = list(range(problem.size))
    found, kept = [], set()
    while True:
        c, cost, free = problem.solve(alive)
        found.append(problem.fit(c, free))
        alive = [k for k in alive if c[k] != 0]
        ranked = [k for k in sorted(alive, key=lambda k: cost[k]) if k not in kept and np.isfinite(cost[k])]
        for k in ranked:
            if problem.rows.without(sorted({*range(problem.size)} - {*alive} | {k})).feasible:
                alive.remove(k)
                break
            kept.add(k)
        else:
            return found[::-1]
        if stop:
            return found


class _Problem:
    """Quadratic problem in coefficients of terms scaled to unit norm, equation after equation."""

    def __init__(self, moments: Sequence[Moments], rows: Rows, weights: np.ndarray | None) -> None:
        self.rows, self.shape = rows, (len(moments), moments[0].hessian.shape[-1])
        self.size = int(np.prod(self.shape))
        w = np.ones(len(moments[0].energy)) if weights is None else weights
        self.parts = [(np.tensordot(w, m.hessian, 1), w @ m.gradient, float(w @ m.energy)) for m in moments]
        hessian, gradient = np.zeros((self.size, self.size)), np.zeros(self.size)
        terms = self.shape[1]
        for i, ((h, g, energy), m) in enumerate(zip(self.parts, moments, strict=True)):
            full = np.linalg.lstsq(h, g, rcond=1e-10)[0]
            scale = m.independent / max(energy - full @ g, 1e-12 * energy, 1e-300)
            at = slice(i * terms, (i + 1) * terms)
            hessian[at, at], gradient[at] = scale * h, scale * g
        self.norm = np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        self.hessian = hessian / np.outer(self.norm, self.norm) + RIDGE * np.eye(self.size)
        self.gradient = gradient / self.norm

    def solve(self, terms: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """`[N]` coefficients, `[N]` loss that dropping each would cost, number of free ones; zero but for some."""
        alive = np.asarray(terms, dtype=int)
        c, cost = np.zeros(self.size), np.full(self.size, np.inf)
        if not len(alive):
            return c, cost, 0
        norm, h, g = self.norm[alive], self.hessian[np.ix_(alive, alive)], self.gradient[alive]
        # A rule is the same whatever it is multiplied by; rows of unit norm keep its rank apart from rounding.
        equal, above = self.rows.equal[:, alive] / norm, self.rows.above[:, alive] / norm
        start, basis = _solutions(equal, self.rows.level)
        z = _least_squares(h, g, start, basis, above, self.rows.least)
        found = start + basis @ z
        tight = np.abs(above @ found - self.rows.least) <= ZERO * np.abs(above).max(initial=0.0) * np.abs(found).max()
        if tight.any():
            _, basis = _solutions(np.vstack([equal, above[tight]]), None)
        found[np.abs(found) <= ZERO * np.abs(found).max(initial=0.0)] = 0.0
        inverse = np.linalg.inv(basis.T @ h @ basis) if basis.shape[1] else np.zeros((0, 0))
        spread = ((basis @ inverse) * basis).sum(1)
        moves = spread > 1e-12 * spread.max(initial=1e-300)
        c[alive] = found / norm
        cost[alive[moves]] = found[moves] ** 2 / spread[moves]
        return c, cost, basis.shape[1]

    def fit(self, c: np.ndarray, free: int) -> Fit:
        """The fit of coefficients `[N]`, put onto the equalities to rounding."""
        on = c != 0
        if on.any() and len(self.rows.equal):
            rest = self.rows.level - self.rows.equal @ c
            c = c.copy()
            c[on] += np.linalg.lstsq(self.rows.equal[:, on] / self.norm[on], rest, rcond=None)[0] / self.norm[on]
        c = c.reshape(self.shape)
        loss = [e - 2 * ci @ g + ci @ h @ ci for ci, (h, g, e) in zip(c, self.parts, strict=True)]
        return Fit(c, free, np.array(loss))


def _solutions(equal: np.ndarray, level: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """One solution of ``equal @ c = level`` and an orthonormal basis `[n, free]` of the differences of all."""
    size = equal.shape[1]
    rows = np.linalg.norm(equal, axis=1)
    equal = equal[rows > 0] / rows[rows > 0, None]
    if not len(equal):
        return np.zeros(size), np.eye(size)
    start = np.zeros(size) if level is None else np.linalg.lstsq(equal, level[rows > 0] / rows[rows > 0], rcond=None)[0]
    return start, null_space(equal, rcond=1e-10)


def _least_squares(
    h: np.ndarray, g: np.ndarray, start: np.ndarray, basis: np.ndarray, above: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """`[free]` coordinates that minimise the quadratic under ``above @ (start + basis @ z) >= least``."""
    if not basis.shape[1]:
        return np.zeros(0)
    factor = np.linalg.cholesky(basis.T @ h @ basis)
    best = np.linalg.solve(factor.T, np.linalg.solve(factor, basis.T @ (g - h @ start)))
    slack = above @ (start + basis @ best) - least
    size = np.linalg.norm(above, axis=1)
    on = size > 0
    if (slack[on] >= -1e-12 * size[on]).all():
        return best
    # In u = factor' (z - best) the shortest u with slope @ u >= -slack is wanted.
    slope = np.linalg.solve(factor, (above[on] @ basis / size[on, None]).T)
    demand = -slack[on] / size[on]
    unit = np.abs(demand).max()
    system = np.vstack([slope, demand / unit])
    multipliers, _ = nnls(system, np.r_[np.zeros(len(slope)), 1.0])
    rest = system @ multipliers - np.r_[np.zeros(len(slope)), 1.0]
    return best + unit * np.linalg.solve(factor.T, -rest[:-1] / rest[-1])
