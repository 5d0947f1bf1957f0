"""Maps hide what only the prior says; `predict` writes down how wide it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from inference import Run, predict
from inference.plots import variable_map
from inference.prediction import prior_sd
from pi_vae import Optical, PhysicsVAE
from pi_vae.variables import CATALOGUE

DATES = torch.arange(18628.0, 18628.0 + 365.0, 30.0)  # of 2021


def panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def with_prior(maps: xr.Dataset, name: str, prior: float | list[float]) -> xr.Dataset:
    return maps.assign({f"{name}_sd": maps[f"{name}_sd"].assign_attrs(prior_sd=prior)})


def hidden(axes) -> np.ndarray:
    return ~np.ma.getmaskarray(axes.images[1].get_array())


# The mask


def test_the_mean_is_hidden_where_the_sd_is_that_of_the_prior(maps: xr.Dataset) -> None:
    figure = variable_map(with_prior(maps, "lai", 0.7), "lai")
    dominated = maps["lai_sd"].values >= 0.9 * 0.7
    assert 0.1 < dominated.mean() < 0.9
    dominated[:, 0, 0] = False  # never observed: that is said in another grey
    for axes, date in zip(panels(figure)[:6], (0, 3, 5, 8, 10, 13), strict=True):
        np.testing.assert_array_equal(hidden(axes), dominated[date])
        shown = np.ma.getmaskarray(axes.images[0].get_array())
        np.testing.assert_array_equal(np.delete(shown.ravel(), 0), np.delete(dominated[date].ravel(), 0))
    for axes in panels(figure)[6:]:
        assert len(axes.images) == 1 and np.ma.getmaskarray(axes.images[0].get_array()).sum() == 1, "sd stays in view"
    words = [text.get_text() for text in figure.legends[0].texts]
    assert words == ["mean hidden: the prior dominates (sd ≥ 0.9 of the prior's)", "never observed"]


def test_colours_are_scaled_to_what_is_shown(maps: xr.Dataset) -> None:
    kept = maps["lai_mean"].values[[0, 3, 5, 8, 10, 13]][maps["lai_sd"].values[[0, 3, 5, 8, 10, 13]] < 0.63]
    low, high = panels(variable_map(with_prior(maps, "lai", 0.7), "lai"))[0].images[0].get_clim()
    assert kept.min() <= low < high <= kept.max() < maps["lai_mean"].values.max()


def test_a_prior_that_changes_with_the_date_is_compared_date_by_date(maps: xr.Dataset) -> None:
    prior = np.full(maps.sizes["time"], 100.0)
    prior[8] = 0.01
    grid = panels(variable_map(with_prior(maps, "lai", prior.tolist()), "lai"))
    assert [int(hidden(axes).sum()) for axes in grid[:6]] == [0, 0, 0, 12 * 16 - 1, 0, 0]


def test_a_static_variable_is_hidden_too(maps: xr.Dataset) -> None:
    assert hidden(panels(variable_map(with_prior(maps, "n", 0.22), "n"))[0]).sum() == 12 * 16 - 1


def test_maps_that_do_not_tell_the_prior_are_shown_whole(maps: xr.Dataset) -> None:
    figure = variable_map(maps, "lai")
    assert not figure.legends and all(len(axes.images) == 1 for axes in panels(figure))
    assert not variable_map(with_prior(maps, "lai", 1e6), "lai").legends


def test_maps_cut_in_time_with_a_prior_by_date_are_refused(maps: xr.Dataset) -> None:
    cut = with_prior(maps, "lai", [1.0] * 14).isel(time=slice(5))
    with pytest.raises(ValueError, match="prior_sd of lai_sd holds 14 dates, the maps 5: give whole maps"):
        variable_map(cut, "lai")


# The attribute


def closed_form(model: PhysicsVAE, name: str) -> float:
    v = model.catalogue[name]
    if v.prior == "uniform":
        return (v.high - v.low) / np.sqrt(12)
    return float(stats.truncnorm((v.low - v.loc) / v.scale, (v.high - v.loc) / v.scale, v.loc, v.scale).std())


def test_the_sd_of_every_prior_is_that_of_its_distribution(build) -> None:
    model = build(priors={"cw": {"loc": 0.019, "scale": 0.0095}, "cab": {"prior": "uniform"}, "lai": {"high": 6.0}})
    found = prior_sd(model, DATES)
    assert found.keys() == {*model.dynamic, *model.static}
    for name, value in found.items():
        assert value == pytest.approx(closed_form(model, name), rel=2e-3), name
    assert found["cab"] == pytest.approx(85 / np.sqrt(12), rel=2e-3) and CATALOGUE["cab"].prior == "normal"


def test_leaf_area_that_follows_a_season_has_another_prior_at_every_date() -> None:
    model = PhysicsVAE({"s2": Optical(("B04", "B08"), nodes=1, residual=0)}, width=16, layers=1, phenology=1).eval()
    found = prior_sd(model, DATES)
    torch.manual_seed(1)
    count = 40_000
    static = torch.randn(count, len(model.static))
    with torch.no_grad():
        season = model._static_values(static)
        row = model.season(season, DATES, torch.randn(count, len(DATES)))
        lai = model.season.marginal(row.unsqueeze(-1)).squeeze(-1)
    np.testing.assert_allclose(found["lai"], lai.std(0), rtol=0.03)
    assert max(found["lai"]) > 1.5 * min(found["lai"])
    assert found["season_start"] == pytest.approx(closed_form(model, "season_start"), rel=2e-3)
    assert isinstance(found["cab"], float)


def test_random_numbers_of_others_are_left_alone(build) -> None:
    model = build()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = prior_sd(model, DATES)
    assert torch.equal(torch.rand(3), expected) and prior_sd(model, DATES) == first


def test_predict_writes_the_attribute_and_maps_of_never_seen_pixels_reach_it(build, simulated, tmp_path) -> None:
    model = build(priors={"hspot": {"prior": "uniform"}}).eval()
    maps = predict(Run(model), simulated, tmp_path / "maps.zarr", draws=100)
    for name in (*model.dynamic, *model.static):
        assert maps[f"{name}_sd"].attrs["prior_sd"] == pytest.approx(closed_form(model, name), rel=2e-3)
        assert not any("prior_sd" in maps[f"{name}_{s}"].attrs for s in ("mean", "q05", "q95"))
    assert maps["hspot_sd"].attrs["units"] == "1"
    variable_map(maps.load(), "hspot")
