"""Sentinel-2 Level-2A from STAC items, read by odc-stac: from a catalogue on the web or from local files.

Facts from the STAC extensions (projection, view, raster, processing) and from the catalogues of Earth Search, Planetary
Computer and CDSE: Earth Search takes the offset off itself in some collections and says so in
``earthsearch:boa_offset_applied``; the offset in its ``raster:bands`` is there either way, hence is asked last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from rasterio.crs import CRS

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.scenes import CLEAR_SCL, LAND_BANDS, NATIVE, chosen, offset_of, stack
from pi_vae.data.readers.windows import Bounds, Grid, mask_on

__all__ = ["read_stac"]

log = logging.getLogger(__name__)

#: Band -> names of its asset, in Planetary Computer, Earth Search and CDSE.
ASSETS: Mapping[str, tuple[str, ...]] = {
    "B01": ("B01", "coastal", "B01_60m"), "B02": ("B02", "blue", "B02_10m"), "B03": ("B03", "green", "B03_10m"),
    "B04": ("B04", "red", "B04_10m"), "B05": ("B05", "rededge1", "B05_20m"), "B06": ("B06", "rededge2", "B06_20m"),
    "B07": ("B07", "rededge3", "B07_20m"), "B08": ("B08", "nir", "B08_10m"), "B8A": ("B8A", "nir08", "B8A_20m"),
    "B09": ("B09", "nir09", "B09_60m"), "B11": ("B11", "swir16", "B11_20m"), "B12": ("B12", "swir22", "B12_20m"),
    "SCL": ("SCL", "scl", "SCL_20m"),
}  # fmt: skip
APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
BASELINE = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
DATATAKE = ("s2:datatake_id", "eopf:datatake_id")
MASK_STEP = 20


def read_stac(
    items: Iterable,
    bands: Sequence[str] = LAND_BANDS,
    bounds: Bounds | None = None,
    usable: Sequence[int] = CLEAR_SCL,
    *,
    offset: float | None = None,
    patch_url: Callable[[str], str] | None = None,
) -> xr.DataTree:
    """Read Sentinel-2 Level-2A items of one tile, each band at its native resolution.

    Nothing is resampled: pixels are those of the assets. Whether an offset is taken off is decided by the baseline of
    the item, unless the catalogue has done so; where it says so wrongly, give ``offset``. Masks are as in `read_safe`.
    The angles are the means that the item holds, `[time]`; `pi_vae.data.open_cube` fills in what it lacks.

    Args:
        items: `pystac.Item`, such as ``catalog.search(...).items()`` of pystac-client, in any order.
        bands: out of ``B01``-``B12``; by default all but those of 60 m.
        bounds: west, south, east, north [m] in the zone of the tile; by default the whole tile.
        usable: classes of the scene classification that count as seen.
        offset: reflectance to add, such as 0 or -0.1, for all items in place of what they say.
        patch_url: passed to odc-stac, such as ``planetary_computer.sign``.

    Returns:
        Nodes ``s2_10m``, ``s2_20m``, ``s2_60m``, those with a band asked for. Pass it to `pi_vae.data.open_cube`.

    Raises:
        ImportError: odc-stac is not installed.
        CubeError: an item without asset, projection or baseline; several tiles or zones; bounds outside the tile.
        ValueError: an unknown band, or no item.

    Example:
        >>> from pi_vae.data import open_cube
        >>> box = (640000, 5650000, 642000, 5652000)
        >>> cube = open_cube(read_stac(search.items(), bounds=box))  # doctest: +SKIP
    """
    try:
        import odc.stac  # noqa: F401  (optional, and slow to import)
    except ImportError as error:
        raise ImportError("odc-stac is not installed: install it with pip install 'pi_vae[stac]'.") from error
    wanted = chosen(bands, tuple(NATIVE), "Sentinel-2 items")
    scenes = [_Item(item, offset, tuple(usable), patch_url) for item in items]
    if not scenes:
        raise ValueError("No item to read: the search found none, so widen it.")
    for scene in scenes:
        for band in (*wanted, "SCL"):
            scene.check(band)
    steps = {band: NATIVE[band] for band in wanted}
    return stack(scenes, steps, bounds, MASK_STEP, {10: "s2_10m", 20: "s2_20m", 60: "s2_60m"})


@dataclass(frozen=True)
class _Item:
    """A STAC item as a `Scene`."""

    item: Any  # pystac.Item
    offset: float | None
    classes: tuple[int, ...]
    patch_url: Callable[[str], str] | None

    @property
    def name(self) -> str:
        return self.item.id

    @property
    def time(self) -> np.datetime64:
        if self.item.datetime is None:
            raise CubeError(f"No datetime in item '{self.name}': give items of single images.")
        return np.datetime64(self.item.datetime.astimezone(UTC).replace(tzinfo=None), "ns")

    @property
    def platform(self) -> str:
        return str(self.item.properties.get("platform", "unknown")).upper().replace("SENTINEL-", "S")

    @property
    def passage(self) -> str:
        datatake = self._property(DATATAKE)
        return datatake.rsplit("_N")[0] if datatake else f"{self.platform} {self.time.astype('datetime64[h]')}"

    @property
    def baseline(self) -> str:
        return str(self._property(BASELINE) or "")

    @property
    def settled(self) -> bool:
        return self.offset is not None or not self._property(APPLIED)

    @property
    def rank(self) -> float:
        try:
            return float(self.baseline)
        except ValueError:
            return 0.0

    @cached_property
    def parsed(self) -> Any:
        from odc.stac import parse_item

        try:
            return parse_item(self.item)
        except ValueError as error:
            raise CubeError(self._no_projection()) from error

    @cached_property
    def grid(self) -> Grid:
        return self._grid(next(band for band in NATIVE if self._find(band))).at(10)

    def check(self, band: str) -> None:
        """Refuse an asset that is missing or not at the native resolution of its band."""
        step = NATIVE.get(band, MASK_STEP)
        if self._grid(band) != self.grid.at(step):
            raise CubeError(
                f"Asset '{self.key(band)}' of item '{self.name}' has pixels of {self._grid(band).step:g} m, or another "
                f"area than the tile: take a catalogue that has {band} at {step} m."
            )

    def reflectance(self, band: str, grid: Grid) -> np.ndarray:
        dn = self._load(band, grid)
        scale, offset = self._scale(band)
        return np.where((dn == 0) | (dn == 65535), np.nan, scale * dn.astype(np.float64) + offset).astype(np.float32)

    def usable(self, grid: Grid) -> np.ndarray:
        seen = np.isin(self._load("SCL", grid.at(MASK_STEP)), self.classes)
        return mask_on(seen, MASK_STEP, grid.step)

    def angles(self, grid: Grid) -> dict[str, np.ndarray]:
        said = self.item.properties
        found: dict[str, np.ndarray] = {}
        if "view:sun_elevation" in said:
            found["sza"] = np.asarray(90 - said["view:sun_elevation"], np.float32)
        elif "s2:mean_solar_zenith" in said:
            found["sza"] = np.asarray(said["s2:mean_solar_zenith"], np.float32)
        if {"view:incidence_angle", "view:azimuth"} <= set(said):
            sun = said.get("view:sun_azimuth", said.get("s2:mean_solar_azimuth"))
            found["vza"] = np.asarray(said["view:incidence_angle"], np.float32)
            if sun is not None:
                found["raa"] = np.asarray(abs((sun - said["view:azimuth"] + 180) % 360 - 180), np.float32)
        return found

    def key(self, band: str) -> str:
        """Name of the asset of a band."""
        found = self._find(band)
        if not found:
            raise CubeError(
                f"No asset of {band} in item '{self.name}' ({' '.join(self.item.assets)}): leave the band out, or "
                "take a catalogue of Level-2A."
            )
        return found

    def _grid(self, band: str) -> Grid:
        key = self.key(band)
        try:
            box = self.parsed.geoboxes([key])[0]
            return Grid(CRS.from_wkt(box.crs.to_wkt()), box.affine.c, box.affine.f, box.affine.a, tuple(box.shape))
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise CubeError(self._no_projection()) from error

    def _no_projection(self) -> str:
        return (
            f"No projection (proj:code or proj:epsg, proj:shape, proj:transform) in item '{self.name}': "
            "take items of a catalogue that has the projection extension."
        )

    def _find(self, band: str) -> str | None:
        return next((key for key in ASSETS[band] if key in self.item.assets), None)

    def _load(self, band: str, grid: Grid) -> np.ndarray:
        from odc.geo.geobox import GeoBox
        from odc.stac import load
        from rasterio.errors import RasterioIOError
        from rasterio.transform import Affine

        to = Affine(grid.step, 0, grid.west, 0, -grid.step, grid.north)
        box = GeoBox(grid.shape, to, grid.crs.to_wkt())
        options: dict[str, Any] = {} if self.patch_url is None else {"patch_url": self.patch_url}
        key = self.key(band)
        try:
            loaded = load([self.item], bands=[key], geobox=box, resampling="nearest", **options)
        except (RasterioIOError, OSError) as error:
            raise CubeError(
                f"Unreadable asset '{key}' of item '{self.name}' ({self.item.assets[key].href}): check that it is "
                "there, whole and, in a catalogue on the web, signed."
            ) from error
        return loaded[key].values[0]

    def _scale(self, band: str) -> tuple[float, float]:
        """Reflectance for each digital number, and at digital number 0."""
        said = self.item.assets[self.key(band)].extra_fields
        details = {**(said.get("bands") or [{}])[0], **said, **(said.get("raster:bands") or [{}])[0]}
        scale = float(details.get("scale", details.get("raster:scale", 1e-4)))
        if self.offset is not None:
            return scale, self.offset
        if self._property(APPLIED):
            return scale, 0.0
        if not self.rank:
            raise CubeError(
                f"No processing baseline ({BASELINE[0]}) in item '{self.name}': give offset=-0.1 for products of "
                "baseline 04.00 and later, else offset=0."
            )
        if not offset_of(self.rank):
            return scale, 0.0
        listed = details.get("offset", details.get("raster:offset"))
        return scale, float(listed) if listed else offset_of(self.rank) * scale

    def _property(self, names: Sequence[str]) -> Any:
        return next((self.item.properties[name] for name in names if self.item.properties.get(name)), None)
