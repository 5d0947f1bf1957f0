"""Discovery: a planted law is found, no law is found where there is none, and no constraint is ever violated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import sympy
import xarray as xr

from inference.discovery import Budget, Law, Laws, Template, discover, read_table
from inference.discovery.constants import slopes_of_draws, unshrunk
from inference.discovery.engines import load_engine
from inference.discovery.expressions import canonical, complexity, parametrise, values_of
from inference.discovery.fitting import Rows, pareto_front, refit, values_of_draws
from inference.discovery.null import permute, split
from pi_vae.law import parse

SMALL = Budget(rows=200, population=60, generations=8)
TINY = Budget(rows=60, population=20, generations=3)


def planted(v: Mapping[str, np.ndarray]) -> np.ndarray:
    return 1.5 * np.exp(-0.6 * v["lai"])


def make_tree(
    law: Callable | None, pixels: int = 36, dates: int = 20, draws: int = 24, noise: float = 0.2, seed: int = 0
) -> xr.DataTree:
    """Posterior of fields whose seasons differ; VV = law + noise that is correlated in time, VH = such noise alone."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.choice(365, dates, replace=False))
    times = np.datetime64("2019-01-01", "ns") + day * np.timedelta64(1, "D")
    peak, width, height = rng.normal(180, 25, pixels), rng.uniform(35, 80, pixels), rng.uniform(0.5, 6, pixels)
    values = {
        "lai": 0.2 + height[:, None] * np.exp(-0.5 * ((day - peak[:, None]) / width[:, None]) ** 2),
        "soil_moisture": 0.2 + 0.08 * np.cos(day / 58.0) + 0.03 * rng.normal(size=(pixels, 1)),
        "roughness": rng.uniform(0.5, 3.0, pixels),
        "cab": 40.0 + 5 * rng.normal(size=(pixels, dates)),
    }
    temperature = 283 - 9 * np.cos((day - 20) / 58.0) + rng.normal(0, 3, dates)
    root = np.linalg.cholesky(np.exp(-np.abs(day[:, None] - day) / 30.0) + 1e-9 * np.eye(dates))
    residual = (rng.normal(size=(pixels, 2, dates)) @ root.T).transpose(0, 2, 1) * 0.5
    if law is not None:
        signal = law(values)
        residual[..., 0] = signal + noise * signal.std() / 0.5 * residual[..., 0]

    def drawn(mean: np.ndarray, sd: float) -> np.ndarray:
        return (mean + sd * rng.normal(size=(1, draws, *mean.shape))).astype(np.float32)

    dims = ("chain", "draw", "pixel", "time")
    posterior = {"residual_s1": ((*dims, "s1_channel"), drawn(residual, 0.1), {"units": "dB"})}
    for name, sd in (("lai", 0.1), ("soil_moisture", 0.02), ("cab", 3.0), ("roughness", 0.1)):
        posterior[name] = (dims[: values[name].ndim + 2], drawn(values[name], sd))
    constant = {
        "s1_incidence": (("pixel", "s1_time"), np.full((pixels, dates), 38.9)),
        "s1_seen": (("pixel", "s1_time"), rng.random((pixels, dates)) < 0.95),
        "air_temperature": (("time",), temperature),
    }
    place = {"pixel_row": ("pixel", np.arange(pixels) // 8), "pixel_column": ("pixel", np.arange(pixels) % 8)}
    coords = {"time": times, "s1_channel": ["VV", "VH"]}
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(posterior, coords | place),
            "constant_data": xr.Dataset(constant, {"time": times, "s1_time": times} | place),
        }
    )


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return make_tree(planted)


@pytest.fixture(scope="module")
def laws(tree: xr.DataTree) -> Laws:
    return discover(tree, engine="operon", budget=SMALL)


# The law that is there, and the one that is not


def test_a_planted_law_is_found(laws: Laws) -> None:
    assert [law.channel for law in laws.best] == ["VV"], str(laws)
    law = laws.best[0]
    lai = np.linspace(*law.ranges["lai"], 50)
    assert law.inputs == ("lai",) and law.stability >= 0.75
    assert law.heldout_skill > 0.85 and law.heldout_skill > max(law.null)
    error = law.evaluate({"lai": lai}) - planted({"lai": lai})
    assert np.sqrt((error**2).mean()) < 0.1 * planted({"lai": lai}).std()
    assert (np.diag(law.covariance) > 0).all()
    assert "LAI" in law.latex and "Best: s1 VV residual [dB]" in str(laws)


def test_no_law_where_there_is_none() -> None:
    laws = discover(make_tree(None, seed=3), engine="operon", budget=SMALL)
    assert laws.best == [] and str(laws).endswith("No law passes the null.")


