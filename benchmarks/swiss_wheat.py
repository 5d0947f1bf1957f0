r"""Winter wheat in seven Swiss fields, 2022: Sentinel-2 series, green leaf area and growth stages at the same points.

Graf et al. (2023), repository EOA-team/sentinel2_crop_traits (GPL-3, not shipped). What is done to the series needs no
label:

- Clear is what the scene classification calls vegetation or bare soil; points of one pixel have one series.
- `valid` leaves out what the multitemporal test of Hagolle et al. (2010, Remote Sensing of Environment 114, 1747) calls
  cloud: blue reflectance higher than at the last clear date by more than :math:`0.03 (1 + \Delta t / 30 d)`.
- The series carry no view geometry. Two orbits see the fields by turns, from opposite sides: R065 passes east of them
  and looks towards the sun's side, R108 west. With the ground track of the orbit (inclination 98.57 degrees, 14.3
  revolutions a day, altitude 786 km; longitudes from public orbital elements of Sentinel-2A, mid 2024) and the sun of
  the date, view zenith and relative azimuth follow to about a degree.

Labels that are listed twice are counted once. What a label itself is wrong by, `label_error`, is found from the labels
alone: fields were measured at several points on the same days, and what is left of the logarithm of leaf area beside an
effect of the field on that day and one of the point is the error of measuring, and of measuring some metres beside the
last place. A growth that differs between points of a field counts as error, too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from pyproj import Transformer
from scipy.optimize import nnls

from pi_vae.data.cube import complete
from pi_vae.data.sentinel2 import s2_node, sun_angles

__all__ = ["BANDS", "Wheat", "folder", "label_error", "nominal", "read"]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
CLEAR = (4, 5)
APART = 3  # days between a label and the observation that it is compared with
TRACKS = {"R065": 9.94, "R108": 7.42}  # degrees east, at the latitude
TRACKS_AT = 47.4
INCLINATION, REVOLUTIONS, ALTITUDE, RADIUS = 98.57, 14.3, 786.0, 6371.0  # degrees, a day, km, km
FLATTENING = 0.00669438  # squared eccentricity of the ellipsoid


@dataclass
class Wheat:
    """The data.

    Attributes:
        labels: green leaf area index, with ``point`` and ``index`` of series and date that a label is compared with.
        ratings: BBCH stages by ``parcel``, ``point_id`` and ``date``.
        cube: `[time, band, point]` reflectance of the distinct series, with geometry `[time, point]`.
        parcel: `[point]` names of the fields.
        error: constant and share of the error of labels, see `label_error`.
    """

    labels: pd.DataFrame
    ratings: pd.DataFrame
    cube: xr.DataTree
    parcel: np.ndarray
    error: tuple[float, float]

    @property
    def days(self) -> np.ndarray:
        """`[time]` days since 1970-01-01."""
        return self.cube["s2"].time.values.astype("datetime64[m]").astype(float) / 1440

    @property
    def clear(self) -> np.ndarray:
        """`[time, band, point]` reflectance, NaN where not valid."""
        node = self.cube["s2"]
        return np.where(node.valid.values[:, None], node.reflectance.values, np.nan)


def folder() -> Path:
    """Where the data are looked for without ``--data``."""
    roots = [Path(os.environ["PI_VAE_DATA"])] if "PI_VAE_DATA" in os.environ else []
    roots.append(Path(__file__).parents[1].parent / "shared" / "data")
    return next((root / "swiss_wheat_2022" for root in roots if (root / "swiss_wheat_2022").is_dir()), roots[-1])


def read(data: Path) -> Wheat:
    """Read series, labels and ratings from a folder."""
    bands = list(BANDS)
    try:
        series = pd.read_parquet(data / "s2_at_points_2022.parquet")
    except ImportError as error:
        raise SystemExit("The series are a parquet file: pip install pyarrow.") from error
    series = series[(series[bands] < 1).all(axis=1) & series.SCL.isin(CLEAR)].sort_values("datetime")
    traits = pd.read_csv(data / "insitu_all_2022.csv", parse_dates=["date"])
    traits = traits.drop_duplicates(["trait", "date", "pid", "value"])
    same = series.groupby("pid")[bands].apply(lambda x: x.to_numpy()[:14].tobytes())
    point = pd.Series(pd.factorize(same)[0], same.index)
    series = series[series.pid.isin(point.drop_duplicates().index)]
    day = pd.to_datetime(series.datetime).dt.normalize().to_numpy()
    days, at = np.unique(day), point[series.pid].to_numpy()
    reflectance = np.full((len(days), len(bands), point.max() + 1), np.nan, np.float32)
    reflectance[np.searchsorted(days, day), :, at] = series[bands].to_numpy()
    orbit = pd.Series(series.orbit.to_numpy()).groupby(day).first()  # no day has two
    place = series.groupby(at)[["e32632", "n32632", "parcel"]].first()
    x, y = place.e32632.to_numpy(), place.n32632.to_numpy()
    overpass = days + np.timedelta64(10 * 60 + 25, "m")
    vza, raa = view(orbit.to_numpy(), overpass, x, y)
    valid = uncovered(reflectance[:, 0], (days - days[0]) / np.timedelta64(1, "D"))
    node = s2_node(reflectance, overpass, BANDS, x=x, y=y, crs="EPSG:32632", valid=valid, vza=vza, raa=raa)
    labels = traits[traits.trait == "glai"].reset_index(drop=True)
    error = label_error(labels)
    labels["point"] = point[labels.pid].to_numpy()
    apart = np.abs(days[None] - labels.date.dt.normalize().to_numpy()[:, None]) / np.timedelta64(1, "D")
    apart[~np.isfinite(reflectance[:, 0]).T[labels.point]] = np.inf
    labels["index"] = apart.argmin(1)
    labels = labels[apart.min(1) <= APART].reset_index(drop=True)
    cube = complete(xr.DataTree.from_dict({"s2": node}))
    return Wheat(labels, traits[traits.trait == "bbch"], cube, place.parcel.to_numpy(), error)


def label_error(labels: pd.DataFrame, rounds: int = 20) -> tuple[float, float]:
    """Error of labels from labels alone: constant `a` [m² m⁻²] and share `b`, sd = sqrt(a² + b² L²).

    Args:
        labels: columns ``parcel``, ``point_id``, ``date`` and ``value``.
        rounds: of weighting squares by the variance found before.
    """
    day = labels.date.dt.normalize().rename("day")
    table = labels.groupby(["parcel", day, "point_id"]).value.mean().reset_index()
    visit = table.groupby(["parcel", "day"]).ngroup()
    together = visit.map(visit.value_counts()) > 1
    table, visit = table[together], visit[together]
    effects = pd.get_dummies(pd.DataFrame({"visit": visit, "point": table.parcel + "/" + table.point_id.astype(str)}),
                             columns=["visit", "point"]).to_numpy(float)  # fmt: skip
    left, size, _ = np.linalg.svd(effects, full_matrices=False)
    left = left[:, size > 1e-8 * size[0]]
    logarithm, free = np.log(table.value.to_numpy()), 1 - (left**2).sum(1)
    judged = free > 0.05  # a label with an effect of its own tells nothing
    level = table.value.groupby(visit).transform("mean").to_numpy()[judged]
    squares = ((logarithm - left @ (left.T @ logarithm))[judged] * level) ** 2 / free[judged]
    design, variance = np.stack([np.ones_like(level), level**2], 1), np.ones_like(level)
    for _ in range(rounds):
        found, _ = nnls(design / variance[:, None], squares / variance)
        variance = design @ found
    return tuple(map(float, np.sqrt(found)))


def uncovered(blue: np.ndarray, days: np.ndarray) -> np.ndarray:
    """`[T, P]` whether observations of blue reflectance `[T, P]` at `[T]` days pass the multitemporal test of cloud."""
    seen = np.isfinite(blue)
    last, when = np.full(blue.shape[1], np.nan), np.zeros(blue.shape[1])
    for k, day in enumerate(days):
        seen[k] &= ~(blue[k] - last > 0.03 * (1 + (day - when) / 30))
        last, when = np.where(seen[k], blue[k], last), np.where(seen[k], day, when)
    return seen


def view(orbit: np.ndarray, times: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """View zenith and azimuth relative to the sun, `[T, P]` degrees each, from `[T]` orbits and times, `[P]` places."""
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(x, y)
    _, sun = sun_angles(times, lon.mean(), lat.mean())
    track = np.array([TRACKS[name] for name in orbit])[:, None] + _descent(lat) - _descent(TRACKS_AT)
    east_of_south = np.arctan((_descent(lat + 0.5) - _descent(lat - 0.5)) * np.cos(np.radians(lat)))
    away = np.radians(track - lon) * np.cos(np.radians(lat)) * np.cos(east_of_south)
    nadir = np.cos(away) - RADIUS / (RADIUS + ALTITUDE)
    azimuth = np.where(away > 0, 90.0, 270.0) + np.degrees(east_of_south)
    return np.degrees(np.arctan2(np.sin(np.abs(away)), nadir)), np.abs((sun[:, None] - azimuth + 180) % 360 - 180)


def _descent(lat: np.ndarray | float) -> np.ndarray:
    """Longitude of a descending ground track, degrees east of its ascending node, where it crosses a latitude."""
    tilt, geocentric = np.radians(INCLINATION), np.arctan((1 - FLATTENING) * np.tan(np.radians(lat)))
    along = np.pi - np.arcsin(np.sin(geocentric) / np.sin(tilt))
    longitude = np.arctan2(np.cos(tilt) * np.sin(along), np.cos(along))
    return np.degrees(longitude) - np.degrees(along) / REVOLUTIONS


def nominal(cube: xr.DataTree) -> xr.DataTree:
    """The cube with the view angles that stand in where a product carries none."""
    node = cube["s2"].to_dataset().drop_vars(["vza", "raa"])
    return complete(xr.DataTree.from_dict({"s2": node}))
