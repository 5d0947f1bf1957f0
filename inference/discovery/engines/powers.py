r"""Products of powers, :math:`c \prod_j x_j^{p_j}`: by logarithms, or, with units and pure constants, all that agree.

With pure constants the units of the target leave few products (Bridgman 1922; Buckingham's theorem): exponents are
enumerated; each product is scored alone and times one elementary term of a pure input or of a pure product of inputs
(:math:`\pi` group), and sums of them are built by matching pursuit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import sympy

from inference.discovery.dimensions import BASES, Units, dimension

__all__ = ["agreeing", "power_laws"]

EXPONENTS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
MOST, MOST_PURE = 8, 3  # inputs with a unit and without whose exponents are enumerated
KEPT = 8
MOST_PRODUCTS = 60  # the simplest ones
BOUND = 3.25  # of an exponent by logarithms


def agreeing(names: Sequence[str], allowed: Sequence[int], units: Units) -> np.ndarray:
    """`[product, input]` exponents of all products in the unit of the target; none if there are too many inputs."""
    with_unit = [i for i in allowed if dimension(units.inputs[names[i]])]
    exponents = np.zeros((0, len(names)))
    if not 0 < len(with_unit) <= MOST:
        return exponents

    def vector(unit: str) -> np.ndarray:
        found = dimension(unit)
        return np.array([float(found.get(base, 0)) for base in BASES])

    own = np.stack([vector(units.inputs[names[i]]) for i in with_unit])
    half = len(with_unit) // 2
    # Meet in the middle: what the first half leaves must be what the second half gives.
    first = np.array(list(itertools.product(EXPONENTS, repeat=half))).reshape(len(EXPONENTS) ** half, half)
    second = np.array(list(itertools.product(EXPONENTS, repeat=len(with_unit) - half)))
    wanted: dict[tuple, list[int]] = {}
    for k, left in enumerate((vector(units.target) - second @ own[half:]).round(3) + 0.0):
        wanted.setdefault(tuple(left), []).append(k)
    found = [
        (*first[k], *second[other])
        for k, given in enumerate((first @ own[:half]).round(3) + 0.0)
        for other in wanted.get(tuple(given), ())
    ]
    pure = [i for i in allowed if i not in with_unit][:MOST_PURE]
    free = np.array(list(itertools.product((0.0, 1.0, -1.0), repeat=len(pure)))).reshape(3 ** len(pure), len(pure))
    exponents = np.zeros((len(found), len(free), len(names)))
    exponents[..., with_unit] = np.reshape(found, (-1, 1, len(with_unit)))
    exponents[..., pure] = free
    exponents = exponents.reshape(-1, len(names))
    return exponents[np.abs(exponents).sum(1).argsort(kind="stable")]


def power_laws(
    names: Sequence[str],
    allowed: Sequence[int],
    x: np.ndarray,
    y: np.ndarray,
    root: np.ndarray,
    exponents: np.ndarray | None,
    factors: Sequence[tuple[sympy.Expr, np.ndarray]],
) -> Iterator[sympy.Expr]:
    """The best products of powers, and of sums of them.

    Args:
        names: of the inputs.
        allowed: positions of those that may be read.
        x: `[row, input]`.
        y: `[row]`.
        root: `[row]` square roots of weights.
        exponents: those to try (`agreeing`), or none to have them from a regression of logarithms.
        factors: expression and values `[row]` of what may be a further factor.
    """
    positive = [i for i in allowed if x[:, i].min() > 0]
    if exponents is None:
        if not positive or y.min() * y.max() <= 0:
            return
        design = np.column_stack([np.ones(len(y)), np.log(x[:, positive])]) * root[:, None]
        fit = np.linalg.lstsq(design, root * np.log(np.abs(y)), rcond=None)[0][1:]
        halves = np.round(2 * fit) / 2
        exponents = np.zeros((1, x.shape[1]))
        exponents[0, positive] = np.where(np.abs(halves) < BOUND, halves, 0.0)
    usable = ~(exponents[:, [i for i in range(x.shape[1]) if i not in positive]] != 0).any(1) & exponents.any(1)
    exponents = exponents[usable]
    if not len(exponents):
        return
    columns = np.exp(np.log(np.where(x > 0, x, 1.0)) @ exponents.T).T  # [product, row]
    products = [
        sympy.Mul(*(sympy.Symbol(names[i]) ** sympy.nsimplify(p) for i, p in enumerate(each) if p))
        for each in exponents[:MOST_PRODUCTS]
    ]
    terms = [(product, column) for product, column in zip(products, columns, strict=False)]
    terms += [(product * e, column * c) for product, column in terms for e, c in factors]
    table = np.stack([root * column / np.abs(column).max() for _, column in terms])
    plain = _pursuit(table[: len(products)], root * y)
    for chosen in dict.fromkeys((*plain, *_pursuit(table, root * y))):
        scaled = np.stack([root * terms[k][1] for k in chosen], 1)
        fit = np.linalg.lstsq(scaled, root * y, rcond=None)[0]
        if (fit != 0).all():
            yield sympy.Add(*(sympy.Float(c) * terms[k][0] for c, k in zip(fit, chosen, strict=True)))


def _pursuit(table: np.ndarray, y: np.ndarray) -> list[tuple[int, ...]]:
    """Sums of up to three of the rows of a table that explain a target; no constant is added."""

    def best(chosen: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
        basis = np.linalg.qr(table[list(chosen)].T)[0] if chosen else np.zeros((len(y), 0))
        left = y - basis @ (basis.T @ y)
        power = (table**2).sum(1)
        free = power - ((table @ basis) ** 2).sum(1)
        gain = np.where(free > 1e-8 * power, (table @ left) ** 2 / np.maximum(free, 1e-300), 0.0)
        return [(*chosen, int(k)) for k in np.argsort(-gain)[:count] if gain[k] > 0]

    first = best((), KEPT)
    second = [sums for chosen in first[: KEPT // 2] for sums in best(chosen, 3)]
    third = [sums for chosen in second for sums in best(chosen, 1)]
    return list(dict.fromkeys(tuple(sorted(chosen)) for chosen in (*first, *second, *third)))
