r"""Candidate terms of an equation in time: what :math:`\dot x = \sum_j c_j\,\theta_j(x, d, t)` may be a sum of.

A term is a SymPy expression in states, drivers and ``day_of_year``, with its text as name. Terms of a user's own are
read by `pi_vae.law.parse`: numbers, the known names, ``+ - * / **`` and five functions; nothing is ever executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import sympy

from inference.discovery.dynamics.samples import DAY_OF_YEAR, YEAR
from pi_vae.law import evaluate, parse

__all__ = ["Library"]

MAX_DEGREE, MAX_SEASON = 5, 6


@dataclass(frozen=True)
class Library:
    """Terms that every equation chooses from.

    Attributes:
        inputs: states, then drivers.
        terms: name -> SymPy expression in the inputs and ``day_of_year``.

    Raises:
        ValueError: there is no term.
    """

    inputs: tuple[str, ...]
    terms: Mapping[str, sympy.Expr]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("The library has no term: allow a constant, a degree, a season or terms of your own.")

    @classmethod
    def build(
        cls,
        states: Sequence[str],
        drivers: Sequence[str] = (),
        degree: int = 2,
        constant: bool = True,
        products: bool = False,
        season: int = 1,
        extra: Sequence[str] = (),
    ) -> Library:
        r"""The usual terms.

        Args:
            states: names.
            drivers: names.
            degree: of the polynomials of the states, 0 to 5.
            constant: a constant.
            products: every state times every driver.
            season: harmonics ``sin_year``, ``cos_year``, ``sin_year2`` …: :math:`\sin(2\pi k\,t / 365.25)`, 0 to 6.
            extra: terms of your own, such as ``"x/(1 + x)"``.

        Raises:
            ValueError: degree or season are out of range, or an extra term cannot be read or is there already.
        """
        if not 0 <= degree <= MAX_DEGREE or not 0 <= season <= MAX_SEASON:
            raise ValueError(
                f"The library has degree={degree} and season={season}: use 0 to {MAX_DEGREE} and 0 to {MAX_SEASON}."
            )
        symbols = [sympy.Symbol(name) for name in states]
        terms: dict[str, sympy.Expr] = {"1": sympy.Integer(1)} if constant else {}
        for order in range(1, degree + 1):
            found = [sympy.Mul(*group) for group in combinations_with_replacement(symbols, order)]
            terms |= {str(term): term for term in found}
        terms |= {name: sympy.Symbol(name) for name in drivers}
        if products:
            found = [symbol * sympy.Symbol(name) for symbol in symbols for name in drivers]
            terms |= {str(term): term for term in found}
        for k in range(1, season + 1):
            rate = float(f"{2 * math.pi * k / YEAR:.15g}")  # as many digits as SymPy writes
            angle = sympy.Float(rate) * sympy.Symbol(DAY_OF_YEAR)
            label = "" if k == 1 else str(k)
            terms |= {f"sin_year{label}": sympy.sin(angle), f"cos_year{label}": sympy.cos(angle)}
        for text in extra:
            term = parse(text, (*states, *drivers, DAY_OF_YEAR))
            if term in terms.values():
                raise ValueError(f"The term {text!r} is in the library already: leave it out.")
            terms[str(term)] = term
        return cls((*states, *drivers), terms)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms."""
        return tuple(self.terms)

    def index(self, text: str) -> int:
        """Position of a term by its name, or by what it is: ``"y*x"`` is ``"x*y"``.

        Raises:
            ValueError: it is not in the library.
        """
        names = self.names
        if text in names:
            return names.index(text)
        expressions = list(self.terms.values())
        try:
            return expressions.index(parse(text, (*self.inputs, DAY_OF_YEAR)))
        except ValueError:
            raise ValueError(f"The library has no term {text!r}: use one of {', '.join(names)}.") from None

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Values of the terms, one after the other.

        Args:
            inputs: name -> array, broadcast together; all of `inputs` and ``day_of_year``.

        Yields:
            `[...]`

        Raises:
            ValueError: a term is not finite at some of the inputs.
        """
        shape = np.broadcast_shapes(*(np.shape(value) for value in inputs.values()))
        for name, term in self.terms.items():
            with np.errstate(all="ignore"):
                column = np.broadcast_to(evaluate(term, inputs, np), shape)
            if not np.isfinite(column).all():
                raise ValueError(f"The term {name!r} is not finite at some values of its inputs: leave it out.")
            yield column

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {"inputs": list(self.inputs), "terms": {name: str(term) for name, term in self.terms.items()}}

    @classmethod
    def from_dict(cls, data: Mapping) -> Library:
        """The library that `to_dict` wrote.

        Raises:
            ValueError: a term cannot be read.
        """
        names = (*data["inputs"], DAY_OF_YEAR)
        return cls(tuple(data["inputs"]), {name: parse(text, names) for name, text in data["terms"].items()})
