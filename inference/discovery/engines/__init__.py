"""Engines propose equations; everything they propose is refitted, checked and tested by the caller.

An engine is a module with `search` and `available`. To add one, write such a module and name it in `ENGINES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import sympy

if TYPE_CHECKING:
    from inference.discovery.template import Template

__all__ = ["ENGINES", "Budget", "Candidate", "Engine", "load_engine"]

ENGINES = {"operon": "inference.discovery.engines.operon"}


@dataclass(frozen=True)
class Budget:
    """Effort of one search.

    Attributes:
        rows: rows that the search sees at most.
        population: size of the population.
        generations: number of generations.
        iterations: steps of the local search of constants.
    """

    rows: int = 800
    population: int = 200
    generations: int = 20
    iterations: int = 3


@dataclass(frozen=True)
class Candidate:
    """An equation that an engine proposes, in the units of the inputs, and the engine's own measure of its length."""

    expression: sympy.Expr
    complexity: int


class Engine(Protocol):
    """What an engine offers."""

    def available(self) -> bool:
        """Whether it is installed."""
        ...

    def search(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        names: Sequence[str],
        template: Template,
        seed: int,
        budget: Budget,
    ) -> list[Candidate]:
        """Search equations for `y [row]` in `x [row, input]`; the same seed gives the same candidates."""
        ...


def load_engine(name: str = "auto") -> tuple[str, Engine]:
    """Engine by name; ``"auto"`` takes the first that is installed.

    Returns:
        name and engine.

    Raises:
        ValueError: there is no such engine.
        ImportError: it is not installed.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"Unknown engine {name!r}: use 'auto' or one of {', '.join(ENGINES)}.")
    for key in ENGINES if name == "auto" else (name,):
        engine = importlib.import_module(ENGINES[key])
        if engine.available():
            return key, engine
    raise ImportError(f"Engine {name!r} is not installed: pip install pyoperon.")
