"""Prescribed forms of a law, in which some functions are free: ``"f(lai)*exp(-b*lai) + g(soil_moisture)"``."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

import sympy

from inference.discovery.dataset import KNOWN_INPUTS
from pi_vae.law import FUNCTIONS, MAX_CHARACTERS, parse

__all__ = ["Form", "read_form"]

LETTER = re.compile(r"[a-z]\d*")


@dataclass(frozen=True)
class Form:
    """A law of which only some functions and constants are free.

    Attributes:
        text: as written.
        expression: in the inputs, the constants and one symbol for every free function or derivative of one, such as
            ``f(lai)``; its own numbers are exact, hence no coefficients of a fit.
        functions: free function -> names of its arguments.
        constants: names of the free constants.
        places: symbol in the expression -> function and position (from 1) of the argument it is derived by, 0 for the
            function itself.
    """

    text: str
    expression: sympy.Expr
    functions: Mapping[str, tuple[str, ...]]
    constants: tuple[str, ...]
    places: Mapping[sympy.Symbol, tuple[str, int]]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs that it reads, those of its free functions included."""
        fixed = {s.name for s in self.expression.free_symbols} - {s.name for s in self.places} - set(self.constants)
        free = {name for arguments in self.functions.values() for name in arguments}
        return tuple(name for name in KNOWN_INPUTS if name in fixed | free)

    @property
    def derivatives(self) -> bool:
        """Whether a derivative of a free function occurs."""
        return any(position for _, position in self.places.values())

    def assemble(self, parts: Mapping[str, sympy.Expr], constants: Mapping[str, float] | None = None) -> sympy.Expr:
        """The law that the functions make.

        Args:
            parts: free function -> expression in its arguments.
            constants: free constant -> value; without, they stay names.

        Returns:
            Expression in the inputs.
        """
        filled: dict[sympy.Symbol, sympy.Expr] = {}
        for symbol, (name, position) in self.places.items():
            by = sympy.Symbol(self.functions[name][position - 1])
            filled[symbol] = parts[name].diff(by) if position else parts[name]
        filled |= {sympy.Symbol(name): sympy.Float(value) for name, value in (constants or {}).items()}
        return self.expression.xreplace(filled)


def read_form(text: str) -> Form:
    """Read a form.

    Args:
        text: numbers, inputs, ``+ - * / **`` and the functions of `pi_vae.law.parse`; besides, free functions of named
            inputs, ``f(lai, soil_moisture)``, their derivatives, ``D(f, 1)(lai, soil_moisture)`` by the first argument,
            and free constants. Both are named by a small letter, with a number on request. Nothing is executed.

    Raises:
        ValueError: the text is no form, a name is unknown or means two things, or no function is free.

    Example:
        >>> form = read_form("f(lai)*exp(-b*lai) + g(soil_moisture)")
        >>> dict(form.functions), form.constants
        ({'f': ('lai',), 'g': ('soil_moisture',)}, ('b',))
    """
    try:
        tree = ast.parse(text.strip()[: MAX_CHARACTERS + 1], mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a form: write it as in 'f(lai)*exp(-b*lai)'.") from error
    reader = _Reader(text)
    plain = ast.unparse(reader.visit(tree))
    names = {node.id for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Name)} - set(reader.places)
    constants = sorted(names - set(KNOWN_INPUTS) - set(FUNCTIONS))
    for name in constants:
        if not LETTER.fullmatch(name):
            raise ValueError(
                f"The form {text!r} reads {name!r}, which is no input: use one, or a letter for a constant."
            )
        if name in reader.functions:
            raise ValueError(f"The form {text!r} calls {name!r} both a function and a constant: rename one.")
    if not reader.functions:
        raise ValueError(f"The form {text!r} leaves no function free: write one, as in 'f(lai)'.")
    symbols = {sympy.Symbol(key): sympy.Symbol(shown) for key, (shown, _, _) in reader.places.items()}
    try:
        expression = parse(plain, (*KNOWN_INPUTS, *constants, *reader.places))
    except ValueError as error:
        raise ValueError(f"The form {text!r} cannot be read: {error}") from error
    expression = sympy.nsimplify(expression, rational=True).xreplace(symbols)
    places = {sympy.Symbol(shown): (name, position) for shown, name, position in reader.places.values()}
    for symbol in (*places, *map(sympy.Symbol, constants)):
        if not expression.has(symbol):
            raise ValueError(f"{symbol} drops out of the form {text!r}: leave it out.")
    return Form(text, expression, reader.functions, tuple(constants), places)


class _Reader(ast.NodeTransformer):
    """Replaces free functions and their derivatives by names that `parse` can read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.functions: dict[str, tuple[str, ...]] = {}
        self.places: dict[str, tuple[str, str, int]] = {}  # name -> as shown, function, position

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node.func:
            case ast.Name(id=name) if name in FUNCTIONS:
                return self.generic_visit(node)
            case ast.Name(id=name) if LETTER.fullmatch(name) and name not in KNOWN_INPUTS:
                position = 0
            case ast.Call(
                func=ast.Name(id="D"), args=[ast.Name(id=name), ast.Constant(value=int(position))], keywords=[]
            ) if LETTER.fullmatch(name) and 1 <= position <= len(node.args):
                pass
            case _:
                raise ValueError(
                    f"{ast.unparse(node)!r} cannot stand in the form {self.text!r}: use {', '.join(FUNCTIONS)}, a free "
                    "function named by a letter, as in f(lai), or its derivative, as in D(f, 1)(lai)."
                )
        arguments = tuple(a.id if isinstance(a, ast.Name) else ast.unparse(a) for a in node.args)
        wrong = [a for a in arguments if a not in KNOWN_INPUTS]
        if wrong or node.keywords or not arguments or len(set(arguments)) < len(arguments):
            raise ValueError(
                f"{ast.unparse(node)!r} in the form {self.text!r} is no free function of inputs: give it different "
                "names of inputs, as in f(lai, soil_moisture)."
            )
        if self.functions.setdefault(name, arguments) != arguments:
            raise ValueError(f"The form {self.text!r} gives {name!r} different arguments: use one letter for each.")
        key = f"_{name}_{position}"
        shown = f"{name}({', '.join(arguments)})"
        self.places[key] = (f"D({name}, {position}){shown[len(name) :]}" if position else shown, name, position)
        return ast.Name(id=key, ctx=ast.Load())
