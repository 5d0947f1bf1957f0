"""Real series to forecast: cubes of points, the origins of the forecasts, and how far they look ahead.

``france`` and ``flanders``: monthly composites of Sentinel-2 and Sentinel-1 over 17 and 16 months, so that the last
ones have the same month a year before. ``swiss``: Sentinel-2 over wheat, March to July 2022, at true dates; points of a
field are neighbours. ``treesat``: both sensors over 36 pixels of one fir stand, 2020, at true dates.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from swiss_wheat import read as read_swiss

from pi_vae.data import complete
from pi_vae.data.samples import SAMPLES
from pi_vae.data.sentinel1 import dn_to_linear, linear_to_db, s1_node
from pi_vae.data.sentinel2 import s2_node

__all__ = ["DATA", "Problem", "folder", "measured", "treesat_points"]

DAY = np.timedelta64(1, "D")
MONTHLY_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
DAILY_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@dataclass
class Problem:
    """A cube and what is asked of it.

    Attributes:
        cube: points, with one node per modality.
        origins: dates; a forecast knows what was seen up to its origin, that day included, and nothing after it.
        horizons: days ahead that are scored.
        tolerance: days by which the lead time of an observation may differ from the horizon it is scored for.
        yearly: more than a year was seen, and the climatology is the same month of the year before.
        field: `[point]` which points are neighbours.
    """

    cube: xr.DataTree
    origins: np.ndarray
    horizons: tuple[int, ...]
    tolerance: float
    yearly: bool
    field: np.ndarray

    def thinned(self, points: int) -> Problem:
        """The same with at most so many points, evenly chosen."""
        chosen = np.unique(np.linspace(0, len(self.field) - 1, min(points, len(self.field))).astype(int))
        nodes = {n: c.to_dataset() for n, c in self.cube.children.items()}
        nodes = {n: node.isel(point=chosen) if "point" in node.dims else node for n, node in nodes.items()}
        return dataclasses.replace(self, cube=xr.DataTree.from_dict(nodes), field=self.field[chosen])

    def past(self, origin: np.datetime64) -> xr.DataTree:
        """The cube without anything after the origin."""
        nodes = {}
        for name, node in self.cube.children.items():
            dataset = node.to_dataset()
            nodes[name] = dataset.isel(time=np.flatnonzero(dataset.time.values <= origin))
        return xr.DataTree.from_dict(nodes)

    def targets(self, name: str, origin: np.datetime64) -> np.ndarray:
        """`[D]` dates of a modality that a forecast from the origin is scored at."""
        times = self.cube[name].time.values
        return times[self.horizon((times - origin) / DAY) >= 0]

    def horizon(self, lead: np.ndarray) -> np.ndarray:
        """Index of the horizon that a lead time in days belongs to, -1 for none."""
        apart = np.abs(np.asarray(lead)[..., None] - np.array(self.horizons))
        return np.where((apart.min(-1) <= self.tolerance) & (lead > 0), apart.argmin(-1), -1)


def measured(node: xr.Dataset) -> np.ndarray:
    """`[T, C, point]` reflectance or backscatter in dB, NaN where nothing usable was measured."""
    values = node.reflectance.values if "reflectance" in node else linear_to_db(node.backscatter.values)
    return np.where(node.valid.values[:, None], values, np.nan).astype(np.float64)


def folder() -> Path:
    """Where the data are looked for without ``--data``."""
    return Path(os.environ.get("PI_VAE_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


def monthly(data: Path, name: str) -> Problem:
    """Composites of WorldCereal; the month's middle stands for its date."""
    table = pd.read_parquet(data / name / "series.parquet")
    starts = np.unique(table.timestamp.to_numpy().astype("datetime64[ns]"))
    time = starts + 14 * DAY + np.timedelta64(10 * 60 + 30, "m")
    column = table.sample_id.astype("category").cat.codes.to_numpy()
    row = np.searchsorted(starts, table.timestamp.to_numpy().astype("datetime64[ns]"))

    def laid_out(names: list[str]) -> np.ndarray:
        values = np.full((len(starts), len(names), column.max() + 1), np.nan)
        values[row, :, column] = table[names].to_numpy(np.float64)
        return np.where(values == 65535, np.nan, values)

    reflectance = laid_out([f"S2-L2A-{band}" for band in MONTHLY_BANDS]) / 1e4
    valid = np.isfinite(reflectance).all(1) & (reflectance < 1).all(1) & ((reflectance == 0).sum(1) < 2)
    power = dn_to_linear(np.nan_to_num(laid_out(["S1-SIGMA0-VV", "S1-SIGMA0-VH"])))
    places = table.drop_duplicates("sample_id").set_index("sample_id").sort_index()
    place = {"x": places.lon.to_numpy(), "y": places.lat.to_numpy(), "crs": "EPSG:4326"}
    nodes = {"s2": s2_node(reflectance, time, MONTHLY_BANDS, valid=valid, **place), "s1": s1_node(power, time, **place)}
    origins = time[11:-1] + DAY
    cube = complete(xr.DataTree.from_dict(nodes))
    return Problem(cube, origins, (30, 60), 5.0, True, np.arange(column.max() + 1))


def swiss(data: Path) -> Problem:
    """Wheat; origins from the end of tillering to flowering."""
    wheat = read_swiss(data / "swiss_wheat_2022")  # its test of cloud looks at earlier dates alone
    field = np.unique(wheat.parcel, return_inverse=True)[1]
    origins = np.array(["2022-04-15", "2022-05-01", "2022-05-16", "2022-06-01"], "datetime64[ns]")
    return Problem(wheat.cube, origins, (10, 20, 30, 45, 60), 5.0, False, field)


def treesat_points(data: Path) -> xr.DataTree:
    """The TreeSat sample as points: a fir stand, all clear images of 2020 and the ascending orbit of Sentinel-1."""
    sample = SAMPLES["treesat_abies_2020"]
    cube = complete(sample.loader(data / sample.local))
    nodes = {name: cube[name].to_dataset().stack(point=("y", "x")).reset_index("point") for name in ("s2", "s1")}
    nodes["s1"] = nodes["s1"].isel(time=nodes["s1"].orbit_pass.values == "ascending")
    return xr.DataTree.from_dict(nodes)


def treesat(data: Path) -> Problem:
    """The stand's 36 pixels."""
    origins = np.array([f"2020-{month:02}-01" for month in (6, 7, 8, 9, 10)], "datetime64[ns]")
    return Problem(treesat_points(data), origins, (10, 20, 30, 45, 60), 5.0, False, np.arange(36))


#: name -> reader of the folder of all data
DATA: dict[str, Callable[[Path], Problem]] = {
    "france": lambda data: monthly(data, "worldcereal_fra2022_month"),
    "flanders": lambda data: monthly(data, "worldcereal_flanders2021_month"),
    "swiss": swiss,
    "treesat": treesat,
}
