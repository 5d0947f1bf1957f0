"""From scenes to nodes: images of one place, whatever their format, stacked by date at their native resolutions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import xarray as xr

from pi_vae.data import sentinel2
from pi_vae.data.cube import CubeError
from pi_vae.data.readers.windows import Bounds, Grid
from pi_vae.data.sentinel2 import BANDS, s2_node

__all__ = ["CLEAR_SCL", "LAND_BANDS", "NATIVE", "Scene", "chosen", "listed", "offset_of", "stack"]

log = logging.getLogger(__name__)

#: Native pixel size of the bands [m].
NATIVE: Mapping[str, int] = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20,
    "B07": 20, "B08": 10, "B8A": 20, "B09": 60, "B11": 20, "B12": 20,
}  # fmt: skip

#: The bands made for the surface; B01 and B09 (60 m) are for the atmosphere.
LAND_BANDS = tuple(band for band, step in NATIVE.items() if step < 60)

#: Classes of Sen2Cor's scene classification that show the surface: vegetation, bare soil, water. Not among them are 2
#: (dark or topographic shadow), 7 (unclassified, where thin cloud ends up) and 11 (snow, which no operator here knows):
#: an observation that is not of the surface costs a fit more than one observation less.
CLEAR_SCL = (4, 5, 6)


class Scene(Protocol):
    """One image, or one part of an image, of a place.

    Attributes:
        name: for the sentences.
        time: of sensing, UTC.
        platform: such as ``"S2A"``.
        passage: alike for parts of one image, which are merged.
        rank: of two versions of one image that with the higher rank counts.
        baseline: processing baseline as text, empty if there is none.
        settled: whether it is certain that no offset is left; `pi_vae.data.validate` looks for one if not.
        grid: its pixels, at the finest resolution.
    """

    @property
    def name(self) -> str: ...
    @property
    def time(self) -> np.datetime64: ...
    @property
    def platform(self) -> str: ...
    @property
    def passage(self) -> str: ...
    @property
    def rank(self) -> float: ...
    @property
    def baseline(self) -> str: ...
    @property
    def settled(self) -> bool: ...
    @property
    def grid(self) -> Grid: ...

    def reflectance(self, band: str, grid: Grid) -> np.ndarray:
        """`[y, x]` reflectance on a part of its own pixels, NaN where there is no data."""

    def usable(self, grid: Grid) -> np.ndarray:
        """`[y, x]` bool, true where the surface is seen."""

    def angles(self, grid: Grid) -> dict[str, np.ndarray]:
        """Those of ``sza``, ``vza``, ``raa`` that are known, each a number or `[y, x]`, in degrees."""


def stack(
    scenes: Sequence[Scene], steps: Mapping[str, float], bounds: Bounds | None, snap: float, names: Mapping[float, str]
) -> xr.DataTree:
    """Optical nodes of scenes of one place.

    Args:
        scenes: in any order. Scenes of one passage are merged: the one of highest rank counts, the others fill its
            gaps.
        steps: pixel size [m] of each band.
        bounds: west, south, east, north [m]; everything by default.
        snap: pixel size of the masks [m]; bounds grow to whole pixels of masks and of the coarsest bands.
        names: node of each pixel size.

    Returns:
        A cube with a node for each pixel size. Passages without data within the bounds are left out.

    Raises:
        CubeError: scenes of several zones or places, or none with data.
    """
    where = _one_place(scenes)
    area = scenes[0].grid.crop(bounds, max(snap, *steps.values()), where)
    passages: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda scene: (-scene.rank, scene.time)):
        passages.setdefault(scene.passage, []).append(scene)
    groups = sorted(passages.values(), key=lambda group: min(scene.time for scene in group))
    for group in groups:
        if len(group) > 1:
            log.info("Merged into one image: %s.", ", ".join(scene.name for scene in group))
    nodes = {}
    for step in sorted(set(steps.values())):
        bands = [band for band in BANDS if steps.get(band) == step]
        nodes[names[step]] = _node(groups, bands, area.at(step), where)
    return xr.DataTree.from_dict(nodes)


def chosen(bands: Sequence[str], available: Sequence[str], what: str) -> list[str]:
    """The bands asked for, in order of wavelength.

    Raises:
        ValueError: none, or one that the product does not have.
    """
    unknown = [band for band in bands if band not in available]
    if unknown or not bands or isinstance(bands, str):
        found = f"Band '{unknown[0]}'" if unknown and not isinstance(bands, str) else f"Bands {bands!r}"
        raise ValueError(f"{found} asked of {what}: give a list out of {' '.join(available)}.")
    return [band for band in BANDS if band in bands]


def listed(products: Path | str | Sequence[Path | str], what: str) -> list[Path]:
    """Folders of products as paths, also where only one is given.

    Raises:
        FileNotFoundError: no such folder, or an archive in its place.
        ValueError: nothing given.
    """
    paths = [Path(products)] if isinstance(products, str | Path) else [Path(product) for product in products]
    if not paths:
        raise ValueError(f"No {what} to read: give at least one folder.")
    for path in paths:
        if not path.is_dir():
            mend = "unpack it first" if path.suffix in (".zip", ".tar", ".gz") else "check the path"
            raise FileNotFoundError(f"No folder '{path}' of {what}: {mend}.")
    return paths


def offset_of(baseline: float) -> int:
    """Number that a processing baseline adds to the digital numbers of Level-2A, to be taken off: -1000 from 04.00 on.

    Example:
        >>> offset_of(2.14), offset_of(5.09)
        (0, -1000)
    """
    return -1000 if baseline >= 4 else 0


def _one_place(scenes: Sequence[Scene]) -> str:
    first = scenes[0]
    for scene in scenes[1:]:
        if scene.grid.crs != first.grid.crs:
            raise CubeError(
                f"Mixed reference systems {first.grid.crs.to_string()} in '{first.name}' and "
                f"{scene.grid.crs.to_string()} in '{scene.name}': read each zone on its own."
            )
        if scene.grid != first.grid:
            raise CubeError(f"Different tiles '{first.name}' and '{scene.name}': read each tile on its own.")
    return f"'{first.name}'"


def _node(groups: list[list[Scene]], bands: list[str], grid: Grid, where: str) -> xr.Dataset:
    shape = (len(groups), len(bands), *grid.shape)
    reflectance = np.full(shape, np.nan, np.float32)
    valid = np.zeros((shape[0], *grid.shape), bool)
    main = []  # of each passage, the scene that contributes most, which gives time and geometry; none without data
    for index, group in enumerate(groups):
        empty, most = np.ones(grid.shape, bool), 0
        best: Scene | None = None
        for scene in group:
            values = np.stack([scene.reflectance(band, grid) for band in bands])
            new = np.isfinite(values).any(axis=0) & empty
            if not new.any():
                continue
            reflectance[index][:, new] = values[:, new]
            valid[index][new] = (scene.usable(grid) & np.isfinite(values).all(axis=0))[new]
            empty &= ~new
            if new.sum() > most:
                most, best = int(new.sum()), scene
        main.append(best)
    kept = [index for index, scene in enumerate(main) if scene is not None]
    if not kept:
        raise CubeError(f"No data at any date within the bounds in {where}: give other bounds or other products.")
    if len(kept) < len(groups):
        missed = [groups[index][0].name for index in range(len(groups)) if index not in kept]
        log.info("No data within the bounds, left out: %s.", ", ".join(missed))
        reflectance, valid = reflectance[kept], valid[kept]
    seen = [scene for scene in main if scene is not None]
    baselines = list(dict.fromkeys(scene.baseline for scene in seen if scene.baseline))
    attrs = {"processing_level": "L2A", **({"offset_applied": 1} if all(scene.settled for scene in seen) else {})}
    if baselines:
        attrs["processing_baseline"] = ", ".join(baselines)
    return s2_node(
        reflectance, np.array([scene.time for scene in seen]), bands, x=grid.x, y=grid.y, valid=valid,
        crs=grid.crs.to_wkt(), platform=[scene.platform for scene in seen], attrs=attrs, **_angles(seen, grid),
    )  # fmt: skip


def _angles(seen: list[Scene], grid: Grid) -> dict[str, np.ndarray]:
    """Angles of all dates; an angle that no date has, or a sun that one lacks, is left to `pi_vae.data.complete`."""
    known = [scene.angles(grid) for scene in seen]
    nominal = {"vza": sentinel2.NOMINAL_VZA, "raa": sentinel2.NOMINAL_RAA}
    found = {}
    for name in sentinel2.ANGLES:
        lacking = [scene.name for scene, angles in zip(seen, known, strict=True) if name not in angles]
        if len(lacking) == len(seen) or (lacking and name not in nominal):
            continue
        if lacking:
            log.info("No %s in %s: nominal value %g degrees.", name, ", ".join(lacking), nominal[name])
        values = [angles.get(name, np.float32(nominal.get(name, np.nan))) for angles in known]
        found[name] = np.stack(np.broadcast_arrays(*values))
    return found
