r"""Closed forms by enumeration: products and sums of elementary terms, scored by linear algebra.

Elementary terms :math:`g` of one input are the shapes in which empirical laws are written: powers, exponentials,
saturation :math:`1 - e^{-bx}`, :math:`\log(1 + bx)`, :math:`1/(1 + bx)`, logistic steps, waves of angles and of the
year, each on a grid of its constants. All products of two, the best of three, and sums of such products are ranked by
the weighted :math:`R^2` of

.. math:: y \approx c_0 + \sum_k c_k \prod_j g_{kj}(x_{kj}),

a matter of matrix products (matching pursuit, Mallat & Zhang 1993). The caller fits all constants of what is proposed.
Nothing is drawn but the rows: unlike in genetic programming, a law of such a shape is not missed by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy

from inference.discovery.dataset import DAY_OF_YEAR, GEOMETRY
from inference.discovery.dimensions import Units, dimension
from inference.discovery.engines import CHECKED, Budget, Candidate, anchored
from inference.discovery.engines.powers import agreeing, power_laws
from inference.discovery.expressions import complexity
from inference.discovery.template import Template

__all__ = ["CAPABILITIES", "INSTALL", "available", "search"]

CAPABILITIES = CHECKED
INSTALL = "it is always there"
ROWS = 300
PAIRS, SUMS, LONGER = 60, 24, 10  # structures that a factor, a second term, a third term is added to
KEPT = 5  # candidates of each kind
GROUPS = 6
LARGEST = 30.0  # exponent, in absolute value


#: shape -> operators it takes, and its value by the functions of numpy or SymPy at an input, given its constants
SHAPES: dict[str, tuple[str, Callable]] = {
    "linear": ("", lambda m, x: x),
    "square": ("square", lambda m, x: x**2),
    "root": ("sqrt", lambda m, x: m.sqrt(x)),
    "inverse": ("div", lambda m, x: 1 / x),
    "inverse square": ("div square", lambda m, x: 1 / x**2),
    "log": ("log", lambda m, x: m.log(x)),
    "log1p": ("log add", lambda m, x: m.log(1 + x)),
    "stretched log": ("log add mul", lambda m, x, b: m.log(1 + b * x)),
    "exp": ("exp mul", lambda m, x, b: m.exp(b * x)),
    "saturation": ("exp mul sub", lambda m, x, b: 1 - m.exp(-b * x)),
    "hyperbola": ("div add mul", lambda m, x, b: 1 / (1 + b * x)),
    "step": ("div add exp mul", lambda m, x, b, c: 1 / (1 + m.exp(b * x + c))),
    "cos": ("cos mul", lambda m, x, b: m.cos(b * x)),
    "sin": ("sin mul", lambda m, x, b: m.sin(b * x)),
    "secant": ("div cos mul", lambda m, x, b: 1 / m.cos(b * x)),
    "wave": ("sin add mul", lambda m, x, b, c: m.sin(b * x + c)),
    "half-year wave": ("sin add mul", lambda m, x, b, c: m.sin(b * x + c)),
}


@dataclass(frozen=True)
class Element:
    """An elementary term of one input, with its constants and its value at the rows."""

    input: str
    shape: str
    constants: tuple[float, ...]
    column: np.ndarray

    @property
    def structure(self) -> tuple[str, str]:
        return self.input, self.shape

    @property
    def expression(self) -> sympy.Expr:
        return SHAPES[self.shape][1](sympy, sympy.Symbol(self.input), *map(sympy.Float, self.constants))


def available() -> bool:
    """Always."""
    return True


def search(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    template: Template,
    seed: int,
    budget: Budget,
    units: Units | None = None,
) -> list[Candidate]:
    """Enumerate; see the module.

    Args:
        x: `[row, input]`.
        y: `[row]`.
        weights: `[row]`.
        names: of the inputs.
        template: constraints; inputs and operators are honoured here, limits enter as heavy rows (`anchored`), the
            rest is left to the caller.
        seed: of the choice of rows, where there are many.
        budget: rows at most.
        units: of inputs and target; with pure constants, products of powers that agree with them are enumerated too.

    Returns:
        Candidates, shortest first; none if the target is constant.
    """
    data = x
    x, y, weights = anchored(template, x, y, weights, names)
    count = min(len(y), budget.rows, ROWS)
    rows = np.sort(np.random.default_rng(seed).choice(len(y), count, replace=False))
    x, y, root = x[rows], y[rows], np.sqrt(weights[rows] / weights[rows].mean())
    if not np.ptp(y) > 0:
        return []
    allowed = [i for i, name in enumerate(names) if template.inputs is None or name in template.inputs]
    told = units.inputs if units is not None else {}
    operators = set(template.operators)
    elements = [e for i in allowed for e in _elements(names[i], data[:, i], x[:, i], operators, told.get(names[i], ""))]
    if not elements:
        return []
    scored = _Scored(elements, y, root)
    products, adds = "mul" in template.operators, "add" in template.operators
    singles = scored.singles()
    pairs = scored.pairs() if products else []
    triples = scored.triples(pairs[: PAIRS // 2])
    plain = scored.sums(singles, False) if adds else []
    sums = scored.sums([*pairs[: SUMS // 4], *singles[: SUMS // 4]], products) if adds else []
    longer = scored.sums([*plain[: LONGER // 2], *sums[: LONGER // 2]], False) if adds else []
    kept = [law for kind in (singles, pairs, triples, plain, sums, longer) for law in _best_of(kind, scored)]
    # A term may have come in for the sake of another one that came later.
    kept += [law[:k] + law[k + 1 :] for law in kept for k in range(len(law)) if len(law) > 1]
    laws: dict[sympy.Expr, Candidate] = {}
    if products and "div" in operators:
        pure = units if template.dimensionless_constants else None
        powers = agreeing(names, allowed, pure) if pure is not None else None
        factors = _pure_factors(names, allowed, x, operators, pure) if pure is not None else []
        for expression in power_laws(names, allowed, x, y, root, powers, factors):
            laws.setdefault(expression, Candidate(expression, complexity(expression)))
    for terms in dict.fromkeys(kept):
        for expression in scored.laws(terms):
            length = complexity(expression)
            if length <= template.max_length + 2:  # constants that the caller moves may make it shorter
                laws.setdefault(expression, Candidate(expression, length))
    return sorted(laws.values(), key=lambda c: c.complexity)


Term = tuple[int, ...]  # factors, as positions among the elements; 0 is the number one


class _Scored:
    """Elements, and how well what is made of them explains the target; elements of one structure lie together."""

    def __init__(self, elements: list[Element], y: np.ndarray, root: np.ndarray) -> None:
        one = Element("", "one", (), np.ones(len(y)))
        names = list(dict.fromkeys(e.structure for e in (one, *elements)))
        self.elements = sorted((one, *elements), key=lambda e: names.index(e.structure))
        self.y, self.root = y, root
        self.columns = np.stack([e.column / np.abs(e.column).max() for e in self.elements])
        self.structure = [names.index(e.structure) for e in self.elements]
        self.starts = np.searchsorted(self.structure, range(len(names)))
        self.ends = np.append(self.starts[1:], len(self.elements))

    def column(self, term: Term) -> np.ndarray:
        return self.columns[list(term)].prod(0)

    def _left(self, terms: Sequence[Term]) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal basis `[row, k]` of the terms and the constant, and what they leave of the target, unit norm."""
        basis, _ = np.linalg.qr(np.stack([self.root, *(self.root * self.column(t) for t in terms)], 1))
        left = self.root * self.y
        left = left - basis @ (basis.T @ left)
        return basis, left / max(np.linalg.norm(left), 1e-300)

    def _gains(self, terms: Sequence[Term], factor: np.ndarray, others: np.ndarray) -> np.ndarray:
        """`[n, element]` share of what the terms leave that the factor times each other times each element explains."""
        basis, left = self._left(terms)
        weight = self.root * factor
        power = (others * weight) ** 2 @ (self.columns**2).T
        free = power - sum(((others * (weight * b)) @ self.columns.T) ** 2 for b in basis.T)
        along = (others * (weight * left)) @ self.columns.T
        return np.where(free > 1e-8 * power, along**2 / np.maximum(free, 1e-300), 0.0)

    def _products(self, terms: Sequence[Term], count: int) -> list[Term]:
        """The best products of two elements, one of every pair of structures, to come after the terms."""
        gains = self._gains(terms, np.ones(len(self.y)), self.columns)
        np.fill_diagonal(gains, 0.0)
        most = np.maximum.reduceat(np.maximum.reduceat(gains, self.starts, 0), self.starts, 1)
        most[np.tril_indices(len(most), -1)] = 0.0
        order = np.argsort(-most, axis=None)[:count]
        pairs = zip(*np.unravel_index(order[most.flat[order] > 1e-6], most.shape), strict=True)
        return [self._at(gains, int(g), int(h)) for g, h in pairs]

    def _at(self, gains: np.ndarray, g: int, h: int) -> Term:
        block = gains[self.starts[g] : self.ends[g], self.starts[h] : self.ends[h]]
        i, j = np.unravel_index(np.argmax(block), block.shape)
        return tuple(f for f in (int(self.starts[g] + i), int(self.starts[h] + j)) if f)

    def _single(self, terms: Sequence[Term], factors: Term, count: int) -> list[Term]:
        """The best elements, one of every structure, times the factors, to come after the terms."""
        gains = self._gains(terms, self.column(factors), np.ones((1, len(self.y))))
        most = np.maximum.reduceat(gains[0], self.starts)
        order = [h for h in np.argsort(-most).tolist() if h and most[h] > 1e-6][:count]
        return [(*factors, int(self.starts[h] + np.argmax(gains[0, self.starts[h] : self.ends[h]]))) for h in order]

    def singles(self) -> list[tuple[Term, ...]]:
        """Laws of one term of one factor."""
        return [(term,) for term in self._single((), (), SUMS)]

    def pairs(self) -> list[tuple[Term, ...]]:
        """Laws of one term of one or two factors."""
        return [(term,) for term in self._products((), PAIRS)]

    def triples(self, pairs: list[tuple[Term, ...]]) -> list[tuple[Term, ...]]:
        """Laws of one term of three factors."""
        found: list[tuple[Term, ...]] = [
            (tuple(sorted(t)),) for (pair,) in pairs if len(pair) == 2 for t in self._single((), pair, 6)
        ]
        return self._ranked(found)

    def sums(self, first: list[tuple[Term, ...]], products: bool) -> list[tuple[Term, ...]]:
        """Laws with another term."""
        found = []
        for terms in first:
            others = self._products(terms, 8) if products else self._single(terms, (), 6)
            found += [(*terms, term) for term in others]
        return self._ranked(found)

    def skill(self, terms: Sequence[Term]) -> float:
        """Weighted R2 of a law with the best coefficients."""
        spread, left = self._left(()), self._left(terms)[0]
        target = self.root * self.y
        rest = [((target - basis @ (basis.T @ target)) ** 2).sum() for basis in (spread[0], left)]
        return 1 - float(rest[1] / rest[0])

    def _ranked(self, found: list[tuple[Term, ...]]) -> list[tuple[Term, ...]]:
        unique = list({tuple(sorted(terms)): terms for terms in found}.values())
        return sorted(unique, key=self.skill, reverse=True)

    def laws(self, terms: Sequence[Term]) -> Iterator[sympy.Expr]:
        """The law with the best coefficients, with a constant and without."""
        products = [sympy.Mul(*(self.elements[f].expression for f in t)) for t in terms]
        columns = np.stack([math.prod(self.elements[f].column for f in t) for t in terms], 1)
        for constant in (False, True):
            design = np.column_stack([columns, np.ones(len(self.y))]) if constant else columns
            scale = np.abs(design).max(0)
            fit = np.linalg.lstsq(self.root[:, None] * design / scale, self.root * self.y, rcond=None)[0] / scale
            if np.isfinite(fit).all() and (fit != 0).all():
                parts = [sympy.Float(c) * p for c, p in zip(fit, [*products, sympy.Integer(1)], strict=False)]
                yield sympy.Add(*parts)


