"""STAC items and COGs on this disk, read by odc-stac: numbers, baselines, masks, angles and refusals. No network."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from pi_vae.data import CubeError, open_cube, read_stac

pystac = pytest.importorskip("pystac", reason="the reader's libraries are optional: pip install 'pi_vae[stac]'")
pytest.importorskip("odc.stac", reason="the reader's libraries are optional: pip install 'pi_vae[stac]'")

WEST, NORTH, CODE, SIZE = 600000, 5700000, 32631, 12  # pixels of 60 m
STEPS = {"B04": 10, "B8A": 20, "B01": 60, "SCL": 20}
NAMES = {"B04": "red", "B8A": "nir08", "B01": "coastal", "SCL": "scl"}  # as Earth Search has them


def digital_numbers(band: str, seed: int) -> np.ndarray:
    size = SIZE * 60 // STEPS[band]
    if band == "SCL":
        return np.random.default_rng(seed).choice(
            np.array([3, 4, 5, 9], np.uint8), (size, size), p=[0.02, 0.6, 0.36, 0.02]
        )
    return np.random.default_rng([seed, STEPS[band]]).integers(1200, 4000, (size, size)).astype(np.uint16)


def write(file: Path, values: np.ndarray, step: float) -> None:
    profile = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    place = {"crs": CRS.from_epsg(CODE), "transform": from_origin(WEST, NORTH, step, step)}
    with rasterio.open(file, "w", driver="COG", nodata=0, **profile, **place) as target:
        target.write(values, 1)


def item(
    folder: Path,
    *,
    moment: str = "2021-06-01T10:56:21.024000Z",
    seed: int = 0,
    names: dict[str, str] = NAMES,
    code: dict[str, object] | None = None,
    raster: dict[str, object] | None = None,
    **properties: object,
) -> "pystac.Item":
    """Write COGs and the item as JSON; returns the item as read from there."""
    folder.mkdir(parents=True, exist_ok=True)
    assets = {}
    for band, key in names.items():
        step = STEPS[band]
        write(folder / f"{band}.tif", digital_numbers(band, seed), step)
        assets[key] = {
            "href": f"./{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:shape": [SIZE * 60 // step] * 2,
            "proj:transform": [step, 0, WEST, 0, -step, NORTH],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "spatial_resolution": step, **(raster or {})}],
        }
    ring = [[4.43, 51.43], [4.45, 51.43], [4.45, 51.45], [4.43, 51.45], [4.43, 51.43]]
    said = {
        "datetime": moment,
        "platform": "sentinel-2a",
        **({"proj:epsg": CODE} if code is None else code),
        **properties,
    }
    (folder / "item.json").write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
                "id": f"S2A_31UFS_{moment[:10].replace('-', '')}_{seed}_L2A",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "bbox": [4.43, 51.43, 4.45, 51.45],
                "properties": said,
                "links": [],
                "assets": assets,
            }
        )
    )
    return pystac.Item.from_file(str(folder / "item.json"))


BANDS = ("B01", "B04", "B8A")
NEW = {"s2:processing_baseline": "05.09"}
GEOMETRY = {"view:sun_elevation": 55.0, "view:sun_azimuth": 150.0, "view:incidence_angle": 6.0, "view:azimuth": 290.0}


def reflectance(band: str, seed: int, offset: float) -> np.ndarray:
    return (1e-4 * digital_numbers(band, seed) + offset).astype(np.float32)


def test_native_pixels_masks_and_angles(tmp_path: Path) -> None:
    tree = read_stac([item(tmp_path, **NEW, **GEOMETRY)], BANDS)
    assert list(tree.children) == ["s2_10m", "s2_20m", "s2_60m"]
    for node, band, step in (("s2_10m", "B04", 10), ("s2_20m", "B8A", 20), ("s2_60m", "B01", 60)):
        data = tree[node].to_dataset()
        np.testing.assert_array_equal(data.reflectance.sel(band=band)[0], reflectance(band, 0, -0.1))
        assert data.rio.crs.to_epsg() == CODE and float(data.x[0]) == WEST + step / 2
        assert float(data.y[0]) == NORTH - step / 2
        np.testing.assert_allclose([data.sza[0], data.vza[0], data.raa[0]], [35, 6, 140], rtol=1e-6)
        assert data.time.values[0] == np.datetime64("2021-06-01T10:56:21.024") and data.platform.values[0] == "S2A"
    clear = np.isin(digital_numbers("SCL", 0), (4, 5))
    np.testing.assert_array_equal(tree["s2_20m"].valid[0], clear)
    np.testing.assert_array_equal(tree["s2_10m"].valid[0, 1::2, 1::2], clear)
    np.testing.assert_array_equal(tree["s2_60m"].valid[0], clear.reshape(SIZE, 3, SIZE, 3).all((1, 3)))
    assert open_cube(tree) is not None


def test_bounds_are_the_crop_of_the_whole(tmp_path: Path) -> None:
    items = [item(tmp_path, **NEW)]
    whole, part = (
        read_stac(items, BANDS),
        read_stac(items, BANDS, bounds=(WEST + 70, NORTH - 290, WEST + 200, NORTH - 130)),
    )
    for node, step in (("s2_10m", 10), ("s2_20m", 20), ("s2_60m", 60)):
        n = 60 // step
        crop = whole[node].to_dataset().isel(x=slice(n, 4 * n), y=slice(2 * n, 5 * n))
        np.testing.assert_array_equal(part[node].reflectance, crop.reflectance)
        np.testing.assert_array_equal(part[node].valid, crop.valid)
        np.testing.assert_array_equal(part[node].x, crop.x)


@pytest.mark.parametrize(
    ("properties", "raster", "options", "offset"),
    [
        ({"s2:processing_baseline": "05.09"}, {}, {}, -0.1),
        ({"s2:processing_baseline": "02.14"}, {}, {}, 0.0),
        ({"s2:processing_baseline": "02.14"}, {"scale": 1e-4, "offset": -0.1}, {}, 0.0),
        ({"s2:processing_baseline": "04.00"}, {"scale": 1e-4, "offset": -0.09}, {}, -0.09),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, {"offset": -0.1}, {}, 0.0),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, {"offset": -0.1}, {}, -0.1),
        ({"processing:version": "05.11"}, {}, {}, -0.1),
        ({}, {}, {"offset": -0.1}, -0.1),
        ({"s2:processing_baseline": "05.09"}, {"offset": -0.1}, {"offset": 0.0}, 0.0),
    ],
)
def test_what_decides_on_the_offset(
    tmp_path: Path, properties: dict, raster: dict, options: dict, offset: float
) -> None:
    """The argument, else what the catalogue has done, else the baseline; never the date."""
    node = read_stac([item(tmp_path, raster=raster, **properties)], ["B04"], **options)["s2_10m"]
    np.testing.assert_array_equal(node.reflectance[0, 0], reflectance("B04", 0, offset))
    hearsay = properties.get("earthsearch:boa_offset_applied", False)
    assert ("offset_applied" in node.attrs) != hearsay, "what only the catalogue says is looked into by validate"


def test_names_of_other_catalogues_and_dates_in_order(tmp_path: Path) -> None:
    own = {band: band for band in STEPS}  # Planetary Computer
    cdse = {band: f"{band}_{step}m" for band, step in STEPS.items()}
    items = [
        item(tmp_path / "b", moment="2021-06-04T10:56:21Z", seed=1, names=own, **NEW),
        item(tmp_path / "a", seed=0, names=cdse, code={"proj:code": f"EPSG:{CODE}"}, **NEW),
    ]
    node = read_stac(iter(items), ["B04"])["s2_10m"]
    np.testing.assert_array_equal(node.reflectance[:, 0], [reflectance("B04", 0, -0.1), reflectance("B04", 1, -0.1)])


def test_parts_of_a_datatake_and_reprocessed_ones(tmp_path: Path) -> None:
    """Of two baselines of a datatake the newer counts."""
    parts = [
        item(
            tmp_path / b,
            seed=seed,
            **{"s2:processing_baseline": b, "s2:datatake_id": f"GS2A_20210601T105621_030999_N{b}"},
        )
        for seed, b in ((0, "02.14"), (1, "05.00"))
    ]
    node = read_stac(parts, ["B04"])["s2_10m"]
    np.testing.assert_array_equal(node.reflectance[:, 0], [reflectance("B04", 1, -0.1)])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No item to read: the search found none"):
        read_stac([])
    with pytest.raises(CubeError, match="No processing baseline .* give offset=-0.1 for products of baseline 04.00"):
        read_stac([item(tmp_path / "baseline")], ["B04"])
    with pytest.raises(
        CubeError, match=r"No asset of B02 in item 'S2A_31UFS_20210601_0_L2A' \(red nir08 coastal scl\)"
    ):
        read_stac([item(tmp_path / "asset", **NEW)], ["B02"])
    with pytest.raises(CubeError, match="No asset of SCL"):
        read_stac([item(tmp_path / "mask", names={"B04": "red"}, **NEW)], ["B04"])
    with pytest.raises(CubeError, match=r"Bounds \(4, 51, 5, 52\) outside .* EPSG:32631 in metres"):
        read_stac([item(tmp_path / "bounds", **NEW)], ["B04"], bounds=(4, 51, 5, 52))
    with pytest.raises(CubeError, match="No projection .* in item"):
        read_stac([item(tmp_path / "projection", code={}, **NEW)], ["B04"])
    odd = item(tmp_path / "odd", **NEW)
    odd.assets["red"].extra_fields |= {"proj:transform": [20, 0, WEST, 0, -20, NORTH], "proj:shape": [36, 36]}
    with pytest.raises(CubeError, match="Asset 'red' of item .* has pixels of 20 m, .* catalogue that has B04 at 10 m"):
        read_stac([odd], ["B04"])
    gone = item(tmp_path / "gone", **NEW)
    (tmp_path / "gone/B04.tif").unlink()
    with pytest.raises(CubeError, match="Unreadable asset 'red' of item .* check that it is there"):
        read_stac([gone], ["B04"])


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "odc.stac", None)
    with pytest.raises(ImportError, match=r"pip install 'pi_vae\[stac\]'"):
        read_stac([object()])
