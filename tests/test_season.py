"""The season of leaf area: its curve, its dates, and its place in the model."""

import numpy as np
import pytest
import torch

from inference import Run, posterior
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate
from pi_vae.physics import DoubleLogistic
from pi_vae.season import SeasonalMean
from pi_vae.variables import CATALOGUE

VALUES = dict(season_base=0.4, season_amplitude=4.0, season_start=120.0, season_length=90.0, season_rise=0.12,
              season_fall=0.1, season_pause_2=60.0, season_amplitude_2=2.0, season_length_2=60.0)  # fmt: skip
NEW_YEAR = 18262.0 - 0.12  # 1 January 2020 in years of mean length since 1970


def tensors(**changed: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in (VALUES | changed).items()}


def test_within_the_year_it_is_the_double_logistic() -> None:
    day = torch.arange(0.0, 360.0, 5.0, dtype=torch.float64)
    course = SeasonalMean(1).course(tensors(), NEW_YEAR + 1.0 + day)
    same = dict(base=0.4, amplitude=4.0, start=120.0, end=210.0, rate_up=0.12, rate_down=0.1)
    expected = DoubleLogistic()({k: torch.tensor(v, dtype=torch.float64) for k, v in same.items()}, day + 1.0)
    # the curves of the years before and after do not end all at once
    assert (course - expected).abs().max() < 0.05


def test_it_comes_back_every_year_also_across_new_year() -> None:
    day = NEW_YEAR + torch.arange(0.0, 365.0, 3.0, dtype=torch.float64)
    for start in (120.0, 330.0, -30.0):
        values = tensors(season_start=start)
        first, next_year = (SeasonalMean(1).course(values, day + shift) for shift in (0.0, 365.2425))
        assert torch.allclose(first, next_year, atol=1e-9)
    assert torch.allclose(*(SeasonalMean(1).course(tensors(season_start=s), day) for s in (330.0, 330.0 - 365.2425)),
                          atol=0.05)  # fmt: skip


@pytest.mark.parametrize("seasons", [1, 2])
def test_the_peak_is_where_the_course_is_highest(seasons: int) -> None:
    season = SeasonalMean(seasons)
    day = torch.arange(0.0, 365.0, 0.25, dtype=torch.float64)
    course = season.course(tensors(), NEW_YEAR + day)
    found = season.dates(tensors())
    assert float(found["season_peak"]) == pytest.approx(float(day[course.argmax()]), abs=2)
    assert float(found["season_end"]) == 210
    if seasons == 2:
        later = day > 255
        assert float(found["season_start_2"]) == 270 and float(found["season_end_2"]) == 330
        assert float(found["season_peak_2"]) == pytest.approx(float(day[later][course[later].argmax()]), abs=4)


def test_gradients_reach_every_date_of_the_season() -> None:
    season = SeasonalMean(2)
    values = {name: value.requires_grad_() for name, value in tensors().items()}
    day = NEW_YEAR + torch.arange(0.0, 365.0, 20.0, dtype=torch.float64)
    season(values, day, torch.zeros_like(day)).square().sum().backward()
    assert all(v.grad is not None and torch.isfinite(v.grad) and v.grad != 0 for v in values.values())


@pytest.fixture(scope="module")
def model() -> PhysicsVAE:
    torch.manual_seed(0)
    parts = {"s2": Optical(("B03", "B04", "B08"), nodes=1, residual=0), "s1": Radar(residual=0)}
    return PhysicsVAE(parts, width=16, layers=1, phenology=1).eval()


@pytest.fixture(scope="module")
def cube(model):
    return simulate(model, pattern(size=6, bands=("B03", "B04", "B08"), optical_days=40, radar_days=40), seed=2)


def test_simulated_leaf_area_follows_its_season(model, cube) -> None:
    truth = cube["truth"].to_dataset()
    static = {n: torch.from_numpy(truth[n].values) for n in model.season.variables}
    days = torch.from_numpy(truth.time.values.astype("datetime64[s]").astype(np.int64) / 86400.0)
    course = model.season.course(static, days).movedim(-1, 0).numpy()
    correlation = np.corrcoef(course.ravel(), truth["lai"].values.ravel())[0, 1]
    assert 0.5 < correlation < 0.99, "a season and what departs from it"


def test_start_peak_and_end_are_posterior_quantities_in_days(model, cube) -> None:
    drawn = posterior(Run(model), cube, draws=30, pixels=[(1, 2), (3, 3)])["posterior"]
    for name in ("season_start", "season_peak", "season_end"):
        assert drawn[name].dims == ("chain", "draw", "pixel") and drawn[name].attrs["units"] == "day"
    assert (drawn["season_start"] < drawn["season_peak"]).all()
    end = drawn["season_start"] + drawn["season_length"]
    assert np.allclose(drawn["season_end"], end, atol=1e-3)


def test_settings_build_the_same_model(model) -> None:
    again = PhysicsVAE.from_settings(model.settings)
    assert again.static == model.static and again.season.seasons == 1
    assert PhysicsVAE.from_settings(PhysicsVAE().settings).season is None


def test_the_season_joins_the_static_variables_of_the_catalogue(model) -> None:
    assert set(model.season.variables) < set(model.static)
    assert not any(CATALOGUE[name].dynamic for name in SeasonalMean(2).variables)


def test_refuses_other_numbers_of_seasons() -> None:
    with pytest.raises(ValueError, match="phenology is 3"):
        PhysicsVAE(phenology=3)
