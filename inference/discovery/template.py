"""What a law must satisfy, declared before the search and checked on every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import sympy

from inference.discovery.dataset import KNOWN_INPUTS, Table
from inference.discovery.expressions import complexity, poles, values_of

__all__ = ["OPERATORS", "Template"]

OPERATORS = ("add", "sub", "mul", "div", "exp", "log", "sqrt", "square", "sin", "cos")
DIRECTIONS = {"increasing": 1.0, "decreasing": -1.0}
SAMPLES, SWEEP = 256, 33
HUGE = 1e12
TOLERANCE = 1e-6  # of the law's own spread, so that rounding is no violation


@dataclass(frozen=True)
class Template:
    """Constraints on a law. A candidate that violates one is never returned.

    Bounds, monotonicity and symmetry are checked numerically over the range of the data, at rows of the table and
    along sweeps of each input through them; zeros are also built into candidates, see `project`. The constraints are on
    the law, that is on the *correction* of the operator, in the units of the likelihood.

    Args:
        inputs: allowed inputs; by default what `read_table` takes.
        operators: allowed of ``add sub mul div exp log sqrt square sin cos``.
        max_length: greatest complexity, see `complexity`.
        bounds: lowest and highest value of the law.
        monotone: input -> ``"increasing"`` or ``"decreasing"``, whatever the other inputs are.
        even: inputs of which the law is an even function.
        odd: inputs of which it is an odd function.
        zero_at: input -> value at which the law vanishes, whatever the other inputs are.

    Raises:
        ValueError: a name is unknown, or two constraints contradict each other.

    Example:
        >>> Template(inputs=["lai", "soil_moisture"], monotone={"lai": "decreasing"}, bounds=(-5.0, 5.0)).max_length
        20
    """

    inputs: Sequence[str] | None = None
    operators: Sequence[str] = OPERATORS
    max_length: int = 20
    bounds: tuple[float, float] | None = None
    monotone: Mapping[str, str] = field(default_factory=dict)
    even: Sequence[str] = ()
    odd: Sequence[str] = ()
    zero_at: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "operators", "even", "odd"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"Template({name}={getattr(self, name)!r}) is one text: give a list of names.")
        constrained = {*self.monotone, *self.even, *self.odd, *self.zero_at}
        for name in (*(self.inputs or ()), *sorted(constrained)):
            if name not in KNOWN_INPUTS:
                raise ValueError(f"Unknown input {name!r} in the template: use one of {', '.join(KNOWN_INPUTS)}.")
        if self.inputs is not None and not self.inputs:
            raise ValueError("The template allows no input: name at least one.")
        barred = sorted(constrained - set(self.inputs if self.inputs is not None else constrained))
        if barred:
            raise ValueError(f"The template constrains {barred[0]!r} but does not allow it: add it to inputs.")
        for name in self.operators:
            if name not in OPERATORS:
                raise ValueError(f"Unknown operator {name!r} in the template: use {', '.join(OPERATORS)}.")
        if not {"add", "mul"} <= set(self.operators):
            raise ValueError("The template bars add or mul, without which no constant can scale a law: allow both.")
        if self.max_length < 3:
            raise ValueError(f"max_length={self.max_length} leaves no room for a law: give at least 3.")
        for name, direction in self.monotone.items():
            if direction not in DIRECTIONS:
                raise ValueError(f"monotone[{name!r}]={direction!r}: write 'increasing' or 'decreasing'.")
        for name in sorted(set(self.even) & {*self.odd, *self.monotone}):
            raise ValueError(f"The template wants {name!r} even and odd or monotone: only constants are, drop one.")
        if self.bounds is not None:
            low, high = self.bounds
            if not low < high:
                raise ValueError(f"bounds={self.bounds} of the template are empty: give (low, high) with low < high.")
            if (self.zero_at or self.odd) and not low <= 0 <= high:
                raise ValueError(f"bounds={self.bounds} exclude 0, at which zero_at or odd want the law: widen them.")

    def project(self, form: sympy.Expr) -> sympy.Expr:
        r"""The form made to vanish, to be even and to be odd where the template says so.

        :math:`f - f|_{x=x_0}`, :math:`(f(x) + f(-x))/2` and :math:`(f(x) - f(-x))/2`: what vanishes already, or is even
        or odd already, comes back as it is.
        """
        for names, sign in ((self.even, 1), (self.odd, -1)):
            for name in names:
                x = sympy.Symbol(name)
                mirrored = form.subs(x, -x)
                if form.has(x) and mirrored != sign * form:
                    form = sympy.expand((form + sign * mirrored) / 2)
        for name, value in self.zero_at.items():
            at = form.subs(sympy.Symbol(name), sympy.nsimplify(value))
            if at.has(sympy.zoo, sympy.nan, sympy.oo):
                return sympy.Integer(0)
            form = form - at
        return form

    def violations(self, expression: sympy.Expr, table: Table) -> list[str]:
        """What is wrong with a candidate.

        Args:
            expression: in the inputs of the table, with numbers for its coefficients.
            table: the data over whose range the constraints are to hold.

        Returns:
            One sentence for every constraint that is violated; empty if the candidate may be returned.
        """
        return self.check(expression, table.names, table.x[table.seen])

    def check(self, expression: sympy.Expr, names: Sequence[str], rows: np.ndarray) -> list[str]:
        """`violations` over rows `[row, input]` of the inputs `names`."""
        found = self._syntax(expression, names)
        if found:
            return found
        rng = np.random.default_rng(0)
        low, high = rows.min(0), rows.max(0)
        box = rng.uniform(low, high, (SAMPLES, len(names)))
        some = rows[np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int)]

        def value(x: np.ndarray, form: sympy.Expr = expression) -> np.ndarray:
            return values_of(form, {}, names, x)

        everywhere, inside = value(rows), value(box)
        # What overflows when squared is no more use than what overflows at once.
        if not (np.abs(everywhere) < HUGE).all() or not (np.abs(inside) < HUGE).all():
            return ["It is not finite over the range of the data."]
        for divisor in poles(expression):
            signs = np.sign(np.concatenate([value(rows, divisor), value(box, divisor)]))
            if signs.min() != signs.max():
                return [f"It has a pole within the range of the data, where {divisor} = 0."]
        spread = max(np.ptp(everywhere), np.abs(everywhere).max() * 1e-6, 1e-12)
        slack = TOLERANCE * spread
        # Models compute in single precision, in which large terms that cancel leave noise.
        if not (np.abs(value(rows.astype(np.float32)) - everywhere) < 1e-2 * spread).all():
            found.append("It cannot be computed in single precision.")
        if self.bounds is not None:
            least, most = min(everywhere.min(), inside.min()), max(everywhere.max(), inside.max())
            if least < self.bounds[0] - slack or most > self.bounds[1] + slack:
                found.append(f"It runs from {least:.3g} to {most:.3g}, outside the bounds {self.bounds}.")
        there = {name: i for i, name in enumerate(names) if expression.has(sympy.Symbol(name))}
        probes = np.concatenate([some, box])
        for name, direction in self.monotone.items():
            if name in there:
                i = there[name]
                sweep = np.stack([value(_with(probes, i, v)) for v in np.linspace(low[i], high[i], SWEEP)])
                if not (np.abs(sweep) < HUGE).all() or (DIRECTIONS[direction] * np.diff(sweep, axis=0) < -slack).any():
                    found.append(f"It is not {direction} in {name} over the range of the data.")
        for name, parity in (*((n, 1.0) for n in self.even), *((n, -1.0) for n in self.odd)):
            if name in there:
                i = there[name]
                mirrored = value(_with(probes, i, -probes[:, i]))
                if not np.allclose(mirrored, parity * value(probes), rtol=0, atol=slack):
                    found.append(f"It is not an {'even' if parity > 0 else 'odd'} function of {name}.")
            elif parity < 0:
                found.append(f"It does not depend on {name}, of which it should be an odd function.")
        for name, zero in self.zero_at.items():
            if name not in there:
                found.append(f"It does not depend on {name}, hence does not vanish at {name} = {zero:g}.")
            elif not np.allclose(value(_with(probes, there[name], zero)), 0.0, rtol=0, atol=slack):
                found.append(f"It does not vanish at {name} = {zero:g}.")
        return found

    def _syntax(self, expression: sympy.Expr, names: Sequence[str]) -> list[str]:
        """Names, operators and length."""
        found = []
        used = {s.name for s in expression.free_symbols}
        allowed = set(names if self.inputs is None else self.inputs) & set(names)
        found += [f"It reads {name}, which the template does not allow." for name in sorted(used - allowed)]
        if not used:
            found.append("It is a constant.")
        found += [f"It uses {name}, which the template does not allow." for name in _barred(expression, self.operators)]
        if complexity(expression) > self.max_length:
            found.append(f"Its complexity {complexity(expression)} is above {self.max_length}.")
        return found


def _with(rows: np.ndarray, column: int, value: float | np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[:, column] = value
    return rows


def _barred(expression: sympy.Expr, allowed: Sequence[str]) -> list[str]:
    """Operators of the expression that are not allowed; a whole power is a product, a negative one a quotient."""
    needed = set()
    for node in sympy.preorder_traversal(expression):
        if node.is_Pow:
            exponent = node.exp
            if not exponent.is_Rational or exponent.q > 2:
                needed.add(f"the power {exponent}")
                continue
            if exponent < 0:
                needed.add("div")
            if exponent.q == 2:
                needed.add("sqrt")
        elif node.is_Function:
            needed.add(node.func.__name__)
    return sorted(needed - set(allowed))
