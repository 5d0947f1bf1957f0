"""Folders of GeoTIFF or COG: which layer is what, by the names of the files.

A pattern is a regular expression with named groups, searched in the name of a file. ``date`` (20210601 or
20210601T105031, any of ``-_:`` between the numbers) is required, and is UTC. ``layer`` names what the file holds;
without it, each layer of the file is named by its description (GDAL).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.windows import Bounds, Grid, Raster, describe, read_values

__all__ = ["Layer", "area_of", "find_layers", "named"]

log = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Layer:
    """One layer of one file.

    Attributes:
        file: raster.
        index: of the layer in the file, from 1.
        name: what it holds, such as ``"B04"`` or ``"VV"``.
        time: UTC; midnight where the name has no time of day.
        timed: whether the name has a time of day.
        groups: all named groups of the pattern.
        raster: what the file says of itself.
    """

    file: Path
    index: int
    name: str
    time: np.datetime64
    timed: bool
    groups: dict[str, str | None]
    raster: Raster

    @property
    def grid(self) -> Grid:
        """Its pixels."""
        return self.raster.grid

    def values(self, grid: Grid) -> np.ndarray:
        """`[y, x]` float64 numbers as stored, NaN where there is no data."""
        return read_values(self.file, grid, self.index)


def find_layers(source: Path | str | Sequence[Path | str], pattern: str) -> list[Layer]:
    """Layers of a folder, or of files, whose names match a pattern.

    Args:
        source: folder (not those within it), or files.
        pattern: regular expression, see the head of this module.

    Returns:
        Layers by time and name.

    Raises:
        FileNotFoundError: no such folder or file, or no GeoTIFF there.
        ValueError: a pattern without the group ``date``.
        CubeError: no name that matches, a date that is none, a layer without a name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"Pattern {pattern!r} is no regular expression ({error}): correct it.") from error
    if "date" not in expression.groupindex:
        raise ValueError(f"Pattern {pattern!r} has no group 'date': write one, such as (?P<date>\\d{{8}}).")
    files, where = _files(source), named(source)
    matches = [(file, match) for file in files if (match := expression.search(file.name))]
    if not matches:
        raise CubeError(
            f"No name in {where} is as expected (the first is '{files[0].name}'): name files as the reader says, or "
            "give a pattern with groups 'date' and 'layer' that fits them."
        )
    if len(matches) < len(files):
        log.info(
            "%d of %d files in %s do not match the pattern and are not read.",
            len(files) - len(matches),
            len(files),
            where,
        )
    layers = [layer for file, match in matches for layer in _layers(file, match)]
    return sorted(layers, key=lambda layer: (layer.time, layer.name, layer.file))


def area_of(layers: Sequence[Layer], bounds: Bounds | None, where: str) -> Grid:
    """The finest grid of some layers, over all of them, or over the bounds where files cover different areas.

    Raises:
        CubeError: mixed reference systems, or different areas without bounds.
    """
    first = min(layers, key=lambda layer: layer.grid.step)
    edges = np.array([layer.grid.bounds for layer in layers])
    for layer in layers:
        if layer.grid.crs != first.grid.crs:
            raise CubeError(
                f"Mixed reference systems {first.grid.crs.to_string()} in '{first.file.name}' and "
                f"{layer.grid.crs.to_string()} in '{layer.file.name}': read each zone on its own, or reproject."
            )
    unequal = np.abs(edges - edges[0]).max(axis=1) > 1e-3 * first.grid.step
    if not unequal.any():
        return first.grid
    if bounds is None:
        other = layers[int(np.argmax(unequal))]
        raise CubeError(
            f"Different areas in '{layers[0].file.name}' and '{other.file.name}' of {where}: give bounds "
            "(west, south, east, north), and what a file lacks of them is marked as no data."
        )
    coarsest = max(layer.grid.step for layer in layers)
    anchor = max(layers, key=lambda layer: layer.grid.step).grid
    west = anchor.west - np.ceil((anchor.west - edges[:, 0].min()) / coarsest - 1e-6) * coarsest
    north = anchor.north + np.ceil((edges[:, 3].max() - anchor.north) / coarsest - 1e-6) * coarsest
    size = np.array([north - edges[:, 1].min(), edges[:, 2].max() - west]) / first.grid.step
    height, width = (int(n) for n in np.ceil(size - 1e-6))
    return Grid(first.grid.crs, float(west), float(north), first.grid.step, (height, width))


def named(source: Path | str | Sequence[Path | str]) -> str:
    """A source, for sentences."""
    return f"'{source}'" if isinstance(source, str | Path) else "the files given"


def _files(source: Path | str | Sequence[Path | str]) -> list[Path]:
    if isinstance(source, str | Path) and Path(source).is_dir():
        files = sorted(Path(source).iterdir())
    else:
        files = [Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"No file or folder '{file}': check the path.")
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not files:
        raise FileNotFoundError(
            f"No GeoTIFF (.tif, .tiff) in {named(source)}: give a folder that holds some, or the files."
        )
    return files


def _layers(file: Path, match: re.Match[str]) -> list[Layer]:
    raster = describe(file)
    time, timed = _moment(match["date"], file)
    groups = match.groupdict()
    names = [groups["layer"]] if groups.get("layer") else list(raster.descriptions)
    if not all(names):
        raise CubeError(
            f"Layer {names.index('') + 1} without a name in '{file}': name layers by a group 'layer' of the pattern, "
            "or in the file (gdal_edit, or rasterio's set_band_description)."
        )
    return [Layer(file, index, name, time, timed, groups, raster) for index, name in enumerate(names, 1)]


def _moment(text: str, file: Path) -> tuple[np.datetime64, bool]:
    """Date and whether there is a time of day: 20210601, 20210601T105031, 2021-06-01_10:50:31."""
    digits = re.sub(r"\D", "", text)
    day = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
    clock = f"{digits[8:10]}:{digits[10:12]}:{digits[12:14] or '00'}" if len(digits) >= 12 else "00:00:00"
    try:
        return np.datetime64(f"{day}T{clock}", "ns"), len(digits) >= 12
    except ValueError as error:
        raise CubeError(
            f"Date '{text}' in the name of '{file.name}' is none: correct the name or the pattern."
        ) from error
