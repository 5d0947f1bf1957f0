"""Sentinel-1 backscatter, calibrated and terrain corrected, from folders of GeoTIFF or COG and from zarr.

Averages, and the operators of `pi_vae.physics`, need linear power: decibels and amplitudes are converted. Sentinel-1
flies along the border of day and night, so that the local hour tells the direction of a pass: ascending in the evening,
descending in the morning (ESA, Sentinel-1 SAR technical guide: ascending node at 18:00 mean local solar time).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pyproj import Transformer

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.layers import Layer, area_of, find_layers, named
from pi_vae.data.readers.stores import opened
from pi_vae.data.readers.windows import Bounds, Grid, describe, read_values
from pi_vae.data.sentinel1 import CALIBRATIONS, FIRST_ORBITS, POLARISATIONS, db_to_linear, s1_node
from pi_vae.data.sentinel1 import relative_orbit as relative_of

__all__ = ["PATTERN", "read_backscatter"]

log = logging.getLogger(__name__)

#: ``S1A_IW_GRDH_1SDV_20210306T172427_20210306T172452_036880_04563F_1B2C_VV.tif``, ``S1A_IW_20191203T224518_.._VH.tif``,
#: ``20210306T172427_VV.tif``, ``20210306_incidence.tif``.
PATTERN = (
    r"(?:(?P<platform>S1[A-D])_.*?)?(?P<date>\d{8}(?:T\d{6})?)(?:_\d{8}T\d{6}_(?P<absolute_orbit>\d{6})_)?"
    r".*?[_-](?P<layer>VV|VH|vv|vh|inc_map|incidence|angle)(?=[_.-])"
)
INCIDENCE = ("incidence", "inc_map", "angle", "incidence_angle", "local_incidence_angle")
UNITS = ("linear", "dB", "amplitude")
ONE_PASS = np.timedelta64(10, "m")  # slices of a pass lie within; the next pass comes after 98 minutes
NORTHERNMOST = 70.0  # degrees, beyond which the local hour does not tell the direction of a pass


@dataclass(frozen=True)
class Series:
    """Backscatter as stored.

    Attributes:
        values: `[time, pol, y, x]`, NaN where there is no data.
        pol: names, as in `POLARISATIONS`.
        time: `[time]` UTC.
        timed: whether the time of day is known.
        grid: pixels.
        where: source, for the sentences.
        units, calibration: as the source declares them, empty if it does not.
        incidence: `[time]` or `[time, y, x]`, none if there is none.
        by_date: ``platform``, ``orbit_pass``, ``relative_orbit``, each `[time]`, those that are known.
    """

    values: np.ndarray
    pol: tuple[str, ...]
    time: np.ndarray
    timed: bool
    grid: Grid
    where: str
    units: str = ""
    calibration: str = ""
    incidence: np.ndarray | None = None
    by_date: dict[str, list] = field(default_factory=dict)


def read_backscatter(
    source: Path | str | Sequence[Path | str],
    bounds: Bounds | None = None,
    *,
    calibration: str | None = None,
    units: str | None = None,
    pattern: str = PATTERN,
    incidence: float | Path | str | None = None,
    orbit_pass: str | Sequence[str] | None = None,
    relative_orbit: int | Sequence[int] | None = None,
) -> xr.DataTree:
    """Read backscatter that is calibrated and lies on a map (GRD after terrain correction, or RTC).

    Slices of one pass (within 10 minutes) become one date. Numbers that are 0 or not finite are no data. Pass and orbit
    come from the arguments, else from the source or the names (groups ``orbit_pass``, ``relative_orbit``,
    ``absolute_orbit`` with ``platform``); the pass else from the local hour, which the log says.

    Args:
        source: folder of GeoTIFF or COG, files, or a zarr folder. The latter has variables ``VV`` and ``VH`` (time, y,
            x), or one with a dimension ``pol``, and maybe ``incidence``, ``platform``, ``orbit_pass``,
            ``relative_orbit``.
        bounds: west, south, east, north [m] in the reference system of the source, grown to whole pixels. To match an
            optical node give its own, ``node.rio.bounds()``.
        calibration: ``"sigma0"`` or ``"gamma0"``; needed unless an attribute ``calibration`` says so.
        units: ``"linear"``, ``"dB"`` or ``"amplitude"``; else what the source declares, else decibels if the median is
            negative and linear power if not, which the log says.
        pattern: regular expression on names of files with groups ``date`` and ``layer``; see `PATTERN` for the default.
        incidence: degrees, or a GeoTIFF that holds for all dates (degrees or radians); by default layers or variables
            named ``incidence``, ``inc_map`` or ``angle``. Without any, `pi_vae.data.open_cube` fills it in.
        orbit_pass: ``"ascending"`` or ``"descending"``, for all dates or each.
        relative_orbit: 1-175, for all dates or each.

    Returns:
        A node ``s1``, dates without data within the bounds left out. Pass it to `pi_vae.data.open_cube`.

    Raises:
        FileNotFoundError: no such folder or file.
        CubeError: raw digital numbers, images not on a map, units that the numbers contradict, no calibration.
        ValueError: an argument out of its choices.

    Example:
        >>> from pi_vae.data import open_cube
        >>> cube = read_safe(products, bounds=box)  # doctest: +SKIP
        >>> box = cube["s2_10m"].to_dataset().rio.bounds()  # doctest: +SKIP
        >>> cube["s1"] = read_backscatter("rtc/", box, calibration="gamma0")["s1"]  # doctest: +SKIP
        >>> cube = open_cube(cube)  # doctest: +SKIP
    """
    for name, value, choices in (("calibration", calibration, CALIBRATIONS), ("units", units, UNITS)):
        if value is not None and value not in choices:
            raise ValueError(f"{name} {value!r} of backscatter: give one of {', '.join(choices)}.")
    if isinstance(source, str | Path) and _is_zarr(Path(source)):
        series = _with_data(Series(**opened(Path(source), bounds)))
    else:
        series = _with_data(_from_files(source, pattern, bounds))
    calibration = calibration or series.calibration
    if calibration not in CALIBRATIONS:
        raise CubeError(f"Calibration not declared in {series.where}: give calibration='sigma0' or 'gamma0'.")
    power = _power(series, units or series.units)
    angle = _incidence(series, incidence)
    valid = np.isfinite(power).all(axis=1)
    if angle is not None and angle.ndim == 3:
        known = np.isfinite(angle)
        valid &= known
        angle = np.where(known, angle, np.nanmean(angle, axis=(1, 2), keepdims=True))
    passes = _passes(series, orbit_pass)
    orbits = _for_each_date("relative_orbit", relative_orbit, series)
    node = s1_node(
        power, series.time, series.pol, calibration=calibration, x=series.grid.x, y=series.grid.y, valid=valid,
        incidence=angle, orbit_pass=passes, relative_orbit=orbits, platform=series.by_date.get("platform"),
        crs=series.grid.crs.to_wkt(),
    )  # fmt: skip
    return xr.DataTree.from_dict({"s1": node})


def _from_files(source: Path | str | Sequence[Path | str], pattern: str, bounds: Bounds | None) -> Series:
    where = named(source)
    layers = [replace(layer, name=_standard(layer.name)) for layer in find_layers(source, pattern)]
    pol = tuple(name for name in POLARISATIONS if any(layer.name == name for layer in layers))
    if not pol:
        names = " ".join(sorted({layer.name for layer in layers}))
        raise CubeError(f"No VV or VH among the layers ({names}) of {where}: name one of them in files or pattern.")
    layers = [layer for layer in layers if layer.name in (*pol, "incidence")]
    for layer in layers:
        if layer.name in pol and layer.raster.dtype.kind in "iu" and layer.raster.scales[layer.index - 1] == 1:
            raise CubeError(
                f"Raw digital numbers ({layer.raster.dtype}) in '{layer.file.name}': calibrate the product first "
                "(SNAP), or convert with pi_vae.data.sentinel1.dn_to_linear."
            )
    area = area_of(layers, bounds, where)
    grid = area.crop(bounds, area.step, where)
    groups = _passages(layers)
    values = np.full((len(groups), len(pol), *grid.shape), np.nan, np.float32)
    angles = np.full((len(groups), *grid.shape), np.nan, np.float32)
    for index, group in enumerate(groups):
        for channel, name in enumerate(pol):
            parts = [layer for layer in group if layer.name == name]
            if not parts:
                raise CubeError(
                    f"No {name} at {np.datetime_as_string(group[0].time, 's')} in {where}: add it, "
                    "or take the other polarisation of that date away."
                )
            values[index, channel] = _merged(parts, grid)
        angles[index] = _merged([layer for layer in group if layer.name == "incidence"], grid)
    first = [group[0] for group in groups]
    calibrations = {layer.raster.tags.get("calibration") for layer in layers if layer.name in pol}
    declared = {layer.raster.units[layer.index - 1] for layer in layers if layer.name in pol}
    return Series(
        values, pol, np.array([layer.time for layer in first]), all(layer.timed for layer in first), grid, where,
        units="dB" if {unit.lower() for unit in declared} == {"db"} else "",
        calibration=next((c for c in CALIBRATIONS if calibrations == {c}), ""),
        incidence=angles if np.isfinite(angles).any() else None,
        by_date=_named(first),
    )  # fmt: skip


def _passages(layers: list[Layer]) -> list[list[Layer]]:
    """Layers of one pass of one satellite each, by time."""
    groups: list[list[Layer]] = []
    for layer in sorted(layers, key=lambda layer: (layer.groups.get("platform") or "", layer.time)):
        last = groups[-1][-1] if groups else None
        if last and layer.time - last.time <= ONE_PASS and layer.groups.get("platform") == last.groups.get("platform"):
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return sorted(groups, key=lambda group: group[0].time)


def _merged(parts: list[Layer], grid: Grid) -> np.ndarray:
    values = np.full(grid.shape, np.nan)
    for layer in parts:
        stored = layer.values(grid)
        own = stored * layer.raster.scales[layer.index - 1] + layer.raster.offsets[layer.index - 1]
        values = np.where(np.isfinite(values), values, np.where(stored == 0, np.nan, own))
    return values


def _named(first: list[Layer]) -> dict[str, list]:
    """What the names say of each date, where they say it of all."""
    found: dict[str, list] = {}
    for name in ("platform", "orbit_pass", "relative_orbit", "absolute_orbit"):
        column = [layer.groups.get(name) for layer in first]
        if all(column):
            found[name] = column
    absolute = found.pop("absolute_orbit", None)
    if absolute and "relative_orbit" not in found and set(found.get("platform", [None])) <= set(FIRST_ORBITS):
        found["relative_orbit"] = [relative_of(p, int(n)) for p, n in zip(found["platform"], absolute, strict=True)]
    return found


def _with_data(series: Series) -> Series:
    kept = np.flatnonzero(np.isfinite(series.values).any(axis=(1, 2, 3)))
    if not kept.size:
        raise CubeError(f"No data at any date within the bounds in {series.where}: give other bounds or other files.")
    if kept.size == len(series.time):
        return series
    log.info(
        "%d dates of %s have no data within the bounds and are left out.", len(series.time) - kept.size, series.where
    )
    return replace(
        series,
        values=series.values[kept],
        time=series.time[kept],
        incidence=None if series.incidence is None else series.incidence[kept],
        by_date={name: [column[index] for index in kept] for name, column in series.by_date.items()},
    )


def _power(series: Series, units: str) -> np.ndarray:
    values = np.where(np.isfinite(series.values), series.values, np.nan)
    middle = float(np.nanmedian(values))
    if not units:
        units = "dB" if middle < 0 else "linear"
        log.info("Units of %s not declared: taken as %s, as the median is %.3g.", series.where, units, middle)
    if np.nanmin(values) > 0 if units == "dB" else middle < 0:
        raise CubeError(
            f"Backscatter about {middle:.3g} declared as {units} in {series.where}: decibels of land are negative, "
            "power and amplitude are positive, so give the right units, or leave them out to have them detected."
        )
    if units == "dB":
        return db_to_linear(values).astype(np.float32)
    positive = np.where(values > 0, values, np.nan)
    return (positive**2 if units == "amplitude" else positive).astype(np.float32)


def _incidence(series: Series, given: float | Path | str | None) -> np.ndarray | None:
    """`[time]` or `[time, y, x]` degrees."""
    if given is None:
        angle, where = series.incidence, series.where
    elif isinstance(given, str | Path):
        values = read_values(Path(given), series.grid)
        angle = np.broadcast_to(np.where(values == 0, np.nan, values), (len(series.time), *series.grid.shape))
        where = f"'{given}', pixels of {describe(Path(given)).grid.step:g} m"
    else:
        return np.full(len(series.time), given, np.float32)
    if angle is None:
        return None
    empty = ~np.isfinite(angle).reshape(len(angle), -1).any(axis=1)
    if empty.any():
        date = np.datetime_as_string(series.time[empty][0], "s")
        raise CubeError(
            f"No incidence angle at {date} within the bounds in {where}: give it for every date, or a number."
        )
    if np.nanmax(angle) < np.pi / 2:
        log.info("Incidence of %s is in radians (up to %.2f): converted to degrees.", where, np.nanmax(angle))
        angle = np.degrees(angle)
    return np.asarray(angle, np.float32)


def _passes(series: Series, given: str | Sequence[str] | None) -> list[str] | None:
    passes = _for_each_date("orbit_pass", given, series)
    if passes is not None:
        short = [{"a": "ascending", "d": "descending"}.get(str(name).lower()[:1]) for name in passes]
        if None in short:
            raise ValueError(f"Pass {passes[short.index(None)]!r} of {series.where}: give 'ascending' or 'descending'.")
        return [name for name in short if name]
    west, south, east, north = series.grid.bounds
    to_degrees = Transformer.from_crs(series.grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform((west + east) / 2, (south + north) / 2)
    if not series.timed or abs(lat) > NORTHERNMOST:
        return None
    seconds = (series.time - series.time.astype("datetime64[D]")) / np.timedelta64(1, "s")
    evening = (seconds / 3600 + lon / 15) % 24 >= 12
    log.info(
        "Passes of %s taken from the local hour: ascending in the evening, descending in the morning.", series.where
    )
    return ["ascending" if late else "descending" for late in evening]


def _for_each_date(name: str, given: Any, series: Series) -> list | None:
    if given is None:
        return series.by_date.get(name)
    if isinstance(given, str | int):
        return [given] * len(series.time)
    if len(given) != len(series.time):
        raise ValueError(
            f"{len(given)} values of {name} for {len(series.time)} dates of {series.where}: "
            "give one, or one for each date."
        )
    return list(given)


def _standard(name: str) -> str:
    return "incidence" if name.lower() in INCIDENCE else name.upper()


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))
