"""Maps: the statistics of the posterior, whatever the tiling and however often the work was interrupted."""

import numpy as np
import pytest
import torch
import xarray as xr

from inference import posterior, predict, prediction
from inference.draws import seeded
from inference.prediction import STATISTICS
from pi_vae.data import withhold
from pi_vae.data.tensors import CubeTensors
from pi_vae.variables import CATALOGUE

DRAWS = 150
TILE = 6  # 10 x 12 pixels: four tiles


@pytest.fixture(scope="module")
def fitted(build):
    from inference import Run

    return Run(build().eval())


@pytest.fixture(scope="module")
def maps(fitted, simulated, tmp_path_factory):
    return predict(fitted, simulated, tmp_path_factory.mktemp("maps") / "maps.zarr", draws=DRAWS, tile=TILE).load()


@pytest.fixture(scope="module")
def drawn(fitted, simulated):
    """Draws of all pixels with the same draws of the global latents as the maps."""
    return posterior(fitted, simulated, draws=DRAWS).posterior.isel(chain=0)


def _grid(array):
    """`[pixel, ...]` -> `[..., y, x]`."""
    return np.moveaxis(array, 0, -1).reshape(*array.shape[1:], 10, 12)


def test_every_map_is_there_with_dims_units_and_finite_values(maps, simulated, build):
    model = build()
    for name in (*model.dynamic, *model.static):
        variable = CATALOGUE[name]
        for statistic in ("mean", "sd", "q05", "q95"):
            layer = maps[f"{name}_{statistic}"]
            assert layer.dims == (("time", "y", "x") if variable.dynamic else ("y", "x"))
            assert layer.attrs["units"] == variable.unit and variable.long_name in layer.attrs["long_name"]
        low, mean, high = (maps[f"{name}_{s}"].values for s in ("q05", "mean", "q95"))
        assert (variable.low <= low).all() and (low < high).all() and (high <= variable.high).all()
        assert (low <= mean).mean() > 0.99 and (mean <= high).mean() > 0.99
    for name in ("s2", "s1"):
        for key in (f"{name}_mean", f"residual_{name}_mean"):
            assert maps[key].dims == (f"{name}_time", f"{name}_channel", "y", "x")
    assert all(np.isfinite(maps[name]).all() for name in maps.data_vars)
    assert maps.rio.crs == simulated["s2"].to_dataset().rio.crs
    assert np.array_equal(maps["x"], simulated["s2"]["x"]) and np.array_equal(maps["y"], simulated["s2"]["y"])


@pytest.mark.parametrize("name", ["lai", "soil_moisture", "ala", "roughness"])
def test_maps_are_the_statistics_of_the_posterior(maps, drawn, name):
    draws = np.moveaxis(drawn[name].values, 1, 0)  # [pixel, draw, ...]
    mean, sd = _grid(draws.mean(1)), _grid(draws.std(1))
    error = sd * np.sqrt(2 / DRAWS)
    deviation = (maps[f"{name}_mean"].values - mean) / error
    assert np.abs(deviation).max() < 5.5 and abs(deviation.mean()) < 0.5
    assert np.abs(maps[f"{name}_sd"].values / sd - 1).max() < 0.5
    for statistic, level in (("q05", 0.05), ("q95", 0.95)):
        bound = maps[f"{name}_{statistic}"].transpose("y", "x", ...).values
        share = draws < bound.reshape(120, 1, *draws.shape[2:])
        assert abs(share.mean() - level) < 0.02


def test_maps_of_variables_alone_are_the_same_but_for_their_draws(fitted, simulated, maps, tmp_path):
    store = tmp_path / "alone.zarr"
    alone = predict(fitted, simulated, store, draws=DRAWS, tile=TILE, reconstructions=False).load()
    assert set(maps) - set(alone) == {f"{kind}{name}_mean" for kind in ("", "residual_") for name in ("s2", "s1")}
    assert np.array_equal(alone["flags"], maps["flags"])
    for name in ("lai", "soil_moisture", "ala"):
        error = (alone[f"{name}_mean"] - maps[f"{name}_mean"]) / maps[f"{name}_sd"]
        assert np.abs(error).mean() < 2.5 / DRAWS**0.5  # of the difference of two means of so many draws: 1.1
        assert 0.9 < (alone[f"{name}_sd"] / maps[f"{name}_sd"]).mean() < 1.1
    with pytest.raises(ValueError, match="with reconstructions where none are asked for.*another folder"):
        predict(fitted, simulated, store, draws=DRAWS, tile=TILE)


def test_residual_maps_are_the_mean_contribution(maps, drawn):
    for name in ("s2", "s1"):
        at = drawn[f"residual_{name}"].sel(time=maps[f"{name}_time"].values).values  # [draw, pixel, time, channel]
        error = _grid(at.std(0)) * np.sqrt(2 / DRAWS)
        found = maps[f"residual_{name}_mean"].values
        assert (np.abs(found - _grid(at.mean(0))) < 5.5 * error + 1e-7).all()


def test_flags_say_where_nothing_was_seen(fitted, simulated, maps):
    times = maps["time"].values
    seen = {name: np.zeros((11, 10, 12), bool) for name in ("s2", "s1")}
    for name, mask in seen.items():
        mask[np.isin(times, simulated[name].time.values)] = simulated[name]["valid"].values
    any_date = seen["s2"] | seen["s1"]
    expected = 1 * ~any_date.any(0) + 2 * ~any_date + 4 * ~seen["s2"]
    assert np.array_equal(maps["flags"].values, expected)
    assert (maps["flags"].values[:, 0, 0] & 1).all() and not (maps["flags"].values[:, 1:] & 1).any()
    assert maps["flags"].attrs["flag_meanings"].split()[0] == "pixel_without_observation"
    assert list(maps["flags"].attrs["flag_masks"]) == [1, 2, 4]


