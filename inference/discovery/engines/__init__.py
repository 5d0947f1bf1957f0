"""Engines propose equations; everything they propose is refitted, checked and tested by the caller.

An engine is a module with `CAPABILITIES`, `INSTALL`, `available` and `search`. To add one, write such a module and name
it in `ENGINES`; of those that search by chance, ``"auto"`` takes the first that is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import sympy

from inference.discovery.dimensions import Units

if TYPE_CHECKING:
    from inference.discovery.template import Template

__all__ = ["CHECKED", "ENGINES", "Budget", "Candidate", "Engine", "Scaling", "Together", "anchored", "load_engine"]

ENGINES = {name: f"inference.discovery.engines.{name}" for name in ("pysr", "operon", "terms")}

#: fields of a template that any engine honours, as they are built into its candidates or checked on them
CHECKED = frozenset(
    "inputs operators max_length bounds monotone even odd zero_at units dimensionless_constants symmetric autonomous "
    "sign limits".split()
)
FARAWAY = 3.0  # an input whose mean is more of its own sd away from 0 is centred
ANCHORS, HEAVY, FAR = 0.1, 10.0, 10.0  # share of the rows, weight of each in that of a row, ranges from the data


@dataclass(frozen=True)
class Budget:
    """Effort of one search.

    Attributes:
        rows: rows that the search sees at most.
        population: size of the population.
        generations: number of generations.
        iterations: steps of the local search of constants.
        seconds: wall clock that an engine in a process of its own may take, start-up left out.
        progress: whether such an engine prints what it does.
    """

    rows: int = 800
    population: int = 200
    generations: int = 20
    iterations: int = 3
    seconds: float = 600.0
    progress: bool = False


@dataclass(frozen=True)
class Candidate:
    """An equation that an engine proposes, in the units of the inputs, and the engine's own measure of its length."""

    expression: sympy.Expr
    complexity: int


class Engine(Protocol):
    """What an engine offers.

    Attributes:
        CAPABILITIES: fields of a template (`Template.asks`) that it searches within or that are checked afterwards on
            its candidates with a fair chance that some pass.
        INSTALL: how to install it.
    """

    CAPABILITIES: frozenset[str]
    INSTALL: str

    def available(self) -> bool:
        """Whether it is installed; quick, nothing is started."""
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
        units: Units | None = None,
    ) -> list[Candidate]:
        """Search equations for `y [row]` in `x [row, input]`; the same seed gives the same candidates."""
        ...


@dataclass(frozen=True)
class Scaling:
    r"""Inputs and target to the size that a search likes, :math:`z = (x - m) / s`.

    Inputs are divided by their spread, and centred if they lie far from 0 (a temperature in kelvin); others keep their
    zero, on which the form of a law may depend.

    Attributes:
        scale, shift: `[input]`.
        spread, level: of the target.
    """

    scale: np.ndarray
    shift: np.ndarray
    spread: float
    level: float

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Scaling:
        """Scaling for inputs `[row, input]` and a target `[row]`."""
        scale, shift = x.std(0), x.mean(0)
        scale = np.where(scale > 0, scale, 1.0)
        shift = np.where(np.abs(shift) > FARAWAY * scale, shift, 0.0)
        return cls(scale, shift, float(y.std()), float(y.mean()))

    def apply(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scaled inputs and target."""
        return (x - self.shift) / self.scale, (y - self.level) / self.spread

    def undo(self, expression: sympy.Expr, letters: Sequence[str], names: Sequence[str]) -> sympy.Expr:
        """Law for the target in the inputs `names`, from one for the scaled target in the scaled inputs `letters`."""
        original = {
            sympy.Symbol(z): (sympy.Symbol(name) - float(m)) / float(s) if m else sympy.Symbol(name) / float(s)
            for z, name, m, s in zip(letters, names, self.shift, self.scale, strict=True)
        }
        return self.level + self.spread * expression.xreplace(original)


def anchored(
    template: Template, x: np.ndarray, y: np.ndarray, weights: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with heavy synthetic ones besides, at which the law has the limits of the template.

    For every limit a tenth of the rows, evenly picked, is repeated with the input where it tends to, or ten ranges
    beyond the data if that is infinity, the target of the limit and ten times the mean weight.

    Returns:
        inputs `[row, input]`, target `[row]`, weights `[row]`; the same ones where there is no limit.
    """
    some = x[np.linspace(0, len(x) - 1, max(int(ANCHORS * len(x)), 1)).astype(int)]
    weight = HEAVY * weights.mean()
    for name, (approach, value) in template.limits.items():
        column, end = list(names).index(name), float(approach)
        low, high = x[:, column].min(), x[:, column].max()
        far = FAR * (high - low)
        rows = some.copy()
        rows[:, column] = end if np.isfinite(end) else high + far if end > 0 else low - far
        x, y = np.concatenate([x, rows]), np.concatenate([y, np.full(len(rows), float(value))])
        weights = np.concatenate([weights, np.full(len(rows), weight)])
    return x, y, weights


@dataclass(frozen=True)
class Together:
    """Engines that propose side by side.

    Attributes:
        engines: each of which honours the template.
    """

    engines: tuple[Engine, ...]

    def search(self, *args, **kwargs) -> list[Candidate]:
        """What all of them propose, the shortest first."""
        proposed = [candidate for engine in self.engines for candidate in engine.search(*args, **kwargs)]
        return sorted(proposed, key=lambda c: c.complexity)


def load_engine(name: str = "auto", template: Template | None = None) -> tuple[str, Engine | Together]:
    """Engine by name; ``"auto"`` enumerates terms and runs the first genetic engine that is installed, side by side.

    Args:
        name: of the engine.
        template: what it has to honour; by default nothing. ``"auto"`` takes what can honour it.

    Returns:
        name and engine.

    Raises:
        ValueError: there is no such engine, or it cannot honour the template.
        ImportError: it is not installed.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"Unknown engine {name!r}: use 'auto' or one of {', '.join(ENGINES)}.")
    asked = template.asks if template is not None else frozenset()
    engines: dict[str, Engine] = {key: importlib.import_module(path) for key, path in ENGINES.items()}
    able = [key for key, engine in engines.items() if asked <= engine.CAPABILITIES]
    there = [key for key in able if engines[key].available()]
    if name in there:
        return name, engines[name]
    if name == "auto" and there:
        chosen = list(dict.fromkeys((*(key for key in there if key == "terms"), there[0])))
        return "+".join(chosen), Together(tuple(engines[key] for key in chosen))
    if name == "auto" and able:
        raise ImportError(
            f"No engine that honours the template is installed ({', '.join(able)}): {engines[able[-1]].INSTALL}."
        )
    if name in able:
        raise ImportError(f"Engine {name!r} is not installed: {engines[name].INSTALL}.")
    lacking = sorted(asked - (CHECKED if name == "auto" else engines[name].CAPABILITIES))
    instead = f"use engine={(there or able)[0]!r} or drop that" if able else "drop that"
    raise ValueError(f"Engine {name!r} cannot honour {', '.join(lacking)} of the template: {instead}.")
