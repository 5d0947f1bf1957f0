"""Closed forms by genetic programming with PyOperon: accuracy against length, constants by local search."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import sympy

from inference.discovery.dimensions import Units
from inference.discovery.engines import CHECKED, Budget, Candidate, Scaling, anchored
from inference.discovery.expressions import complexity, values_of
from inference.discovery.fitting import Rows, pareto_front, refit
from inference.discovery.forms import Form
from inference.discovery.template import Template
from pi_vae.law import parse

__all__ = ["CAPABILITIES", "INSTALL", "available", "search"]

CAPABILITIES = CHECKED | {"form"}
INSTALL = "pip install pyoperon"
DIGITS = 9
PER_LENGTH = 4  # candidates kept of each length where the template constrains the shape
DEGREE = 3  # of the polynomials that stand in for free functions
STARTS = (0.1, 1.0, 10.0)  # of the free constants of a form
COMBINATIONS = 60  # of free functions, the shortest ones


def available() -> bool:
    """Whether PyOperon is installed."""
    return importlib.util.find_spec("pyoperon") is not None


def search(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    template: Template,
    seed: int,
    budget: Budget,
    units: Units | None = None,
) -> list[Candidate]:
    """Search equations.

    Rows are drawn in proportion to their weights. Operon does know a Gaussian likelihood with an uncertainty of every
    point; but it scales no model by it, and its local search of constants leaves the uncertainties out: fewer planted
    laws were found with it. Of the template, operators, length and form are honoured here, the rest is left to the
    caller; then the best of every length are proposed besides the Pareto front, since the very best may be refused.
    Limits enter as heavy rows besides, see `anchored`.

    Args:
        x: `[row, input]`.
        y: `[row]`.
        weights: `[row]`.
        names: of the inputs.
        template: constraints.
        seed: the same one gives the same candidates.
        budget: effort.
        units: not used here.

    Returns:
        Candidates, shortest first; none if the target is constant, or if a model of the front is not finite.
    """
    if template.free is not None:
        return _by_parts(Rows(x, y, weights), names, template, template.free, seed, budget)
    from pyoperon.sklearn import SymbolicRegressor

    rng = np.random.default_rng(seed)
    x, y, weights = anchored(template, x, y, weights, names)
    chosen = rng.choice(len(y), min(len(y), budget.rows), replace=True, p=weights / weights.sum())
    x, y = x[chosen], y[chosen]
    scaling = Scaling.of(x, y)
    if not scaling.spread > 0:
        return []
    regressor = SymbolicRegressor(
        allowed_symbols=",".join((*template.operators, "constant", "variable")),
        objectives=["r2", "length"],
        optimizer_iterations=budget.iterations,
        max_length=template.max_length,
        max_depth=8,
        population_size=budget.population,
        pool_size=budget.population,
        generations=budget.generations,
        max_evaluations=10**8,
        n_threads=1,
        random_state=int(rng.integers(2**31)),
    )
    scaled = scaling.apply(x, y)
    try:
        regressor.fit(*scaled)
    except ValueError as error:
        # It scores the models of its front by scikit-learn, which refuses one whose values are not finite.
        if not re.search("NaN|infinity", str(error)) or not all(np.isfinite(part).all() for part in scaled):
            raise
        return []
    letters = [f"z{i}" for i in range(len(names))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model contains no variables")
        texts = {(s["length"], regressor.get_model_string(s["tree"], DIGITS, letters)) for s in regressor.pareto_front_}
        texts |= _runners_up(regressor, letters) if template.shapes else set()
    candidates = []
    for length, text in sorted(texts):
        try:
            expression = parse(text.replace("^", "**"), letters)
        except ValueError:  # a constant subtree that is not finite or real
            continue
        candidates.append(Candidate(scaling.undo(expression, letters, names), length))
    return candidates


def _runners_up(regressor, letters: list[str]) -> set[tuple[int, str]]:
    """The best models of every length in the last population."""
    best: dict[int, dict[str, float]] = {}
    for individual in regressor.individuals_:
        accuracy, length = individual.GetFitness(0), int(individual.GetFitness(1))
        text = regressor.get_model_string(individual.Genotype, DIGITS, letters)
        best.setdefault(length, {})[text] = accuracy
    return {
        (length, text)
        for length, models in best.items()
        for text in sorted(models, key=models.__getitem__)[:PER_LENGTH]
    }


def _by_parts(
    rows: Rows, names: Sequence[str], template: Template, form: Form, seed: int, budget: Budget
) -> list[Candidate]:
    r"""Laws of a prescribed form, each free function searched for itself.

    Cubic polynomials stand in for the free functions and are fitted jointly with the free constants. Then each function
    is searched against the stand-ins :math:`\tilde f` of all,

    .. math:: z = \tilde f + (y - F) / F_f, \qquad w_z = w F_f^2, \qquad F_f = \partial F / \partial f,

    exact where the law is linear in it, and laws are assembled of what was found. The caller fits their constants.
    """
    rows = rows.some(budget.rows, seed)
    stand_ins, values = _stand_ins(form, names, rows)
    law = form.assemble(stand_ins)
    error = rows.y - values_of(law, values, names, rows.x)
    part = Template(operators=template.operators, max_length=max(template.max_length - complexity(form.expression), 5))
    found: dict[str, list[sympy.Expr]] = {}
    for number, (name, arguments) in enumerate(form.functions.items()):
        (place,) = (symbol for symbol, (of, _) in form.places.items() if of == name)
        filled = {symbol: stand_ins[of] for symbol, (of, _) in form.places.items()}
        slope = values_of(form.expression.diff(place).xreplace(filled), values, names, rows.x)
        with np.errstate(all="ignore"):
            target = values_of(stand_ins[name], values, names, rows.x) + error / slope
        known = np.isfinite(target) & (np.abs(slope) > 1e-3 * np.nanmax(np.abs(slope)))
        if not known.any():
            return []
        columns = [list(names).index(a) for a in arguments]
        own = Rows(rows.x[known][:, columns], target[known], (rows.weights * slope**2)[known])
        level = sympy.Float(np.average(own.y, weights=own.weights))
        front = pareto_front(sys.modules[__name__], own, arguments, part, own.x, seed + number, budget)
        found[name] = [level, *(fitted.expression for fitted in front)]
    constants = {name: values[name] for name in form.constants}
    laws = []
    for parts in itertools.product(*found.values()):
        if any(p.free_symbols for p in parts):
            law = form.assemble(dict(zip(found, parts, strict=True)), constants)
            laws.append(Candidate(law, complexity(law)))
    return sorted(laws, key=lambda c: c.complexity)[:COMBINATIONS]


def _stand_ins(form: Form, names: Sequence[str], rows: Rows) -> tuple[Mapping[str, sympy.Expr], dict[str, float]]:
    """Polynomials for the free functions, and the coefficients and constants that fit best."""
    parts: dict[str, sympy.Expr] = {}
    start: dict[str, float] = {}
    for name, arguments in form.functions.items():
        columns = [rows.x[:, list(names).index(a)] for a in arguments]
        z = [
            (sympy.Symbol(a) - float(c.mean())) / max(float(c.std()), 1e-12)
            for a, c in zip(arguments, columns, strict=True)
        ]
        terms = [sympy.Mul(*t) for d in range(DEGREE + 1) for t in itertools.combinations_with_replacement(z, d)]
        keys = [f"{name}_{i}" for i in range(len(terms))]
        parts[name] = sympy.Add(*(sympy.Symbol(key) * term for key, term in zip(keys, terms, strict=True)))
        start |= {key: 1.0 if i == 0 else 0.0 for i, key in enumerate(keys)}
    law = form.assemble(parts)
    fits = []
    for value in STARTS if form.constants else (1.0,):
        values = refit(law, start | dict.fromkeys(form.constants, value), names, rows)
        error = rows.y - values_of(law, values, names, rows.x)
        fits.append((float(np.nan_to_num(rows.weights @ error**2, nan=np.inf)), values))
    return parts, min(fits, key=lambda fit: fit[0])[1]
