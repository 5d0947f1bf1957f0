"""What a law must satisfy, declared before the search and checked on every candidate."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sympy

from inference.discovery.contradictions import DIRECTIONS, OPERATORS, SIGNS, barred, refuse
from inference.discovery.dataset import DAY_OF_YEAR, Table
from inference.discovery.dimensions import Units, inconsistency
from inference.discovery.expressions import complexity, poles, values_of
from inference.discovery.forms import Form, read_form
from inference.discovery.limits import symbolic_limit, tends_to
from inference.discovery.notation import statements

__all__ = ["OPERATORS", "Template"]

SAMPLES, SWEEP = 256, 33
HUGE = 1e12
TOLERANCE = 1e-6  # of the law's own spread, so that rounding is no violation


@dataclass(frozen=True)
class Template:
    """Constraints on a law. A candidate that violates one is never returned.

    Bounds, sign, monotonicity and symmetry are checked numerically over the range of the data, at rows of the table and
    along sweeps of each input through them; zeros, limits and symmetries are also built into candidates, see `project`.
    The constraints are on the law, that is on the *correction* of the operator, in the units of the likelihood.

    Args:
        inputs: allowed inputs; by default those of the form, else what `read_table` takes.
        operators: allowed of ``add sub mul div exp log sqrt square sin cos``.
        max_length: greatest complexity, see `complexity`.
        bounds: lowest and highest value of the law.
        monotone: input -> ``"increasing"`` or ``"decreasing"``, whatever the other inputs are.
        even: inputs of which the law is an even function.
        odd: inputs of which it is an odd function.
        zero_at: input -> value at which the law vanishes, whatever the other inputs are.
        units: whether the law must be consistent in the units of inputs and target, see `dimensions`; its constants
            carry the units that this takes.
        dimensionless_constants: whether they may not.
        form: the law with free functions and constants, ``"f(lai)*exp(-b*lai) + g(soil_moisture)"``, see `read_form`.
            An engine assembles its candidates by it; nothing is built in then.
        symmetric: groups of inputs that can be exchanged without a change of the law.
        autonomous: whether the law is the same at all times, hence may not read ``day_of_year``.
        sign: ``"positive"`` or ``"negative"``: the law never has the other sign; it may vanish.
        limits: input -> (approach, value): the law tends to the value as the input approaches a number, ``"inf"`` or
            ``"-inf"``, whatever the other inputs are.

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
    units: bool = False
    dimensionless_constants: bool = False
    form: str | None = None
    symmetric: Sequence[Sequence[str]] = ()
    autonomous: bool = False
    sign: str | None = None
    limits: Mapping[str, tuple[float | str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse(self)
        plain: dict[str, Any] = {name: tuple(getattr(self, name)) for name in ("operators", "even", "odd")}
        plain["inputs"] = self.inputs if self.inputs is None else tuple(self.inputs)
        if self.inputs is None and self.free is not None:
            plain["inputs"] = self.free.inputs
        plain["symmetric"] = tuple(tuple(group) for group in self.symmetric)
        plain["limits"] = {name: (float(approach), float(value)) for name, (approach, value) in self.limits.items()}
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @cached_property
    def free(self) -> Form | None:
        """The form, read."""
        return None if self.form is None else read_form(self.form)

    @property
    def constrained(self) -> set[str]:
        """Inputs that a constraint is about."""
        groups = itertools.chain.from_iterable(self.symmetric)
        return {*self.monotone, *self.even, *self.odd, *self.zero_at, *self.limits, *groups} | set(
            self.free.inputs if self.free is not None else ()
        )

    @property
    def asks(self) -> frozenset[str]:
        """Names of the fields that are declared, which an engine has to honour; ``derivatives`` if the form has any."""
        given = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != _default(f)}
        return frozenset(given | ({"derivatives"} if self.free is not None and self.free.derivatives else set()))

    @property
    def shapes(self) -> bool:
        """Whether it constrains more than what a law is made of and reads."""
        return bool(self.asks - {"inputs", "operators", "max_length", "form", "derivatives"})

    def __str__(self) -> str:
        return "; ".join(text for text, _ in statements(self))

    def latex(self) -> str:
        """The template as mathematics, `y` being the law."""
        return r"\begin{gathered} " + r" \\ ".join(tex for _, tex in statements(self)) + r" \end{gathered}"

    def to_dict(self) -> dict:
        """Plain data for JSON; an infinite number is written as text."""

        def plain(value: object) -> object:
            if isinstance(value, Mapping):
                return {key: plain(v) for key, v in value.items()}
            if isinstance(value, list | tuple):
                return [plain(v) for v in value]
            return str(value) if isinstance(value, float) and math.isinf(value) else value

        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping) -> Template:
        """The template that `to_dict` wrote; what is left out has its default.

        Raises:
            ValueError: a field is unknown, or the template cannot be.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"Unknown field {unknown[0]!r} of a template: use {', '.join(known)}.")
        bounds = data.get("bounds")
        return cls(**{**data, "bounds": None if bounds is None else tuple(map(float, bounds))})

    def to_json(self, path: str | Path | None = None) -> str:
        """The template as JSON, written to a file on request."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path: str | Path) -> Template:
        """The template in a file that `to_json` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def project(self, form: sympy.Expr, start: Mapping[str, float] | None = None) -> sympy.Expr:
        r"""The form made symmetric, to vanish and to tend to what it should where the template says so.

        :math:`f - f|_{x=x_0}`, :math:`(f(x) + f(-x))/2`, :math:`(f(x) - f(-x))/2`, the mean over exchanged inputs and
        :math:`f - \lim f + v`: what satisfies the template already comes back as it is, and so does a law whose form is
        prescribed, as it would lose that form.

        Args:
            form: in inputs and coefficients.
            start: coefficient -> value, the sign of which a limit may depend on.
        """
        if self.free is not None:
            return form
        for names, sign in ((self.even, 1), (self.odd, -1)):
            for name in names:
                x = sympy.Symbol(name)
                mirrored = form.subs(x, -x)
                if form.has(x) and mirrored != sign * form:
                    form = sympy.expand((form + sign * mirrored) / 2)
        for group in self.symmetric:
            symbols = list(map(sympy.Symbol, group))
            orders = [dict(zip(symbols, order, strict=True)) for order in itertools.permutations(symbols)]
            images = [form.xreplace(order) for order in orders]
            if any(image != form for image in images):
                form = sympy.expand(sympy.Add(*images) / len(images))
        for name, value in self.zero_at.items():
            at = form.subs(sympy.Symbol(name), sympy.nsimplify(value))
            if at.has(sympy.zoo, sympy.nan, sympy.oo):
                return sympy.Integer(0)
            form = form - at
        for name, (approach, value) in self.limits.items():
            at = symbolic_limit(form, name, float(approach), start or {})
            if at is not None and at.has(sympy.zoo, sympy.oo, -sympy.oo):
                return sympy.Integer(0)
            if at is not None:
                form = form - at + sympy.nsimplify(value, rational=True)
        return form

    def violations(
        self, expression: sympy.Expr, table: Table, coefficients: Mapping[str, float] | None = None
    ) -> list[str]:
        """What is wrong with a candidate.

        Args:
            expression: in the inputs of the table, and in the coefficients.
            table: the data over whose range the constraints are to hold.
            coefficients: name -> value; by default none, as where all constants are numbers.

        Returns:
            One sentence for every constraint that is violated; empty if the candidate may be returned.
        """
        return self.check(expression, table.names, table.x[table.seen], Units(table.units, table.unit), coefficients)

    def check(
        self,
        expression: sympy.Expr,
        names: Sequence[str],
        rows: np.ndarray,
        units: Units | None = None,
        coefficients: Mapping[str, float] | None = None,
    ) -> list[str]:
        """`violations` over rows `[row, input]` of the inputs `names`.

        That a candidate has the prescribed form is not checked here: who assembles it (`Form.assemble`) sees to it.

        Raises:
            ValueError: the template asks for consistent units, and none are given.
        """
        if self.units and units is None:
            raise ValueError("The template asks for consistent units: give the units of the inputs and of the target.")
        constants = dict(coefficients or {})
        # A factor in an exponent may be too large for a number in front: values come from the form.
        numbers = {sympy.Symbol(name): sympy.Float(value) for name, value in constants.items()}
        form, expression = expression, expression.xreplace(numbers)
        found = self._syntax(expression, names, units)
        if found:
            return found
        rng = np.random.default_rng(0)
        low, high = rows.min(0), rows.max(0)
        box = rng.uniform(low, high, (SAMPLES, len(names)))
        some = rows[np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int)]

        def value(x: np.ndarray, part: sympy.Expr = form) -> np.ndarray:
            return values_of(part, constants, names, x)

        everywhere, inside = value(rows), value(box)
        # What overflows when squared is no more use than what overflows at once.
        if not (np.abs(everywhere) < HUGE).all() or not (np.abs(inside) < HUGE).all():
            return ["It is not finite over the range of the data."]
        for divisor in poles(form):
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
        if self.sign is not None and (SIGNS[self.sign] * np.concatenate([everywhere, inside]) < -slack).any():
            found.append(f"It is not {self.sign} over the range of the data.")
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
        for group in self.symmetric:
            columns = [list(names).index(name) for name in group if name in names]
            for one, other in itertools.pairwise(columns):
                swapped = probes.copy()
                swapped[:, [one, other]] = probes[:, [other, one]]
                if not np.allclose(value(swapped), value(probes), rtol=0, atol=slack):
                    found.append(f"It changes when {names[one]} and {names[other]} are exchanged.")
        for name, (approach, target) in self.limits.items():
            if name not in names or not tends_to(expression, name, float(approach), target, names, some, slack):
                found.append(f"It does not tend to {target:g} as {name} tends to {approach:g}.")
        return found

    def _syntax(self, expression: sympy.Expr, names: Sequence[str], units: Units | None) -> list[str]:
        """Names, operators, length and units."""
        found = []
        used = {s.name for s in expression.free_symbols}
        allowed = set(names if self.inputs is None else self.inputs) & set(names)
        allowed -= {DAY_OF_YEAR} if self.autonomous else set()
        found += [f"It reads {name}, which the template does not allow." for name in sorted(used - allowed)]
        if not used:
            found.append("It is a constant.")
        found += [f"It uses {name}, which the template does not allow." for name in barred(expression, self.operators)]
        if complexity(expression) > self.max_length:
            found.append(f"Its complexity {complexity(expression)} is above {self.max_length}.")
        if self.units and units is not None and not found:
            fault = inconsistency(expression, units, self.dimensionless_constants)
            found += [fault] if fault is not None else []
        return found


def _with(rows: np.ndarray, column: int, value: float | np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[:, column] = value
    return rows


def _default(field_: dataclasses.Field) -> object:
    return field_.default if field_.default_factory is dataclasses.MISSING else field_.default_factory()
