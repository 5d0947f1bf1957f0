"""What templates refuse, what they check, what they look like, and who honours them."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import sympy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inference.discovery import Budget, Template
from inference.discovery import engines as registry
from inference.discovery.dimensions import Units, inconsistency
from inference.discovery.engines import CHECKED, Candidate, anchored, load_engine
from inference.discovery.expressions import canonical, values_of
from inference.discovery.fitting import Rows, pareto_front
from pi_vae.law import parse

NAMES = ("lai", "vwc", "soil_moisture", "air_temperature")
UNITS = Units({"lai": "m2 m-2", "vwc": "kg m-2", "soil_moisture": "m3 m-3", "air_temperature": "K"}, "dB")
ROWS = np.random.default_rng(0).uniform((0.1, 0.2, 0.05, 270), (6, 5, 0.45, 300), (300, 4))


@pytest.mark.parametrize(
    ("template", "law", "complaint"),
    [
        (Template(sign="positive"), "lai", None),
        (Template(sign="positive"), "lai - 1.0", "not positive"),
        (Template(sign="negative"), "-exp(-lai)", None),
        (Template(symmetric=[["lai", "soil_moisture"]]), "lai*soil_moisture + exp(vwc)", None),
        (Template(symmetric=[["lai", "soil_moisture"]]), "lai*soil_moisture**2", "are exchanged"),
        (Template(limits={"lai": ("inf", 2.0)}), "2.0 + vwc*exp(-0.3*lai)", None),
        (Template(limits={"lai": ("inf", 0.0)}), "2.0 + vwc*exp(-0.3*lai)", "does not tend to 0"),
        (Template(limits={"lai": ("inf", 0.0)}), "1.0/log(lai + 2.0)", None),
        (Template(limits={"lai": ("inf", 0.0)}), "sin(lai)", "does not tend"),
        (Template(limits={"lai": (0, 1.0)}), "sin(lai)/lai", None),
        (Template(limits={"lai": ("inf", 0.0)}), "vwc", "does not tend"),
        (Template(units=True), "lai + air_temperature", "units"),
        (Template(units=True), "lai + 0.1*air_temperature", None),
        (Template(units=True, dimensionless_constants=True), "lai + 0.1*air_temperature", "units"),
    ],
)
def test_violations(template: Template, law: str, complaint: str | None) -> None:
    found = template.check(parse(law, NAMES), NAMES, ROWS, UNITS)
    assert found == [] if complaint is None else any(complaint in sentence for sentence in found), found


def test_a_limit_that_sympy_does_not_find_is_taken_from_numbers(monkeypatch) -> None:
    def endless(*_) -> None:
        while True:
            pass

    monkeypatch.setattr(sympy, "limit", endless)
    template, started = Template(limits={"lai": ("inf", 2.0)}), time.monotonic()
    assert template.check(parse("2.0 + vwc*exp(-0.3*lai)", NAMES), NAMES, ROWS) == []
    assert template.check(parse("2.0 + vwc*lai", NAMES), NAMES, ROWS) != []
    assert time.monotonic() - started < 5


def test_time_itself_is_barred() -> None:
    law = parse("lai + day_of_year", ("lai", "day_of_year"))
    found = Template(autonomous=True).check(law, ("lai", "day_of_year"), ROWS[:, :2])
    assert found == ["It reads day_of_year, which the template does not allow."]


def test_units_have_to_be_given() -> None:
    with pytest.raises(ValueError, match="give the units"):
        Template(units=True).check(parse("lai", NAMES), NAMES, ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": (0.0, 0.0)}, "empty"),
        ({"sign": "up"}, "'positive' or 'negative'"),
        ({"sign": "positive", "bounds": (-2.0, 0.0)}, "no value"),
        ({"sign": "positive", "odd": ["lai"]}, "both signs"),
        ({"sign": "negative", "limits": {"lai": ("inf", 1.0)}}, "contradicts sign"),
        ({"bounds": (-1.0, 1.0), "limits": {"lai": ("inf", 2.0)}}, "outside the bounds"),
        ({"limits": {"lai": ("far", 2.0)}}, "give .approach, value."),
        ({"limits": {"lai": ("inf", float("inf"))}}, "give .approach, value."),
        ({"limits": {"lai": (0, 2.0)}, "zero_at": {"lai": 0.0}}, "to vanish"),
        ({"limits": {"ndvi": ("inf", 0.0)}}, "Unknown input 'ndvi'"),
        ({"even": ["lai"], "monotone": {"lai": "increasing"}}, "even and odd or monotone"),
        ({"symmetric": ["lai"]}, "one text"),
        ({"symmetric": [["lai"]]}, "two or more"),
        ({"symmetric": [["lai", "vwc"]]}, "different units"),
        ({"symmetric": [["lai", "soil_moisture"], ["lai", "cbrown"]]}, "two groups"),
        ({"symmetric": [["lai", "soil_moisture"]], "even": ["lai"]}, "differently"),
        (
            {"symmetric": [["lai", "soil_moisture"]], "monotone": {"lai": "increasing", "soil_moisture": "decreasing"}},
            "differently",
        ),
        ({"autonomous": True, "inputs": ["lai", "day_of_year"]}, "time itself"),
        ({"autonomous": True, "form": "f(lai, day_of_year)"}, "time itself"),
        ({"dimensionless_constants": True}, "set units=True"),
        ({"form": "f(lai)", "inputs": ["cab"]}, "'lai' but does not allow it"),
        ({"form": "f(lai)*exp(-lai)", "operators": ["add", "mul"]}, "uses exp"),
        ({"form": "f(lai) + exp(-b*lai) + exp(-c*vwc)", "max_length": 8}, "raise that"),
    ],
)
def test_contradictions(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Template(**arguments)
    assert "\n" not in str(caught.value)


FULL = Template(
    form="f(lai)*exp(-b*lai) + g(soil_moisture)",
    bounds=(0.0, float("inf")),
    sign="positive",
    limits={"lai": ("inf", 0.0)},
    monotone={"soil_moisture": "increasing"},
    units=True,
    autonomous=True,
)


def test_a_template_survives_json(tmp_path) -> None:
    FULL.to_json(tmp_path / "template.json")
    assert Template.from_json(tmp_path / "template.json") == FULL
    assert Template.from_dict({"sign": "positive"}) == Template(sign="positive")
    with pytest.raises(ValueError, match="Unknown field 'shape'"):
        Template.from_dict({"shape": "round"})


def test_a_template_reads_as_mathematics() -> None:
    text, tex = str(FULL), FULL.latex()
    assert "y = f(lai)*exp(-b*lai) + g(soil_moisture)" in text and "y -> 0 as lai -> inf" in text
    assert r"g(m_v)" in tex and r"\lim_{LAI \to \infty} y = 0" in tex and r"\partial m_v \geq 0" in tex


# Engines


def test_engines_refuse_what_they_cannot_honour(monkeypatch) -> None:
    derived = Template(form="f(lai) + D(f, 1)(lai)")
    with pytest.raises(ValueError, match="'operon' cannot honour derivatives .* use engine='pysr'"):
        load_engine("operon", derived)
    modules = {
        "plain": SimpleNamespace(CAPABILITIES=CHECKED, INSTALL="", available=lambda: True),
        "absent": SimpleNamespace(CAPABILITIES=CHECKED | {"form"}, INSTALL="install it", available=lambda: False),
        "able": SimpleNamespace(CAPABILITIES=CHECKED | {"form"}, INSTALL="", available=lambda: True),
    }
    monkeypatch.setattr(registry, "ENGINES", {name: name for name in modules})
    monkeypatch.setattr(registry.importlib, "import_module", modules.__getitem__)
    assert load_engine()[0] == "plain" and load_engine("auto", Template(form="f(lai)"))[0] == "able"
    with pytest.raises(ValueError, match="'plain' cannot honour form .* use engine='able'"):
        load_engine("plain", Template(form="f(lai)"))
    with pytest.raises(ImportError, match="install it"):
        load_engine("absent", Template(form="f(lai)"))
    with pytest.raises(ValueError, match="'auto' cannot honour derivatives, form of the template: drop that"):
        load_engine("auto", derived)


@pytest.mark.parametrize("odd", ["cosh(lai)", "1.6*lai + exp(-oo*vwc)"])
def test_the_sine_of_an_imaginary_constant_and_an_infinite_one_are_left_out(odd) -> None:
    candidates = [Candidate(sympy.sympify(odd), 2), Candidate(1.5 * sympy.Symbol("lai"), 3)]
    engine = SimpleNamespace(search=lambda *_: candidates)
    rows = Rows(ROWS, ROWS[:, 0], np.ones(300))
    front = pareto_front(engine, rows, NAMES, Template(), ROWS, 0, Budget())
    assert [str(fitted.form) for fitted in front] == ["c0*lai"]


def test_limits_enter_as_heavy_rows() -> None:
    x, y, w = anchored(Template(limits={"vwc": ("inf", 2.0)}), ROWS, np.zeros(300), np.ones(300), NAMES)
    assert len(y) == 330 and (y[300:] == 2).all() and (w[300:] == 10).all() and (x[300:, 1] > 50).all()


# No candidate that violates a constraint is ever returned

LEAVES = st.sampled_from([*NAMES[:3], "1.5", "-0.7", "2"])
LAWS = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*/"), part).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(st.sampled_from(["exp", "sqrt", "sin"]), part).map(lambda p: f"{p[0]}({p[1]})"),
    ),
    max_leaves=5,
)
TEMPLATES = st.sampled_from(
    [
        Template(sign="positive"),
        Template(bounds=(-2.0, 2.0)),
        Template(monotone={"lai": "decreasing"}),
        Template(zero_at={"lai": 0.0}, max_length=40),
        Template(even=["vwc"]),
        Template(odd=["vwc"]),
        Template(symmetric=[["lai", "soil_moisture"]], max_length=40),
        Template(limits={"lai": ("inf", 1.0)}, max_length=40),
        Template(units=True),
    ]
)


@given(st.lists(LAWS, min_size=3, max_size=8), TEMPLATES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(["exp(0.5*lai*(0 - 1))", "vwc*exp(lai*(0 - 0.5))"], Template(limits={"lai": ("inf", 1.0)}))
@example(["1.5*lai", "vwc*lai"], Template(zero_at={"lai": 0.0}))
@example(["vwc*vwc", "vwc"], Template(even=["vwc"]))
@example(["vwc*vwc", "vwc"], Template(odd=["vwc"]))
@example(["exp(lai)", "soil_moisture*lai"], Template(symmetric=[["lai", "soil_moisture"]]))
def test_no_candidate_violates(texts: list[str], template: Template) -> None:
    candidates = []
    for text in texts:
        try:
            # A scale and an offset, as engines give them: a law that cannot be fitted is never returned.
            candidates.append(Candidate(parse(f"0.3 + 0.8*({text})", NAMES), 1))
        except ValueError:  # infinite or not real
            continue
    engine = SimpleNamespace(search=lambda *_: candidates)
    # One of them is the truth as the template makes it, so that there is something to return.
    truths = [values_of(template.project(canonical(c.expression)), {}, NAMES, ROWS) for c in candidates]
    y = next((t for t in truths if np.isfinite(t).all() and 1e-6 < np.ptp(t) < 1e6), ROWS[:, 0])
    front = pareto_front(engine, Rows(ROWS, y, np.ones(300)), NAMES, template, ROWS, 0, Budget(rows=100), UNITS)
    for fitted in front:
        assert not broken(template, fitted.expression), (template, fitted.expression)


def broken(t: Template, law: sympy.Expr) -> bool:
    """Whether a law violates a template, by other means than those of the template."""

    def value(**changes) -> np.ndarray:
        x = ROWS.copy()
        for name, v in changes.items():
            x[:, NAMES.index(name)] = v
        return values_of(law, {}, NAMES, x)

    here, (lai, vwc, moisture, _) = value(), ROWS.T
    near = 1e-4 * max(np.abs(here).max(), 1e-9)
    if t.sign and here.min() < -near or t.bounds and not (t.bounds[0] - near <= here.min() <= here.max() <= 2 + near):
        return True
    if t.monotone and (value(lai=np.maximum(lai, 3)) > value(lai=np.minimum(lai, 3)) + near).any():
        return True
    if t.zero_at and np.abs(value(lai=0.0)).max() > near:
        return True
    if (t.even or t.odd) and np.abs(value(vwc=-vwc) - (1 if t.even else -1) * here).max() > near:
        return True
    if t.symmetric and np.abs(value(lai=moisture, soil_moisture=lai) - here).max() > near:
        return True
    if t.limits and np.abs(value(lai=1e9) - 1.0).max() > 1e-3:
        return True
    return t.units and inconsistency(law, UNITS) is not None
