r"""Dimensions of units, and whether an equation whose constants have unknown units is consistent.

Every subexpression has a dimension, a vector of exponents over metre, kilogram, second, kelvin, mole and
ampere. A constant has an unknown one, and the rules of an equation (terms of a sum agree, products add, powers scale,
arguments of exp, log, sin and cos vanish) are linear in the exponents. The equation is consistent if that system has a
solution,

.. math:: A u = b, \qquad \mathrm{rank}\, A = \mathrm{rank}\, (A \,|\, b),

which is decided in exact fractions. Compared are dimensions, not scales: cm and mm agree, as a factor is a constant.
Decibel and other logarithms, degree, radian and per cent count as dimensionless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy

from inference.discovery.dataset import DAY_OF_YEAR, DRIVERS
from pi_vae.variables import CATALOGUE

__all__ = ["Units", "dimension", "inconsistency", "unit_of"]

BASES = ("m", "kg", "s", "K", "mol", "A")
#: dimension -> units that have it
SYMBOLS: dict[str, str] = {
    "": "1 % dB Np degree degrees deg rad sr",
    "m": "m km cm mm um nm",
    "kg": "kg g mg ug t",
    "s": "s min h day days d year",
    "K": "K degC",
    "mol": "mol",
    "A": "A mA",
    "A s": "C",
    "kg m s-2": "N",
    "kg m2 s-3 A-1": "V",
    "kg s-2 A-1": "T",
    "kg m2 s-2": "J kJ MJ",
    "kg m2 s-3": "W",
    "kg m-1 s-2": "Pa hPa kPa",
    "s-1": "Hz GHz",
}
TOKEN = re.compile(r"([A-Za-z%]+|1)(?:\^?([+-]?\d+))?")

#: exponent of every base (text) and factor of every unknown dimension (number); what is 0 is left out
Row = dict[Any, Fraction]  # keys: bases, and numbers of constants whose unit is not known


@dataclass(frozen=True)
class Units:
    """Units of the inputs and of the target, as in `inference.discovery.dataset.Table`."""

    inputs: Mapping[str, str]
    target: str


def unit_of(name: str) -> str:
    """Unit of an input as `read_table` gives it."""
    if name in CATALOGUE:
        return CATALOGUE[name].unit
    return "day" if name == DAY_OF_YEAR else DRIVERS.get(name, "degree")


def dimension(unit: str) -> dict[str, Fraction]:
    """Base -> exponent.

    Args:
        unit: product of units with whole exponents, as in ``"kg m-2"`` or ``"1"``.

    Returns:
        Of ``m kg s K mol A`` those with an exponent other than 0.

    Raises:
        ValueError: a unit is unknown.

    Example:
        >>> sorted(dimension("ug cm-2")), dimension("m3 m-3"), dimension("dB")
        (['kg', 'm'], {}, {})
    """
    total: Row = {}
    for token in re.split(r"[\s.*]+", unit.strip()):
        match = TOKEN.fullmatch(token)
        of = [base for base, names in SYMBOLS.items() if match and match[1] in names.split()]
        if match is None or not of:
            raise ValueError(
                f"The unit {unit!r} is unknown at {token!r}: write a product of units such as "
                "m, kg, K, mm, ug, day, dB, 1 with whole exponents, as in 'kg m-2'."
            )
        own = {of[0]: Fraction(1)} if of[0] in BASES else dimension(of[0]) if of[0] else {}
        total = _plus(total, own, Fraction(int(match[2] or 1)))
    return total


def inconsistency(expression: sympy.Expr, units: Units, dimensionless_constants: bool = False) -> str | None:
    """What is wrong with the units of an equation.

    A floating-point number is a constant with a unit of its own, every other number is pure. A constant added to a
    logarithm may stand for the unit of its argument, as in ``c0 + log(x) = log(x/k)``.

    Args:
        expression: right-hand side, in the inputs, with numbers for its coefficients.
        units: of the inputs and of the left-hand side.
        dimensionless_constants: whether the constants are pure numbers as well.

    Returns:
        One sentence, or None if units can be given to the constants so that everything agrees.

    Raises:
        ValueError: a unit is unknown.
    """
    known = {s: dimension(units.inputs[s.name]) for s in expression.free_symbols}
    system = _System()
    constants = 0

    def visit(node: sympy.Expr, absorbed: bool = False) -> Row:
        nonlocal constants
        if node.is_number:
            if dimensionless_constants or not node.atoms(sympy.Float):
                return {}
            constants += 1
            return {constants: Fraction(1)}
        if node.is_Symbol:
            return known[node]
        if node.is_Add:
            free = not dimensionless_constants and any(a.is_number and a.atoms(sympy.Float) for a in node.args)
            terms = [visit(a, free) for a in node.args]
            for term in terms[1:]:
                system.require(_plus(term, terms[0], Fraction(-1)), f"the terms of {node} differ")
            return terms[0]
        if node.is_Mul:
            alone = absorbed and sum(not a.is_number for a in node.args) == 1
            total: Row = {}
            for a in node.args:
                total = _plus(total, visit(a, alone))
            return total
        if node.is_Pow:
            base, exponent = node.args
            if exponent.is_Rational:
                return _plus({}, visit(base), Fraction(int(exponent.p), int(exponent.q)))
            system.require(visit(base), f"the base of {node} has a unit")
            system.require(visit(exponent), f"the exponent of {node} has a unit")
            return {}
        argument = visit(node.args[0])
        if not (absorbed and node.func is sympy.log):
            system.require(argument, f"the argument of {node} has a unit")
        return {}

    system.require(
        _plus(visit(expression), dimension(units.target), Fraction(-1)),
        f"it is not in the unit {units.target} of the target",
    )
    return None if system.fault is None else f"Its units are inconsistent: {system.fault}."


class _System:
    """Linear equations, each a row that is to be 0, kept in echelon form."""

    def __init__(self) -> None:
        self.pivots: dict[int, Row] = {}
        self.fault: str | None = None

    def require(self, row: Row, fault: str) -> None:
        """Add an equation; the first one without a solution leaves its fault."""
        for unknown, pivot in self.pivots.items():
            if unknown in row:
                row = _plus(row, pivot, -row[unknown] / pivot[unknown])
        free = next((key for key in row if isinstance(key, int)), None)
        if free is not None:
            self.pivots[free] = row
        elif row and self.fault is None:
            self.fault = fault


def _plus(one: Row, other: Row, factor: Fraction = Fraction(1)) -> Row:
    total = {key: one.get(key, Fraction(0)) + factor * other.get(key, Fraction(0)) for key in {**one, **other}}
    return {key: value for key, value in total.items() if value}
