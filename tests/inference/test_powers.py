"""Products of powers: those that units allow, all of them, and what is found with them."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from inference.discovery import Budget, Template
from inference.discovery.dimensions import Units, inconsistency
from inference.discovery.engines import terms
from inference.discovery.engines.powers import agreeing, power_laws
from inference.discovery.expressions import values_of
from inference.discovery.fitting import Rows, pareto_front
from pi_vae.law import parse

PENDULUM = Units({"mass": "kg", "length": "m", "g": "m s-2"}, "s")
FORCE = Units({"q": "C", "e": "V m-1", "b": "T", "v": "m s-1", "a": "rad"}, "N")


def sample(units: Units, text: str, noise: float = 0.01, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 5, (400, len(units.inputs)))
    y = values_of(parse(text, tuple(units.inputs)), {}, tuple(units.inputs), x)
    return x, y + noise * y.std() * rng.normal(size=len(y))


def test_units_leave_one_period_of_a_pendulum() -> None:
    (powers,) = agreeing(tuple(PENDULUM.inputs), range(3), PENDULUM)
    np.testing.assert_array_equal(powers, [0.0, 0.5, -0.5])


def test_every_product_agrees_and_pure_inputs_are_free() -> None:
    names = tuple(FORCE.inputs)
    found = agreeing(names, range(5), FORCE)
    assert len(found) > 10 and len({tuple(p) for p in found}) == len(found)
    assert {tuple(p) for p in found} >= {(1, 1, 0, 0, 0), (1, 0, 1, 1, 0), (1, 0, 1, 1, -1)}
    for powers in found:
        product = sympy.Mul(*(sympy.Symbol(n) ** sympy.nsimplify(p) for n, p in zip(names, powers, strict=True)))
        assert inconsistency(product, FORCE, True) is None


def test_no_product_in_the_unit_of_the_target() -> None:
    assert agreeing(("mass",), [0], Units({"mass": "kg"}, "s")).shape == (0, 1)


def test_exponents_by_logarithms() -> None:
    x, y = sample(PENDULUM, "3.1*sqrt(length)/g**2")
    (law,) = power_laws(tuple(PENDULUM.inputs), range(3), x, y, np.ones(len(y)), None, [])
    assert set(law.free_symbols) == {sympy.Symbol("length"), sympy.Symbol("g")}
    error = values_of(law, {}, tuple(PENDULUM.inputs), x) - y
    assert error.std() < 0.02 * y.std()
    assert list(power_laws(("mass",), [0], x[:, :1], y - y.mean(), np.ones(len(y)), None, [])) == []


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (PENDULUM, "6.2831853*sqrt(length/g)"),
        (FORCE, "q*(e + b*v*sin(a))"),
        (Units({"n": "m-3", "m": "kg", "c": "m s-1", "w": "J"}, "m-3"), "n*exp(-0.1*m*c**2/w)"),
    ],
)
def test_units_find_what_they_describe(units: Units, text: str) -> None:
    x, y = sample(units, text)
    names, template = tuple(units.inputs), Template(units=True, dimensionless_constants=True)
    front = pareto_front(terms, Rows(x, y, np.ones(len(y))), names, template, x, 0, Budget(), units)
    best = front[-1]
    truth = values_of(parse(text, names), {}, names, x)
    assert np.abs(values_of(best.form, best.coefficients, names, x) - truth).max() < 0.02 * np.abs(truth).max(), front
    assert all(inconsistency(f.expression, units, True) is None for f in front)