def _best_of(laws: list[tuple[Term, ...]], scored: _Scored) -> list[tuple[Term, ...]]:
    """The best laws, and the best ones of those of few inputs, which would else have no place."""
    few = [law for law in laws if len({scored.elements[f].input for term in law for f in term}) < 2]
    return list(dict.fromkeys([*laws[:KEPT], *few[: KEPT // 2]]))


def _elements(name: str, data: np.ndarray, x: np.ndarray, operators: set[str], unit: str) -> list[Element]:
    """Elementary terms of one input, on the scales of the data, that the operators allow and that are finite at `x`."""
    found = []
    with np.errstate(all="ignore"):
        for shape, grid in _grids(name, data, unit).items():
            needed, function = SHAPES[shape]
            for constants in grid if set(needed.split()) <= operators else ():
                column = function(np, x, *constants)
                if np.isfinite(column).all() and np.ptp(column) > 1e-9 * np.abs(column).max():
                    found.append(Element(name, shape, constants, column))
    return found


def _pure_factors(
    names: Sequence[str], allowed: Sequence[int], x: np.ndarray, operators: set[str], units: Units
) -> list[tuple[sympy.Expr, np.ndarray]]:
    """Elementary terms of pure inputs and of the simplest pure products of the others."""
    found = []
    for i in allowed:
        if not dimension(units.inputs[names[i]]):
            elements = _elements(names[i], x[:, i], x[:, i], operators, units.inputs[names[i]])
            found += [(e.expression, e.column) for e in elements]
    groups = [g for g in agreeing(names, allowed, replace(units, target="1")) if g.any() and (g == g.round()).all()]
    for powers in groups[:GROUPS] if (x > 0).all() else []:
        column = np.exp(np.log(x) @ powers)
        product = sympy.Mul(*(sympy.Symbol(n) ** int(p) for n, p in zip(names, powers, strict=True)))
        elements = _elements("group", column, column, operators, "1")
        found += [(e.expression.xreplace({sympy.Symbol("group"): product}), e.column) for e in elements]
    return found


def _grids(name: str, x: np.ndarray, unit: str) -> dict[str, list[tuple[float, ...]]]:
    """Shape -> constants that are tried for an input."""
    low, high = float(x.min()), float(x.max())
    reach, far = high - low, max(abs(low), abs(high), 1e-12)
    if not reach > 0:
        return {}
    rates = [b / reach for b in (0.3, 0.7, 1.5, 3.0, 6.0, 12.0) if b / reach * far < LARGEST]
    slopes = [b / reach for b in (-24.0, -10.0, -4.0, 4.0, 10.0, 24.0)]
    grids: dict[str, list[tuple[float, ...]]] = {
        "linear": [()],
        "square": [()],
        "exp": [(sign * rate,) for rate in rates for sign in (-1, 1)],
        "saturation": [(rate,) for rate in rates],
        "step": [(slope, -slope * middle) for slope in slopes for middle in np.quantile(x, (0.2, 0.4, 0.6, 0.8))],
    }
    if low >= 0:
        stretches: list[tuple[float, ...]] = [(b / far,) for b in (0.5, 2.0, 8.0, 30.0)]
        # Besides, a pole below or above the data.
        poles = [low - d * reach for d in (0.2, 0.5, 1.0)] + [high + d * reach for d in (0.2, 0.5, 1.0)]
        bent: list[tuple[float, ...]] = [*stretches, *((-1 / x0,) for x0 in poles if abs(x0) > 1e-3 * far)]
        grids |= {"root": [()], "log1p": [()], "stretched log": stretches, "hyperbola": bent}
    if low > 0.02 * high:
        grids |= {"inverse": [()], "inverse square": [()], "log": [()]}
    if unit == "rad":
        grids |= dict.fromkeys(("cos", "sin"), [(1.0,)])
    if name in GEOMETRY:
        grids |= dict.fromkeys(("cos", "sin", "secant"), [(math.pi / 180,)])
    if name == DAY_OF_YEAR:
        phases = np.arange(math.pi / 12, math.pi, math.pi / 6)
        grids["wave"] = [(2 * math.pi / 365.25, phase) for phase in phases]
        grids["half-year wave"] = [(4 * math.pi / 365.25, phase) for phase in phases]
    return grids
