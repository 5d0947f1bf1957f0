"""Windows of rasters: where pixels lie, what part of them is asked for, and reading no more than that.

Nothing here interpolates. Codes of masks go from a coarse grid to a fine one by repetition, which is the nearest
neighbour where pixels nest; a coarse pixel is usable if all fine pixels in it are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from pi_vae.data.cube import CubeError

__all__ = ["Bounds", "Grid", "Raster", "describe", "mask_on", "read", "read_values"]

log = logging.getLogger(__name__)

#: west, south, east, north in the reference system of the product [m]
Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """Square pixels, north up.

    Attributes:
        crs: projected reference system.
        west, north: upper left corner of the upper left pixel [m].
        step: size of a pixel [m].
        shape: rows and columns.
    """

    crs: CRS
    west: float
    north: float
    step: float
    shape: tuple[int, int]

    @property
    def x(self) -> np.ndarray:
        """`[x]` centres of the columns [m], eastwards."""
        return self.west + self.step * (np.arange(self.shape[1]) + 0.5)

    @property
    def y(self) -> np.ndarray:
        """`[y]` centres of the rows [m], southwards."""
        return self.north - self.step * (np.arange(self.shape[0]) + 0.5)

    @property
    def bounds(self) -> Bounds:
        """West, south, east and north edges [m]."""
        rows, columns = self.shape
        return self.west, self.north - rows * self.step, self.west + columns * self.step, self.north

    def at(self, step: float) -> Grid:
        """The same area in pixels of another size, of which it holds a whole number."""
        rows, columns = (round(size * self.step / step) for size in self.shape)
        return replace(self, step=step, shape=(rows, columns))

    def crop(self, bounds: Bounds | None, snap: float, where: str) -> Grid:
        """The part within bounds, grown outwards to whole pixels of the coarsest grid, so that nodes nest.

        Args:
            bounds: west, south, east, north in ``crs`` [m]; everything by default.
            snap: size of the coarsest pixel [m], counted from the upper left corner.
            where: what is read, for the sentences.

        Returns:
            A grid of the same pixels.

        Raises:
            CubeError: bounds that are no area, or that miss the grid.
        """
        whole = [int(size * self.step / snap + 1e-6) for size in self.shape]
        if min(whole) == 0:
            raise CubeError(f"Only {self.shape} pixels of {self.step:g} m in {where}: give at least {snap:g} m.")
        first, last = [0, 0], whole
        if bounds is not None:
            west, south, east, north = _area(bounds, where)
            inside = self.bounds
            if west >= inside[2] or east <= inside[0] or south >= inside[3] or north <= inside[1]:
                raise CubeError(
                    f"Bounds {_numbers(bounds)} outside {where}, which lies at {_numbers(inside)}: give west, south, "
                    f"east, north in its reference system {self.crs.to_string()} in metres."
                )
            starts = ((self.north - north) / snap, (west - self.west) / snap)
            ends = ((self.north - south) / snap, (east - self.west) / snap)
            first = [max(0, int(np.floor(start + 1e-6))) for start in starts]
            last = [min(size, int(np.ceil(end - 1e-6))) for size, end in zip(whole, ends, strict=True)]
            if min(starts) < -1e-6 or any(end > size + 1e-6 for size, end in zip(whole, ends, strict=True)):
                log.info("Bounds %s reach beyond %s: cut at its edge.", _numbers(bounds), where)
            if any(start >= end for start, end in zip(first, last, strict=True)):
                raise CubeError(f"Bounds {_numbers(bounds)} hold no whole pixel of {where}: give a larger area.")
        pixels = round(snap / self.step)
        return replace(
            self,
            west=self.west + first[1] * snap,
            north=self.north - first[0] * snap,
            shape=((last[0] - first[0]) * pixels, (last[1] - first[1]) * pixels),
        )


@dataclass(frozen=True)
class Raster:
    """What a file says of itself.

    Attributes:
        grid: where its pixels lie.
        dtype: type of its numbers.
        scales, offsets: of each layer, 1 and 0 where the file has none.
        descriptions: name of each layer, empty where it has none.
        units: of each layer, empty where it has none.
        tags: metadata of the file.
    """

    grid: Grid
    dtype: np.dtype
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    descriptions: tuple[str, ...]
    units: tuple[str, ...]
    tags: dict[str, str]


def describe(file: Path) -> Raster:
    """Read what a raster says of itself, without its pixels.

    Raises:
        FileNotFoundError: no such file.
        CubeError: not a raster, or not one on a projected grid of square pixels with north up.
    """
    with _opened(file) as source:
        return Raster(
            _grid(source, file),
            np.dtype(source.dtypes[0]),
            tuple(source.scales),
            tuple(source.offsets),
            tuple(name or "" for name in source.descriptions),
            tuple(unit or "" for unit in source.units),
            dict(source.tags()),
        )


def read(file: Path, grid: Grid, fill: float = 0, index: int = 1) -> np.ndarray:
    """Numbers of a raster as they are stored, on a grid of the same pixels.

    Args:
        file: raster.
        grid: part to read, in the pixels of the file.
        fill: number where the file does not reach.
        index: layer of the file, from 1.

    Returns:
        `[y, x]` of the type of the file.

    Raises:
        FileNotFoundError: no such file.
        CubeError: another reference system, other pixels, or a damaged file.
    """
    with _opened(file) as source:
        return np.ma.getdata(_window(source, file, grid, fill, index, masked=False))


def read_values(file: Path, grid: Grid, index: int = 1) -> np.ndarray:
    """`[y, x]` float64 numbers of a raster, NaN where the file does not reach or says that it has no data.

    Args and errors are those of `read`.
    """
    with _opened(file) as source:
        values = _window(source, file, grid, 0, index, masked=True)
    return np.ma.filled(values.astype(np.float64), np.nan)


def mask_on(seen: np.ndarray, step: float, wanted: float) -> np.ndarray:
    """A mask on pixels of another size over the same area.

    Args:
        seen: `[y, x]` bool on its own pixels.
        step: their size [m].
        wanted: size of the pixels wanted [m], a multiple or a whole fraction of ``step``.

    Returns:
        `[y, x]` bool: repeated on finer pixels (the nearest neighbour), true on coarser ones where all within are.

    Example:
        >>> mask_on(np.array([[True, False]]), 20, 10).tolist()
        [[True, True, False, False], [True, True, False, False]]
        >>> mask_on(np.array([[True, True, True, False], [True] * 4]), 20, 40).tolist()
        [[True, False]]
    """
    if wanted <= step:
        factor = round(step / wanted)
        return seen.repeat(factor, axis=0).repeat(factor, axis=1)
    factor = round(wanted / step)
    rows, columns = (size // factor for size in seen.shape)
    return seen.reshape(rows, factor, columns, factor).all(axis=(1, 3))


@contextmanager
def _opened(file: Path) -> Iterator[rasterio.DatasetReader]:
    if not Path(file).exists():
        raise FileNotFoundError(f"No raster '{file}': check the path and that the product is complete.")
    try:
        with rasterio.open(file) as source:
            yield source
    except RasterioIOError as error:
        raise CubeError(f"Unreadable raster '{file}', damaged or cut short: download the product again.") from error


def _grid(source: rasterio.DatasetReader, file: Path) -> Grid:
    if source.crs is None:
        cause = (
            "it has ground control points only, so correct its terrain" if source.gcps[0] else "write it into the file"
        )
        raise CubeError(f"No reference system in '{file}': {cause} (gdal_edit -a_srs, or SNAP's Terrain Correction).")
    if not source.crs.is_projected:
        raise CubeError(
            f"Geographic reference system {source.crs.to_string()} in '{file}': reproject to the UTM zone of the place "
            "(gdalwarp -t_srs EPSG:326..), as pixels must be square in metres."
        )
    to = source.transform
    if to.b or to.d or to.a <= 0 or abs(to.a + to.e) > 1e-6 * to.a:
        raise CubeError(
            f"Pixels that are not square with north up in '{file}': warp the file onto such a grid (gdalwarp)."
        )
    return Grid(source.crs, to.c, to.f, to.a, source.shape)


def _window(
    source: rasterio.DatasetReader, file: Path, grid: Grid, fill: float, index: int, masked: bool
) -> np.ma.MaskedArray:
    own = _grid(source, file)
    if own.crs != grid.crs:
        raise CubeError(
            f"Reference system {own.crs.to_string()} in '{file}' beside {grid.crs.to_string()}: "
            "read each zone on its own, or reproject to one of them."
        )
    row, column = (own.north - grid.north) / grid.step, (grid.west - own.west) / grid.step
    off = max(abs(row - round(row)), abs(column - round(column)))
    if abs(own.step - grid.step) > 1e-6 * grid.step or off > 1e-3:
        raise CubeError(
            f"Pixels of {own.step:g} m from ({own.west:.10g}, {own.north:.10g}) in '{file}' beside pixels of "
            f"{grid.step:g} m from ({grid.west:.10g}, {grid.north:.10g}): warp all files onto one grid (gdalwarp -tap)."
        )
    rows, columns = (
        _overlap(round(at), size, available)
        for at, size, available in zip((row, column), grid.shape, own.shape, strict=True)
    )
    here, there = zip(rows, columns, strict=True)
    values = np.ma.masked_all(grid.shape, source.dtypes[index - 1])
    values.data[...] = fill
    if all(part.stop > part.start for part in here):
        values[here] = source.read(index, window=Window.from_slices(*there), masked=masked)
    return values


def _overlap(start: int, size: int, available: int) -> tuple[slice, slice]:
    """The part of ``size`` pixels from ``start`` on that is available, as seen from both."""
    first, last = max(start, 0), min(start + size, available)
    last = max(first, last)
    return slice(first - start, last - start), slice(first, last)


def _area(bounds: Sequence[float], where: str) -> Bounds:
    edges = [float(edge) for edge in bounds]
    if len(edges) != 4 or not np.isfinite(edges).all() or edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise CubeError(f"Bounds {tuple(bounds)} are no area in {where}: give west < east and south < north.")
    return edges[0], edges[1], edges[2], edges[3]


def _numbers(bounds: Sequence[float]) -> str:
    return "(" + ", ".join(f"{edge:.10g}" for edge in bounds) + ")"
