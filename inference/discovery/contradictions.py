"""What a template cannot ask for: unknown names, and constraints that contradict each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sympy

from inference.discovery.dataset import DAY_OF_YEAR, KNOWN_INPUTS
from inference.discovery.dimensions import dimension, unit_of
from inference.discovery.expressions import complexity

if TYPE_CHECKING:
    from inference.discovery.template import Template

__all__ = ["DIRECTIONS", "OPERATORS", "SIGNS", "barred", "refuse"]

OPERATORS = ("add", "sub", "mul", "div", "exp", "log", "sqrt", "square", "sin", "cos")
DIRECTIONS = {"increasing": 1.0, "decreasing": -1.0}
SIGNS = {"positive": 1.0, "negative": -1.0}


def refuse(template: Template) -> None:
    """Raise what is wrong with a template.

    Raises:
        ValueError: the first unknown name or contradiction, in one sentence.
    """
    _names(template)
    _values(template)
    _symmetry(template)
    _form(template)


def _names(t: Template) -> None:
    for name in ("inputs", "operators", "even", "odd", "symmetric"):
        if isinstance(getattr(t, name), str):
            raise ValueError(f"Template({name}={getattr(t, name)!r}) is one text: give a list of names.")
    for group in t.symmetric:
        if isinstance(group, str):
            raise ValueError(f"The group {group!r} in symmetric is one text: give a list of names.")
    constrained = t.constrained
    for name in (*(t.inputs or ()), *sorted(constrained)):
        if name not in KNOWN_INPUTS:
            raise ValueError(f"Unknown input {name!r} in the template: use one of {', '.join(KNOWN_INPUTS)}.")
    if t.inputs is not None and not t.inputs:
        raise ValueError("The template allows no input: name at least one.")
    barred_inputs = sorted(constrained - set(t.inputs if t.inputs is not None else constrained))
    if barred_inputs:
        raise ValueError(f"The template constrains {barred_inputs[0]!r} but does not allow it: add it to inputs.")
    if t.autonomous and DAY_OF_YEAR in {*(t.inputs or ()), *constrained}:
        raise ValueError(f"The template is autonomous and names {DAY_OF_YEAR!r}: drop one, as that is time itself.")
    for name in t.operators:
        if name not in OPERATORS:
            raise ValueError(f"Unknown operator {name!r} in the template: use {', '.join(OPERATORS)}.")
    if not {"add", "mul"} <= set(t.operators):
        raise ValueError("The template bars add or mul, without which no constant can scale a law: allow both.")
    if t.max_length < 3:
        raise ValueError(f"max_length={t.max_length} leaves no room for a law: give at least 3.")
    if t.dimensionless_constants and not t.units:
        raise ValueError("dimensionless_constants says nothing without units: set units=True as well.")
    for name, direction in t.monotone.items():
        if direction not in DIRECTIONS:
            raise ValueError(f"monotone[{name!r}]={direction!r}: write 'increasing' or 'decreasing'.")
    if t.sign is not None and t.sign not in SIGNS:
        raise ValueError(f"sign={t.sign!r} of the template: write 'positive' or 'negative'.")


def _values(t: Template) -> None:
    for name in sorted(set(t.even) & {*t.odd, *t.monotone}):
        raise ValueError(f"The template wants {name!r} even and odd or monotone: only constants are, drop one.")
    zero = {**t.zero_at, **dict.fromkeys(t.odd, 0.0)}
    sign = SIGNS.get(t.sign or "", 0.0)
    low, high = t.bounds if t.bounds is not None else (-math.inf, math.inf)
    if not low < high:
        raise ValueError(f"bounds={t.bounds} of the template are empty: give (low, high) with low < high.")
    if zero and not low <= 0 <= high:
        raise ValueError(f"bounds={t.bounds} exclude 0, at which zero_at or odd want the law: widen them.")
    if sign and not (high if sign > 0 else -low) > 0:
        raise ValueError(f"bounds={t.bounds} leave the {t.sign} law of the template no value: widen them or drop sign.")
    if sign and t.odd:
        raise ValueError(f"The template wants the law {t.sign} and odd in {t.odd[0]!r}: an odd law has both signs.")
    for name, pair in t.limits.items():
        try:
            approach, value = map(float, pair)
        except (TypeError, ValueError):
            approach = value = math.nan
        if math.isnan(approach) or not math.isfinite(value):
            raise ValueError(f"limits[{name!r}]={pair!r}: give (approach, value), as in ('inf', 0.0).")
        if not low <= value <= high:
            raise ValueError(f"limits[{name!r}]={pair!r} lies outside the bounds {t.bounds}: change one.")
        if value * sign < 0:
            raise ValueError(f"limits[{name!r}]={pair!r} contradicts sign={t.sign!r}: change one.")
        if approach == zero.get(name) and value != 0:
            raise ValueError(f"limits[{name!r}]={pair!r} where zero_at or odd want the law to vanish: change one.")


def _symmetry(t: Template) -> None:
    seen: set[str] = set()
    for group in t.symmetric:
        if len(set(group)) < 2 or len(set(group)) < len(group):
            raise ValueError(f"The group {list(group)} in symmetric is none: name two or more different inputs.")
        if seen & set(group):
            raise ValueError(f"{sorted(seen & set(group))[0]!r} is in two groups of symmetric: join them.")
        seen |= set(group)
        if len({tuple(sorted(dimension(unit_of(name)).items())) for name in group}) > 1:
            units = ", ".join(f"{name} [{unit_of(name)}]" for name in group)
            raise ValueError(f"The group {units} in symmetric has different units: exchange what has the same.")
        for what in ("even", "odd", "monotone", "zero_at", "limits"):
            declared = getattr(t, what)
            told = [
                str(declared[n]) if isinstance(declared, Mapping) and n in declared else n in declared for n in group
            ]
            if len(set(told)) > 1:
                raise ValueError(f"{what} treats the inputs {list(group)} differently, and symmetric wants them alike.")


def _form(t: Template) -> None:
    if t.free is None:
        return
    for name in barred(t.free.expression, t.operators):
        raise ValueError(f"The form {t.form!r} uses {name}, which operators bars: allow it or write another form.")
    if complexity(t.free.expression) > t.max_length:
        raise ValueError(
            f"The form {t.form!r} alone has complexity {complexity(t.free.expression)} of at most "
            f"max_length={t.max_length}: raise that."
        )


def barred(expression: sympy.Expr, allowed: Sequence[str]) -> list[str]:
    """Operators of the expression that are not allowed; a whole power is a product, a negative one a quotient."""
    needed = set()
    for node in sympy.preorder_traversal(expression):
        if node.is_Pow:
            exponent = node.exp
            if not exponent.is_Rational or exponent.q > 2:
                needed.add(f"the power {exponent}")
                continue
            if exponent < 0:
                needed.add("div")
            if exponent.q == 2:
                needed.add("sqrt")
        elif node.is_Function:
            needed.add(node.func.__name__)
    return sorted(needed - set(allowed))
