"""Folders of MAJA, written in the layout of THEIA: numbers, masks, versions, angles and refusals."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from pi_vae.data import CubeError, open_cube, read_maja

WEST, NORTH, ZONE, SIZE = 300000, 4900020, "EPSG:32631", 24  # pixels of 20 m
STEPS = {"B2": 10, "B4": 10, "B8A": 20, "B11": 20}
NODES = 23


def write(file: Path, values: np.ndarray, step: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype.name}
    place = {"crs": CRS.from_string(ZONE), "transform": from_origin(WEST, NORTH, step, step)}
    with rasterio.open(file, "w", driver="GTiff", **profile, **place) as target:
        target.write(values, 1)


def digital_numbers(band: str, seed: int) -> np.ndarray:
    size = SIZE * 20 // STEPS[band]
    return np.random.default_rng([seed, len(band), STEPS[band]]).integers(200, 4000, (size, size)).astype(np.int16)


def pair(zenith: float, azimuth: float) -> str:
    def values(value: float) -> str:
        rows = f"<VALUES>{' '.join([str(value)] * NODES)}</VALUES>" * NODES
        return f'<COL_STEP unit="m">5000</COL_STEP><ROW_STEP unit="m">5000</ROW_STEP><Values_List>{rows}</Values_List>'

    return f'<Zenith values_unit="deg">{values(zenith)}</Zenith><Azimuth values_unit="deg">{values(azimuth)}</Azimuth>'


def maja(
    folder: Path,
    *,
    moment: str = "20200621-105912-461",
    version: str = "2-2",
    bands: tuple[str, ...] = ("B2", "B4", "B8A", "B11"),
    seed: int = 0,
    masks: dict[str, np.ndarray] | None = None,
    orbit: int = 51,
) -> Path:
    """Write a product; returns its folder."""
    name = f"SENTINEL2A_{moment}_L2A_T31TCJ_C_V{version}"
    product = folder / name
    for band in bands:
        dn = digital_numbers(band, seed)
        write(product / f"{name}_FRE_{band}.tif", dn, STEPS[band])
        write(product / f"{name}_SRE_{band}.tif", (dn + 1).astype(np.int16), STEPS[band])
    clear = {"R1": np.zeros((SIZE * 2, SIZE * 2), np.uint8), "R2": np.zeros((SIZE, SIZE), np.uint8)}
    for group, step in (("R1", 10), ("R2", 20)):
        for mask in ("CLM", "MG2", "EDG", "SAT"):
            values = (masks or {}).get(f"{mask}_{group}", clear[group])
            write(product / f"MASKS/{name}_{mask}_{group}.tif", values.astype(np.uint8), step)
    (product / f"{name}_MTD_ALL.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<Muscate_Metadata_Document>
  <Product_Characteristics>
    <PLATFORM>SENTINEL2A</PLATFORM><ORBIT_NUMBER type="relative">{orbit}</ORBIT_NUMBER>
  </Product_Characteristics>
  <Radiometric_Informations>
    <REFLECTANCE_QUANTIFICATION_VALUE>10000</REFLECTANCE_QUANTIFICATION_VALUE>
    <Special_Values_List><SPECIAL_VALUE name="nodata">-10000</SPECIAL_VALUE></Special_Values_List>
  </Radiometric_Informations>
  <Geometric_Informations><Angles_Grids_List>
    <Sun_Angles_Grids>{pair(25.0, 140.0)}</Sun_Angles_Grids>
    <Viewing_Incidence_Angles_Grids_List>
      <Band_Viewing_Incidence_Angles_Grids_List band_id="B2">
        <Viewing_Incidence_Angles_Grids detector_id="3">{pair(7.0, 290.0)}</Viewing_Incidence_Angles_Grids>
        <Viewing_Incidence_Angles_Grids detector_id="4">{pair(9.0, 290.0)}</Viewing_Incidence_Angles_Grids>
      </Band_Viewing_Incidence_Angles_Grids_List>
    </Viewing_Incidence_Angles_Grids_List>
  </Angles_Grids_List></Geometric_Informations>
</Muscate_Metadata_Document>""")
    return product


BANDS = ("B02", "B04", "B8A", "B11")


@pytest.mark.parametrize(("correction", "more"), [("FRE", 0), ("SRE", 1)])
def test_numbers_are_exact_and_without_offset(tmp_path: Path, correction: str, more: int) -> None:
    tree = read_maja(maja(tmp_path), BANDS, correction=correction)
    assert list(tree.children) == ["s2_10m", "s2_20m"]
    for node, band, name in (("s2_10m", "B02", "B2"), ("s2_20m", "B8A", "B8A")):
        expected = ((digital_numbers(name, 0).astype(float) + more) / 10000).astype(np.float32)
        np.testing.assert_array_equal(tree[node].reflectance.sel(band=band)[0], expected)
    node = tree["s2_10m"].to_dataset()
    assert node.time.values[0] == np.datetime64("2020-06-21T10:59:12") and node.platform.values[0] == "S2A"
    assert node.rio.crs.to_epsg() == 32631 and float(node.x[0]) == WEST + 5 and float(node.y[0]) == NORTH - 5
    np.testing.assert_allclose([node.sza[0], node.vza[0], node.raa[0]], [25, 8, 150], rtol=1e-5)
    assert open_cube(tree) is not None


