"""Radar time series in zarr: which variable is what, and the part within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rasterio.crs import CRS

from pi_vae.data.cube import CubeError
from pi_vae.data.readers.windows import Bounds, Grid
from pi_vae.data.sentinel1 import POLARISATIONS

__all__ = ["opened"]

CHANNEL = ("pol", "polarization", "polarisation", "band")
INCIDENCE = ("incidence", "incidence_angle", "local_incidence_angle", "inc_map", "angle")


def opened(path: Path, bounds: Bounds | None) -> dict[str, Any]:
    """Backscatter of a zarr folder.

    Args:
        path: zarr folder.
        bounds: west, south, east, north [m].

    Returns:
        The fields of `pi_vae.data.readers.radar.Series`.

    Raises:
        CubeError: not a dataset of backscatter on a projected grid.
    """
    where = f"'{path}'"
    try:
        source = xr.open_dataset(path, engine="zarr", decode_coords="all", chunks=None, consolidated=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CubeError(f"Unreadable zarr {where} ({type(error).__name__}): write it with Dataset.to_zarr.") from error
    with source:
        grid, flipped = _grid(source, where)
        part = grid.crop(bounds, grid.step, where)
        row, column = round((grid.north - part.north) / grid.step), round((part.west - grid.west) / grid.step)
        ordered = source.isel(y=slice(None, None, -1)) if flipped else source
        ordered = ordered.isel(y=slice(row, row + part.shape[0]), x=slice(column, column + part.shape[1]))
        backscatter = _backscatter(ordered, where)
        time = backscatter["time"].values
        if time.dtype.kind != "M":
            raise CubeError(f"Type {time.dtype} of coordinate 'time' in {where}: give UTC dates as datetime64.")
        order = np.argsort(time, kind="stable")
        values = backscatter.values[order].astype(np.float32)
        by_date = {name: list(ordered[name].values[order]) for name in _COLUMNS if name in ordered.variables}
        attrs = {**source.attrs, **backscatter.attrs}
        return {
            "values": np.where(values == 0, np.float32(np.nan), values),
            "pol": tuple(backscatter["pol"].values.tolist()),
            "time": time[order].astype("datetime64[ns]"),
            "timed": bool((time.astype("datetime64[D]") != time).any()),
            "grid": part,
            "where": where,
            "units": "dB" if str(attrs.get("units", "")).lower() == "db" else "",
            "calibration": str(attrs.get("calibration", "")),
            "incidence": _incidence(ordered, order, where),
            "by_date": by_date,
        }


_COLUMNS = ("platform", "orbit_pass", "relative_orbit")


def _grid(source: xr.Dataset, where: str) -> tuple[Grid, bool]:
    """Grid of the coordinates, and whether rows run north."""
    import rioxarray  # noqa: F401  (registers the .rio accessor; two seconds)

    if not {"x", "y", "time"} <= set(source.coords) or min(source.sizes["x"], source.sizes["y"]) < 2:
        raise CubeError(f"No coordinates time, y and x (of at least 2) in {where}: rename them, or assign them.")
    if source.rio.crs is None or not source.rio.crs.is_projected:
        raise CubeError(f"No projected reference system in {where}: write it with rio.write_crs, such as 'EPSG:32631'.")
    x, y = source["x"].values.astype(float), source["y"].values.astype(float)
    steps = np.concatenate([np.diff(x), np.abs(np.diff(y))])
    if np.ptp(steps) > 1e-3 * abs(steps[0]) or steps[0] <= 0 or np.ptp(np.sign(np.diff(y))):
        raise CubeError(f"Pixels that are not square and even in {where}: warp them onto such a grid (rio.reproject).")
    step = float(steps[0])
    shape = (source.sizes["y"], source.sizes["x"])
    return Grid(CRS.from_wkt(source.rio.crs.to_wkt()), x[0] - step / 2, y.max() + step / 2, step, shape), bool(
        y[-1] > y[0]
    )


def _backscatter(source: xr.Dataset, where: str) -> xr.DataArray:
    """`[time, pol, y, x]` as stored."""
    named = {str(name).upper(): name for name in source.data_vars}
    found = [pol for pol in POLARISATIONS if pol in named]
    if found:
        variables = [source[named[pol]] for pol in found]
    else:
        channel = next((dim for dim in CHANNEL if dim in source.dims), None)
        holders = [
            variable for variable in source.data_vars.values() if {channel, "time", "y", "x"} <= set(variable.dims)
        ]
        if channel is None or len(holders) != 1:
            there = " ".join(sorted(map(str, source.data_vars)))
            raise CubeError(
                f"No backscatter in {where} (variables {there}): name variables VV and VH with "
                "dimensions (time, y, x), or give one variable with a dimension 'pol'."
            )
        labels = [str(label).upper() for label in source[channel].values]
        found = [pol for pol in POLARISATIONS if pol in labels]
        if not found:
            raise CubeError(f"No VV or VH along '{channel}' in {where} ({' '.join(labels)}): name them so.")
        variables = [holders[0].isel({channel: labels.index(pol)}, drop=True) for pol in found]
    for pol, variable in zip(found, variables, strict=True):
        if set(variable.dims) != {"time", "y", "x"}:
            raise CubeError(f"Dimensions {variable.dims} of {pol} in {where}: give (time, y, x).")
        if variable.dtype.kind in "iu":
            raise CubeError(
                f"Raw digital numbers ({variable.dtype}) in {pol} of {where}: calibrate them first, "
                "see pi_vae.data.sentinel1.dn_to_linear."
            )
    joined = xr.concat([variable.drop_attrs() for variable in variables], xr.Variable("pol", found))
    return joined.assign_attrs(variables[0].attrs).transpose("time", "pol", "y", "x")


def _incidence(source: xr.Dataset, order: np.ndarray, where: str) -> np.ndarray | None:
    name = next((name for name in INCIDENCE if name in source.variables), None)
    if name is None:
        return None
    angle = source[name]
    if angle.dims == ("time",):
        return angle.values[order].astype(np.float32)
    if "time" not in angle.dims:
        angle = angle.expand_dims(time=source.sizes["time"])
    if set(angle.dims) != {"time", "y", "x"}:
        raise CubeError(f"Dimensions {angle.dims} of {name} in {where}: give (time), (y, x) or (time, y, x).")
    return angle.transpose("time", "y", "x").values[order].astype(np.float32)