def test_the_same_seed_gives_the_same_laws(tree: xr.DataTree) -> None:
    first, second = (discover(tree, engine="operon", budget=TINY, seed=7).to_json() for _ in range(2))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_default_effort_finds_an_interaction(seed: int) -> None:
    def law(v: Mapping[str, np.ndarray]) -> np.ndarray:
        return 12.0 * v["soil_moisture"] * np.exp(-0.5 * v["lai"])

    best = discover(make_tree(law, pixels=60, dates=40, draws=40, seed=seed), seed=seed).best
    assert [b.channel for b in best] == ["VV"] and best[0].inputs == ("lai", "soil_moisture")
    assert best[0].heldout_skill > 0.8


def with_shared_course(tree: xr.DataTree, seed: int) -> xr.DataTree:
    """A smooth course that all pixels share is added: it resembles many an input with a season."""
    posterior = tree["posterior"].to_dataset()
    day = posterior.time.dt.dayofyear.values
    root = np.linalg.cholesky(np.exp(-np.abs(day[:, None] - day) / 60.0) + 1e-9 * np.eye(len(day)))
    course = root @ np.random.default_rng(seed).normal(size=(len(day), 2))
    posterior["residual_s1"] = posterior.residual_s1 + xr.DataArray(course, dims=("time", "s1_channel"))
    return xr.DataTree.from_dict({"posterior": posterior, "constant_data": tree["constant_data"].to_dataset()})


@pytest.mark.slow
def test_false_laws_are_rare() -> None:
    found = []
    for seed in range(10, 22):
        tree = make_tree(None, seed=seed)
        tree = with_shared_course(tree, seed) if seed % 2 else tree
        found.append(bool(discover(tree, seed=seed, engine="operon", budget=SMALL).best))
    assert sum(found) <= 2, "more than 2 of 12 at a level of 5 % has a probability of 2 %"


# Null


def test_a_surrogate_keeps_power_and_what_is_shared_but_no_place(tree: xr.DataTree) -> None:
    table = read_table(tree, "s1")
    torn = permute(table, 5)
    source = [
        int(np.flatnonzero([np.array_equal(sd, other) for other in table.sd])[0]) for sd in torn.sd
    ]  # the precision travels with its series
    assert sorted(source) == list(range(len(source)))
    assert (table.block[source] != table.block).all()
    np.testing.assert_array_equal(torn.seen, table.seen[source])
    np.testing.assert_array_equal(torn.x, table.x)
    for c in range(2):
        before, after = table.y[source][..., c], torn.y[..., c]
        np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-9)
        assert abs(np.corrcoef(after.ravel(), before.ravel())[0, 1]) < 0.9


def test_surrogates_are_as_smooth_as_the_residual(tree: xr.DataTree) -> None:
    table = read_table(tree, "s1")
    steps = [np.mean(np.diff(permute(table, seed).y[..., 1], axis=1) ** 2) for seed in range(20)]
    assert np.mean(steps) == pytest.approx(np.mean(np.diff(table.y[..., 1], axis=1) ** 2), rel=0.2)


def test_held_out_are_whole_blocks_and_stretches(tree: xr.DataTree) -> None:
    table = read_table(tree, "s1")
    block, season = table.block, table.season
    assert (np.diff(season) >= 0).all() and season.max() == 8 and split(season, 1).sum() in (6, 7)
    held = split(block, 0)
    assert set(block[held]).isdisjoint(block[~held]) and 0.2 < held.mean() < 0.5
    assert np.ptp(np.bincount(block)) == 0, "equal sizes, so that blocks can trade places"


# Table


def test_the_table_holds_seen_rows_and_what_the_target_alone_informs_only_on_request(tree: xr.DataTree) -> None:
    table = read_table(tree, "s1")
    posterior, constant = tree["posterior"], tree["constant_data"]
    assert table.names == ("lai", "cab", "soil_moisture", "air_temperature")
    assert read_table(tree, "s1", ["roughness"]).names == ("roughness",)
    assert table.units["lai"] == "m2 m-2" and table.units["air_temperature"] == "K" and table.unit == "dB"
    assert "38.9" in table.dropped["incidence"]
    x, y, weights = table.rows(1)
    seen = constant.s1_seen.values
    np.testing.assert_allclose(x[:, 0], posterior.lai.mean(("chain", "draw")).values[seen], rtol=1e-5)
    np.testing.assert_allclose(y, posterior.residual_s1.mean(("chain", "draw")).values[..., 1][seen], atol=1e-6)
    variance = posterior.residual_s1.values[0, ..., 1].var(0)[seen]
    np.testing.assert_allclose(weights, 1 / (variance + np.median(variance)), rtol=1e-4)


