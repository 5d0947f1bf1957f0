"""Terms and rules on their coefficients: what is declared holds exactly, and contradictions are refused."""

from __future__ import annotations

import numpy as np
import pytest

from inference.discovery.dynamics import Constraints, Library
from inference.discovery.dynamics.constraints import Rows
from inference.discovery.dynamics.sparse import path
from inference.discovery.dynamics.weak import Moments

STATES = ("x", "y")
LIBRARY = Library.build(STATES, ("rain",))


def moments(rng: np.random.Generator, terms: int, count: int, true: np.ndarray, noise: float = 0.1) -> list[Moments]:
    """Of `count` rows of random terms in one cluster, rates after `[S, J]` coefficients."""
    found = []
    for c in true:
        a = rng.normal(size=(count, terms))
        b = a @ c + noise * rng.normal(size=count)
        found.append(Moments((a.T @ a)[None], (a.T @ b)[None], np.array([b @ b]), float(count)))
    return found


def test_library_has_the_terms_asked_for() -> None:
    assert LIBRARY.names == ("1", "x", "y", "x**2", "x*y", "y**2", "rain", "sin_year", "cos_year")
    assert LIBRARY.index("y*x") == 4
    more = Library.build(["x"], ["rain"], degree=3, constant=False, products=True, season=2, extra=["x/(1 + x)"])
    assert more.names == (
        *("x", "x**2", "x**3", "rain", "rain*x"),
        *("sin_year", "cos_year", "sin_year2", "cos_year2", "x/(x + 1)"),
    )


def test_terms_have_their_values() -> None:
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(5, 1)), "y": rng.normal(size=(5, 1)), "rain": rng.normal(size=4)}
    inputs["day_of_year"] = np.array([0.0, 91.3125, 182.625, 273.9375])
    values = dict(zip(LIBRARY.names, LIBRARY.values(inputs), strict=True))
    assert values["1"].shape == (5, 4)
    np.testing.assert_allclose(values["x*y"], np.broadcast_to(inputs["x"] * inputs["y"], (5, 4)))
    np.testing.assert_allclose(values["sin_year"][0], [0, 1, 0, -1], atol=1e-12)
    np.testing.assert_allclose(values["cos_year"][0], [1, 0, -1, 0], atol=1e-12)


def test_library_survives_a_file() -> None:
    assert Library.from_dict(LIBRARY.to_dict()) == LIBRARY


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"degree": 9}, "degree=9"),
        ({"extra": ["x*z"]}, "'z' cannot stand"),
        ({"extra": ["__import__('os')"]}, "cannot stand"),
        ({"extra": ["x*x"]}, "already"),
        ({"degree": 0, "constant": False, "season": 0, "drivers": ()}, "no term"),
    ],
)
def test_wrong_libraries_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Library.build(**({"states": STATES} | options))


def test_a_term_that_is_not_finite_is_refused() -> None:
    library = Library.build(["x"], degree=0, extra=["1/x"])
    with pytest.raises(ValueError, match="'1/x' is not finite"):
        list(library.values({"x": np.array([1.0, 0.0]), "day_of_year": np.zeros(2)}))


def test_conserved_sum_is_a_rule_for_every_term() -> None:
    rows = Constraints().conserve({"x": 1, "y": 2}).rows(STATES, LIBRARY)
    c = np.random.default_rng(0).normal(size=(2, 9))
    np.testing.assert_allclose(rows.equal @ c.ravel(), c[0] + 2 * c[1])


