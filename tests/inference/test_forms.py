"""Prescribed forms: read safely, assembled exactly, searched within."""

import numpy as np
import pytest
import sympy

from inference.discovery import Budget, Template
from inference.discovery.engines import operon
from inference.discovery.fitting import Rows, pareto_front
from inference.discovery.forms import read_form
from pi_vae.law import parse

TEXT = "f(lai)*exp(-b*lai) + 0.5*g(soil_moisture, lai)"


def test_a_form_knows_its_parts() -> None:
    form = read_form(TEXT)
    assert form.functions == {"f": ("lai",), "g": ("soil_moisture", "lai")}
    assert form.constants == ("b",) and form.inputs == ("lai", "soil_moisture") and not form.derivatives
    assert not form.expression.atoms(sympy.Float), "its own numbers are no coefficients"


def test_assembling() -> None:
    parts = {"f": parse("2.0*lai", ["lai"]), "g": parse("soil_moisture + lai", ["lai", "soil_moisture"])}
    expected = parse("2.0*lai*exp(-0.3*lai) + (soil_moisture + lai)/2", ["lai", "soil_moisture"])
    assert sympy.expand(read_form(TEXT).assemble(parts, {"b": 0.3}) - expected) == 0


def test_a_derivative_is_taken() -> None:
    form = read_form("f(lai, vwc) + D(f, 2)(lai, vwc)")
    assert form.derivatives
    assert form.assemble({"f": parse("lai*vwc**2", ["lai", "vwc"])}) == parse("lai*vwc**2 + 2*lai*vwc", ["lai", "vwc"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f(lai", "not a form"),
        ("__import__('os').getcwd()", "cannot stand"),
        ("f(lai).real", "cannot be read"),
        ("lai + 1", "leaves no function free"),
        ("f(lai) + lia", "'lia', which is no input"),
        ("tanh(lai) + f(lai)", "cannot stand"),
        ("f(2*lai)", "no free function of inputs"),
        ("f(lai, lai)", "no free function of inputs"),
        ("f(lai) + f(cab)", "different arguments"),
        ("f(lai) + f", "both a function and a constant"),
        ("f(lai)*(b - b) + g(lai)", "drops out"),
        ("f(lai)**b", "cannot be read"),
        ("D(f, 2)(lai)", "cannot stand"),
    ],
)
def test_what_is_no_form(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_form(text)


@pytest.mark.parametrize(
    ("form", "law"),
    [
        ("a*soil_moisture*(1 - f(lai))", lambda lai, moisture: 12 * moisture * (1 - np.exp(-0.5 * lai))),
        ("f(lai) + g(soil_moisture)", lambda lai, moisture: 1.5 * np.exp(-0.6 * lai) + 5 * moisture),
    ],
)
def test_free_functions_are_found(form: str, law) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0, 6, 800), rng.uniform(0.05, 0.45, 800)])
    truth = law(*x.T)
    rows = Rows(x, truth + 0.1 * truth.std() * rng.normal(size=800), np.ones(800))
    names, small = ("lai", "soil_moisture"), Budget(rows=300, population=100, generations=10)
    best = pareto_front(operon, rows, names, Template(form=form), x, 0, small)[-1]
    value = sympy.lambdify(names, best.expression, "numpy")(*x.T)
    assert 1 - np.var(value - truth) / np.var(truth) > 0.995
    if form.startswith("f"):
        lai, moisture = map(sympy.Symbol, names)
        assert sympy.simplify(best.form.diff(lai, moisture)) == 0, "a sum of two functions has no mixed derivative"
