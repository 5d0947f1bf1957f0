"""SAFE folders of Level-2A, written in the real layout: numbers, offsets, masks, angles, windows and every refusal."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from pi_vae.data import CubeError, open_cube, read_safe
from pi_vae.data.readers.scenes import NATIVE

WEST, NORTH, ZONE = 600000, 5700000, "EPSG:32631"
ROWS = 24  # of 60 m
BANDS = ("B02", "B04", "B8A", "B01")
NODES = 23
NAME = "S2{satellite}_MSIL2A_{sensed}_N{number}_R051_T31UFS_{made}.SAFE"


def write(file: Path, values: np.ndarray, step: float, zone: str = ZONE, west: float = WEST) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    place = {"crs": CRS.from_string(zone), "transform": from_origin(west, NORTH, step, step)}
    options = {"QUALITY": 100, "REVERSIBLE": "YES"}  # lossless
    with rasterio.open(file, "w", driver="JP2OpenJPEG", **profile, **place, **options) as target:
        target.write(values, 1)


def digital_numbers(band: str, seed: int, rows: int = ROWS) -> np.ndarray:
    size = rows * 60 // NATIVE[band]
    return np.random.default_rng([seed, list(NATIVE).index(band)]).integers(1200, 4000, (size, size)).astype(np.uint16)


def grid_xml(values: np.ndarray) -> str:
    rows = "".join(f"<VALUES>{' '.join('NaN' if np.isnan(v) else f'{v:.6g}' for v in row)}</VALUES>" for row in values)
    steps = '<COL_STEP unit="m">5000</COL_STEP><ROW_STEP unit="m">5000</ROW_STEP>'
    return f"{steps}<Values_List>{rows}</Values_List>"


def pair_xml(zenith: np.ndarray, azimuth: np.ndarray) -> str:
    return f"<Zenith>{grid_xml(zenith)}</Zenith><Azimuth>{grid_xml(azimuth)}</Azimuth>"


def full(value: float) -> np.ndarray:
    return np.full((NODES, NODES), value)


#: (band, detector) -> zenith, azimuth; both detectors see the upper left node, of which only one sees the rest
VIEWS = {(1, 5): (full(4.0), full(100.0)), (1, 6): (full(6.0), full(100.0)), (3, 5): (full(5.0), full(100.0))}


def safe(
    folder: Path,
    *,
    sensed: str = "20210601T105621",
    baseline: str = "05.09",
    made: str = "20230801T000000",
    satellite: str = "A",
    offsets: Mapping[int, int] | None = None,
    bands: Mapping[str, np.ndarray] | None = None,
    scl: np.ndarray | None = None,
    sun: tuple[np.ndarray, np.ndarray] = (full(30.0), full(150.0)),
    views: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]] = VIEWS,
    zone: str = ZONE,
    west: int = WEST,
    rows: int = ROWS,
) -> Path:
    """Write a product; returns its folder."""
    product = folder / NAME.format(satellite=satellite, sensed=sensed, number=baseline.replace(".", ""), made=made)
    granule = product / "GRANULE" / f"L2A_T31UFS_A030999_{sensed}"
    images = {band: digital_numbers(band, 0, rows) for band in BANDS} if bands is None else bands
    for band, values in images.items():
        step = NATIVE[band]
        write(granule / f"IMG_DATA/R{step}m/T31UFS_{sensed}_{band}_{step}m.jp2", values, step, zone, west)
    scl = np.full((rows * 3, rows * 3), 4, np.uint8) if scl is None else scl
    write(granule / f"IMG_DATA/R20m/T31UFS_{sensed}_SCL_20m.jp2", scl, 20, zone, west)
    listed = "".join(f'<BOA_ADD_OFFSET band_id="{i}">{v}</BOA_ADD_OFFSET>' for i, v in (offsets or {}).items())
    time = f"{sensed[:4]}-{sensed[4:6]}-{sensed[6:11]}:{sensed[11:13]}:{sensed[13:]}"
    (product / "MTD_MSIL2A.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <Datatake datatakeIdentifier="GS2{satellite}_{sensed}_030999_N{baseline}">
        <SPACECRAFT_NAME>Sentinel-2{satellite}</SPACECRAFT_NAME>
      </Datatake>
    </Product_Info>
    <Product_Image_Characteristics>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      {f"<BOA_ADD_OFFSET_VALUES_LIST>{listed}</BOA_ADD_OFFSET_VALUES_LIST>" if listed else ""}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-2A_User_Product>""")
    sizes = "".join(
        f'<Size resolution="{step}"><NROWS>{rows * 60 // step}</NROWS><NCOLS>{rows * 60 // step}</NCOLS></Size>'
        f'<Geoposition resolution="{step}"><ULX>{west}</ULX><ULY>{NORTH}</ULY><XDIM>{step}</XDIM><YDIM>-{step}</YDIM>'
        "</Geoposition>"
        for step in (10, 20, 60)
    )
    seen = "".join(
        f'<Viewing_Incidence_Angles_Grids bandId="{band}" detectorId="{detector}">{pair_xml(*angles)}'
        "</Viewing_Incidence_Angles_Grids>"
        for (band, detector), angles in views.items()
    )
    (granule / "MTD_TL.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd">
  <n1:General_Info><SENSING_TIME metadataLevel="Standard">{time}.024Z</SENSING_TIME></n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding><HORIZONTAL_CS_CODE>{zone}</HORIZONTAL_CS_CODE>{sizes}</Tile_Geocoding>
    <Tile_Angles><Sun_Angles_Grid>{pair_xml(*sun)}</Sun_Angles_Grid>{seen}</Tile_Angles>
  </n1:Geometric_Info>
</n1:Level-2A_Tile_ID>""")
    return product


def test_numbers_are_exact_on_their_own_pixels(tmp_path: Path) -> None:
    tree = read_safe(safe(tmp_path), BANDS)
    assert list(tree.children) == ["s2_10m", "s2_20m", "s2_60m"]
    for node, step, bands in (("s2_10m", 10, ["B02", "B04"]), ("s2_20m", 20, ["B8A"]), ("s2_60m", 60, ["B01"])):
        data = tree[node].to_dataset()
        assert data.band.values.tolist() == bands and data.reflectance.dtype == np.float32
        for band in bands:
            expected = (digital_numbers(band, 0).astype(float) - 1000) / 10000
            np.testing.assert_array_equal(data.reflectance.sel(band=band)[0], expected.astype(np.float32))
        assert data.rio.crs.to_epsg() == 32631
        np.testing.assert_array_equal(data.x[:2], [WEST + step / 2, WEST + 1.5 * step])
        np.testing.assert_array_equal(data.y[:2], [NORTH - step / 2, NORTH - 1.5 * step])
        assert data.time.values[0] == np.datetime64("2021-06-01T10:56:21.024")
        assert data.platform.values.tolist() == ["S2A"]
    assert open_cube(tree) is not None


def test_the_baseline_decides_on_the_offset_not_the_date(tmp_path: Path) -> None:
    """An old date processed anew has the offset, a later one of an old baseline has none."""
    new_of_old_date = safe(
        tmp_path, sensed="20190601T105621", baseline="05.00", bands={"B04": digital_numbers("B04", 1)}
    )
    old = safe(tmp_path, sensed="20211201T105621", baseline="02.14", bands={"B04": digital_numbers("B04", 2)})
    listed, band = {3: -900, 0: -5}, {"B04": digital_numbers("B04", 3)}
    own = safe(tmp_path, sensed="20220601T105621", baseline="04.00", offsets=listed, bands=band)
    node = read_safe([own, old, new_of_old_date], ["B04"])["s2_10m"]
    for index, (seed, offset) in enumerate([(1, -1000), (2, 0), (3, -900)]):
        expected = ((digital_numbers("B04", seed).astype(float) + offset) / 10000).astype(np.float32)
        np.testing.assert_array_equal(node.reflectance[index, 0], expected)
    assert node.time.to_index().is_monotonic_increasing
    assert node.attrs["offset_applied"] == 1 and node.attrs["processing_baseline"] == "05.00, 02.14, 04.00"


def test_no_data_and_saturation(tmp_path: Path) -> None:
    dn = digital_numbers("B04", 0)
    dn[0, :3] = 0, 65535, 1
    node = read_safe(safe(tmp_path, bands={"B04": dn}), ["B04"])["s2_10m"]
    np.testing.assert_allclose(node.reflectance[0, 0, 0, :3], [np.nan, np.nan, -0.0999], rtol=1e-6)
    assert node.valid[0, 0, :3].values.tolist() == [False, False, True]


def test_masks_of_20_m_on_all_grids(tmp_path: Path) -> None:
    scl = np.full((ROWS * 3, ROWS * 3), 4, np.uint8)
    scl[0, :9] = np.arange(3, 12)  # 3 shadow, 4-6 surface, 7 unclassified, 8-10 cloud, 11 snow
    scl[5, 5] = 0
    product = safe(tmp_path, scl=scl)
    tree = read_safe(product, BANDS)
    clear = np.isin(scl, (4, 5, 6))
    np.testing.assert_array_equal(tree["s2_20m"].valid[0], clear)
    fine = tree["s2_10m"].valid.values[0]
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.testing.assert_array_equal(fine[row::2, column::2], clear)
    coarse = tree["s2_60m"].valid.values[0]
    assert coarse[0, :4].tolist() == [False, False, False, True]
    assert not coarse[1, 1] and coarse.sum() == coarse.size - 4
    more = read_safe(product, ["B8A"], usable=(4, 5, 6, 7, 11))["s2_20m"].valid[0, 0, :9]
    assert more.values.tolist() == [False, True, True, True, True, False, False, False, True]


def test_bounds_are_the_crop_of_the_whole(tmp_path: Path) -> None:
    scl = np.random.default_rng(0).integers(3, 7, (ROWS * 3, ROWS * 3)).astype(np.uint8)
    product = safe(tmp_path, scl=scl)
    whole = read_safe(product, BANDS)
    # grown to whole pixels of 60 m: columns 2-5, rows 3-8
    part = read_safe(product, BANDS, bounds=(WEST + 125, NORTH - 538, WEST + 300, NORTH - 181))
    for node, step in (("s2_10m", 10), ("s2_20m", 20), ("s2_60m", 60)):
        n = 60 // step
        crop = whole[node].to_dataset().isel(x=slice(2 * n, 5 * n), y=slice(3 * n, 9 * n))
        np.testing.assert_array_equal(part[node].reflectance, crop.reflectance)
        np.testing.assert_array_equal(part[node].valid, crop.valid)
        np.testing.assert_array_equal(part[node].x, crop.x)
        np.testing.assert_array_equal(part[node].y, crop.y)


def test_bounds_beyond_the_edge_are_cut_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pi_vae"):
        node = read_safe(safe(tmp_path), ["B04"], bounds=(WEST - 500, NORTH - 100, WEST + 100, NORTH + 50))["s2_10m"]
    assert node.reflectance.shape == (1, 1, 10, 10) and "cut at its edge" in caplog.text


def test_only_nodes_with_a_band_asked_for(tmp_path: Path) -> None:
    assert list(read_safe(safe(tmp_path), ["B8A"]).children) == ["s2_20m"]


def test_parts_of_one_image_are_merged(tmp_path: Path) -> None:
    """Two datastrips of one datatake: each has its own part of the tile."""
    upper, lower = digital_numbers("B04", 1), digital_numbers("B04", 2)
    upper[70:], lower[:60] = 0, 0
    cloudy = np.full((ROWS * 3, ROWS * 3), 9, np.uint8)
    parts = [
        safe(tmp_path, bands={"B04": upper}),
        safe(tmp_path, made="20230801T000001", bands={"B04": lower}, scl=cloudy),
    ]
    node = read_safe(parts, ["B04"])["s2_10m"]
    assert node.sizes["time"] == 1
    expected = (np.where(upper > 0, upper, lower).astype(float) - 1000) / 10000
    np.testing.assert_array_equal(node.reflectance[0, 0], expected.astype(np.float32))
    np.testing.assert_array_equal(node.valid[0], upper > 0)


def test_of_two_baselines_of_one_image_the_newer_counts(tmp_path: Path) -> None:
    old = safe(tmp_path, baseline="02.14", bands={"B04": digital_numbers("B04", 1)})
    new = safe(tmp_path, baseline="05.00", bands={"B04": digital_numbers("B04", 2)})
    node = read_safe([old, new], ["B04"])["s2_10m"]
    expected = ((digital_numbers("B04", 2).astype(float) - 1000) / 10000).astype(np.float32)
    np.testing.assert_array_equal(node.reflectance[:, 0], expected[None])
    assert node.attrs["processing_baseline"] == "05.00"


def test_two_satellites_on_one_day_stay_apart(tmp_path: Path) -> None:
    products = [safe(tmp_path, satellite=s, sensed=f"20210601T1056{s2}") for s, s2 in (("A", "21"), ("C", "51"))]
    assert read_safe(products, ["B04"])["s2_10m"].platform.values.tolist() == ["S2A", "S2C"]


def test_dates_without_data_in_the_window_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = digital_numbers("B04", 1)
    empty[:72] = 0
    products = [safe(tmp_path), safe(tmp_path, sensed="20210604T105621", bands={"B04": empty})]
    upper = (WEST, NORTH - 600, WEST + 600, NORTH)
    with caplog.at_level(logging.INFO, "pi_vae"):
        assert read_safe(products, ["B04"], bounds=upper)["s2_10m"].sizes["time"] == 1
    assert "left out: S2A_MSIL2A_20210604" in caplog.text
    assert read_safe(products, ["B04"])["s2_10m"].sizes["time"] == 2
    with pytest.raises(CubeError, match="No data at any date within the bounds"):
        read_safe(products[1], ["B04"], bounds=upper)


def test_angles_of_a_small_window(tmp_path: Path) -> None:
    """Band 1: detectors at 4 and 6 degrees, the mean of which is 5; band 3 at 5. Sun and sensor 50 degrees apart."""
    node = read_safe(safe(tmp_path), ["B04"])["s2_10m"]
    assert node.sza.dims == ("time",)
    np.testing.assert_allclose(node.sza, 30, rtol=1e-5)
    np.testing.assert_allclose(node.vza, 5, rtol=1e-5)
    np.testing.assert_allclose(node.raa, 50, rtol=1e-5)


def test_angles_across_north_and_beyond_the_footprint(tmp_path: Path) -> None:
    """Azimuths of 350 and 10 degrees have the mean 0, not 180; nodes that nobody saw take the nearest direction."""
    half = full(np.nan)
    half[:, 0] = 8.0
    views = {
        (1, 5): (half, np.where(np.isnan(half), np.nan, 350.0)),
        (1, 6): (half, np.where(np.isnan(half), np.nan, 10.0)),
    }
    node = read_safe(safe(tmp_path, sun=(full(30.0), full(340.0)), views=views), ["B04"])["s2_10m"]
    np.testing.assert_allclose(node.raa, 20, rtol=1e-5)
    # of two unit vectors 20 degrees of azimuth apart the horizontal part shrinks by cos 10
    np.testing.assert_allclose(
        node.vza, np.degrees(np.arctan(np.tan(np.radians(8)) * np.cos(np.radians(10)))), rtol=1e-5
    )


def test_angles_of_a_large_window_are_per_pixel(tmp_path: Path) -> None:
    """Zenith rises by a degree per node of 5 km, eastwards: halfway between nodes it is halfway."""
    rows = 100  # 6 km
    east = 30.0 + np.arange(NODES) * np.ones((NODES, 1))
    product = safe(tmp_path, rows=rows, sun=(east, full(150.0)), bands={"B8A": digital_numbers("B8A", 0, rows)})
    node = read_safe(product, ["B8A"])["s2_20m"]
    assert node.sza.dims == ("time", "y", "x")
    sza = node.sza.values[0]
    np.testing.assert_allclose(sza[:, 0], 30 + 10 / 5000, atol=1e-4)
    np.testing.assert_allclose(sza[:, 124:126].mean(), 30.5, atol=1e-4)
    np.testing.assert_allclose(sza[:, -1], 31 + 990 / 5000, atol=1e-4)
    small = read_safe(product, ["B8A"], bounds=(WEST, NORTH - 5000, WEST + 5000, NORTH))["s2_20m"]
    assert small.sza.dims == ("time",)
    np.testing.assert_allclose(small.sza, 30.5, atol=1e-4)


def test_an_image_without_view_angles_gets_nominal_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blank = {(1, 5): (full(np.nan), full(np.nan))}
    products = [safe(tmp_path), safe(tmp_path, sensed="20210604T105621", views=blank)]
    with caplog.at_level(logging.INFO, "pi_vae"):
        node = read_safe(products, ["B04"])["s2_10m"]
    np.testing.assert_allclose(node.vza, [5, 5])
    np.testing.assert_allclose(node.raa, [50, 90], rtol=1e-6)
    assert "nominal value 90 degrees" in caplog.text
    assert "vza" not in read_safe(products[1], ["B04"])["s2_10m"]


def test_validate_accepts_what_is_read(tmp_path: Path) -> None:
    products = [safe(tmp_path, sensed=f"2021060{day}T105621", baseline=b) for day, b in ((1, "02.14"), (4, "05.09"))]
    cube = open_cube(read_safe(products, BANDS))
    assert cube["s2_10m"].sizes["time"] == 2


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ((0, 0, 10, 10), r"Bounds \(0, 0, 10, 10\) outside .* EPSG:32631 in metres\."),
        ((WEST + 100, NORTH, WEST, NORTH - 100), "no area .* west < east and south < north"),
        ((WEST, NORTH - 100, WEST + np.nan, NORTH), "no area"),
    ],
)
def test_bounds_that_are_refused(tmp_path: Path, bounds: tuple, sentence: str) -> None:
    with pytest.raises(CubeError, match=sentence):
        read_safe(safe(tmp_path), ["B04"], bounds=bounds)


def test_mixed_zones_and_tiles_are_refused(tmp_path: Path) -> None:
    here = safe(tmp_path)
    with pytest.raises(
        CubeError, match="Mixed reference systems EPSG:32631 .* EPSG:32632 .* read each zone on its own"
    ):
        read_safe([here, safe(tmp_path, sensed="20210604T105621", zone="EPSG:32632")], ["B04"])
    with pytest.raises(CubeError, match="Different tiles .* read each tile on its own"):
        read_safe([here, safe(tmp_path, sensed="20210607T105621", west=WEST + 60)], ["B04"])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No folder '.*nowhere' of Sentinel-2"):
        read_safe(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="unpack it first"):
        read_safe(tmp_path / "S2A.zip")
    with pytest.raises(FileNotFoundError, match="No image of B03 at 10 m in 'S2A_.*, folder IMG_DATA/R10m: download"):
        read_safe(safe(tmp_path), ["B03"])
    product = safe(tmp_path / "tile")
    next(product.glob("GRANULE/*/MTD_TL.xml")).unlink()
    with pytest.raises(FileNotFoundError, match=r"No tile metadata GRANULE/\*/MTD_TL.xml in 'S2A_"):
        read_safe(product, ["B04"])
    product = safe(tmp_path / "product")
    (product / "MTD_MSIL2A.xml").unlink()
    with pytest.raises(
        FileNotFoundError, match="No metadata '.*MTD_MSIL2A.xml': give the folder of a Level-2A product"
    ):
        read_safe(product, ["B04"])
    (product / "MTD_MSIL1C.xml").write_text("<a/>")
    with pytest.raises(CubeError, match="Level-1C .* give Level-2A"):
        read_safe(product, ["B04"])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    product = safe(tmp_path)
    image = next(product.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))
    whole = image.read_bytes()
    for kept in (len(whole) // 2, 20, 0):
        image.write_bytes(whole[:kept])
        with pytest.raises(CubeError, match="Unreadable raster '.*B04_10m.jp2', damaged or cut short: download"):
            read_safe(product, ["B04"])
    image.write_bytes(whole)
    file = product / "MTD_MSIL2A.xml"
    good = file.read_text()
    for old, new, sentence in (
        ("</n1:General_Info>", "", "Unreadable metadata '.*MTD_MSIL2A.xml'"),
        (">05.09<", "><", "No PROCESSING_BASELINE in"),
        (">05.09<", ">five<", "Unreadable baseline, quantification or offset"),
    ):
        file.write_text(good.replace(old, new))
        with pytest.raises(CubeError, match=sentence):
            read_safe(product, ["B04"])
    file.write_text(good)
    tile = next(product.glob("GRANULE/*/MTD_TL.xml"))
    good = tile.read_text()
    for old, new, sentence in (
        ("30 30", "30 x", "Unreadable angle grid Sun_Angles_Grid"),
        ("Sun_Angles_Grid", "Moon", "No angle grids"),
        ("<NROWS>", "<ROWS>", "Unreadable Tile_Geocoding|Unreadable metadata"),
        (ZONE, "EPSG:1", "Unreadable Tile_Geocoding"),
    ):
        tile.write_text(good.replace(old, new))
        with pytest.raises(CubeError, match=sentence):
            read_safe(product, ["B04"])


def test_pixels_that_are_not_those_of_the_metadata_are_refused(tmp_path: Path) -> None:
    product = safe(tmp_path)
    image = next(product.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))
    write(image, digital_numbers("B04", 0), 10, west=WEST + 5)
    with pytest.raises(CubeError, match=r"Pixels of 10 m from \(600005, 5700000\) .* warp all files onto one grid"):
        read_safe(product, ["B04"])


@pytest.mark.parametrize("bands", [["B10"], [], "B04", ["B04", "NDVI"]])
def test_unknown_bands_are_refused(tmp_path: Path, bands: list) -> None:
    with pytest.raises(ValueError, match="asked of a Level-2A product: give a list out of B01"):
        read_safe(safe(tmp_path), bands)
    with pytest.raises(ValueError, match="give at least one folder"):
        read_safe([])
