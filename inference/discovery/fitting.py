"""From candidates to a Pareto front: constants by weighted least squares, constraints checked, skill computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy
from scipy.optimize import least_squares

from inference.discovery.constants import of_draws
from inference.discovery.dimensions import Units, inconsistency
from inference.discovery.engines import Budget, Candidate, Engine, Together
from inference.discovery.expressions import canonical, complexity, parametrise, values_of
from inference.discovery.template import Template
from pi_vae.law import FUNCTIONS

__all__ = ["Fitted", "Rows", "pareto_front", "refit", "skill", "values_of_draws"]

WORTH = 0.01  # share of what the shorter ones leave over that a longer law has to explain to stand on the front
MAX_COEFFICIENTS = 8
PER_LENGTH = 3  # candidates of a length whose constants are fitted
PRECISION = 1e-6  # of the fit of constants
QUICK = 15  # steps of it while there are many candidates
ALIKE = 0.1  # share of what a law leaves by which a limiting case may differ


@dataclass(frozen=True)
class Rows:
    """Inputs `[row, input]`, target `[row]`, weights `[row]` and, where there are, draws `[draw, row, input]`."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    draws: np.ndarray | None = None

    def some(self, count: int, seed: int) -> Rows:
        """At most `count` of the rows."""
        if len(self.y) <= count:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.y), count, replace=False))
        return Rows(self.x[kept], self.y[kept], self.weights[kept], None if self.draws is None else self.draws[:, kept])