def test_dates_of_the_target_are_picked_from_the_union(tree: xr.DataTree) -> None:
    constant = tree["constant_data"].to_dataset().isel(s1_time=slice(1, None, 2))
    part = xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset(), "constant_data": constant})
    full, half = (read_table(t, "s1", ["lai", "day_of_year", "air_temperature"]) for t in (tree, part))
    np.testing.assert_array_equal(half.x, full.x[:, 1::2])
    np.testing.assert_array_equal(half.y, full.y[:, 1::2])
    np.testing.assert_array_equal(half.x[0, :, 1], half.times.astype("datetime64[D]").astype(int) - 17896)


# Template


@pytest.mark.parametrize(
    "template",
    [
        Template(monotone={"lai": "decreasing"}, bounds=(-0.5, 2.0)),
        Template(zero_at={"lai": 0.0}),
        Template(odd=["lai"], inputs=["lai", "soil_moisture"]),
        Template(even=["lai"], operators=["add", "mul", "div", "exp"], max_length=12),
        Template(monotone={"lai": "increasing"}),
    ],
    ids=["falling", "zero", "odd", "even", "rising"],
)
def test_no_candidate_violates_the_template(tree: xr.DataTree, template: Template) -> None:
    table = read_table(tree, "s1", template.inputs)
    x, y, weights = table.rows(0)
    # What is to vanish at no leaves, or to be odd, must not start at 1.5.
    rows = Rows(x, y - 1.5 if template.zero_at or template.odd else y, weights)
    front = pareto_front(load_engine()[1], rows, table.names, template, table.x[table.seen], 0, SMALL)
    rising = template.monotone.get("lai") == "increasing"
    assert rising or front, "the constraint leaves laws to be found"
    grid = np.linspace(*table.ranges["lai"], 200)
    middle = np.median(table.x[table.seen], 0)

    def along(fitted, lai: np.ndarray) -> np.ndarray:
        x = np.broadcast_to(middle, (len(lai), len(middle))).copy()
        x[:, 0] = lai
        return values_of(fitted.form, fitted.coefficients, table.names, x)

    for fitted in front:
        assert complexity(fitted.form) <= template.max_length
        assert {f.func.__name__ for f in fitted.form.atoms(sympy.Function)} <= set(template.operators)
        value, size = along(fitted, grid), 1e-5
        if template.monotone:
            assert (np.diff(value) * (1 if rising else -1) >= -size).all()
        if template.bounds:
            assert value.min() >= template.bounds[0] - size and value.max() <= template.bounds[1] + size
        if template.zero_at:
            assert abs(along(fitted, np.zeros(1))).max() < size
        if template.odd or template.even:
            np.testing.assert_allclose(along(fitted, -grid), value * (-1 if template.odd else 1), atol=size)


@pytest.mark.parametrize(
    ("template", "law", "complaint"),
    [
        (Template(), "2.0*lai + air_temperature", None),
        (Template(), "1/(lai - 2.0)", "pole"),
        (Template(), "log(lai - 2.0)", "not finite"),
        (Template(), "3.0", "constant"),
        (Template(), "1e8 - 1e8*cos(0.0001*lai)", "single precision"),
        (Template(inputs=["lai"]), "soil_moisture", "reads soil_moisture"),
        (Template(operators=["add", "mul"]), "exp(lai)", "uses exp"),
        (Template(operators=["add", "mul"]), "lai/roughness", "uses div"),
        (Template(max_length=4), "1.0 + 2.0*lai", "complexity 5"),
        (Template(bounds=(0, 1)), "lai", "bounds"),
        (Template(monotone={"lai": "decreasing"}), "lai*(roughness - 1.0)", "not decreasing"),
        (Template(monotone={"lai": "decreasing"}), "-lai*roughness", None),
        (Template(even=["lai"]), "lai", "even"),
        (Template(odd=["lai"]), "cos(lai)", "odd"),
        (Template(zero_at={"lai": 0.0}), "1.0 - exp(-lai)", None),
        (Template(zero_at={"lai": 0.0}), "exp(-lai)", "vanish"),
        (Template(zero_at={"lai": 0.0}), "roughness", "does not depend"),
    ],
)
def test_violations_are_named(tree: xr.DataTree, template: Template, law: str, complaint: str | None) -> None:
    table = read_table(tree, "s1", ["lai", "soil_moisture", "roughness", "air_temperature"])
    found = template.violations(parse(law, table.names), table)
    assert found == [] if complaint is None else any(complaint in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": ["ndvi"]}, "Unknown input 'ndvi'"),
        ({"inputs": "lai"}, "list of names"),
        ({"operators": ["add", "mul", "tanh"]}, "Unknown operator 'tanh'"),
        ({"operators": ["exp"]}, "bars add or mul"),
        ({"monotone": {"lai": "down"}}, "'increasing' or 'decreasing'"),
        ({"inputs": ["cab"], "monotone": {"lai": "increasing"}}, "does not allow it"),
        ({"even": ["lai"], "odd": ["lai"]}, "even and odd"),
        ({"bounds": (2.0, 1.0)}, "empty"),
        ({"bounds": (1.0, 2.0), "zero_at": {"lai": 0.0}}, "exclude 0"),
    ],
)
def test_templates_that_cannot_be(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Template(**arguments)


# Expressions


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("2.5*exp(0.7 - 0.3*x)", 2),
        ("3.0/(2.0*x + 4.0)", 2),
        ("1.5*(2.0*x + 3.0)", 2),
        ("sqrt(2.0*x)*3.0", 1),
        ("log(3.0*x + 6.0) + 1.0", 2),
        ("0.5*sqrt(exp(-1.2*x))", 2),
    ],
)
def test_no_constant_is_redundant(text: str, constants: int) -> None:
    original = parse(text, ["x", "y"])
    form, values = parametrise(canonical(original))
    x = np.random.default_rng(0).uniform(0.1, 3, (20, 2))
    assert len(values) == constants
    np.testing.assert_allclose(values_of(form, values, ["x", "y"], x), values_of(original, {}, ["x", "y"], x))