def test_a_pixel_without_observation_has_the_mean_and_spread_of_the_prior(maps):
    inside = maps["soil_moisture_sd"].values[:, 3, 3]
    prior = maps["soil_moisture_sd"].values[:, 0, 0]
    assert np.median(inside) < np.median(prior)
    v = CATALOGUE["hspot"]
    assert maps["hspot_sd"].values[0, 0] == pytest.approx(0.147, rel=0.25) and v.low < maps["hspot_mean"].values[0, 0]


def test_withheld_observations_count_as_not_seen(fitted, simulated, tmp_path):
    cube = withhold(simulated, 0.5, block=2, seed=1)
    flags = predict(fitted, cube, tmp_path / "m.zarr", draws=2)["flags"].sel(time=cube["s2"].time.values).values
    assert np.array_equal((flags & 4) == 0, (cube["s2"]["valid"] & ~cube["s2"]["withheld"]).values)


def test_maps_have_no_seams(fitted, simulated, maps, tmp_path):
    whole = predict(fitted, simulated, tmp_path / "whole.zarr", draws=DRAWS, tile=50).load()
    for name in (*fitted.model.dynamic, *fitted.model.static):
        sd = whole[f"{name}_sd"]
        for statistic in STATISTICS:
            key = f"{name}_{statistic}"
            assert (abs(maps[key] - whole[key]) < 1e-4 * sd).all(), key


@pytest.mark.parametrize("tile", [4, 7])
def test_tiles_fit_together(fitted, simulated, tile):
    model = fitted.model
    data = CubeTensors.read(simulated, {name: m.channels for name, m in model.modalities.items()})

    def posteriors(size):
        found = {}
        for rows, columns, batch in data.tiles(size, model.encoder.radius):
            with seeded(0):
                found_here = model.posterior(model.encode(batch), batch.dates, model.median_globals())
            for site, q in {"static": found_here.static, **found_here.processes}.items():
                for label, value in (("mean", q.mean), ("sd", q.variance.sqrt())):
                    image = found.setdefault((site, label), torch.empty(10, 12, *value.shape[1:]))
                    image[rows, columns] = value.unflatten(0, (rows.stop - rows.start, -1))
        return found

    whole, tiled = posteriors(50), posteriors(tile)
    for (site, label), value in whole.items():
        sd = whole[site, "sd"]
        assert ((tiled[site, label] - value).abs() < 1e-4 * sd).all(), (site, label)


def test_an_interrupted_store_is_continued_to_the_same_maps(fitted, simulated, maps, tmp_path, monkeypatch):
    store, compute, done = tmp_path / "maps.zarr", prediction._tile, []

    def killed(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return compute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "_tile", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(fitted, simulated, store, draws=DRAWS, tile=TILE)
    part = xr.open_zarr(store, consolidated=False)["flags"].load()
    assert (part == prediction.UNTOUCHED).any() and (part != prediction.UNTOUCHED).any()
    assert predict(fitted, simulated, store, draws=DRAWS, tile=TILE).load().identical(maps)


def test_only_the_tile_that_is_not_complete_is_computed_again(fitted, simulated, maps, tmp_path):
    store = tmp_path / "maps.zarr"
    maps.drop_encoding().to_zarr(store, zarr_format=3, consolidated=False)
    broken = maps.drop_encoding().copy(deep=True)
    broken["flags"][:, :TILE, TILE:] = prediction.UNTOUCHED
    broken["lai_mean"][:, :TILE, TILE:] = np.nan
    broken["lai_mean"][:, TILE:, :TILE] = -1.0  # in a tile that says it is complete
    broken.to_zarr(store, mode="w", zarr_format=3, consolidated=False)
    found = predict(fitted, simulated, store, draws=DRAWS, tile=TILE).load()
    assert (found["lai_mean"][:, TILE:, :TILE] == -1.0).all()
    found["lai_mean"][:, TILE:, :TILE] = maps["lai_mean"][:, TILE:, :TILE]
    assert all(np.array_equal(found[name], maps[name]) for name in maps.data_vars)


def test_a_store_of_another_shape_is_refused(fitted, simulated, maps, tmp_path):
    store = tmp_path / "maps.zarr"
    maps.drop_encoding().to_zarr(store, zarr_format=3, consolidated=False)
    nodes = {name: simulated[name].to_dataset().isel(x=slice(8)) for name in ("s2", "s1")}
    with pytest.raises(ValueError, match="holds maps of shape .*'x': 12.*'x': 8.*give another folder"):
        predict(fitted, xr.DataTree.from_dict(nodes), store, draws=2)


def test_points_are_mapped_in_their_order(fitted, simulated, maps, tmp_path):
    def flat(node: xr.Dataset) -> xr.Dataset:
        return node.stack(point=("y", "x")).reset_index("point").transpose("time", ..., "point")

    cube = xr.DataTree.from_dict({name: flat(simulated[name].to_dataset()) for name in ("s2", "s1")})
    found = predict(fitted, cube, tmp_path / "maps.zarr", draws=2, tile=7)
    assert found["lai_mean"].shape == (11, 120, 1) and np.isfinite(found["lai_mean"]).all()
    assert np.array_equal(found["flags"].values.reshape(11, 10, 12), maps["flags"].values)