@dataclass(frozen=True)
class Fitted:
    """A form with the coefficients that fit best.

    Attributes:
        form: in the inputs and the coefficients.
        coefficients: name -> value.
        complexity: see `inference.discovery.expressions.complexity`.
        skill: on the rows it was fitted to.
    """

    form: sympy.Expr
    coefficients: dict[str, float]
    complexity: int
    skill: float

    @property
    def expression(self) -> sympy.Expr:
        """The form with its numbers."""
        return self.form.xreplace({sympy.Symbol(k): sympy.Float(v) for k, v in self.coefficients.items()})

    def inputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Inputs that it reads, in the order of the names."""
        return tuple(name for name in names if self.form.has(sympy.Symbol(name)))


def refit(form: sympy.Expr, start: dict[str, float], names: Sequence[str], rows: Rows, steps: int = 60) -> dict:
    r"""Coefficients :math:`\arg\min_\theta \sum_i w_i (y_i - f(x_i; \theta))^2` by Levenberg–Marquardt.

    Where the rows hold draws of the inputs, `f` is its mean over them.

    Args:
        form: in the inputs and the coefficients.
        start: coefficient -> value to start from.
        names: of the inputs.
        rows: data.
        steps: evaluations at most.

    Returns:
        coefficient -> value; the start itself where the form is not finite there or no better one is found.
    """
    if not start or len(rows.y) < len(start):
        return dict(start)
    root = np.sqrt(rows.weights / rows.weights.mean())
    keys = list(start)
    # A step to where the form is not defined must look worse than staying.
    wall = 1e3 * root * max(np.abs(rows.y).max(), 1e-6)

    compiled = sympy.lambdify([sympy.Symbol(name) for name in (*names, *keys)], form, "numpy")  # of a form, not a text
    columns = np.moveaxis(rows.x if rows.draws is None else rows.draws, -1, 0)

    def misfit(theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            value = np.asarray(compiled(*columns, *theta), dtype=float)
            value = root * ((value.mean(0) if value.ndim == 2 else value) - rows.y)
        return np.where(np.isfinite(value), np.clip(value, -wall, wall), wall)

    first = np.array([start[k] for k in keys])
    with np.errstate(all="ignore"):
        limits = {"ftol": PRECISION, "xtol": PRECISION, "max_nfev": steps * (len(keys) + 1)}
        found = least_squares(misfit, first, method="lm", x_scale="jac", **limits)
    better = np.isfinite(found.x).all() and 2 * found.cost <= (misfit(first) ** 2).sum()
    return dict(zip(keys, map(float, found.x if better else first), strict=True))


def values_of_draws(form: sympy.Expr, values: dict[str, float], names: Sequence[str], x: np.ndarray) -> np.ndarray:
    """Mean over draws of a form at inputs `[draw, row, input]`; `[row]`, not finite where the form is not defined."""
    with np.errstate(all="ignore"):
        return of_draws(form, values, names, x).mean(0)


def skill(fitted: Fitted, names: Sequence[str], rows: Rows, level: float) -> float:
    r"""Weighted :math:`R^2 = 1 - \sum w (y - f)^2 / \sum w (y - \bar y)^2` against a constant.

    Args:
        fitted: the law.
        names: of the inputs.
        rows: data it is judged on.
        level: the constant, the weighted mean of the rows that the law was fitted to.

    Returns:
        Between -1 and 1; what is worse, or not finite, is -1.
    """
    draws = rows.x[None] if rows.draws is None else rows.draws
    error = rows.y - values_of_draws(fitted.form, fitted.coefficients, names, draws)
    total = (rows.weights * (rows.y - level) ** 2).sum()
    with np.errstate(all="ignore"):
        value = 1 - (rows.weights * error**2).sum() / max(total, 1e-300)
    return max(float(value), -1.0) if np.isfinite(value) else -1.0


def pareto_front(
    engine: Engine | Together,
    rows: Rows,
    names: Sequence[str],
    template: Template,
    hull: np.ndarray,
    seed: int,
    budget: Budget,
    units: Units | None = None,
) -> list[Fitted]:
    """Search, refit, check; keep what no shorter law fits as well.

    Args:
        engine: proposes.
        rows: what the laws are found and fitted on.
        names: of the inputs.
        template: constraints; a candidate that violates one is not returned.
        hull: `[row, input]` all rows over which the constraints are to hold.
        seed: of the search.
        budget: effort.
        units: of inputs and target, where the template asks for consistent ones.

    Returns:
        Laws, the shortest first, each with more skill than those before it.
    """
    sample = rows.some(budget.rows, seed)
    level = float(np.average(rows.y, weights=rows.weights))

    def fits(expressions: Iterable[sympy.Expr], known: Sequence[Fitted] = ()) -> Iterator[Fitted]:
        forms = {fitted.form for fitted in known}
        for form, start in _forms(expressions, template):
            if form not in forms:
                forms.add(form)
                fitted = Fitted(form, refit(form, start, names, sample, steps=QUICK), complexity(form), 0.0)
                yield replace(fitted, skill=skill(fitted, names, rows, level))

    proposed = engine.search(rows.x, rows.y, rows.weights, names, template, seed, budget, units)
    found = list(fits(c.expression for c in _promising(proposed, names, sample, template, units)))
    last = found if template.free is None else []  # a prescribed form stays
    while last:
        cases = (case for law in _front(last) for case in _limiting_cases(law, names, sample))
        last = list(fits(cases, found))
        found = [*found, *last]
    return list(_front(found, lambda f: not template.check(f.form, names, hull, units, f.coefficients)))


def _front(fits: Iterable[Fitted], allowed: Callable[[Fitted], bool] = lambda _: True) -> Iterator[Fitted]:
    """Those that are allowed and explain a share of what the shorter ones leave over, the shortest first."""
    best = 0.0
    for fitted in sorted(fits, key=lambda f: (f.complexity, -f.skill, str(f.form))):
        if fitted.skill > best + WORTH * (1 - best) and allowed(fitted):
            best = fitted.skill
            yield fitted


def _forms(expressions: Iterable[sympy.Expr], template: Template) -> Iterator[tuple[sympy.Expr, dict[str, float]]]:
    """Expressions with named constants and the values to start from; those that are too long or no law are left out."""
    for expression in expressions:
        # Moving constants about could turn a fixed number of a prescribed form into a coefficient.
        form, start = parametrise(expression if template.free else canonical(expression))
        form = template.project(form, start)
        start = {k: v for k, v in start.items() if form.has(sympy.Symbol(k))}
        if not _readable(form) or complexity(form) > template.max_length or len(start) > MAX_COEFFICIENTS:
            continue
        if form.free_symbols - _symbols(start):
            yield form, start


def _limiting_cases(fitted: Fitted, names: Sequence[str], rows: Rows) -> Iterator[sympy.Expr]:
    """Shorter laws that say the same of the data: a term of a sum left out, a function by its tangent at 0 (log: at 1).

    A fit goes to the edge of a family of laws where the truth lies there: of ``a/(b*exp(c*x) + 1)`` with `b` beyond all
    bounds, what is left is an exponential, which is shorter and whose constants have a posterior.
    """
    law = fitted.expression
    cases = [(node, node - term) for node in law.atoms(sympy.Add) for term in node.args]
    tangents = {sympy.log: lambda u: u - 1, sympy.exp: lambda u: 1 + u, sympy.sin: lambda u: u}
    cases += [(node, tangents[node.func](*node.args)) for node in law.atoms(*tangents)]
    value = values_of(law, {}, names, rows.x)
    allowed = ALIKE * np.average((value - rows.y) ** 2, weights=rows.weights)
    for node, case in cases:
        shorter = law.xreplace({node: case})
        if not shorter.free_symbols or not _readable(shorter):
            continue
        with np.errstate(all="ignore"):
            (spread, both), (_, own) = np.cov(value, values_of(shorter, {}, names, rows.x), aweights=rows.weights)
            if spread - both**2 / own <= allowed:  # but for a factor and a level
                yield shorter


def _promising(
    candidates: Sequence[Candidate], names: Sequence[str], rows: Rows, template: Template, units: Units | None
) -> list[Candidate]:
    """The best of each length as they are proposed: to fit the constants of all would take most of the time."""
    errors = {}
    for candidate in candidates:
        if not _readable(candidate.expression):
            continue  # the sine of an imaginary constant is a hyperbolic one; constants may overflow
        if (
            template.units
            and units is not None
            and inconsistency(candidate.expression, units, template.dimensionless_constants)
        ):
            continue
        with np.errstate(all="ignore"):
            error = rows.weights @ (values_of(candidate.expression, {}, names, rows.x) - rows.y) ** 2
        errors[candidate] = error if np.isfinite(error) else np.inf
    kept: dict[int, list[Candidate]] = {}
    for candidate in sorted(errors, key=errors.__getitem__):
        alike = kept.setdefault(candidate.complexity, [])
        if len(alike) < PER_LENGTH * (3 if template.shapes else 1):  # the very best may be refused
            alike.append(candidate)
    return [candidate for length in sorted(kept) for candidate in kept[length]]


def _readable(form: sympy.Expr) -> bool:
    known = all(f.func.__name__ in FUNCTIONS for f in form.atoms(sympy.Function))
    return known and not form.has(sympy.I, sympy.oo, sympy.zoo, sympy.nan, -sympy.oo)


def _symbols(names: dict[str, float]) -> set[sympy.Symbol]:
    return {sympy.Symbol(name) for name in names}
