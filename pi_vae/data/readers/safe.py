"""Sentinel-2 Level-2A as ESA delivers it: SAFE folders with JPEG 2000 images.

Facts from the Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD) and SentiWiki: reflectance is
``(DN + BOA_ADD_OFFSET) / BOA_QUANTIFICATION_VALUE`` from processing baseline 04.00 on and ``DN /
BOA_QUANTIFICATION_VALUE`` before; DN 0 is no data and 65535 saturated. The scene classification (SCL) has pixels of 20
m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import xarray as xr
from rasterio.crs import CRS
from rasterio.errors import CRSError

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.directions import Directions, angles, parsed, text
from pi_vae.data.readers.scenes import CLEAR_SCL, LAND_BANDS, NATIVE, chosen, listed, offset_of, stack
from pi_vae.data.readers.windows import Bounds, Grid, mask_on, read
from pi_vae.data.sentinel2 import dn_to_reflectance

__all__ = ["read_safe"]

#: Bands in the order of the identifiers in the metadata, 0-12.
IDENTIFIERS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SATURATED = 65535
MASK_STEP = 20  # metres


def read_safe(
    products: Path | str | Sequence[Path | str],
    bands: Sequence[str] = LAND_BANDS,
    bounds: Bounds | None = None,
    usable: Sequence[int] = CLEAR_SCL,
) -> xr.DataTree:
    """Read Sentinel-2 Level-2A products (SAFE folders) of one tile, each band at its native resolution.

    Whether the offset of -1000 is taken off is decided by the processing baseline in the metadata, never by the date:
    old dates are processed anew. Products of one datatake (an image split between datastrips) become one date; where
    one image comes in two baselines, the newer counts. The mask is true in the classes ``usable``: repeated from 20 m
    to 10 m; a pixel of 60 m is usable if all of its 20 m are. Angles are averages over bands and detectors, `[time]` at
    the centre of a window of up to 5 km (a cell of the angle grid), else `[time, y, x]`.

    Args:
        products: folders ``S2?_MSIL2A_*.SAFE``, one or several, in any order.
        bands: out of ``B01``-``B12``; by default all but those of 60 m (B01, B09).
        bounds: west, south, east, north [m] in the zone of the tile, grown to whole pixels of the coarsest grid; by
            default the whole tile, which takes half a gigabyte for a date and band.
        usable: classes of the scene classification that count as seen; see `CLEAR_SCL` for the choice.

    Returns:
        Nodes ``s2_10m``, ``s2_20m``, ``s2_60m``, those with a band asked for; dates without data within the bounds are
        left out. Pass it to `pi_vae.data.open_cube`, alone or with other nodes.

    Raises:
        FileNotFoundError: a folder, image or metadata file is missing.
        CubeError: damaged files, several tiles or zones, bounds outside the tile.
        ValueError: an unknown band, or no product.

    Example:
        >>> from pi_vae.data import open_cube
        >>> products = sorted(Path("downloads").glob("S2?_MSIL2A_*_T31UFS_*.SAFE"))
        >>> box = (640000, 5650000, 642000, 5652000)
        >>> cube = open_cube(read_safe(products, bounds=box))  # doctest: +SKIP
    """
    wanted = chosen(bands, tuple(NATIVE), "a Level-2A product")
    scenes = [_scene(product, tuple(usable)) for product in listed(products, "Sentinel-2 Level-2A (SAFE)")]
    steps = {band: NATIVE[band] for band in wanted}
    return stack(scenes, steps, bounds, MASK_STEP, {10: "s2_10m", 20: "s2_20m", 60: "s2_60m"})


@dataclass(frozen=True)
class _Product:
    """A SAFE folder as a `Scene`."""

    name: str
    time: np.datetime64
    platform: str
    passage: str
    rank: float
    baseline: str
    grid: Grid
    images: Path
    quantification: float
    offsets: dict[str, float]
    classes: tuple[int, ...]
    sun: Directions
    view: Directions | None
    settled: bool = True

    def reflectance(self, band: str, grid: Grid) -> np.ndarray:
        dn = read(self._image(band, NATIVE[band]), grid)
        values = dn_to_reflectance(dn, scale=1 / self.quantification, offset=self.offsets[band], nodata=0)
        return np.where(dn == SATURATED, np.float32(np.nan), values)

    def usable(self, grid: Grid) -> np.ndarray:
        seen = np.isin(read(self._image("SCL", MASK_STEP), grid.at(MASK_STEP)), self.classes)
        return mask_on(seen, MASK_STEP, grid.step)

    def angles(self, grid: Grid) -> dict[str, np.ndarray]:
        return angles(self.sun, self.view, grid)

    def _image(self, band: str, step: int) -> Path:
        found = sorted(self.images.glob(f"R{step}m/*_{band}_{step}m.jp2"))
        if not found:
            raise FileNotFoundError(
                f"No image of {band} at {step} m in '{self.name}', folder IMG_DATA/R{step}m: "
                f"download the product again{'' if band == 'SCL' else ', or leave the band out'}."
            )
        return found[0]


def _scene(product: Path, classes: tuple[int, ...]) -> _Product:
    if not (product / "MTD_MSIL2A.xml").is_file() and (product / "MTD_MSIL1C.xml").is_file():
        raise CubeError(f"Level-1C (top of atmosphere) in '{product.name}': give Level-2A, or run Sen2Cor on it.")
    file = product / "MTD_MSIL2A.xml"
    root = parsed(file, "give the folder of a Level-2A product that ends in .SAFE")
    tiles = sorted(product.glob("GRANULE/*/MTD_TL.xml"))
    if len(tiles) != 1:
        mend = "download the product again" if not tiles else "give products of one tile each (since 2016 all are)"
        kind = FileNotFoundError if not tiles else CubeError
        raise kind(f"{len(tiles) or 'No'} tile metadata GRANULE/*/MTD_TL.xml in '{product.name}': {mend}.")
    tile = parsed(tiles[0], "download the product again")

    baseline = text(root, "PROCESSING_BASELINE", file)
    try:
        number, quantification = float(baseline), float(text(root, "BOA_QUANTIFICATION_VALUE", file))
        listed_offsets = {int(e.get("band_id", "")): float(e.text or "") for e in root.iter("BOA_ADD_OFFSET")}
    except ValueError as error:
        raise CubeError(f"Unreadable baseline, quantification or offset in '{file}': download it again.") from error
    datatake = root.find(".//Datatake")
    sun, view = _directions(tile, tiles[0])
    return _Product(
        name=product.name,
        time=np.datetime64(text(tile, "SENSING_TIME", tiles[0]).rstrip("Z"), "ns"),
        platform=text(root, "SPACECRAFT_NAME", file).replace("Sentinel-", "S"),
        # GS2A_20221005T115411_038058_N04.00: without the baseline, as one datatake may be processed twice
        passage=(datatake.get("datatakeIdentifier", product.name) if datatake is not None else product.name).rsplit(
            "_N"
        )[0],
        rank=number,
        baseline=baseline,
        grid=_grid(tile, tiles[0]),
        images=tiles[0].parent / "IMG_DATA",
        quantification=quantification,
        offsets={
            band: listed_offsets.get(index, offset_of(number)) if offset_of(number) else 0.0
            for index, band in enumerate(IDENTIFIERS)
        },
        classes=classes,
        sun=sun,
        view=view,
    )


def _grid(tile: ElementTree.Element, file: Path) -> Grid:
    size, place = (f".//{name}[@resolution='10']" for name in ("Size", "Geoposition"))
    try:
        crs = CRS.from_string(text(tile, "HORIZONTAL_CS_CODE", file))
        shape = int(tile.findtext(f"{size}/NROWS", "")), int(tile.findtext(f"{size}/NCOLS", ""))
        west, north = (float(tile.findtext(f"{place}/{edge}", "")) for edge in ("ULX", "ULY"))
        return Grid(crs, west, north, 10.0, shape)
    except (ValueError, CRSError) as error:
        if isinstance(error, CubeError):
            raise
        raise CubeError(f"Unreadable Tile_Geocoding in '{file}': download the product again.") from error


def _directions(tile: ElementTree.Element, file: Path) -> tuple[Directions, Directions | None]:
    grid = _grid(tile, file)
    views: dict[str | None, list[ElementTree.Element]] = {}
    for element in tile.iter("Viewing_Incidence_Angles_Grids"):
        views.setdefault(element.get("bandId"), []).append(element)
    sun = Directions.from_grids(grid.west, grid.north, [tile.findall(".//Sun_Angles_Grid")], str(file))
    view = Directions.from_grids(grid.west, grid.north, views.values(), str(file)) if views else None
    return sun, view
