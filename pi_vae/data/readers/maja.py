"""Sentinel-2 Level-2A of MAJA, in the format in which THEIA (CNES) delivers it.

Facts from CNES, "THEIA's Sentinel-2 L2A product format" (MUSCATE, PSC-NT-411-0362-CNES): reflectance is the digital
number over ``REFLECTANCE_QUANTIFICATION_VALUE``, without offset; FRE is corrected for slopes, SRE is not; masks are
bits. Every bit of CLM marks a cloud or a cloud's shadow. MG2: 0 water, 1 cloud, 2 snow, 3 cloud shadow, 4 shadow of
relief, 5 hidden by relief, 6 sun too low, 7 sun tangent to the slope. EDG marks what lies outside the image, SAT
saturated bands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.directions import Directions, angles, parsed, text
from pi_vae.data.readers.scenes import LAND_BANDS, NATIVE, chosen, listed, stack
from pi_vae.data.readers.windows import Bounds, Grid, describe, read
from pi_vae.data.sentinel2 import dn_to_reflectance

__all__ = ["read_maja"]

PRODUCT = re.compile(r"SENTINEL(?P<platform>2[A-D])_(?P<date>\d{8})-(?P<time>\d{6})-\d{3}_L2A_(?P<tile>T\w{5})_")
CORRECTIONS = ("FRE", "SRE")
GROUPS = {10: "R1", 20: "R2"}  # masks of each pixel size

#: Bits of a mask that make a pixel unusable: all but MG2's water, which is a surface as well.
HARMFUL = {"CLM": 0xFF, "MG2": 0xFE, "EDG": 0xFF, "SAT": 0xFF}
NEEDED = ("CLM", "MG2")


def read_maja(
    products: Path | str | Sequence[Path | str],
    bands: Sequence[str] = LAND_BANDS,
    bounds: Bounds | None = None,
    correction: str = "FRE",
) -> xr.DataTree:
    """Read Level-2A products of MAJA (THEIA) of one tile, each band at its native resolution.

    A pixel is usable where the cloud mask CLM is zero and the mask MG2 has no bit but water; where the masks EDG and
    SAT are present they must be zero, too. Each resolution has masks of its own, so that none is resampled. MAJA takes
    care of the
    offset itself: none is taken off. Angles are as in `read_safe`.

    Args:
        products: folders ``SENTINEL2?_*_L2A_T*``, one or several, in any order.
        bands: out of those of 10 m and 20 m; MAJA has no B01 and B09.
        bounds: west, south, east, north [m] in the zone of the tile, grown to whole pixels of 20 m; by default all.
        correction: ``"FRE"``, as if the land were flat, for operators without relief; ``"SRE"``, the slopes left in.

    Returns:
        Nodes ``s2_10m`` and ``s2_20m``, those with a band asked for; dates without data within the bounds are left out.
        Pass it to `pi_vae.data.open_cube`.

    Raises:
        FileNotFoundError: a folder, image, mask or metadata file is missing.
        CubeError: damaged files, several tiles or zones, bounds outside the tile, a folder of another format.
        ValueError: an unknown band or correction, or no product.

    Example:
        >>> from pi_vae.data import open_cube
        >>> cube = open_cube(read_maja("SENTINEL2A_20200621-105912-461_L2A_T31TCJ_C_V2-2"))  # doctest: +SKIP
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"Correction {correction!r} of a product of MAJA: give one of {', '.join(CORRECTIONS)}.")
    wanted = chosen(bands, LAND_BANDS, "a product of MAJA")
    scenes = [_scene(product, correction) for product in listed(products, "Sentinel-2 Level-2A (MAJA)")]
    steps = {band: NATIVE[band] for band in wanted}
    return stack(scenes, steps, bounds, 20, {10: "s2_10m", 20: "s2_20m"})


@dataclass(frozen=True)
class _Product:
    """A folder of MAJA as a `Scene`."""

    name: str
    time: np.datetime64
    platform: str
    passage: str
    rank: float
    baseline: str
    grid: Grid
    folder: Path
    correction: str
    quantification: float
    nodata: int
    sun: Directions
    view: Directions | None
    settled: bool = True

    def reflectance(self, band: str, grid: Grid) -> np.ndarray:
        file = _image(self.folder, self.correction, band)
        dn = read(file, grid, fill=self.nodata)
        return dn_to_reflectance(dn, scale=1 / self.quantification, nodata=self.nodata)

    def usable(self, grid: Grid) -> np.ndarray:
        seen = np.ones(grid.shape, bool)
        for mask, harmful in HARMFUL.items():
            found = sorted(self.folder.glob(f"MASKS/*_{mask}_{GROUPS[int(grid.step)]}.tif"))
            if found:
                seen &= (read(found[0], grid) & harmful) == 0
            elif mask in NEEDED:
                raise FileNotFoundError(
                    f"No mask {mask}_{GROUPS[int(grid.step)]} in '{self.name}', folder MASKS: "
                    "download the product again."
                )
        return seen

    def angles(self, grid: Grid) -> dict[str, np.ndarray]:
        return angles(self.sun, self.view, grid)


def _scene(product: Path, correction: str) -> _Product:
    named = PRODUCT.match(product.name)
    if named is None:
        raise CubeError(
            f"Folder '{product.name}' is not named as a product of MAJA "
            "(SENTINEL2A_20200621-105912-461_L2A_T31TCJ_C_V2-2): keep the names that THEIA gives, "
            "or read other files with read_geotiffs."
        )
    found = sorted(product.glob("*_MTD_ALL.xml"))
    file = found[0] if found else product / f"{product.name}_MTD_ALL.xml"
    root = parsed(file, "download the product again")
    special = {element.get("name"): element.text for element in root.iter("SPECIAL_VALUE")}
    try:
        quantification = float(text(root, "REFLECTANCE_QUANTIFICATION_VALUE", file))
        nodata = int(float(special.get("nodata") or -10000))
    except ValueError as error:
        raise CubeError(f"Unreadable quantification or nodata in '{file}': download the product again.") from error
    day, clock = named["date"], named["time"]
    version = re.search(r"_V(\d+)-(\d+)", product.name)
    grid = describe(_image(product, correction, "B*")).grid.at(10)
    sun = Directions.from_grids(grid.west, grid.north, [root.findall(".//Sun_Angles_Grids")], str(file))
    views = [
        band.findall("Viewing_Incidence_Angles_Grids") for band in root.iter("Band_Viewing_Incidence_Angles_Grids_List")
    ]
    return _Product(
        name=product.name,
        time=np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}", "ns"),
        platform=f"S{named['platform']}",
        # far north, a satellite sees a tile from two orbits in a day
        passage=f"{named['platform']}_{day}_{root.findtext('.//ORBIT_NUMBER') or clock[:2]}",
        rank=int(version[1]) + int(version[2]) / 100 if version else 0.0,
        baseline="",
        grid=grid,
        folder=product,
        correction=correction,
        quantification=quantification,
        nodata=nodata,
        sun=sun,
        view=Directions.from_grids(grid.west, grid.north, views, str(file)) if views else None,
    )


def _image(product: Path, correction: str, band: str) -> Path:
    name = band.replace("B0", "B")
    found = sorted(product.glob(f"*_{correction}_{name}.tif"))
    if not found:
        raise FileNotFoundError(
            f"No image {correction}_{name}.tif in '{product.name}': download the product again, leave the band out, "
            "or ask for the other correction."
        )
    return found[0]
