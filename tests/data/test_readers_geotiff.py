"""Folders of GeoTIFF: names, scales, masks, grids that differ, and refusals."""

import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from pi_vae.data import CubeError, open_cube, read_geotiffs

WEST, NORTH, ZONE = 500000, 5600040, "EPSG:32631"


def write(
    file: Path,
    values: np.ndarray,
    step: float = 10,
    *,
    west: float = WEST,
    north: float = NORTH,
    zone: str | None = ZONE,
    scale: float = 1,
    offset: float = 0,
    names: tuple[str, ...] = (),
    **profile,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = values if values.ndim == 3 else values[None]
    place = {"crs": zone and CRS.from_string(zone), "transform": from_origin(west, north, step, step)}
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype.name}
    with rasterio.open(file, "w", driver=profile.pop("driver", "GTiff"), **shape, **place, **profile) as target:
        target.write(values)
        target.scales, target.offsets = [scale] * len(values), [offset] * len(values)
        for index, name in enumerate(names, 1):
            target.set_band_description(index, name)


def numbers(seed: int, size: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 4000, (size, size)).astype(np.uint16)


def float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two dates of two bands of 10 m and one of 20 m, with classes of 20 m."""
    for day, seed in (("20210604T105031", 10), ("20210601T105031", 0)):
        write(tmp_path / f"{day}_B02.tif", numbers(seed), nodata=0)
        write(tmp_path / f"{day}_B04.tif", numbers(seed + 1), nodata=0)
        write(tmp_path / f"{day}_B11.tif", numbers(seed + 2, 6), 20, nodata=0)
        scl = np.full((6, 6), 4, np.uint8)
        scl[0, 0] = 9
        write(tmp_path / f"{day}_SCL.tif", scl, 20)
    (tmp_path / "readme.txt").write_text("not a raster")
    return tmp_path


def test_native_nodes_by_name(folder: Path) -> None:
    tree = read_geotiffs(folder, scale=1e-4)
    assert list(tree.children) == ["s2_10m", "s2_20m"]
    fine, coarse = (tree[name].to_dataset() for name in tree.children)
    assert fine.band.values.tolist() == ["B02", "B04"] and coarse.band.values.tolist() == ["B11"]
    assert fine.time.values.tolist() == coarse.time.values.tolist()
    assert fine.time.values[0] == np.datetime64("2021-06-01T10:50:31")
    np.testing.assert_array_equal(fine.reflectance[0, 1], float32(1e-4 * numbers(1)))
    np.testing.assert_array_equal(coarse.reflectance[1, 0], float32(1e-4 * numbers(12, 6)))
    assert (~fine.valid[0]).sum() == 4 and not fine.valid[0, :2, :2].any()
    assert (~coarse.valid[0]).sum() == 1
    np.testing.assert_array_equal(fine.x[:2], [WEST + 5, WEST + 15])
    np.testing.assert_array_equal(coarse.y[:2], [NORTH - 10, NORTH - 30])
    assert open_cube(tree)["s2_10m"].sza.dims == ("time",)


def test_one_pixel_size_is_one_node(folder: Path) -> None:
    assert list(read_geotiffs(folder, ["B02", "B04"], scale=1e-4).children) == ["s2"]


def test_scale_and_offset_of_the_file_and_of_the_arguments(tmp_path: Path) -> None:
    write(tmp_path / "20210601T105031_B04.tif", numbers(0), scale=1e-4, offset=-0.1)
    said = read_geotiffs(tmp_path, mask=None)["s2"].reflectance[0, 0]
    np.testing.assert_array_equal(said, float32(1e-4 * numbers(0) - 0.1))
    given = read_geotiffs(tmp_path, mask=None, scale=2e-4, offset=0)["s2"].reflectance[0, 0]
    np.testing.assert_array_equal(given, float32(2e-4 * numbers(0)))


def test_an_offset_that_is_left_in_is_still_found(tmp_path: Path) -> None:
    """The reader must not claim what it cannot know: only an offset that is declared silences the search for one."""
    for seed, band in enumerate(("B02", "B03", "B04", "B08")):
        dn = np.random.default_rng(seed).integers(1200, 1400, (12, 12)).astype(np.uint16)
        write(tmp_path / f"20210601T105031_{band}.tif", dn if band != "B08" else dn + 2000)
    with pytest.raises(CubeError, match="offset of -1000 .* is probably still in"):
        open_cube(read_geotiffs(tmp_path, scale=1e-4))
    assert open_cube(read_geotiffs(tmp_path, scale=1e-4, offset=-0.1)) is not None
    assert open_cube(read_geotiffs(tmp_path, scale=1e-4, offset=0)) is not None


def test_floating_point_is_taken_as_it_is(tmp_path: Path) -> None:
    values = float32(1e-4 * numbers(0))
    values[0, 0], values[0, 1] = np.nan, -9999
    write(tmp_path / "20210601T105031_B04.tif", values, nodata=-9999)
    node = read_geotiffs(tmp_path)["s2"]
    assert np.isnan(node.reflectance[0, 0, 0, :2]).all() and not node.valid[0, 0, :2].any()
    np.testing.assert_array_equal(node.reflectance[0, 0, 1:], values[1:])


def test_cloud_optimised_files(tmp_path: Path) -> None:
    write(tmp_path / "20210601T105031_B04.tif", numbers(0, 64), driver="COG", BLOCKSIZE=128)
    box = (WEST + 100, NORTH - 200, WEST + 300, NORTH - 50)
    node = read_geotiffs(tmp_path, bounds=box, scale=1e-4, mask=None)["s2"]
    np.testing.assert_array_equal(node.reflectance[0, 0], float32(1e-4 * numbers(0, 64)[5:20, 10:30]))


def test_one_file_a_date_with_named_layers(tmp_path: Path) -> None:
    """Layers by their descriptions, in any order; a mask of ones and zeros."""
    ones = np.ones((12, 12), np.uint16)
    ones[3, 4] = 0
    write(tmp_path / "S2A_2021-06-01.tif", np.stack([numbers(1), ones, numbers(0)]), names=("B08", "valid", "B04"))
    pattern = r"(?P<platform>S2.)_(?P<date>[\d-]+)\."
    node = read_geotiffs(tmp_path, pattern=pattern, scale=1e-4, mask="valid", usable=(1,))["s2"]
    assert node.band.values.tolist() == ["B04", "B08"] and node.platform.values.tolist() == ["S2A"]
    np.testing.assert_array_equal(node.reflectance[0], float32(1e-4 * np.stack([numbers(0), numbers(1)])))
    assert (~node.valid).sum() == 1 and not node.valid[0, 3, 4]


def test_dates_without_hours_get_the_usual_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """3 degrees east, 10:30 solar time is 10:18 UTC."""
    write(tmp_path / "20210601_B04.tif", numbers(0))
    with caplog.at_level(logging.INFO, "pi_vae"):
        node = read_geotiffs(tmp_path, scale=1e-4)["s2"]
    assert abs(node.time.values[0] - np.datetime64("2021-06-01T10:18")) < np.timedelta64(5, "s")
    assert "No time of day" in caplog.text and "all pixels with data count as usable" in caplog.text


def test_windows_of_files_that_differ_in_extent(tmp_path: Path) -> None:
    first, second = numbers(0), numbers(1)
    write(tmp_path / "20210601T105031_B04.tif", first)
    write(tmp_path / "20210604T105031_B04.tif", second, west=WEST + 40)
    with pytest.raises(CubeError, match="Different areas in '20210601T105031_B04.tif' and .* give bounds"):
        read_geotiffs(tmp_path, scale=1e-4)
    node = read_geotiffs(tmp_path, scale=1e-4, mask=None, bounds=(WEST + 20, NORTH - 30, WEST + 80, NORTH))["s2"]
    np.testing.assert_array_equal(node.reflectance[0, 0], float32(1e-4 * first[:3, 2:8]))
    np.testing.assert_array_equal(node.reflectance[1, 0, :, 2:], float32(1e-4 * second[:3, :4]))
    assert not node.valid[1, :, :2].any() and node.valid[1, :, 2:].all()


def test_bounds_are_the_crop_of_the_whole(folder: Path) -> None:
    whole = read_geotiffs(folder, scale=1e-4)
    part = read_geotiffs(folder, scale=1e-4, bounds=(WEST + 25, NORTH - 75, WEST + 60, NORTH - 5))
    for name, step in (("s2_10m", 10), ("s2_20m", 20)):
        crop = whole[name].to_dataset().isel(x=slice(20 // step, 60 // step), y=slice(0, 80 // step))
        np.testing.assert_array_equal(part[name].reflectance, crop.reflectance)
        np.testing.assert_array_equal(part[name].valid, crop.valid)
        np.testing.assert_array_equal(part[name].x, crop.x)


@pytest.mark.parametrize(
    ("files", "options", "sentence"),
    [
        (
            {"20210601_B04.tif": {}},
            {},
            r"Digital numbers \(uint16\) without a scale in '20210601_B04.tif': give scale=1e-4",
        ),
        (
            {"image.tif": {}},
            {"scale": 1},
            "No name in '.*' is as expected .the first is 'image.tif'.: .* pattern with groups",
        ),
        ({"20211301_B04.tif": {}}, {"scale": 1}, "Date '20211301' in the name of '20211301_B04.tif' is none"),
        ({"20210601_B04.tif": {"zone": None}}, {"scale": 1}, "No reference system in .* write it into the file"),
        (
            {"20210601_B04.tif": {"zone": "EPSG:4326"}},
            {"scale": 1},
            "Geographic reference system EPSG:4326 in .*gdalwarp",
        ),
        (
            {"20210601_B04.tif": {}, "20210604_B04.tif": {"zone": "EPSG:32632"}},
            {"scale": 1},
            "Mixed reference systems EPSG:32631 in '20210601_B04.tif' and EPSG:32632",
        ),
        (
            {"20210601_B04.tif": {}, "20210604_B04.tif": {"west": WEST + 3}},
            {"scale": 1, "bounds": (WEST, NORTH - 100, WEST + 100, NORTH)},
            "warp all files onto one grid",
        ),
        (
            {"20210601_B04.tif": {}, "20210604_B04.tif": {"step": 20}},
            {"scale": 1},
            r"Pixels of \[10.0, 20.0\] m in the",
        ),
        (
            {"20210601_B04.tif": {}, "20210601_B08.tif": {"step": 15}},
            {"scale": 1},
            "Pixels of 10, 15 m in .* native ones",
        ),
        ({"20210601_B04.tif": {}, "20210604_B08.tif": {}}, {"scale": 1}, "No layer of band B08 at 2021-06-01T00:00:00"),
        ({"20210601_SCL.tif": {}}, {"scale": 1}, r"No band among the layers \(SCL\)"),
        ({"20210601.tif": {}}, {"scale": 1, "pattern": r"(?P<date>\d{8})"}, "Layer 1 without a name in"),
        (
            {"20210601_B04.tif": {}},
            {"scale": 1, "bounds": (3.0, 50.0, 3.1, 50.1)},
            r"Bounds \(3, 50, 3.1, 50.1\) outside .* in its reference system EPSG:32631 in metres",
        ),
    ],
)
def test_refusals(tmp_path: Path, files: dict, options: dict, sentence: str) -> None:
    for name, place in files.items():
        write(tmp_path / name, numbers(0), **place)
    with pytest.raises(CubeError, match=sentence):
        read_geotiffs(tmp_path, **options)


def test_refusals_of_arguments(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No file or folder '.*nowhere': check the path"):
        read_geotiffs(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"No GeoTIFF \(.tif, .tiff\) in '.*empty': give a folder"):
        read_geotiffs(empty)
    with pytest.raises(ValueError, match="has no group 'date'"):
        read_geotiffs(folder, pattern="B04")
    with pytest.raises(ValueError, match="is no regular expression"):
        read_geotiffs(folder, pattern="(")
    with pytest.raises(ValueError, match="Band 'B08' asked of .* which has B02 B04 B11"):
        read_geotiffs(folder, ["B08"])


def test_turned_pixels_are_refused(tmp_path: Path) -> None:
    turned = from_origin(WEST, NORTH, 10, 10) @ rasterio.Affine.rotation(10)
    with rasterio.open(
        tmp_path / "20210601_B04.tif", "w", driver="GTiff", count=1, height=4, width=4, dtype="uint16",
        crs=CRS.from_string(ZONE), transform=turned,
    ) as target:  # fmt: skip
        target.write(numbers(0, 4), 1)
    with pytest.raises(CubeError, match="not square with north up"):
        read_geotiffs(tmp_path, scale=1)
