"""Closed forms by genetic programming with PyOperon: accuracy against length, constants by local search."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
import sympy

from inference.discovery.engines import Budget, Candidate
from inference.discovery.template import Template
from pi_vae.law import parse

__all__ = ["available", "search"]

DIGITS = 9
PER_LENGTH = 4  # candidates kept of each length where the template constrains the shape
FARAWAY = 3.0  # an input whose mean is more of its own sd away from 0 is centred


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
) -> list[Candidate]:
    """Search equations.

    Operon knows no weights: rows are drawn in proportion to theirs. Inputs are divided by their spread, and centred if
    they lie far from 0 (a temperature in kelvin); others keep their zero, on which the form of a law may depend. Of the
    template, operators and length are honoured here, the rest is left to the caller; then the best of every length are
    proposed besides the Pareto front, since the very best may be refused.

    Args:
        x: `[row, input]`.
        y: `[row]`.
        weights: `[row]`.
        names: of the inputs.
        template: constraints.
        seed: the same one gives the same candidates.
        budget: effort.

    Returns:
        Candidates, shortest first; none if the target is constant.
    """
    from pyoperon.sklearn import SymbolicRegressor

    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(y), min(len(y), budget.rows), replace=True, p=weights / weights.sum())
    x, y = x[chosen], y[chosen]
    scale, shift = x.std(0), x.mean(0)
    varies = scale > 0
    scale = np.where(varies, scale, 1.0)
    shift = np.where(np.abs(shift) > FARAWAY * scale, shift, 0.0)
    level, spread = y.mean(), y.std()
    if not spread > 0:
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
    regressor.fit((x - shift) / scale, (y - level) / spread)
    letters = [f"z{i}" for i in range(len(names))]
    constrained = template.bounds or template.monotone or template.even or template.odd or template.zero_at
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model contains no variables")
        texts = {(s["length"], regressor.get_model_string(s["tree"], DIGITS, letters)) for s in regressor.pareto_front_}
        texts |= _runners_up(regressor, letters) if constrained else set()
    original = {
        sympy.Symbol(z): (sympy.Symbol(name) - float(m)) / float(s) if m else sympy.Symbol(name) / float(s)
        for z, name, m, s in zip(letters, names, shift, scale, strict=True)
    }
    candidates = []
    for length, text in sorted(texts):
        try:
            expression = parse(text.replace("^", "**"), letters)
        except ValueError:  # a constant subtree that is not finite or real
            continue
        candidates.append(Candidate(float(level) + float(spread) * expression.xreplace(original), length))
    return candidates


def _runners_up(regressor, letters: list[str]) -> set[tuple[int, str]]:
    """The best models of every length in the last population."""
    best: dict[int, dict[str, float]] = {}
    for individual in regressor.individuals_:
        accuracy, length = individual.GetFitness(0), int(individual.GetFitness(1))
        text = regressor.get_model_string(individual.Genotype, DIGITS, letters)
        best.setdefault(length, {})[text] = accuracy
    return {(length, text) for length, models in best.items() for text in sorted(models, key=models.get)[:PER_LENGTH]}
