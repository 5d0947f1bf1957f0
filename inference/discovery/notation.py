"""A template as mathematics, in plain text and in LaTeX."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import sympy

from pi_vae.variables import CATALOGUE

if TYPE_CHECKING:
    from inference.discovery.template import Template

__all__ = ["statements", "symbol_of"]


def symbol_of(name: str) -> str:
    """LaTeX of an input."""
    return CATALOGUE[name].symbol if name in CATALOGUE else rf"\mathrm{{{name}}}".replace("_", r"\_")


def statements(t: Template) -> list[tuple[str, str]]:
    """What a template says of the law `y`, each as (text, LaTeX)."""
    tex = symbol_of
    told: list[tuple[str, str]] = []
    inputs, plain = ", ".join(map(tex, t.inputs or ())), ", ".join(t.inputs or ())
    if t.free is not None:
        names = {s: s.name for s in t.free.expression.free_symbols}
        for symbol, (name, position) in t.free.places.items():
            mark = rf"\partial_{{{position}}} " if position else ""
            names[symbol] = f"{mark}{name}({', '.join(map(tex, t.free.functions[name]))})"
        names |= {sympy.Symbol(name): tex(name) for name in t.free.inputs}
        told.append((f"y = {t.free.expression}", f"y = {sympy.latex(t.free.expression, symbol_names=names)}"))
    elif inputs:
        told.append((f"y = y({plain})", f"y = y({inputs})"))
    else:
        told.append(("y = y(...)", r"y = y(\ldots)"))
    if t.bounds is not None:
        low, high = t.bounds
        told.append((f"{low:g} <= y <= {high:g}", rf"{_number(low)} \leq y \leq {_number(high)}"))
    if t.sign is not None:
        plainly, mathematically = (">=", r"\geq") if t.sign == "positive" else ("<=", r"\leq")
        told.append((f"y {plainly} 0", f"y {mathematically} 0"))
    for name, direction in t.monotone.items():
        plainly, mathematically = (">=", r"\geq") if direction == "increasing" else ("<=", r"\leq")
        told.append((f"dy/d{name} {plainly} 0", rf"\partial y / \partial {tex(name)} {mathematically} 0"))
    for sign, parity in (("", t.even), ("-", t.odd)):
        for name in parity:
            told.append((f"y(-{name}) = {sign}y({name})", f"y(-{tex(name)}) = {sign}y({tex(name)})"))
    for name, value in t.zero_at.items():
        told.append((f"y({name} = {value:g}) = 0", rf"y|_{{{tex(name)} = {_number(value)}}} = 0"))
    for name, (approach, value) in t.limits.items():
        text = f"y -> {value:g} as {name} -> {approach:g}"
        told.append((text, rf"\lim_{{{tex(name)} \to {_number(float(approach))}}} y = {_number(value)}"))
    for group in t.symmetric:
        swapped = (*group[1:], group[0])
        told.append(
            (
                f"y({', '.join(group)}) = y({', '.join(swapped)}) = ...",
                rf"y({', '.join(map(tex, group))}) = y({', '.join(map(tex, swapped))}) = \ldots",
            )
        )
    if t.autonomous:
        told.append(("dy/dt = 0 at fixed inputs", r"\partial y / \partial t = 0"))
    if t.units:
        pure = t.dimensionless_constants
        text = "units agree, constants are pure numbers" if pure else "units agree"
        told.append((text, rf"\text{{{text}}}"))
    text = f"at most {t.max_length} of {' '.join(t.operators)}"
    told.append((text, rf"\text{{{text}}}"))
    return told


def _number(value: float) -> str:
    if math.isinf(value):
        return r"\infty" if value > 0 else r"-\infty"
    return f"{value:g}"
