"""Expressions with numbers in them -> forms with named coefficients, without constants that say the same twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy

from pi_vae.law import evaluate

__all__ = ["canonical", "complexity", "parametrise", "poles", "values_of"]

ONE = sympy.Integer(1)
STEEP = 10.0  # logarithm of a factor


def complexity(expression: sympy.Expr) -> int:
    """Number of constants, variables, operations and functions; a sign is free, ``a*b*c`` has two operations."""
    if not expression.args:
        return 1
    if expression.is_Pow:
        base, exponent = expression.args
        return complexity(base) + (1 if exponent in (-1, 2, sympy.Rational(1, 2)) else 2)
    arguments = [a for a in expression.args if not (expression.is_Mul and a == -1)]
    operations = max(len(arguments) - 1, 0) if expression.is_Add or expression.is_Mul else 1
    return operations + sum(complexity(a) for a in arguments)


def canonical(expression: sympy.Expr) -> sympy.Expr:
    """Move constants outward until none is redundant.

    ``exp(2. + x)`` becomes ``7.39*exp(x)``, ``3./(2.*x + 4.)`` becomes ``0.75/(0.5*x + 1)``, ``2.*(x + 3.)`` becomes
    ``2.*x + 6.``; without that, two constants would compete in the fit and neither would have a posterior.
    """
    if not expression.args:
        return expression
    arguments = [canonical(a) for a in expression.args]
    if expression.is_Mul:
        return _spread(sympy.Mul(*arguments))
    if expression.is_Add:
        return sympy.Add(*arguments)
    if expression.is_Pow:
        base, exponent = arguments
        if base.func is sympy.exp:
            return canonical(sympy.exp(exponent * base.args[0]))
        factor, rest = _factor(base)
        whole = bool(exponent.is_integer)
        if rest is not ONE and exponent.is_number and (whole or factor > 0):
            return _spread(sympy.Mul(factor**exponent, rest**exponent))
        return base**exponent
    (argument,) = arguments
    if expression.func is sympy.exp and argument.is_Add:
        number, rest = argument.as_coeff_Add()
        return _spread(sympy.exp(number) * sympy.exp(rest)) if number != 0 else sympy.exp(argument)
    if expression.func is sympy.log:
        factor, rest = _factor(argument)
        if factor > 0 and factor != 1:
            return sympy.log(factor).evalf() + sympy.log(rest)
    return expression.func(argument)


def _factor(expression: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Numeric factor and the rest; of a sum, the factor that makes its constant term (or else its first one) 1."""
    if not expression.is_Add:
        factor, rest = expression.as_coeff_Mul()
        return factor, rest
    number, rest = expression.as_coeff_Add()
    factor = number if number != 0 else rest.args[0].as_coeff_Mul()[0]
    if factor == 1:
        return ONE, expression
    parts = [_near_one(term.as_coeff_Mul()[0] / factor) * term.as_coeff_Mul()[1] for term in expression.args]
    return factor, sympy.Add(*parts)


def _near_one(number: sympy.Expr) -> sympy.Expr:
    return ONE if abs(float(number) - 1) < 1e-12 else number


def _spread(product: sympy.Expr) -> sympy.Expr:
    """Multiply a sum by the numeric factor in front of it."""
    factor, rest = product.as_coeff_Mul()
    if factor == 1 or factor == -1 or factor == 0:
        return product
    sums = [a for a in (rest.args if rest.is_Mul else (rest,)) if a.is_Add]
    if not sums:
        return product
    spread = sympy.Add(*(factor * term for term in sums[0].args))
    others = [a for a in (rest.args if rest.is_Mul else (rest,)) if a is not sums[0]]
    return sympy.Mul(spread, *others)


def parametrise(expression: sympy.Expr) -> tuple[sympy.Expr, dict[str, float]]:
    """Replace every constant by a coefficient `c0`, `c1` …; exponents and whole numbers stay.

    ``1e-60*exp(x)`` within a sum becomes ``exp(c0 + x)``: a factor so small or large is no constant to fit.

    Returns:
        (form, coefficient -> value)
    """
    values: dict[str, float] = {}

    def named(value: float) -> sympy.Symbol:
        name = f"c{len(values)}"
        values[name] = float(value)
        return sympy.Symbol(name)

    def visit(node: sympy.Expr) -> sympy.Expr:
        if node.is_Float:
            return named(float(node))
        if not node.args:
            return node
        if node.is_Pow:
            return visit(node.args[0]) ** node.args[1]
        return node.func(*(steep(a) if node.is_Add else visit(a) for a in node.args))

    def steep(term: sympy.Expr) -> sympy.Expr:
        factor, rest = term.as_coeff_Mul()
        if rest.func is not sympy.exp or not factor.is_Float or factor == 0:
            return visit(term)
        logarithm = float(sympy.log(abs(factor)))  # by SymPy, as 1e-400 is no float
        if abs(logarithm) < STEEP:
            return visit(term)
        return sympy.sign(factor) * sympy.exp(named(logarithm) + visit(rest.args[0]))

    return visit(expression), values


def values_of(form: sympy.Expr, coefficients: dict[str, float], names: Sequence[str], x: np.ndarray) -> np.ndarray:
    """Evaluate a form; NaN or infinity where it is not defined.

    Args:
        form: expression in the inputs and the coefficients.
        coefficients: name -> value.
        names: inputs, in the order of the columns.
        x: `[row, input]`.

    Returns:
        `[row]`
    """
    columns = {name: x[:, i] for i, name in enumerate(names)}
    with np.errstate(all="ignore"):
        value = evaluate(form, columns | {k: np.float64(v) for k, v in coefficients.items()}, np)
    return np.broadcast_to(np.asarray(value, dtype=float), len(x))


def poles(expression: sympy.Expr) -> list[sympy.Expr]:
    """Expressions that the law divides by."""
    return sorted(
        {p.base for p in expression.atoms(sympy.Pow) if p.exp.is_number and p.exp < 0 and p.base.free_symbols}, key=str
    )
