"""Symbolic regression as others would use it: defaults, posterior means, the package's own choice of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy

from pi_vae.law import parse

__all__ = ["PEERS"]

OPERATORS = ("add", "sub", "mul", "div", "exp", "log", "sqrt", "sin", "cos")


def operon(x: np.ndarray, y: np.ndarray, names: Sequence[str], seed: int) -> sympy.Expr:
    """PyOperon with the package's defaults but for accuracy against length; it chooses by description length."""
    from pyoperon.sklearn import SymbolicRegressor

    regressor = SymbolicRegressor(
        allowed_symbols=",".join((*OPERATORS, "square", "constant", "variable")),
        objectives=["r2", "length"],
        max_length=30,
        n_threads=1,
        random_state=seed,
    )
    regressor.fit(x, y)
    return _read(regressor.get_model_string(regressor.model_, 9, list(names)).replace("^", "**"), names)


def gplearn(x: np.ndarray, y: np.ndarray, names: Sequence[str], seed: int) -> sympy.Expr:
    """gplearn with its defaults and the exponential besides."""
    from gplearn.functions import make_function
    from gplearn.genetic import SymbolicRegressor

    def bounded(a: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(a, -50.0, 50.0))

    exponential = make_function(function=bounded, name="exp", arity=1)
    functions = [exponential if name == "exp" else name for name in OPERATORS]
    regressor = SymbolicRegressor(function_set=functions, feature_names=list(names), random_state=seed)
    regressor.fit(x, y)
    two = {"add": "+", "sub": "-", "mul": "*", "div": "/"}

    def infix(text: str) -> str:
        """``add(a, mul(b, c))`` -> ``(a + (b * c))``."""
        head, _, rest = text.partition("(")
        if not rest:
            return text
        parts, depth = [""], 0
        for letter in rest[:-1]:
            depth += (letter == "(") - (letter == ")")
            if letter == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += letter
        inner = [infix(part.strip()) for part in parts]
        return f"({inner[0]} {two[head]} {inner[1]})" if head in two else f"{head}({inner[0]})"

    return _read(infix(str(regressor._program)), names)


def pysr(x: np.ndarray, y: np.ndarray, names: Sequence[str], seed: int) -> sympy.Expr:
    """PySR with its defaults and the same operators."""
    from pysr import PySRRegressor

    regressor = PySRRegressor(
        unary_operators=["exp", "log", "sqrt", "sin", "cos", "square"],
        binary_operators=["+", "-", "*", "/"],
        random_state=seed,
        deterministic=True,
        parallelism="serial",
        progress=False,
    )
    regressor.fit(x, y, variable_names=list(names))
    return _read(str(regressor.sympy()), names)


def _read(text: str, names: Sequence[str]) -> sympy.Expr:
    """A law in our grammar; zero where it is none, as a constant that is not finite."""
    try:
        return parse(text, names)
    except ValueError:
        return sympy.Integer(0)


PEERS = {"operon": operon, "gplearn": gplearn, "pysr": pysr}
