"""Simulation-based calibration: passes the exact posterior, fails wrong ones, and counts dates of a pixel once."""

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats

from inference.calibration import holm, one_per_group, pit, simulation_based_calibration

PIXELS, DATES, DRAWS = 300, 8, 199


def walk(shrink: float = 1.0, seed: int = 0, shared: float = 0.95) -> tuple[xr.Dataset, xr.Dataset]:
    """Two variables of pixels whose dates share most of their value; draws are exact for shrink 1."""
    rng = np.random.default_rng(seed)

    def field(*shape):
        level, change = rng.normal(size=(*shape, 1)), rng.normal(size=(*shape, DATES))
        return np.sqrt(shared) * level + np.sqrt(1 - shared) * change

    draws, truth = {}, {}
    for name, factor in (("lai", 1.0), ("cab", shrink)):
        y = field(PIXELS)
        # the posterior is N(y, field): truth and draws are exchangeable around y
        truth[name] = (("pixel", "time"), y + field(PIXELS))
        draws[name] = (("chain", "draw", "pixel", "time"), y + factor * field(1, DRAWS, PIXELS))
    draws["global_noise"] = (("chain", "draw"), rng.normal(size=(1, DRAWS)))
    truth["global_noise"] = ((), 0.0)
    return xr.Dataset(draws), xr.Dataset(truth)


def test_the_exact_posterior_is_called_calibrated_as_often_as_promised():
    calls = [simulation_based_calibration(*walk(seed=s), level=0.1) for s in range(25)]
    false = sum(not bool(c["calibrated"].all()) for c in calls)
    assert false <= 7  # 2.5 expected; P(> 7) < 0.003 at a level of 0.1
    assert max(abs(float(c["bias"].mean())) for c in calls) < 0.06


def test_a_narrow_variable_is_named_and_the_other_is_not():
    result = simulation_based_calibration(*walk(shrink=0.7))
    assert result["variable"].values.tolist() == ["lai", "cab"], "global latents are one simulation: no test"
    assert result["calibrated"].values.tolist() == [True, False]
    assert float(result["spread"].sel(variable="cab")) > 1.2 and float(result["spread"].sel(variable="lai")) < 1.2
    assert float(result["p_holm"].sel(variable="cab")) < 1e-3
    assert result["pit"].sizes == {"variable": 2, "pixel": PIXELS}


@pytest.mark.parametrize("method", ["pot_c", "prit_c", "piet_c"])
def test_every_test_of_arviz_can_be_asked_for(method):
    result = simulation_based_calibration(*walk(shrink=0.6), method=method)
    assert result["calibrated"].values.tolist() == [True, False]


def test_taking_all_dates_as_independent_would_raise_false_alarms():
    """The reason for one date per pixel: with all of them a calibrated posterior fails far too often."""
    alarms = {"all": 0, "one": 0}
    for seed in range(40):
        draws, truth = walk(seed=seed, shared=0.99)
        places = pit(draws.isel(pixel=slice(60)), truth.isel(pixel=slice(60)))
        for how, values in (("all", places["lai"]), ("one", one_per_group(places, seed=seed)["lai"])):
            alarms[how] += float(array_stats.uniformity_test(values.values.ravel())[0]) < 0.05
    assert alarms["all"] > 10 and alarms["one"] <= 7, alarms


def test_one_value_of_a_pixel_is_taken_at_random_among_the_finite():
    values = np.full((1000, 4), np.nan)
    values[:, 1], values[:, 3] = 1.0, 3.0
    values[0] = np.nan
    chosen = one_per_group(xr.Dataset({"lai": (("pixel", "time"), values)}), seed=1)["lai"].values
    assert np.isnan(chosen[0]) and set(chosen[1:].tolist()) == {1.0, 3.0}
    assert 0.44 < (chosen[1:] == 1.0).mean() < 0.56


def test_corrected_p_values_are_those_of_the_definition():
    p = np.array([0.04, 0.01, 0.5, 0.012])
    assert np.allclose(holm(p), [0.08, 0.04, 0.5, 0.04])  # 4 x 0.01, 3 x 0.012 (raised to 0.04), 2 x 0.04, 0.5
    assert holm(np.array([0.9, 0.8])).max() == 1.0


def test_too_few_simulations_are_refused():
    draws, truth = walk()
    with pytest.raises(ValueError, match="known value in 12 groups: a test takes 20 at least"):
        simulation_based_calibration(draws.isel(pixel=slice(12)), truth.isel(pixel=slice(12)))
    with pytest.raises(ValueError, match="No variable has the dimension 'tile'"):
        simulation_based_calibration(draws, truth, group="tile")