def test_every_bit_of_the_masks(tmp_path: Path) -> None:
    """All bits but that of water make a pixel unusable, each resolution by its own masks."""
    masks = {f"{mask}_{group}": np.zeros((n, n)) for mask in ("CLM", "MG2", "EDG", "SAT") for group, n in
             (("R1", SIZE * 2), ("R2", SIZE))}  # fmt: skip
    for bit in range(8):
        masks["CLM_R1"][0, bit] = masks["MG2_R1"][1, bit] = 1 << bit
        masks["CLM_R2"][2, bit] = masks["MG2_R2"][3, bit] = 1 << bit
    masks["EDG_R1"][4, 4] = masks["SAT_R2"][5, 5] = 1
    tree = read_maja(maja(tmp_path, masks=masks), BANDS)
    fine, coarse = tree["s2_10m"].valid.values[0], tree["s2_20m"].valid.values[0]
    assert not fine[0, :8].any() and not coarse[2, :8].any()
    for row in (fine[1, :8], coarse[3, :8]):
        assert row.tolist() == [True] + [False] * 7
    assert not fine[4, 4] and not coarse[5, 5]
    assert (~fine).sum() == 16 and (~coarse).sum() == 16


def test_no_data_and_windows(tmp_path: Path) -> None:
    product = maja(tmp_path)
    dn = digital_numbers("B4", 0)
    dn[0, 0] = -10000
    write(product / f"{product.name}_FRE_B4.tif", dn, 10)
    whole = read_maja(product, BANDS)
    assert np.isnan(whole["s2_10m"].reflectance.sel(band="B04")[0, 0, 0]) and not whole["s2_10m"].valid[0, 0, 0]
    part = read_maja(product, BANDS, bounds=(WEST + 30, NORTH - 90, WEST + 70, NORTH - 41))
    for node, step in (("s2_10m", 10), ("s2_20m", 20)):
        crop = whole[node].to_dataset().isel(x=slice(20 // step, 80 // step), y=slice(40 // step, 100 // step))
        np.testing.assert_array_equal(part[node].reflectance, crop.reflectance)
        np.testing.assert_array_equal(part[node].x, crop.x)
        np.testing.assert_array_equal(part[node].y, crop.y)


def test_dates_versions_and_orbits(tmp_path: Path) -> None:
    """In order of time; of two versions the newer; two orbits on one day, far north, stay apart."""
    products = [
        maja(tmp_path, moment="20200701-105912-461", seed=1),
        maja(tmp_path, version="1-9", seed=2),
        maja(tmp_path, version="2-2", seed=3),
        maja(tmp_path, moment="20200621-123912-461", seed=4, orbit=52),
    ]
    node = read_maja(products, ["B04"])["s2_10m"]
    expected = [(digital_numbers("B4", seed).astype(float) / 10000).astype(np.float32) for seed in (3, 4, 1)]
    np.testing.assert_array_equal(node.reflectance[:, 0], expected)


def test_refusals(tmp_path: Path) -> None:
    product = maja(tmp_path)
    with pytest.raises(FileNotFoundError, match="No image FRE_B3.tif in 'SENTINEL2A_"):
        read_maja(product, ["B03"])
    with pytest.raises(ValueError, match="Band 'B09' asked of a product of MAJA: give a list out of B02"):
        read_maja(product, ["B09"])
    with pytest.raises(ValueError, match="Correction 'TOC' of a product of MAJA: give one of FRE, SRE"):
        read_maja(product, ["B04"], correction="TOC")
    (product / f"MASKS/{product.name}_MG2_R1.tif").unlink()
    with pytest.raises(FileNotFoundError, match="No mask MG2_R1 in 'SENTINEL2A_.*, folder MASKS: download"):
        read_maja(product, ["B04"])
    image = product / f"{product.name}_FRE_B4.tif"
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(CubeError, match="Unreadable raster '.*FRE_B4.tif', damaged or cut short"):
        read_maja(product, ["B04"])
    (product / f"{product.name}_MTD_ALL.xml").unlink()
    with pytest.raises(FileNotFoundError, match="No metadata '.*_MTD_ALL.xml': download the product again"):
        read_maja(product, ["B04"])
    other = tmp_path / "S2A_MSIL2A_20200621.SAFE"
    other.mkdir()
    with pytest.raises(CubeError, match="is not named as a product of MAJA"):
        read_maja(other)
