"""What all pixels of a date have in common is searched for laws, whatever the model has taken it for."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from inference.discovery import Budget, Template, discover, read_table
from inference.discovery.dataset import date_means

PIXELS, DATES, DRAWS = 40, 30, 20
MOMENT = np.timedelta64(256, "ns")  # what days as floating-point numbers lose
RAIN_LAW = Template(inputs=["lai", "precipitation"], operators=["add", "mul", "log"])


def weather_tree(effect: bool, law: float = 0.9, noise: float = 1.0) -> tuple[xr.DataTree, np.ndarray]:
    """Silent residuals; a law of the rain in VV, which is an effect of the date to the model or nothing but noise."""
    rng = np.random.default_rng(4)
    times = np.datetime64("2019-03-01", "ns") + 9 * np.arange(DATES) * np.timedelta64(1, "D")
    rain = np.where(rng.random(DATES) < 0.5, rng.exponential(6.0, DATES), 0.0)
    planted = law * np.log1p(rain)
    scene = rng.normal(-12.0, 2.0, (PIXELS, DATES, 2))
    physics = scene + 0.2 * rng.normal(size=(1, DRAWS, PIXELS, DATES, 2))
    signal = planted[:, None] * np.array([1.0, 0.0])
    observed = scene + signal + noise * rng.normal(size=scene.shape)
    axes = ("chain", "draw", "pixel")
    posterior = {
        "lai": ((*axes, "time"), rng.uniform(0.5, 5.0, (1, DRAWS, PIXELS, DATES))),
        "residual_s1": ((*axes, "time", "s1_channel"), 0.01 * rng.normal(size=physics.shape), {"units": "dB"}),
    }
    if effect:
        size = np.array([0.5, 0.5])
        posterior["global_s1_size"] = (("chain", "draw", "s1_channel"), np.broadcast_to(size, (1, DRAWS, 2)))
        value = np.broadcast_to(signal / size, (1, DRAWS, DATES, 2))
        posterior["global_s1_effect"] = (("chain", "draw", "s1_date", "s1_channel"), value[:, :, ::-1])
        physics = physics + signal
    posterior["physics_s1"] = ((*axes, "s1_time", "s1_channel"), physics)
    places, channels = ("pixel", "s1_time"), {"s1_channel": ["VV", "VH"]}
    seen = np.ones((PIXELS, DATES), bool)
    constant = {"s1_seen": (places, seen), "precipitation": ("time", rain), "s1_incidence": (places, 38.0 * seen)}
    groups = {
        "posterior": xr.Dataset(
            posterior, {"time": times, "s1_time": times, "s1_date": times[::-1] + MOMENT} | channels
        ),
        "observed_data": xr.Dataset({"s1": ((*places, "s1_channel"), observed)}, {"s1_time": times} | channels),
        "log_likelihood": xr.Dataset({"s1": ((*axes, "s1_time"), np.zeros((1, DRAWS, *seen.shape)))}),
        "constant_data": xr.Dataset(constant, {"time": times, "s1_time": times}),
    }
    return xr.DataTree.from_dict(groups), signal


@pytest.mark.parametrize("effect", [False, True], ids=["noise to the model", "effect of the date"])
def test_what_a_date_does_to_all_pixels_is_in_the_table(effect: bool) -> None:
    tree, signal = weather_tree(effect)
    assert np.abs(read_table(tree, "s1").y.mean(0) - signal).max() < 0.7, "medians of forty pixels with 1 dB of noise"


def test_a_law_of_the_weather_is_found_though_residuals_are_silent() -> None:
    laws = discover(weather_tree(effect=False)[0], "s1", template=RAIN_LAW, engine="terms", budget=Budget(rows=120))
    assert [law.channel for law in laws.best] == ["VV"], str(laws)
    best = laws.best[0]
    assert best.inputs == ("precipitation",)
    heavy = best.evaluate({"precipitation": np.array([10.0])}) - best.evaluate({"precipitation": np.array([0.0])})
    assert heavy == pytest.approx(0.9 * np.log(11.0), rel=0.15)


def test_noise_alone_has_next_to_nothing_in_common() -> None:
    left = np.random.default_rng(0).normal(size=(50, 200, 3))
    found, medians = date_means(left), np.median(left, 0)
    assert medians.std() > 0.15 and found.std() < 0.3 * medians.std()


def test_effects_far_above_chance_are_kept_and_gross_errors_of_some_pixels_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    effect = rng.normal(size=(20, 2))
    left = effect + 0.3 * rng.normal(size=(60, 20, 2))
    left[:6] = 40.0
    np.testing.assert_allclose(date_means(left), effect, atol=0.3)


def test_a_date_that_few_pixels_saw_says_nothing() -> None:
    left = np.ones((10, 3, 1))
    left[:3, 1] = np.nan
    left[:2, 2] = np.nan
    np.testing.assert_allclose(date_means(left)[:, 0], [1.0, 0.0, 1.0], atol=1e-6)
    assert (date_means(np.full((10, 3, 1), np.nan)) == 0).all()
