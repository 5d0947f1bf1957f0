"""Maps as files that other programs read."""

import json

import numpy as np
import pystac
import pytest
import rasterio
import rioxarray
import xarray as xr

from inference import Run, export_geotiff, export_stac, predict


@pytest.fixture(scope="module")
def maps(build, simulated, tmp_path_factory):
    return predict(Run(build().eval()), simulated, tmp_path_factory.mktemp("maps") / "maps.zarr", draws=2).load()


def test_a_geotiff_has_place_nodata_and_one_band_a_date(maps, simulated, tmp_path):
    path = export_geotiff(maps, "lai", "mean", tmp_path / "deep" / "lai.tif")
    assert [file.name for file in path.parent.iterdir()] == ["lai.tif"]
    with rasterio.open(path) as file:
        assert file.crs == rasterio.crs.CRS.from_epsg(32631) and np.isnan(file.nodata) and file.count == 11
        assert file.dtypes[0] == "float32"
        assert (file.bounds.left, file.bounds.top) == (664000.0, 5612120.0) and file.res == (10.0, 10.0)
        assert file.descriptions[0] == "lai mean 2020-11-05" and file.descriptions[-1] == "lai mean 2021-10-31"
        assert file.tags()["units"] == "m2 m-2"
        values = file.read()
    assert np.isnan(values[:, 0, 0]).all(), "never seen"
    assert np.array_equal(values[:, 1:], maps["lai_mean"].values[:, 1:])


def test_a_static_variable_is_one_band(maps, tmp_path):
    with rasterio.open(export_geotiff(maps, "ala", "q95", tmp_path / "ala.tif")) as file:
        assert file.count == 1 and file.descriptions == ("ala q95 static",) and file.tags()["units"] == "degree"
        assert np.array_equal(file.read(1)[1:], maps["ala_q95"].values[1:])


@pytest.mark.parametrize("name, statistic", [("biomass", "mean"), ("lai", "median")])
def test_a_map_that_does_not_exist_is_refused_by_name(maps, tmp_path, name, statistic):
    with pytest.raises(ValueError, match=f"No map '{name}_{statistic}': variables are lai, .*mean, sd, q05, q95"):
        export_geotiff(maps, name, statistic, tmp_path / "no.tif")
    assert not (tmp_path / "no.tif").exists()


def test_maps_of_points_are_refused(maps, tmp_path):
    with pytest.raises(ValueError, match="needs a grid"):
        export_geotiff(maps.isel(x=slice(1)), "lai", "mean", tmp_path / "no.tif")


def test_a_geotiff_is_cloud_optimised(maps, tmp_path):
    with rasterio.open(export_geotiff(maps, "lai", "mean", tmp_path / "lai.tif")) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.units[0] == "m2 m-2"
    large = xr.concat([xr.concat([maps] * 60, "x", data_vars="minimal")] * 60, "y", data_vars="minimal")
    place = {d: float(maps[d][0]) + 10 * np.arange(large.sizes[d]) * s for d, s in (("x", 1), ("y", -1))}
    with rasterio.open(export_geotiff(large.assign_coords(place), "ala", "sd", tmp_path / "ala.tif")) as file:
        assert file.overviews(1) and file.block_shapes[0] == (512, 512)


def test_a_stac_item_describes_the_product(maps, tmp_path):
    path = export_stac(maps, tmp_path / "product", names=["lai", "ala"], identifier="tile_2021")
    folder = tmp_path / "product"
    assert sorted(file.name for file in folder.iterdir()) == [
        "ala_mean.tif", "ala_sd.tif", "lai_mean.tif", "lai_sd.tif", "tile_2021.json"
    ]  # fmt: skip
    folder = folder.rename(tmp_path / "elsewhere")
    item = pystac.Item.from_file(folder / path.name)
    assert item.id == "tile_2021" and item.ext.proj.code == "EPSG:32631" and item.ext.proj.shape == [10, 12]
    assert item.properties["start_datetime"] < item.properties["end_datetime"]
    west, south, east, north = item.bbox
    assert 5.3 < west < east < 5.4 and 50.6 < south < north < 50.7
    asset = item.assets["lai_sd"]
    assert asset.media_type == pystac.MediaType.COG and asset.extra_fields["unit"] == "m2 m-2"
    assert len(asset.extra_fields["pi_vae:dates"]) == maps.sizes["time"]
    with rioxarray.open_rasterio(asset.get_absolute_href() or folder / asset.href) as layer:
        assert layer.shape == (maps.sizes["time"], 10, 12)
    assert "/" not in json.loads((folder / path.name).read_text())["assets"]["lai_mean"]["href"]
