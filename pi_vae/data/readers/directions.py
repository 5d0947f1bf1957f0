"""Sun and view directions from the coarse angle grids of Sentinel-2 metadata.

The metadata of a tile give zenith and azimuth at nodes 5 km apart, the first at the upper left corner of the tile; view
angles for each band and detector, NaN outside a detector's footprint. Directions are averaged over detectors and bands,
and interpolated between nodes, as unit vectors: azimuths then have no jump at 360 degrees and none of the noise that
they have near nadir.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.windows import Grid

__all__ = ["Directions", "angles", "parsed", "text"]


@dataclass(frozen=True)
class Directions:
    """Directions at the nodes of a coarse grid.

    Attributes:
        west, north: position of the first node [m].
        step: distance of nodes [m].
        vectors: `[3, row, column]`, east, north and up; NaN where unknown, any length.
    """

    west: float
    north: float
    step: float
    vectors: np.ndarray

    @classmethod
    def from_grids(
        cls, west: float, north: float, bands: Iterable[Iterable[ElementTree.Element]], where: str
    ) -> Directions:
        """Average of directions, first over the detectors of a band, then over bands.

        Args:
            west, north: position of the first node [m].
            bands: for each band, the elements that hold ``Zenith`` and ``Azimuth``, one for each detector.
            where: the file, for the sentences.

        Raises:
            CubeError: a grid that is missing, ragged or of another size than the others.
        """
        steps, means = set(), []
        for detectors in bands:
            read = [_vectors(element, where) for element in detectors]
            steps |= {step for step, _ in read}
            if read:
                means.append(_mean([vectors for _, vectors in read], where))
        if len(steps) != 1:
            raise CubeError(f"{'Unequal' if steps else 'No'} angle grids in '{where}': download the product again.")
        return cls(west, north, steps.pop(), _mean(means, where))

    @property
    def known(self) -> bool:
        """Whether there is any direction at all."""
        return bool(np.isfinite(self.vectors).all(axis=0).any())

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zenith and azimuth, bilinear between nodes, from the nearest node where one is unknown.

        Args:
            x, y: `[x]`, `[y]` positions [m].

        Returns:
            zenith in 0-180 and azimuth in 0-360 clockwise from north, both `[y, x]` in degrees.
        """
        from scipy.ndimage import distance_transform_edt  # most of a second, for those who read angles

        missing = ~np.isfinite(self.vectors).all(axis=0)
        _, (row, column) = distance_transform_edt(missing, return_indices=True)
        filled = self.vectors[:, row, column]
        # two small products of matrices: no coordinates for each pixel of a large window
        down = _hats((self.north - np.asarray(y, float)) / self.step, filled.shape[1])
        along = _hats((np.asarray(x, float) - self.west) / self.step, filled.shape[2])
        east, north, up = down @ filled @ along.T
        return np.degrees(np.arctan2(np.hypot(east, north), up)), np.degrees(np.arctan2(east, north)) % 360


def angles(sun: Directions, view: Directions | None, grid: Grid) -> dict[str, np.ndarray]:
    """Angles of a node: one value at its centre where it is no larger than a cell of the angle grid, else per pixel.

    Args:
        sun, view: directions; none where unknown.
        grid: pixels of the node.

    Returns:
        ``sza`` and, with a view direction, ``vza`` and ``raa`` (0-180, 0 = sensor on the side of the sun), each a
        number or `[y, x]`, in degrees.
    """
    small = max(grid.shape) * grid.step <= sun.step
    west, south, east, north = grid.bounds
    x, y = (np.array([(west + east) / 2]), np.array([(south + north) / 2])) if small else (grid.x, grid.y)
    sza, sun_azimuth = sun.at(x, y)
    found = {"sza": sza}
    if view is not None and view.known:
        found["vza"], view_azimuth = view.at(x, y)
        found["raa"] = np.abs((sun_azimuth - view_azimuth + 180) % 360 - 180)
    return {name: (value[0, 0] if small else value).astype(np.float32) for name, value in found.items()}


def parsed(file: Path, mend: str) -> ElementTree.Element:
    """Root of an XML file.

    Raises:
        FileNotFoundError: no such file; ``mend`` says what to do.
        CubeError: not XML.
    """
    if not file.is_file():
        raise FileNotFoundError(f"No metadata '{file}': {mend}.")
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise CubeError(f"Unreadable metadata '{file}' ({error}): download the product again.") from error


def text(root: ElementTree.Element, path: str, where: Path) -> str:
    """Text of the first element of that name below the root.

    Raises:
        CubeError: none, or an empty one.
    """
    found = root.findtext(f".//{path}")
    if not found or not found.strip():
        raise CubeError(f"No {path} in '{where}': download the product again.")
    return found.strip()


def _vectors(element: ElementTree.Element, where: str) -> tuple[float, np.ndarray]:
    """Step [m] and `[3, row, column]` unit vectors of a pair of grids."""
    grids = []
    for name in ("Zenith", "Azimuth"):
        try:
            lines = [row.text or "none" for row in element.findall(f"{name}/Values_List/VALUES")]
            rows = [[float(value) for value in line.split()] for line in lines]
            steps = {float(element.findtext(f"{name}/{axis}", "")) for axis in ("COL_STEP", "ROW_STEP")}
            grids.append(np.radians(np.array(rows, float)))
        except ValueError as error:
            raise CubeError(f"Unreadable angle grid {element.tag} in '{where}': download the product again.") from error
    zenith, azimuth = grids
    if zenith.shape != azimuth.shape or zenith.ndim != 2 or len(steps) != 1:
        raise CubeError(f"Unreadable angle grid {element.tag} in '{where}': download the product again.")
    vectors = np.stack([np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)])
    return steps.pop(), np.where(np.isfinite(zenith + azimuth), vectors, np.nan)


def _mean(vectors: list[np.ndarray], where: str) -> np.ndarray:
    """Unit vectors along the mean of those that are known."""
    if len({grid.shape for grid in vectors}) != 1:
        raise CubeError(f"Angle grids of unequal size in '{where}': download the product again.")
    total = np.stack(vectors)
    known = np.isfinite(total).any(axis=0)
    total = np.where(known, np.nansum(total, axis=0), np.nan)
    return total / np.linalg.norm(total, axis=0)


def _hats(positions: np.ndarray, nodes: int) -> np.ndarray:
    """`[position, node]` weights of linear interpolation, constant beyond the last node."""
    inside = np.clip(positions, 0, nodes - 1)
    return np.maximum(0.0, 1.0 - np.abs(inside[:, None] - np.arange(nodes)))
