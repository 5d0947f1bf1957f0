"""Laws at the edge of a family are reported as the shorter law that they have become."""

from __future__ import annotations

from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from inference.discovery import Budget, Template
from inference.discovery.engines import Candidate
from inference.discovery.expressions import complexity, values_of
from inference.discovery.fitting import Rows, pareto_front
from inference.discovery.limits import symbolic_limit
from pi_vae.law import parse

NAMES = ("lai", "soil_moisture")
X = np.random.default_rng(0).uniform((0.1, 0.05), (6.0, 0.45), (400, 2))

CASES = [
    (
        "14.0*soil_moisture*exp(-0.7*lai)",
        "14000.0*soil_moisture/(1000.0*exp(0.7*lai) + 1)",
        "c0*soil_moisture*exp(c1*lai)",
    ),
    ("0.5*lai", "500*log(1 + 0.001*lai)", "c0*lai"),
    ("0.5*lai", "500*sin(0.001*lai)", "c0*lai"),
    ("2.0*lai", "1.0 - 1.0*exp(-0.001*lai) + 2.0*lai", "c0*lai"),
]


def forms(truth: str, proposed: str, template: Template | None = None, noise: float = 0.1) -> list[str]:
    y = values_of(parse(truth, NAMES), {}, NAMES, X)
    y = y + noise * y.std() * np.random.default_rng(1).normal(size=len(y))
    law = parse(proposed, NAMES)
    engine = SimpleNamespace(search=lambda *_: [Candidate(law, complexity(law))])
    front = pareto_front(engine, Rows(X, y, np.ones(len(y))), NAMES, template or Template(), X, 0, Budget())
    return [str(fitted.form) for fitted in front]


@pytest.mark.parametrize("truth, proposed, shorter", CASES)
def test_the_shorter_law_takes_the_place(truth: str, proposed: str, shorter: str) -> None:
    assert forms(truth, proposed)[0] == shorter


@pytest.mark.parametrize(
    "law", ["14.0*soil_moisture/(2.0*exp(0.7*lai) + 1)", "0.5*log(1 + 2.0*lai)", "3.0*soil_moisture + 0.5*lai"]
)
def test_a_law_well_inside_its_family_stays(law: str) -> None:
    (found,) = forms(law, law)
    assert complexity(parse(found, (*NAMES, "c0", "c1", "c2"))) == complexity(parse(law, NAMES))


def test_a_prescribed_form_stays() -> None:
    (found,) = forms("0.5*lai", "1.0 + 0.5*lai - 1.0*exp(-0.00001*lai)", Template(form="f(lai)"))
    assert "exp" in found


def test_a_case_whose_constants_are_not_real_is_left_out() -> None:
    law = "2.0*soil_moisture*log(5.0*lai - 0.4)"  # without leaf area, the logarithm of a negative number
    assert any("log" in form for form in forms(law, law))


def test_a_limit_that_could_not_be_timed_is_looked_for_again() -> None:
    form, start = parse("c0*exp(c1*lai) + 3.25", ("lai", "c0", "c1")), {"c0": 1.0, "c1": -1.0}
    found: list = []
    thread = Thread(target=lambda: found.append(symbolic_limit(form, "lai", np.inf, start)))
    thread.start()
    thread.join()
    assert found == [None] and str(symbolic_limit(form, "lai", np.inf, start)) == "13/4"