def test_weighted_least_squares_is_that_of_the_normal_equations() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(60, 1)), rng.uniform(0.1, 4, 60)
    y = 2 - 3 * x[:, 0] + rng.normal(size=60)
    found = refit(parse("a + b*x", ["a", "b", "x"]), {"a": 0.0, "b": 0.0}, ["x"], Rows(x, y, w))
    design = np.column_stack([np.ones(60), x[:, 0]])
    expected = np.linalg.solve(design.T @ (w[:, None] * design), design.T @ (w * y))
    np.testing.assert_allclose([found["a"], found["b"]], expected, rtol=1e-5)


# What goes in and out


@pytest.mark.filterwarnings("error")
def test_where_a_form_is_not_defined_nothing_is_said() -> None:
    draws = np.random.default_rng(0).uniform(1.0, 2.0, (2, 20, 1))
    draws[:, 3, 0] = 0.0, -0.0  # an infinity of either sign
    form, start = parse("c0/x", ["c0", "x"]), {"c0": 2.0}
    rows = Rows(draws.mean(0), 3.0 / draws.mean(0)[:, 0].clip(0.1), np.ones(20), draws)
    assert refit(form, start, ["x"], rows)["c0"] == pytest.approx(3.0, rel=0.1)
    value = values_of_draws(form, start, ["x"], draws)
    assert np.isnan(value[3]) and np.isfinite(np.delete(value, 3)).all()
    assert np.isnan(slopes_of_draws(form, start, ["x"], draws).mean(0)[3, 0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("largest", [1.2, 2.0])  # squares of slopes overflow, or the form itself does
def test_constants_that_overflow_are_not_found_and_nothing_is_said(largest: float) -> None:
    rng = np.random.default_rng(0)
    draws, left = rng.uniform(1.0, largest, (4, 40, 1)), rng.normal(size=(4, 40))
    form = parse("exp(c0*x)", ["c0", "x"])
    assert unshrunk(form, {"c0": 460.0}, ["x"], draws, left, np.arange(40)) is None


def test_laws_survive_json(laws: Laws, tmp_path) -> None:
    laws.to_json(tmp_path / "laws.json")
    again = Laws.from_json(tmp_path / "laws.json")
    assert again.to_json() == laws.to_json() and again.table() == laws.table()
    assert again.best[0].expression == laws.best[0].expression


def test_a_law_file_cannot_smuggle_code(laws: Laws) -> None:
    data = json.loads(json.dumps(laws.best[0].to_dict()))
    with pytest.raises(ValueError, match="cannot stand in the law"):
        Law.from_dict(data | {"form": "__import__('os').getcwd()"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "s3"}, "'s3': choose one of s1"),
        ({"engine": "eureqa"}, "'eureqa'"),
        ({"permutations": 5}, "at least 19"),
        ({"template": Template(inputs=["car"])}, "no input 'car'"),
        ({"template": Template(monotone={"roughness": "increasing"})}, "'roughness'"),
    ],
)
def test_what_is_asked_for_but_not_there(tree: xr.DataTree, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        discover(tree, **arguments)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="10 draws: discovery needs at least 20"):
        discover(make_tree(None, draws=10))
