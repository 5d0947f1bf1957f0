"""Surface reflectance of Sentinel-2 in folders of GeoTIFF or COG, such as exports of a cloud platform."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from pyproj import Transformer

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.layers import Layer, area_of, find_layers, named
from pi_vae.data.readers.scenes import CLEAR_SCL, chosen, stack
from pi_vae.data.readers.windows import Bounds, Grid, mask_on
from pi_vae.data.sentinel2 import BANDS

__all__ = ["PATTERN", "read_geotiffs"]

log = logging.getLogger(__name__)

#: ``20210601T105031_B04.tif``, ``T31UFS_20210601T105619_B04_10m.tif``, ``S2A_2021-06-01_SCL.tif``.
PATTERN = (
    r"(?:(?P<platform>S2[A-D])_)?(?:.*_)?(?P<date>\d{4}-?\d{2}-?\d{2}(?:T\d{6})?)"
    r"_(?P<layer>B\d[\dA]|SCL|valid)(?:_\d+m)?\."
)
OVERPASS = 10.5  # hours, mean solar time at which Sentinel-2 comes by


def read_geotiffs(
    source: Path | str | Sequence[Path | str],
    bands: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    *,
    pattern: str = PATTERN,
    scale: float | None = None,
    offset: float | None = None,
    mask: str | None = "SCL",
    usable: Sequence[int] = CLEAR_SCL,
) -> xr.DataTree:
    """Read surface reflectance from GeoTIFF or COG, one file for each date and band or one for each date.

    Reflectance is ``scale * DN + offset``, as GDAL means it: from the arguments, else from the files. Files of floating
    point numbers without either are taken as they are. Digital numbers of baseline 04.00 and later that still carry
    their offset need ``scale=1e-4, offset=-0.1``. Files on different areas need bounds; their pixels must lie on one
    grid.

    Args:
        source: folder (not those within it), or files.
        bands: by default those that are there.
        bounds: west, south, east, north [m] in the reference system of the files, grown to whole pixels.
        pattern: regular expression with groups ``date`` and ``layer``, and ``platform`` if the names have it; without
            ``layer``, layers are named by their descriptions. By default names such as ``20210601T105031_B04.tif``.
        scale: reflectance for each digital number, such as 1e-4.
        offset: reflectance at digital number 0, such as -0.1.
        mask: layer of classes. Where a date has none, pixels with data count as usable, and the log says so.
        usable: classes that count as seen; those of Sen2Cor's SCL by default. ``mask="valid", usable=(1,)`` reads
            a mask of ones and zeros.

    Returns:
        A node ``s2`` where all bands have one pixel size, else ``s2_10m``, ``s2_20m``, ``s2_60m``, without angles:
        `pi_vae.data.open_cube` computes the sun's and takes nominal ones for the sensor. Names without a time of day
        get the usual one, 10:30 mean solar time.

    Raises:
        FileNotFoundError: no such folder or file.
        CubeError: names that do not fit, digital numbers without a scale, mixed reference systems or grids.
        ValueError: an unknown band, or a pattern without a date.

    Example:
        >>> from pi_vae.data import open_cube
        >>> cube = open_cube(read_geotiffs("exports/", scale=1e-4))  # doctest: +SKIP
    """
    layers, where = find_layers(source, pattern), named(source)
    available = [band for band in BANDS if any(layer.name == band for layer in layers)]
    if not available:
        others = sorted({layer.name for layer in layers})
        raise CubeError(f"No band among the layers ({' '.join(others)}) of {where}: name them {' '.join(BANDS)}.")
    wanted = chosen(available if bands is None else bands, available, f"{where}, which has {' '.join(available)}")
    layers = [layer for layer in layers if layer.name in wanted or layer.name == mask]
    for layer in layers:
        integer = layer.raster.dtype.kind in "iu" and _tags(layer) == (1.0, 0.0)
        if layer.name in wanted and integer and scale is None:
            raise CubeError(
                f"Digital numbers ({layer.raster.dtype}) without a scale in '{layer.file.name}': give scale=1e-4, and "
                "offset=-0.1 if the product is of baseline 04.00 or later and still carries its offset."
            )
    steps = {band: _step([layer for layer in layers if layer.name == band], band) for band in wanted}
    sizes = sorted(set(steps.values()))
    if len(sizes) > 1 and not set(sizes) <= {10.0, 20.0, 60.0}:
        raise CubeError(
            f"Pixels of {', '.join(f'{size:g}' for size in sizes)} m in {where}: give native ones of 10, 20 and 60 "
            "m, or all bands with one size."
        )
    names = {size: f"s2_{size:g}m" for size in sizes} if len(sizes) > 1 else {sizes[0]: "s2"}
    area = area_of(layers, bounds, where)
    snap = max(layer.grid.step for layer in layers)
    scenes = [
        _Date(layers=tuple(parts), area=area, declared=(scale, offset), mask=mask, classes=tuple(usable))
        for parts in _by_passage(layers)
    ]
    for scene in scenes:
        lacking = [band for band in wanted if not scene.layer(band)]
        if lacking:
            raise CubeError(
                f"No layer of band {lacking[0]} at {np.datetime_as_string(scene.layers[0].time, 's')} in {where}: "
                "add it, take the other files of that date away, or leave the band out."
            )
    if not all(layer.timed for layer in layers):
        log.info("No time of day in names of %s: taken as %s hours mean solar time.", where, OVERPASS)
    unmasked = [scene.name for scene in scenes if scene.mask and not scene.layer(scene.mask)]
    if unmasked or mask is None:
        log.warning(
            "No layer '%s' at %s: all pixels with data count as usable.", mask, ", ".join(unmasked) or "any date"
        )
    return stack(scenes, steps, bounds, snap, names)


@dataclass(frozen=True)
class _Date:
    """The layers of one passage as a `Scene`."""

    layers: tuple[Layer, ...]
    area: Grid
    declared: tuple[float | None, float | None]
    mask: str | None
    classes: tuple[int, ...]
    rank: float = 0.0
    baseline: str = ""

    @property
    def name(self) -> str:
        return self.layers[0].file.name

    @property
    def grid(self) -> Grid:
        return self.area

    @property
    def time(self) -> np.datetime64:
        first = self.layers[0]
        if first.timed:
            return first.time
        west, south, east, north = self.area.bounds
        to_degrees = Transformer.from_crs(self.area.crs, "EPSG:4326", always_xy=True)
        lon, _ = to_degrees.transform((west + east) / 2, (south + north) / 2)
        return first.time + np.timedelta64(round(3600 * ((OVERPASS - lon / 15) % 24)), "s")

    @property
    def platform(self) -> str:
        return self.layers[0].groups.get("platform") or "unknown"

    @property
    def passage(self) -> str:
        return f"{self.platform} {self.layers[0].time}"

    @property
    def settled(self) -> bool:
        return self.declared[1] is not None or all(_tags(layer)[1] != 0 for layer in self.layers if layer.name in BANDS)

    def layer(self, name: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.name == name]

    def reflectance(self, band: str, grid: Grid) -> np.ndarray:
        values = np.full(grid.shape, np.nan)
        for layer in self.layer(band):  # parts of one image
            scale, offset = _factor(layer, self.declared)
            values = np.where(np.isfinite(values), values, scale * layer.values(grid) + offset)
        return values.astype(np.float32)

    def usable(self, grid: Grid) -> np.ndarray:
        parts = self.layer(self.mask) if self.mask else []
        if not parts:
            return np.ones(grid.shape, bool)
        step = parts[0].grid.step
        seen = np.any([np.isin(part.values(grid.at(step)), self.classes) for part in parts], axis=0)
        return mask_on(seen, step, grid.step)

    def angles(self, grid: Grid) -> dict[str, np.ndarray]:
        return {}


def _by_passage(layers: list[Layer]) -> list[list[Layer]]:
    groups: dict[tuple[str | None, np.datetime64], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.groups.get("platform"), layer.time), []).append(layer)
    return list(groups.values())


def _tags(layer: Layer) -> tuple[float, float]:
    return layer.raster.scales[layer.index - 1], layer.raster.offsets[layer.index - 1]


def _factor(layer: Layer, declared: tuple[float | None, float | None]) -> tuple[float, float]:
    """Scale and offset: as declared, else those of the file."""
    scale, offset = _tags(layer)
    return scale if declared[0] is None else declared[0], offset if declared[1] is None else declared[1]


def _step(layers: list[Layer], band: str) -> float:
    sizes = {round(layer.grid.step, 6) for layer in layers}
    if len(sizes) > 1:
        raise CubeError(f"Pixels of {sorted(sizes)} m in the files of band {band}: keep those of one size.")
    return sizes.pop()
