"""The data contract: what a cube is, how one is opened, and what is refused.

A cube is an `xarray.DataTree` with one node per modality, each with its own dates and grid:

    node                        variable                  dims                    content
    s2 | s2_10m s2_20m s2_60m   reflectance               (time, band, y, x)      float, 0-1, bands by wavelength
                                valid                     (time, y, x)            bool, true = usable
                                sza, vza, raa             (time[, y, x])          degree
    s1                          backscatter               (time, pol, y, x)       float, linear power, VV VH
                                valid                     (time, y, x)            bool
                                incidence                 (time[, y, x])          degree
                                orbit_pass, relative_orbit (time)                 where passes are mixed
                                attribute calibration                             sigma0 | gamma0
    drivers (optional)          air_temperature           (time[, y, x])          K
                                precipitation             (time[, y, x])          mm since the previous date

Nodes of other sensors have their own variable and angles (`pi_vae.data.kinds`).

Points take the place of the grid with dims ``(time, band, point)``. Dates are UTC, one each, increasing. Grids carry
``spatial_ref`` (rioxarray), the same in all nodes. `validate` refuses with one sentence: what was found, where, what to
do. It reads some of the cube at a time, so that one on disk may be larger than memory; every value is searched for NaN,
while units and offsets are judged from an even sample of the pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from pi_vae.data import sentinel1, sentinel2
from pi_vae.data.kinds import OPTICAL, NodeKind, kind_of, modality_nodes
from pi_vae.data.search import CubeError, CubeWarning, search

__all__ = ["CubeError", "CubeWarning", "complete", "open_cube", "validate"]

log = logging.getLogger(__name__)

_MANY_DATES = 20  # optical dates from which a mask without a single cloud is hard to believe


def open_cube(source: str | Path | xr.DataTree, *, chunks: dict[str, int] | str | None = None) -> xr.DataTree:
    """Open, complete and validate a cube.

    Args:
        source: a netCDF file or a zarr folder that holds the nodes of a cube as groups, the name of a sample
            (`pi_vae.data.samples.SAMPLES`), or a cube in memory.
        chunks: passed to xarray; ``{}`` opens lazily with dask.

    Returns:
        The cube, missing angles filled in (see `complete`).

    Raises:
        FileNotFoundError: no file, folder or sample of that name.
        CubeError: the file cannot be read as a cube, or the cube breaks the contract.
    """
    import rioxarray  # noqa: F401  (registers the .rio accessor; two seconds)

    if isinstance(source, xr.DataTree):
        return validate(complete(source))
    from pi_vae.data import samples  # samples are validated by this module, so it cannot import them at its top

    path = Path(source)
    if not path.exists():
        if str(source) in samples.SAMPLES:
            return samples.load(str(source))
        raise FileNotFoundError(
            f"No file, folder or sample named '{source}': give the path of a netCDF file or zarr folder, "
            f"or one of the samples {', '.join(samples.SAMPLES)}."
        )
    backend = {"engine": "zarr", "consolidated": False} if path.is_dir() else {"engine": "h5netcdf"}
    try:
        # decode_coords keeps spatial_ref a coordinate, whoever wrote the file
        tree = xr.open_datatree(path, **backend, chunks=chunks, decode_coords="all")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CubeError(
            f"Unreadable cube in '{path}' ({type(error).__name__}): give a netCDF-4 file or zarr folder "
            "written with DataTree.to_netcdf or DataTree.to_zarr."
        ) from error
    return validate(complete(tree))


def complete(cube: xr.DataTree) -> xr.DataTree:
    """Fill in missing angles: sun from date and place, view geometry and incidence from nominal values.

    Each filled variable says in its ``comment`` attribute where it comes from, and the log says it once.

    Args:
        cube: a cube; nodes that hold their angles, or that lack dates or values, are left as they are.

    Returns:
        The same cube if nothing was missing, else a new one; the input is not changed.

    Raises:
        CubeError: sun angles are missing and the node does not say where on Earth it lies.
    """
    filled: dict[str, xr.Dataset] = {}
    for name, dataset in _nodes(cube, modality_nodes()):
        times = dataset.coords.get("time")
        if times is None or times.dtype.kind != "M" or not times.size or times.isnull().any():
            continue  # `validate` says what is wrong with the dates
        new = _missing_angles(name, dataset, times.values)
        for angle, (values, comment) in new.items():
            long_name = sentinel2.ANGLES.get(angle, "incidence angle")
            attrs = {"long_name": long_name, "units": "degree", "comment": comment}
            dataset = dataset.assign({angle: ("time", values, attrs)})
            log.info("Node '%s' has no %s (%s): %s.", name, angle, long_name, comment)
        if new:
            filled[name] = dataset
    if not filled:
        return cube
    cube = cube.copy()
    for name, dataset in filled.items():
        cube[name].dataset = dataset
    return cube


def validate(cube: xr.DataTree) -> xr.DataTree:
    """Check a cube against the contract.

    Args:
        cube: a cube, see the head of this module.

    Returns:
        The same cube, unchanged.

    Raises:
        CubeError: the first breach found, in one sentence: what, where (node, variable, index) and how to mend it.

    Warns:
        CubeWarning: the contract is kept but a mask is suspiciously perfect.
    """
    if not isinstance(cube, xr.DataTree):
        raise CubeError(
            f"A {type(cube).__name__} in place of a cube: give an xarray.DataTree with a node "
            f"per modality ({', '.join(modality_nodes())}), built with DataTree.from_dict."
        )
    nodes = dict(_nodes(cube, modality_nodes()))
    if not nodes:
        found = ", ".join(f"'{name}'" for name in cube.children) or "none"
        raise CubeError(f"No modality among the nodes of the cube ({found}): name nodes {', '.join(modality_nodes())}.")
    for name, dataset in nodes.items():
        kind = kind_of(name)
        _raise_first(_layout_faults(name, dataset, kind))
        _raise_first(_time_faults(name, dataset))
        seen, usable = search(name, dataset, kind.values, kind.channel)
        _raise_first(kind.faults(name, dataset, seen))
        if kind is OPTICAL and usable == 1.0 and dataset.sizes["time"] >= _MANY_DATES:
            warnings.warn(
                f"All pixels of all {dataset.sizes['time']} dates usable in node '{name}', variable 'valid': "
                "no optical series is that clear, so check that clouds and shadows are masked.",
                CubeWarning,
                stacklevel=2,
            )
    for name, dataset in _nodes(cube, ("drivers",)):
        _raise_first(_time_faults(name, dataset))
        _raise_first(_driver_faults(dataset))
    _raise_first(_place_faults(nodes))
    return cube


def _raise_first(faults: Iterator[str]) -> None:
    for sentence in faults:
        raise CubeError(sentence)


def _nodes(cube: xr.DataTree, names: tuple[str, ...]) -> Iterator[tuple[str, xr.Dataset]]:
    return ((name, cube[name].to_dataset()) for name in names if name in cube.children)


def _missing_angles(name: str, dataset: xr.Dataset, times: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """Angles the node lacks: name -> (`[time]` degrees, where they come from)."""
    new: dict[str, tuple[np.ndarray, str]] = {}
    kind = kind_of(name)
    if "sza" in kind.angles and "sza" not in dataset:
        zenith, _ = sentinel2.sun_angles(times, *centre(name, dataset))
        new["sza"] = (zenith, "computed with pvlib from the date and the centre of the cube")
    if "incidence" in kind.angles and "incidence" not in dataset:
        angles = _incidence(name, dataset, times)
        if angles is not None:
            new["incidence"] = (angles, "computed from the orbit, the moment of the pass and the centre of the cube")
    for angle, value in kind.nominal.items():
        if angle not in dataset and angle not in new:
            new[angle] = (np.full(times.size, value, np.float32), f"nominal value {value:g} degrees, not measured")
    return new


def _incidence(name: str, dataset: xr.Dataset, times: np.ndarray) -> np.ndarray | None:
    """`[time]` degrees, alike for all passes of an orbit; none where place, direction or time of day do not tell."""
    known = {"orbit_pass", "relative_orbit"} <= set(dataset) and {"x", "y"} <= set(dataset.coords)
    if not known or _crs(name, dataset) is None:
        return None
    ascending = np.char.startswith(np.char.lower(dataset["orbit_pass"].values.astype(str)), "asc")
    angles = sentinel1.incidence_angles(times, *centre(name, dataset), ascending)
    if not np.isfinite(angles).all():
        return None
    orbits = dataset["relative_orbit"].values
    means = {orbit: angles[orbits == orbit].mean() for orbit in np.unique(orbits)}
    return np.array([means[orbit] for orbit in orbits], np.float32)


def centre(name: str, dataset: xr.Dataset) -> tuple[float, float]:
    """Longitude and latitude of the centre of the node in degrees."""
    crs = _crs(name, dataset)
    if crs is None or not {"x", "y"} <= set(dataset.coords):
        raise CubeError(
            f"Missing sun angles and no place to compute them for in node '{name}', variable 'sza': "
            "give sza, or coordinates x and y with a CRS (dataset.rio.write_crs)."
        )
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(float(dataset["x"].mean()), float(dataset["y"].mean()))
    return lon, lat


def _crs(name: str, dataset: xr.Dataset) -> CRS | None:
    if "spatial_ref" not in dataset.variables:
        return None
    attrs = dataset["spatial_ref"].attrs
    try:
        return CRS.from_user_input(attrs.get("crs_wkt") or attrs["spatial_ref"])
    except (CRSError, KeyError) as error:
        raise CubeError(
            f"Unreadable coordinate reference system in node '{name}', variable 'spatial_ref': "
            "write it with dataset.rio.write_crs, such as 'EPSG:32631'."
        ) from error


def _layout_faults(name: str, dataset: xr.Dataset, kind: NodeKind) -> Iterator[str]:
    """Faults in the presence, dimensions and types of variables."""
    values, channel, angles = kind.values, kind.channel, kind.angles
    for variable in (values, "valid", *angles):
        if variable not in dataset.data_vars:
            mend = "add it, or fill it in with pi_vae.data.complete" if variable in angles else "add it"
            yield f"Missing variable in node '{name}', variable '{variable}': {mend}."
    if "time" not in dataset.coords:
        yield f"No dates in node '{name}', coordinate 'time': add one UTC date per observation as datetime64."
    pixel = ("point",) if "point" in dataset[values].dims else ("y", "x")
    allowed = {values: [("time", channel, *pixel)], "valid": [("time", *pixel)]}
    allowed |= {angle: [("time",), ("time", *pixel)] for angle in angles}
    for variable, choices in allowed.items():
        if dataset[variable].dims not in choices:
            wanted = " or ".join(f"({', '.join(dims)})" for dims in choices)
            yield (
                f"Dimensions ({', '.join(map(str, dataset[variable].dims))}) in node '{name}', "
                f"variable '{variable}': rename or transpose to {wanted}."
            )
    for dim, size in dataset[values].sizes.items():
        if size == 0 and dim != "time":
            yield f"Length 0 of dimension '{dim}' in node '{name}', variable '{values}': give at least one {dim}."
    if channel not in dataset.coords:
        yield f"Unnamed {channel}s in node '{name}', coordinate '{channel}': name them, such as {kind.example}."
    if dataset["valid"].dtype != bool:
        yield (
            f"Type {dataset['valid'].dtype} in node '{name}', variable 'valid': "
            "convert to bool, true where an observation is usable."
        )
    if dataset[values].dtype.kind != "f":
        yield (
            f"Type {dataset[values].dtype} (raw digital numbers) in node '{name}', variable '{values}': "
            f"convert to {kind.unit} as float32."
        )
    for angle in angles:
        if dataset[angle].dtype.kind not in "fiu":
            yield f"Type {dataset[angle].dtype} in node '{name}', variable '{angle}': give degrees as numbers."
    for axis in ("y", "x"):
        if axis in dataset.variables:
            along, where = (axis,) if pixel == ("y", "x") else pixel, f"in node '{name}', coordinate '{axis}'"
            place = dataset[axis]
            if place.dims != along or place.dtype.kind not in "fiu":
                yield f"Dimensions {place.dims} and type {place.dtype} {where}: give a number along ({along[0]})."
            elif not np.isfinite(place.values).all():
                yield f"A position that is not finite {where}: give that of the centre of every pixel."


def _time_faults(name: str, dataset: xr.Dataset) -> Iterator[str]:
    where = f"in node '{name}', coordinate 'time'"
    if "time" not in dataset.coords or dataset.sizes.get("time", 0) == 0:
        yield f"No dates {where}: give at least one observation, or leave the node out."
        return
    times = dataset["time"].values
    if times.dtype.kind != "M":
        yield f"Type {times.dtype} {where}: give UTC dates as datetime64 without a time zone."
        return
    if np.isnat(times).any():
        yield f"NaT {where}, index {int(np.argmax(np.isnat(times)))}: drop the observation or give its date."
        return
    step = np.diff(times).astype("timedelta64[ns]").astype(np.int64)
    if (step < 0).any():
        yield f"Unsorted dates {where}, index {int(np.argmax(step < 0)) + 1}: sort with sortby('time')."
    elif (step == 0).any():
        index = int(np.argmax(step == 0)) + 1
        yield f"Duplicate date {times[index]} {where}, index {index}: merge or drop the second observation."


def _driver_faults(dataset: xr.Dataset) -> Iterator[str]:
    for name, variable in dataset.data_vars.items():
        where = f"in node 'drivers', variable '{name}'"
        if variable.dims not in (("time",), ("time", "y", "x"), ("time", "point")):
            yield f"Dimensions {variable.dims} {where}: rename or transpose to (time), (time, y, x) or (time, point)."
            continue
        if variable.dtype.kind not in "fiu":
            yield f"Type {variable.dtype} {where}: give numbers."
            continue
        bad = np.argwhere(~np.isfinite(variable.values))
        if len(bad):
            yield f"NaN {where}, index {tuple(bad[0].tolist())}: drivers need every date, so fill it or drop the date."
        elif name == "air_temperature" and np.median(variable) < 150:
            yield f"Median {float(np.median(variable)):.1f} (degrees Celsius) {where}: add 273.15 to get kelvin."
        elif name == "precipitation" and variable.min() < 0:
            yield f"Negative value {float(variable.min()):.3g} {where}: give the sum since the previous date in mm."


def _place_faults(nodes: dict[str, xr.Dataset]) -> Iterator[str]:
    """Faults between nodes: mixed reference systems, points beside grids."""
    first, *others = nodes
    for name in others:
        pointwise = ["point" in nodes[node].dims for node in (first, name)]
        if pointwise[0] != pointwise[1]:
            yield f"Points beside a grid in nodes '{first}' and '{name}', dimension 'point': give both the same form."
        if all(pointwise) and nodes[first].sizes["point"] != nodes[name].sizes["point"]:
            yield (
                f"Different numbers of points in nodes '{first}' ({nodes[first].sizes['point']}) and "
                f"'{name}' ({nodes[name].sizes['point']}), dimension 'point': give the same points in the same order."
            )
        if not any(pointwise):
            yield from _grid_faults(nodes, first, name)
        systems = [_crs(node, nodes[node]) for node in (first, name)]
        if systems[0] != systems[1]:
            codes = [system.to_string() if system else "none" for system in systems]
            yield (
                f"Mixed coordinate reference systems {codes[0]} and {codes[1]} in nodes '{first}' and '{name}', "
                "variable 'spatial_ref': reproject to one of them (dataset.rio.reproject) or split the cube by zone."
            )


def _grid_faults(nodes: dict[str, xr.Dataset], first: str, name: str) -> Iterator[str]:
    """Faults between two grids: the pixels of the coarser one are whole numbers of pixels of the finer one."""
    fine, coarse = sorted((first, name), key=lambda node: -nodes[node].sizes["y"])
    factor = nodes[fine].sizes["y"] // nodes[coarse].sizes["y"]
    for dim in ("y", "x"):
        sizes = [nodes[node].sizes[dim] for node in (fine, coarse)]
        where = f"in nodes '{fine}' and '{coarse}', dimension '{dim}'"
        if sizes[0] != factor * sizes[1]:
            yield (
                f"Lengths {sizes[0]} and {sizes[1]} {where}: crop both to the same area, so that a pixel of the coarse "
                "node covers a square of whole pixels of the fine one."
            )
            return
        if all(dim in nodes[node].coords for node in (fine, coarse)):
            centres = nodes[fine][dim].values.astype(float).reshape(-1, factor).mean(1)
            off = np.abs(centres - nodes[coarse][dim].values).max()
            spacing = np.abs(np.diff(nodes[fine][dim].values[:2])).max(initial=0.0)
            if off > 0.1 * spacing:
                yield f"Grids that lie {off:.3g} m apart {where}: resample one onto pixels that nest in the other's."
                return
