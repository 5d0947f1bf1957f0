"""Enumerated terms: what they are, what they find, what they leave alone; and the evidence around a law."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from inference.discovery import Budget, Table, Template
from inference.discovery.engines import Together, load_engine, terms
from inference.discovery.engines.terms import SHAPES
from inference.discovery.evidence import gather, weighed
from inference.discovery.expressions import canonical, parametrise, values_of
from inference.discovery.fitting import Fitted, Rows, pareto_front, refit
from pi_vae.law import parse

NAMES = ("lai", "soil_moisture", "air_temperature", "incidence", "day_of_year")


def rows(count: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = np.array([0.1, 0.05, 262.0, 25.0, 1.0]), np.array([6.0, 0.45, 303.0, 55.0, 365.0])
    return rng.uniform(low, high, (count, 5))


def front(text: str, noise: float = 0.1, template: Template | None = None, seed: int = 0) -> list[Fitted]:
    x = rows(seed=seed)
    y = values_of(parse(text, NAMES), {}, NAMES, x)
    y = y + noise * y.std() * np.random.default_rng(seed + 1).normal(size=len(y))
    return pareto_front(terms, Rows(x, y, np.ones(len(y))), NAMES, template or Template(), x, 0, Budget())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_the_same_in_numbers_and_in_symbols(shape: str) -> None:
    function = SHAPES[shape][1]
    constants = (0.3, 0.2)[: function.__code__.co_argcount - 2]
    x = np.linspace(0.2, 3.0, 7)
    expression = function(sympy, sympy.Symbol("lai"), *map(sympy.Float, constants))
    np.testing.assert_allclose(values_of(expression, {}, ("lai",), x[:, None]), function(np, x, *constants))


@pytest.mark.parametrize(
    "text",
    [
        "2.2*exp(-0.5*lai)",
        "8.0*soil_moisture*(1 - exp(-0.5*lai))",
        "-3.0/(1 + exp(0.8*air_temperature - 219.2))",
        "0.9*sin(0.0172*day_of_year + 0.7)",
        "4.0*soil_moisture/cos(0.01745*incidence)",
        "1.5*exp(-0.8*lai) + 6.0*soil_moisture**2",
        "3.0*exp(-0.6*lai)*cos(0.01745*incidence)*sqrt(soil_moisture)",
    ],
)
def test_laws_of_such_terms_are_found(text: str) -> None:
    # Description length of 400 rows without correlation, nearly.
    best = min(front(text), key=lambda f: 200 * np.log(1 - f.skill) + 3 * f.complexity)
    x = rows(seed=9)
    planted = values_of(parse(text, NAMES), {}, NAMES, x)
    error = values_of(best.form, best.coefficients, NAMES, x) - planted
    assert np.sqrt((error**2).mean()) < 0.05 * planted.std(), best.expression
    assert {s.name for s in parse(text, NAMES).free_symbols} == set(best.inputs(NAMES))


def test_the_same_seed_proposes_the_same() -> None:
    x = rows(600)
    y, weights = x[:, 0] * x[:, 1], np.ones(600)
    one, other = (terms.search(x, y, weights, NAMES, Template(), 3, Budget()) for _ in range(2))
    assert one == other and len(one) > 20


def test_operators_and_inputs_are_honoured() -> None:
    template = Template(inputs=["lai", "soil_moisture"], operators=("add", "mul", "exp"))
    x = rows()
    y = np.exp(-0.5 * x[:, 0]) / (1 + x[:, 1]) + 0.01 * x[:, 2]
    found = terms.search(x, y, np.ones(len(y)), NAMES, template, 0, Budget())
    assert found
    for candidate in found:
        assert {s.name for s in candidate.expression.free_symbols} <= {"lai", "soil_moisture"}
        functions = {f.func for f in candidate.expression.atoms(sympy.Function)}
        assert functions <= {sympy.exp} and not candidate.expression.has(sympy.sqrt(sympy.Symbol("lai")))
        assert all(p.exp.is_integer and p.exp > 0 for p in candidate.expression.atoms(sympy.Pow))


@pytest.mark.parametrize("y", [np.ones(50), np.zeros(50)])
def test_a_constant_target_has_no_law(y: np.ndarray) -> None:
    assert terms.search(rows(50), y, np.ones(50), NAMES, Template(), 0, Budget()) == []


def test_auto_is_terms_beside_a_genetic_engine_and_forms_are_left_to_the_latter() -> None:
    name, engine = load_engine("auto")
    assert name.startswith("terms+") and isinstance(engine, Together) and len(engine.engines) == 2
    assert "terms" not in load_engine("auto", Template(form="f(lai)*exp(-b*soil_moisture)"))[0]
    with pytest.raises(ValueError, match="cannot honour form"):
        load_engine("terms", Template(form="f(lai)"))


def test_a_steep_exponential_in_a_sum_gets_its_constant_into_the_exponent() -> None:
    expression = canonical(parse("-3.0/(1 + exp(0.8*air_temperature - 219.2))", NAMES))
    form, values = parametrise(expression)
    assert max(map(abs, values.values())) == pytest.approx(219.2)
    x = rows(20)
    np.testing.assert_allclose(values_of(form, values, NAMES, x), -3.0 / (1 + np.exp(0.8 * x[:, 2] - 219.2)))


def test_a_factor_below_the_smallest_float_is_no_trouble() -> None:
    tiny = sympy.Float("1e-400") * sympy.exp(sympy.Float(3.3) * sympy.Symbol("air_temperature"))
    form, values = parametrise(1 / (1 + tiny))
    assert sorted(map(abs, values.values())) == pytest.approx([3.3, 400 * np.log(10)])


# Evidence


def table(slope: float = -0.6, error: float = 0.25, noise: float = 0.05, seed: int = 0, shared: float = 0.0) -> Table:
    """``1.5*exp(slope*lai)`` of the true leaf area, which is known with a relative error, and noise."""
    rng = np.random.default_rng(seed)
    shape = (48, 20)
    mean = rng.uniform(0.3, 5.0, shape)

    def around() -> np.ndarray:
        return mean * np.exp(error * rng.normal(size=shape) - 0.5 * error**2)

    block = np.arange(48) // 4
    y = 1.5 * np.exp(slope * around()) + noise * rng.normal(size=shape) + shared * rng.normal(size=12)[block, None]
    draws = np.stack([around() for _ in range(40)])[..., None]
    times = np.datetime64("2020-01-01", "ns") + 15 * np.arange(20) * np.timedelta64(1, "D")
    return Table("s1", "dB", ("VV",), ("lai",), {"lai": "m2 m-2"}, mean[..., None], draws, y[..., None],
                 np.full((*shape, 1), noise), np.repeat(y[None, ..., None], 40, 0), np.ones(shape, bool), block,
                 np.arange(20) // 3, times, {})  # fmt: skip


def law(text: str, **start: float) -> Fitted:
    form = parse(text, ("lai", *start))
    return Fitted(form, start, 6, 0.0)


def test_draws_of_inputs_take_the_bias_of_their_errors_away() -> None:
    fitted = law("c0*exp(c1*lai)", c0=1.0, c1=-0.5)
    by_draws, by_means = [], []
    for seed in range(6):
        data = table(error=0.4, seed=seed)
        by_draws.append(gather(fitted, data, 0, 2000).coefficients["c1"])
        by_means.append(refit(fitted.form, fitted.coefficients, ("lai",), Rows(*data.rows(0)))["c1"])
    assert abs(np.mean(by_draws) + 0.6) < 0.25 * abs(np.mean(by_means) + 0.6)
    assert abs(np.mean(by_draws) + 0.6) < 0.02


def inverted(law_of_rain: float, seed: int, noise: float = 1.0, misfit: float = 0.7) -> Table:
    """A table of exact posteriors: a signal ``2*lai`` and a misfit of known variance, and rain that adds to both."""
    rng = np.random.default_rng(seed)
    shape = (48, 20)
    lai, rain, own = rng.normal(3.0, 0.2, shape), rng.exponential(1.0, shape), misfit * rng.normal(size=shape)
    y = 2 * lai + own + law_of_rain * rain + noise * rng.normal(size=shape)
    total = 4 * 0.04 + misfit**2 + noise**2
    gain = np.array([2 * 0.04, misfit**2]) / total
    root = np.linalg.cholesky(np.diag([0.04, misfit**2]) - np.outer(gain, gain) * total)
    mean = np.array([3.0, 0.0]) + gain * (y - 6.0)[..., None]
    draws = mean + rng.normal(size=(40, *shape, 2)) @ root.T
    x = np.stack([mean[..., 0], rain], -1)
    x_draws = np.stack([draws[..., 0], np.broadcast_to(rain, (40, *shape))], -1)
    times = np.datetime64("2020-01-01", "ns") + 15 * np.arange(20) * np.timedelta64(1, "D")
    return Table("s1", "dB", ("VV",), ("lai", "precipitation"), {"lai": "m2 m-2", "precipitation": "mm"}, x, x_draws,
                 mean[..., 1:], np.full((*shape, 1), 0.5), (y - 2 * draws[..., 0])[..., None], np.ones(shape, bool),
                 np.arange(48) // 4, np.arange(20) // 3, times, {})  # fmt: skip


def test_constants_are_not_drawn_towards_zero_and_inferred_inputs_do_not_follow_noise() -> None:
    names, start = ("lai", "precipitation"), {"c0": 0.0, "c1": 0.1, "c2": 0.1}
    fitted = Fitted(parse("c0 + c1*lai + c2*precipitation", (*names, *start)), start, 6, 0.0)

    def constants(planted: float) -> dict[str, np.ndarray]:
        found: dict[str, list] = {}
        for seed in range(8):
            data = inverted(planted, seed)
            blind = data.replace(left=np.full_like(data.left, np.nan))
            averaged = data.replace(left=np.repeat(data.left.mean(0, keepdims=True), 40, 0))
            for name, each in {"ours": data, "residual": blind, "averaged": averaged}.items():
                coefficients = gather(fitted, each, 0, 2000).coefficients
                found.setdefault(name, []).append([coefficients["c1"], coefficients["c2"]])
        return {name: np.mean(values, 0) for name, values in found.items()}

    with_rain, without = constants(0.4), constants(0.0)
    assert 0.3 < with_rain["ours"][1] < 0.42  # physics keeps a tenth of the 0.4
    assert with_rain["residual"][1] < 0.2
    assert abs(without["ours"][0]) < 0.7 and abs(without["ours"][1]) < 0.04  # three standard errors
    assert without["residual"][0] > 2 and without["averaged"][0] > 2


def test_where_nothing_was_observed_the_residual_alone_gives_the_constants() -> None:
    fitted, data = law("c0 + c1*lai", c0=1.0, c1=-0.2), table(slope=0.0, error=0.0)
    blind = data.replace(left=np.full_like(data.left, np.nan))
    assert gather(fitted, blind, 0, 2000).coefficients["c0"] == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("shared", [0.0, 0.2])
def test_intervals_of_constants_hold_with_errors_that_blocks_share(shared: float) -> None:
    inside = []
    for seed in range(80):
        data = table(slope=0.0, error=0.0, seed=seed, shared=shared)
        evidence = gather(law("c0 + c1*lai", c0=1.0, c1=-0.2), data, 0, 2000)
        sd = np.sqrt(np.diag(evidence.covariance))
        inside.append(abs(evidence.coefficients["c0"] - 1.5) < 1.645 * sd[0])
    assert 0.8 <= np.mean(inside) <= 0.98


def test_effective_rows_are_fewer_where_neighbours_err_together() -> None:
    fitted = law("c0 + c1*lai", c0=1.0, c1=-0.2)
    alone = gather(fitted, table(slope=0.0, error=0.0), 0, 2000).effective
    together = gather(fitted, table(slope=0.0, error=0.0, shared=0.2), 0, 2000).effective
    assert together < 0.3 * alone and alone > 400


def test_the_planted_law_has_the_least_description_length() -> None:
    fits = [
        law("c0 + c1*lai", c0=1.0, c1=-0.2),
        law("c0*exp(c1*lai)", c0=1.0, c1=-0.5),
        law("c0*exp(c1*lai) + c2*lai + c3*lai**2", c0=1.0, c1=-0.5, c2=0.01, c3=0.01),
    ]
    lengths = [length for _, length in weighed(fits, table(error=0.1), 0, 2000, Template())]
    assert np.argmin(lengths) == 1
