"""What the benchmarks of residuals plant, and how they judge it."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    yield [importlib.import_module(name) for name in ("residuals", "residuals_plant", "residuals_real")]
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def case(modules):
    residuals, plant, _ = modules
    return plant.planted(residuals.build("physics"), plant.points(30, 40, 40, 0.2, 0), 2.0, 0)


def test_effects_are_as_loud_as_asked_and_nothing_at_level_zero(modules, case):
    residuals, plant, _ = modules
    for name, effect in case.effect.items():
        assert np.sqrt(np.mean((effect / case.noise[name][:, None]) ** 2)) == pytest.approx(2.0, rel=1e-6)
    quiet = plant.planted(residuals.build("physics"), plant.points(30, 40, 40, 0.2, 0), 0.0, 0)
    assert not quiet.effect["s1"].any()
    added = 10 * np.log10(case.cube["s1"].backscatter / quiet.cube["s1"].backscatter).transpose("time", "pol", "point")
    seen = np.isfinite(added.values)
    np.testing.assert_allclose(added.values[seen], case.effect["s1"][seen], atol=1e-3)


def test_recovery_is_one_for_the_truth_and_nothing_for_silence(modules, case):
    residuals = modules[0]
    case.cube = residuals.withhold(case.cube, 0.1, seed=1)
    pixels, rng = np.arange(30), np.random.default_rng(0)
    for name, effect in case.effect.items():
        shifted = effect + rng.normal(size=(1, effect.shape[1], 1)) * case.noise[name][:, None]
        assert residuals.recovered(shifted, pixels, case, name) == pytest.approx(1.0), "a constant is nobody's"
        assert residuals.recovered(np.zeros_like(effect), pixels, case, name) == pytest.approx(0.0, abs=1e-9)
        assert residuals.recovered(-effect, pixels, case, name) < -2


def test_what_explains_a_series_is_found(modules):
    real, rng = modules[2], np.random.default_rng(0)
    field, date, noise = rng.normal(size=(40, 1)), rng.normal(size=(1, 30)), rng.normal(size=(40, 30))
    for scores, shares in ((field + 0 * noise, (1, 0)), (date + 0 * noise, (0, 1)), (noise, (0, 0))):
        scores = np.where(rng.random(scores.shape) < 0.2, np.nan, scores)
        found = real.by_group(scores, 1), real.by_group(scores, 0)
        assert found == pytest.approx(shares, abs=0.05)
    weather = np.broadcast_to(date, noise.shape)
    assert real.explained(weather + noise, [weather]) == pytest.approx(np.var(date) / (np.var(date) + 1), abs=0.06)
    assert abs(real.explained(noise, [weather])) < 0.02


def test_neighbours_go_together_in_a_smooth_image_alone(modules):
    real, rng = modules[2], np.random.default_rng(0)
    row, column = (a.ravel() for a in np.mgrid[:20, :20])
    smooth = np.cumsum(rng.normal(size=(20, 20, 3)), 1).reshape(400, 3)
    assert real.neighbours(smooth, (row, column)) > 0.8
    assert abs(real.neighbours(rng.normal(size=(400, 3)), (row, column))) < 0.15


def test_who_knows_more_of_a_plant_finds_more_of_it(modules):
    residuals, plant, _ = modules
    from residuals_bounds import bound

    model = residuals.build("physics")
    case = plant.planted(model, plant.points(260, 40, 40, 0.2, 0), 1.0, 0)
    oracle = bound("oracle", model, case, judged=60, steps=1, seed=0)
    taught = bound("supervised", model, case, judged=60, steps=60, seed=0)
    assert 0.2 < oracle["s2"] < 0.95 and 0.2 < oracle["s1"] < 0.95
    assert all(taught[m] < oracle[m] for m in oracle) and max(taught.values()) > 0.02