def test_balance_allows_what_is_named_and_nothing_else() -> None:
    rules = Constraints().balance({("x", "y"): ["x"]}, gains={"x": ["rain"]}, losses={"y": ["y"]})
    rows = rules.rows(STATES, LIBRARY)

    def allowed(**values: float) -> bool:
        c = np.zeros((2, 9))
        for key, value in values.items():
            state, term = key.split("_")
            c[STATES.index(state), LIBRARY.index(term)] = value
        equal = np.allclose(rows.equal @ c.ravel(), rows.level)
        return equal and bool((rows.above @ c.ravel() >= rows.least).all())

    assert allowed(x_x=-0.1, y_x=0.1, x_rain=1.0, y_y=-0.2)
    assert not allowed(x_x=-0.1, y_x=0.05)  # some of it is lost on the way
    assert not allowed(x_x=0.1, y_x=-0.1)  # it flows back
    assert not allowed(x_y=0.1)
    assert not allowed(y_rain=0.1)
    assert not allowed(y_y=0.2)


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (Constraints().bound("x", "x", low=0.1).sign("x", "x", -1), "No coefficients satisfy all"),
        (Constraints().conserve({"x": 1, "y": 1}).bound("x", "y", 1, 2).sign("y", "y", 1), "No coefficients"),
        (Constraints().absent("x", "rain").equal(("y", "rain"), ("x", "rain"), 2).bound("y", "rain", 1), "No coeff"),
        (Constraints().conserve({"z": 1}), "names the state 'z'"),
        (Constraints().sign("x", "x**7", 1), r"no term 'x\*\*7'"),
        (Constraints().equal(("x", "x"), ("x", "x")), "equal to itself"),
    ],
)
def test_contradictions_are_refused(rules: Constraints, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rules.rows(STATES, LIBRARY)


@pytest.mark.parametrize(
    ("declare", "sentence"),
    [
        (lambda: Constraints().conserve({"x": 0}), "not all zero"),
        (lambda: Constraints().sign("x", "x", 2), "give 1 or -1"),
        (lambda: Constraints().bound("x", "x", 2, 1), "swap"),
        (lambda: Constraints().balance({("x", "x"): ["x"]}), "one pool to another"),
        (lambda: Constraints().equal(("x", "x"), ("y", "x"), float("nan")), "give a number"),
        (lambda: Constraints.from_dict({"declared": [{"kind": "magic"}]}), "Unknown constraint 'magic'"),
    ],
)
def test_wrong_declarations_are_refused(declare, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        declare()


def test_constraints_survive_a_file() -> None:
    rules = Constraints().conserve({"x": 1, "y": 1}).sign("x", "x", -1).bound("y", "x", 0.1, 0.4)
    rules = rules.equal(("x", "rain"), ("y", "rain"), 2).balance({("x", "y"): ["x"]}, gains={"x": ["rain"]})
    assert Constraints.from_dict(rules.to_dict()) == rules


def test_fits_under_rules_are_those_of_a_general_solver() -> None:
    """Random rules, against scipy's SLSQP."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    for _ in range(10):
        true = rng.normal(size=(2, 4))
        found = moments(rng, 4, 40, true)
        rows = Rows(rng.normal(size=(2, 8)), rng.normal(size=2), rng.normal(size=(3, 8)), rng.normal(size=3))
        if not rows.feasible:
            continue
        ours = path(found, rows, stop=True)[-1].coefficients
        scale = [m.independent / _least(m) for m in found]

        def loss(c: np.ndarray, found=found, scale=scale) -> float:
            return sum(s * m.loss(part) for s, m, part in zip(scale, found, c.reshape(2, 4), strict=True)) / 1000

        rules = [
            {"type": "eq", "fun": lambda c, rows=rows: rows.equal @ c - rows.level},
            {"type": "ineq", "fun": lambda c, rows=rows: rows.above @ c - rows.least},
        ]
        best = minimize(loss, ours.ravel(), constraints=rules, method="SLSQP", options={"ftol": 1e-12, "maxiter": 500})
        assert loss(ours.ravel()) <= best.fun * (1 + 1e-6)
        np.testing.assert_allclose(rows.equal @ ours.ravel(), rows.level, atol=1e-10)
        assert (rows.above @ ours.ravel() - rows.least >= -1e-8).all()


def _least(m: Moments) -> float:
    return m.loss(np.linalg.solve(m.hessian[0], m.gradient[0]))


def test_the_path_is_nested_and_drops_what_matters_least() -> None:
    true = np.array([[1.0, 0.0, -0.5, 0.0, 0.1]])
    found = path(moments(np.random.default_rng(2), 5, 400, true, 0.05), Constraints().rows(("x",), _five()))
    supports = [f.support for f in found]
    assert [int(s.sum()) for s in supports] == [0, 1, 2, 3, 4, 5]
    assert all((small <= large).all() for small, large in zip(supports, supports[1:], strict=False))
    assert (supports[3] == (true != 0)).all()


def _five() -> Library:
    return Library.build(["x"], degree=4, season=0)


def test_tied_terms_leave_together_and_demanded_ones_stay() -> None:
    library = Library.build(STATES, degree=1, season=0)
    rules = Constraints().conserve({"x": 1, "y": 1}).bound("x", "x", high=-0.3)
    true = np.array([[0.0, -0.1, 0.02], [0.0, 0.1, -0.02]])
    found = path(moments(np.random.default_rng(3), 3, 200, true), rules.rows(STATES, library))
    for each in found:
        np.testing.assert_allclose(each.coefficients.sum(0), 0, atol=1e-12)
        assert each.coefficients[0, 1] <= -0.3 + 1e-9
    assert [int(f.support.sum()) for f in found] == [2, 4, 6]
