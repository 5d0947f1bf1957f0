"""Angle grids: averages over detectors and bands, azimuths around north, and what lies between nodes."""

from xml.etree import ElementTree

import numpy as np
import pytest
from rasterio.crs import CRS

from pi_vae.data import CubeError
from pi_vae.data.readers.directions import Directions, angles
from pi_vae.data.readers.windows import Grid

WEST, NORTH = 600000, 5700000


def element(zenith: list[list[float]], azimuth: list[list[float]]) -> ElementTree.Element:
    def grid(values: list[list[float]]) -> str:
        rows = "".join(f"<VALUES>{' '.join(map(str, row))}</VALUES>" for row in values)
        return f"<COL_STEP>5000</COL_STEP><ROW_STEP>5000</ROW_STEP><Values_List>{rows}</Values_List>"

    return ElementTree.fromstring(f"<Grid><Zenith>{grid(zenith)}</Zenith><Azimuth>{grid(azimuth)}</Azimuth></Grid>")


def even(zenith: float, azimuth: float) -> ElementTree.Element:
    return element([[zenith] * 2] * 2, [[azimuth] * 2] * 2)


def directions(*bands: list[ElementTree.Element]) -> Directions:
    return Directions.from_grids(WEST, NORTH, bands, "MTD_TL.xml")


GRID = Grid(CRS.from_epsg(32631), WEST, NORTH, 10, (100, 100))


def at(found: Directions, x: float, y: float) -> tuple[float, float]:
    zenith, azimuth = found.at(np.array([WEST + x]), np.array([NORTH - y]))
    return float(zenith[0, 0]), float(azimuth[0, 0])


@pytest.mark.parametrize("azimuth", [0.0, 35.0, 100.0, 190.0, 281.4])
def test_azimuth_is_clockwise_from_north(azimuth: float) -> None:
    assert at(directions([even(5.0, azimuth)]), 700, 900) == pytest.approx((5, azimuth), abs=1e-9)


def test_every_band_counts_alike_however_many_detectors_see_it() -> None:
    """Two detectors at 4 and 6 degrees make a band at 5, which with one at 8 makes 6.5."""
    found = directions([even(4.0, 100.0), even(6.0, 100.0)], [even(8.0, 100.0)])
    assert at(found, 0, 0) == pytest.approx((6.5, 100))


def test_rows_run_south_and_columns_east() -> None:
    found = directions([element([[10, 20], [30, 40]], [[90, 90], [90, 90]])])
    assert [at(found, x, y)[0] for x, y in ((0, 0), (5000, 0), (0, 5000), (5000, 5000))] == pytest.approx(
        [10, 20, 30, 40]
    )
    assert at(found, 2500, 0)[0] == pytest.approx(15) and at(found, 0, 2500)[0] == pytest.approx(20)
    assert at(found, -9000, -9000)[0] == pytest.approx(10), "constant beyond the last node"


@pytest.mark.parametrize(("sun", "view", "relative"), [(150, 290, 140), (340, 30, 50), (10, 350, 20), (0, 180, 180)])
def test_relative_azimuth_is_folded(sun: float, view: float, relative: float) -> None:
    found = angles(directions([even(30.0, sun)]), directions([even(5.0, view)]), GRID)
    assert found["raa"] == pytest.approx(relative, abs=1e-4)


def test_unknown_nodes_take_the_nearest_direction() -> None:
    nan = float("nan")
    found = directions([element([[7, nan], [nan, nan]], [[100, nan], [nan, nan]])])
    assert found.known and at(found, 5000, 5000) == pytest.approx((7, 100))
    blank = directions([even(nan, nan)])
    assert not blank.known
    assert set(angles(found, blank, GRID)) == {"sza"}


def test_unequal_grids_are_refused() -> None:
    with pytest.raises(CubeError, match="Angle grids of unequal size in 'MTD_TL.xml'"):
        directions([even(5.0, 100.0), element([[5] * 3] * 3, [[100] * 3] * 3)])
    with pytest.raises(CubeError, match="No angle grids in 'MTD_TL.xml'"):
        directions([])
    with pytest.raises(CubeError, match="Unreadable angle grid Grid in 'MTD_TL.xml'"):
        directions([element([[5, 5], [5]], [[1, 1], [1]])])
