"""Backscatter in GeoTIFF and zarr: units, passes, orbits, incidence, slices, windows and refusals."""

import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from rasterio.crs import CRS
from rasterio.transform import from_origin

from pi_vae.data import CubeError, open_cube, read_backscatter
from pi_vae.data.sentinel1 import relative_orbit
from pi_vae.data.sentinel2 import s2_node

WEST, NORTH, ZONE, SIZE = 500000, 5600040, "EPSG:32631", 8
GRD = "S1{satellite}_IW_GRDH_1SDV_{start}_{start}_{orbit:06d}_04563F_1B2C_{layer}.tif"


def power(seed: int, pol: str = "VV") -> np.ndarray:
    mean = {"VV": 0.1, "VH": 0.02}[pol]
    return (mean * np.random.default_rng([seed, len(pol), ord(pol[1])]).gamma(5, 0.2, (SIZE, SIZE))).astype(np.float32)


def decibel(values: np.ndarray) -> np.ndarray:
    return (10 * np.log10(values)).astype(np.float32)


def write(
    file: Path, values: np.ndarray, *, west: float = WEST, north: float = NORTH, zone: str = ZONE, **options
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    place = {"crs": CRS.from_string(zone), "transform": from_origin(west, north, 10, 10)}
    tags = options.pop("tags", {})
    with rasterio.open(file, "w", driver="GTiff", **profile, **place, **options) as target:
        target.write(values, 1)
        target.update_tags(**tags)
    return file


def acquired(folder: Path, start: str, orbit: int, seed: int, *, satellite: str = "A", change=None, **options) -> None:
    """Both polarisations of one product."""
    for pol in ("VV", "VH"):
        values = power(seed, pol) if change is None else change(power(seed, pol)).astype(np.float32)
        write(folder / GRD.format(satellite=satellite, start=start, orbit=orbit, layer=pol), values, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evening and a morning pass over 3 degrees east."""
    acquired(tmp_path, "20210307T055000", 36887, 1)
    acquired(tmp_path, "20210306T172427", 36880, 0)
    return tmp_path


def test_a_folder_of_products(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pi_vae"):
        node = read_backscatter(folder, calibration="gamma0")["s1"].to_dataset()
    assert node.pol.values.tolist() == ["VV", "VH"] and node.attrs["calibration"] == "gamma0"
    for index, seed in enumerate((0, 1)):
        np.testing.assert_array_equal(node.backscatter[index], [power(seed, "VV"), power(seed, "VH")])
    assert node.orbit_pass.values.tolist() == ["ascending", "descending"]
    assert node.relative_orbit.values.tolist() == [(36880 - 73) % 175 + 1, (36887 - 73) % 175 + 1]
    assert node.platform.values.tolist() == ["S1A", "S1A"] and "incidence" not in node
    assert node.time.values[0] == np.datetime64("2021-03-06T17:24:27")
    assert node.rio.crs.to_epsg() == 32631 and float(node.x[0]) == WEST + 5 and float(node.y[0]) == NORTH - 5
    assert "taken as linear" in caplog.text and "taken from the local hour" in caplog.text
    assert open_cube(read_backscatter(folder, calibration="gamma0"))["s1"].incidence.dims == ("time",)


@pytest.mark.parametrize(
    ("units", "change"),
    [(None, decibel), ("dB", decibel), ("linear", None), (None, None), ("amplitude", np.sqrt)],
)
def test_units_declared_or_detected(tmp_path: Path, units: str | None, change) -> None:
    acquired(tmp_path, "20210306T172427", 36880, 0, change=change)
    node = read_backscatter(tmp_path, calibration="sigma0", units=units)["s1"]
    np.testing.assert_allclose(node.backscatter[0, 0], power(0), rtol=1e-5)


def test_no_data(tmp_path: Path) -> None:
    """Zeros and what is not finite, in decibels as in power; the declared number; power below zero."""
    for name, change, bad in (("dB", decibel, (0, -np.inf, np.nan)), ("linear", np.array, (0, -0.001, np.inf))):
        values = change(power(0)).astype(np.float32)
        values[0, :3] = bad
        values[1, 0] = -99
        write(tmp_path / name / "20210306T172427_VV.tif", values, nodata=-99)
        node = read_backscatter(tmp_path / name, calibration="sigma0", units=name)["s1"]
        assert (~node.valid).sum() == 4 and np.isnan(node.backscatter[0, 0, 0, :3]).all()
        assert not node.valid[0, 1, 0]
        assert open_cube(xr.DataTree.from_dict({"s1": node.to_dataset()})) is not None


def test_slices_of_a_pass_are_one_date(tmp_path: Path) -> None:
    """The second slice begins 25 s later and further north; they overlap by two rows."""
    acquired(tmp_path, "20210306T172427", 36880, 0)
    acquired(tmp_path, "20210306T172452", 36880, 1, north=NORTH + 60)
    box = (WEST, NORTH - 80, WEST + 80, NORTH + 60)
    node = read_backscatter(tmp_path, box, calibration="sigma0")["s1"]
    assert node.sizes["time"] == 1 and node.sizes["y"] == 14 and node.valid.all()
    np.testing.assert_array_equal(node.backscatter[0, 0, 6:], power(0))
    np.testing.assert_array_equal(node.backscatter[0, 0, :6], power(1)[:6])
    with pytest.raises(CubeError, match="Different areas in .* give bounds"):
        read_backscatter(tmp_path, calibration="sigma0")


def test_bounds_are_the_crop_of_the_whole(folder: Path) -> None:
    whole = read_backscatter(folder, calibration="sigma0")["s1"].to_dataset()
    part = read_backscatter(folder, (WEST + 12, NORTH - 55, WEST + 60, NORTH - 30), calibration="sigma0")["s1"]
    xr.testing.assert_equal(part.backscatter, whole.backscatter.isel(x=slice(1, 6), y=slice(3, 6)))


def test_the_bounds_of_an_optical_node_give_its_pixels(folder: Path) -> None:
    x, y = WEST + 25 + 10.0 * np.arange(4), NORTH - 15 - 10.0 * np.arange(6)
    values = np.random.default_rng(0).uniform(0.02, 0.5, (1, 2, 6, 4))
    optical = s2_node(values, [np.datetime64("2021-03-05T10:56", "ns")], ["B04", "B08"], x=x, y=y, sza=50.0, crs=ZONE)
    radar = read_backscatter(folder, optical.rio.bounds(), calibration="sigma0")["s1"]
    cube = open_cube(xr.DataTree.from_dict({"s2_10m": optical, "s1": radar.to_dataset()}))
    np.testing.assert_array_equal(cube["s1"].x, x)
    np.testing.assert_array_equal(cube["s1"].y, y)
    np.testing.assert_array_equal(cube["s1"].backscatter[0, 0], power(0)[1:7, 2:6])


def test_two_satellites_on_one_day_without_hours(tmp_path: Path) -> None:
    for seed, satellite in enumerate(("S1A", "S1C")):
        for pol in ("VV", "VH"):
            write(tmp_path / f"{satellite}_20210307_{pol}.tif", power(seed, pol))
    node = read_backscatter(tmp_path, calibration="sigma0")["s1"]
    assert node.platform.values.tolist() == ["S1A", "S1C"] and node.sizes["time"] == 2


def test_dates_without_data_are_left_out(tmp_path: Path) -> None:
    acquired(tmp_path, "20210306T172427", 36880, 0)
    acquired(tmp_path, "20210318T172427", 37055, 1, west=WEST + 1000)
    box = (WEST, NORTH - 80, WEST + 80, NORTH)
    node = read_backscatter(tmp_path, box, calibration="sigma0")["s1"]
    assert node.relative_orbit.values.tolist() == [relative_orbit("S1A", 36880)] and node.sizes["time"] == 1


def test_incidence_as_a_layer_a_file_or_a_number(folder: Path) -> None:
    angle = np.linspace(30, 44, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.float32)
    angle[0, 0] = np.nan
    static = write(folder.parent / "static/angle.tif", angle)
    node = read_backscatter(folder, calibration="sigma0", incidence=static)["s1"]
    np.testing.assert_array_equal(node.incidence[1].values[1:], angle[1:])
    assert not node.valid[:, 0, 0].any() and np.isfinite(node.incidence).all()
    assert read_backscatter(folder, calibration="sigma0", incidence=38)["s1"].incidence.values.tolist() == [38, 38]
    for start in ("20210306T172427", "20210307T055000"):  # in radians, as HyP3 has it
        write(folder / f"S1A_IW_{start}_DVP_RTC10_G_gpuned_54B9_inc_map.tif", np.radians(angle))
    node = read_backscatter(folder, calibration="sigma0")["s1"]
    np.testing.assert_allclose(node.incidence[0].values[1:], angle[1:], rtol=1e-5)
    assert node.sizes["time"] == 2
    assert open_cube(xr.DataTree.from_dict({"s1": node.to_dataset()})) is not None


def test_passes_and_orbits_of_arguments_and_names(tmp_path: Path, folder: Path) -> None:
    node = read_backscatter(folder, calibration="sigma0", orbit_pass="DESCENDING", relative_orbit=[8, 110])["s1"]
    assert node.orbit_pass.values.tolist() == ["descending"] * 2 and node.relative_orbit.values.tolist() == [8, 110]
    write(tmp_path / "named/D110_20210307_VV.tif", power(0))
    pattern = r"(?P<orbit_pass>[AD])(?P<relative_orbit>\d+)_(?P<date>\d{8})_(?P<layer>V[VH])"
    node = read_backscatter(tmp_path / "named", calibration="sigma0", pattern=pattern)["s1"]
    assert node.orbit_pass.values.tolist() == ["descending"] and node.relative_orbit.values.tolist() == [110]
    write(tmp_path / "plain/20210307_VV.tif", power(0))
    assert "orbit_pass" not in read_backscatter(tmp_path / "plain", calibration="sigma0")["s1"], "the hour is not known"


@pytest.mark.parametrize(
    ("platform", "absolute", "relative"),
    # pairs of names and relative orbits that ESA's forum, S1 readers and catalogues give
    [("S1A", 18302, 30), ("S1B", 7231, 30), ("S1A", 29739, 92), ("S1A", 33764, 92), ("S1C", 1681, 110),
     ("S1C", 8018, 147), ("S1C", 8019, 46), ("S1D", 2389, 73), ("S1D", 4762, 171)],
)  # fmt: skip
def test_relative_orbits(platform: str, absolute: int, relative: int) -> None:
    assert relative_orbit(platform, absolute) == relative


def store(folder: Path, **changes) -> Path:
    """The same passes in zarr, with rows running north."""
    x, y = WEST + 5 + 10.0 * np.arange(SIZE), NORTH - 5 - 10.0 * np.arange(SIZE)
    time = np.array(["2021-03-07T05:50:00", "2021-03-06T17:24:27"], "datetime64[ns]")
    values = {pol: (("time", "y", "x"), np.stack([power(1, pol), power(0, pol)])) for pol in ("VV", "VH")}
    coords = {"time": time, "y": y, "x": x}
    data = xr.Dataset(values, coords, attrs={"calibration": "gamma0"}).rio.write_crs(ZONE).isel(y=slice(None, None, -1))
    data = data.assign(relative_orbit=("time", [110, 8])) if not changes else data.assign(changes.get("assign", {}))
    data = changes.get("change", lambda data: data)(data)
    path = folder / "radar.zarr"
    data.to_zarr(path, mode="w", consolidated=False)
    return path


def test_zarr_with_a_variable_for_each_polarisation(tmp_path: Path) -> None:
    path = store(tmp_path)
    node = read_backscatter(path)["s1"]
    np.testing.assert_array_equal(node.backscatter[0], [power(0, "VV"), power(0, "VH")])
    assert node.relative_orbit.values.tolist() == [8, 110] and node.attrs["calibration"] == "gamma0"
    assert node.orbit_pass.values.tolist() == ["ascending", "descending"]
    assert float(node.y[0]) == NORTH - 5 and float(node.y[1]) == NORTH - 15
    part = read_backscatter(path, (WEST + 12, NORTH - 55, WEST + 60, NORTH - 30))["s1"]
    xr.testing.assert_equal(part.backscatter, node.to_dataset().backscatter.isel(x=slice(1, 6), y=slice(3, 6)))
    assert open_cube(read_backscatter(path)) is not None


def test_zarr_with_a_dimension_of_polarisations_in_decibels(tmp_path: Path) -> None:
    def joined(data: xr.Dataset) -> xr.Dataset:
        values = xr.concat([data.VH, data.VV], "polarization").assign_coords(polarization=["vh", "vv"])
        angle = xr.zeros_like(data.VV.isel(time=0, drop=True)) + 39.0
        values = 10 * np.log10(values)
        return xr.Dataset({"data": values.assign_attrs(units="dB"), "angle": angle}).rio.write_crs(ZONE)

    node = read_backscatter(store(tmp_path, change=joined), calibration="sigma0")["s1"]
    np.testing.assert_allclose(node.backscatter[0], [power(0, "VV"), power(0, "VH")], rtol=1e-5)
    assert node.incidence.dims == ("time", "y", "x") and (node.incidence == 39).all()


def bare(data: xr.Dataset) -> xr.Dataset:
    """The same without a reference system."""
    return xr.Dataset(
        {name: (v.dims, v.values) for name, v in data.data_vars.items()}, {d: data[d].values for d in data.dims}
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (bare, "No projected reference system in '.*radar.zarr': write it with rio"),
        (lambda data: data.rename(VV="a", VH="b"), r"No backscatter in .* \(variables a b\): name variables VV and VH"),
        (lambda data: data.rename(x="lon"), "No coordinates time, y and x"),
        (lambda data: data.assign_coords(x=data.x**2), "not square and even"),
        (lambda data: (1e4 * data).astype(np.uint16).rio.write_crs(ZONE), "Raw digital numbers .uint16. in VV of"),
        (
            lambda data: data.assign_attrs(calibration=""),
            "Calibration not declared in .* give calibration='sigma0' or 'gamma0'",
        ),
    ],
)
def test_zarr_that_is_refused(tmp_path: Path, change, sentence: str) -> None:
    with pytest.raises(CubeError, match=sentence):
        read_backscatter(store(tmp_path, change=change))


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CubeError, match="Calibration not declared in '.*': give calibration='sigma0' or 'gamma0'"):
        read_backscatter(folder)
    with pytest.raises(ValueError, match="calibration 'beta0' of backscatter: give one of sigma0, gamma0"):
        read_backscatter(folder, calibration="beta0")
    with pytest.raises(CubeError, match="declared as dB in .* decibels of land are negative"):
        read_backscatter(folder, calibration="sigma0", units="dB")
    with pytest.raises(ValueError, match="3 values of relative_orbit for 2 dates"):
        read_backscatter(folder, calibration="sigma0", relative_orbit=[1, 2, 3])
    with pytest.raises(ValueError, match="Pass 'north' of .* give 'ascending' or 'descending'"):
        read_backscatter(folder, calibration="sigma0", orbit_pass="north")
    with pytest.raises(CubeError, match="No incidence angle at 2021-03-06T17:24:27"):
        empty = write(tmp_path / "static/empty.tif", np.zeros((SIZE, SIZE), np.float32))
        read_backscatter(folder, calibration="sigma0", incidence=empty)
    next(folder.glob("*_036887_*VH.tif")).unlink()
    with pytest.raises(CubeError, match="No VH at 2021-03-07T05:50:00 in .* add it"):
        read_backscatter(folder, calibration="sigma0")
    write(tmp_path / "raw/20210306_VV.tif", np.full((SIZE, SIZE), 200, np.uint16))
    with pytest.raises(CubeError, match=r"Raw digital numbers \(uint16\) in '20210306_VV.tif': calibrate"):
        read_backscatter(tmp_path / "raw", calibration="sigma0")
    write(tmp_path / "angle/20210306_angle.tif", power(0))
    with pytest.raises(CubeError, match=r"No VV or VH among the layers \(incidence\)"):
        read_backscatter(tmp_path / "angle", calibration="sigma0")


def test_images_that_are_not_on_a_map_are_refused(tmp_path: Path) -> None:
    """The measurement of a GRD product has ground control points in place of a map."""
    points = [rasterio.control.GroundControlPoint(r, c, 4 + c / 100, 51 - r / 100) for r in (0, 7) for c in (0, 7)]
    with rasterio.open(
        tmp_path / "20210306T172427_VV.tif", "w", driver="GTiff", count=1, height=SIZE, width=SIZE, dtype="float32",
        gcps=points, crs=CRS.from_epsg(4326),
    ) as target:  # fmt: skip
        target.write(power(0), 1)
    with pytest.raises(CubeError, match="ground control points only, so correct its terrain"):
        read_backscatter(tmp_path, calibration="sigma0")
