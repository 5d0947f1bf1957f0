"""`with_dates`, `with_sensor`: a cube that also asks for dates, or a sensor, without any observation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pi_vae.data import sentinel2
from pi_vae.data.cube import CubeError, centre, complete
from pi_vae.data.kinds import kind_of, modality_nodes

__all__ = ["with_dates", "with_sensor"]

OWN = ("platform", "orbit_pass", "relative_orbit")


def with_dates(cube: xr.DataTree, times: Sequence | np.ndarray) -> xr.DataTree:
    """Add dates without observation to every modality of a cube.

    A model then has latents there, given by all other dates, and can say what each sensor would see. The geometry of
    a new date is that of the nearest image, except for the sun, which is computed where the place of the cube is known,
    at the usual time of day.

    Args:
        cube: a valid cube.
        times: dates, anything that numpy reads as datetime64, in any order; those that a modality has already are left
            as they are.

    Returns:
        A new cube; the observations are those of the old one.

    Raises:
        ValueError: ``times`` is empty, holds NaT or cannot be read as dates.

    Example:
        >>> from pi_vae.data import pattern
        >>> cube = with_dates(pattern(size=2), ["2021-06-01", "2022-01-10"])
        >>> bool(cube["s2"].valid.sel(time="2022-01-10").any())
        False
    """
    try:
        asked = np.unique(np.atleast_1d(np.asarray(times, dtype="datetime64[ns]")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"times cannot be read as dates ({error}): give them as '2021-06-01' or datetime64."
        ) from error
    if not asked.size or np.isnat(asked).any():
        raise ValueError("times is empty or holds NaT: give at least one date, and only dates.")
    nodes = {name: node.to_dataset() for name, node in cube.children.items()}
    for name in modality_nodes():
        if name in nodes:
            nodes[name] = _extended(name, nodes[name], asked)
    return xr.DataTree.from_dict({"/": cube.to_dataset(), **nodes})


def with_sensor(cube: xr.DataTree, name: str, channels: Sequence[str], like: str) -> xr.DataTree:
    """Add a sensor that has seen nothing to a cube.

    Args:
        cube: a valid cube without the node ``name``.
        name: node to add, such as ``"s2"``.
        channels: its bands or polarisations.
        like: the node whose dates and grid it gets; its geometry is nominal, the sun that of the dates.

    Returns:
        A new cube. It is no longer valid by itself, for nothing of the new node is.

    Raises:
        CubeError: the sun cannot be computed, because the cube does not say where it lies.
    """
    node = cube[like].to_dataset()
    valid = xr.zeros_like(node["valid"], dtype=bool)
    sizes = [valid.sizes[dim] for dim in valid.dims]
    values = np.full((sizes[0], len(channels), *sizes[1:]), np.nan, np.float32)
    place = {k: node[k].values for k in ("x", "y") if k in node.coords}
    added = kind_of(name).node(values, node.time.values, list(channels), valid=valid.values, **place)
    if "spatial_ref" in node.coords:
        added = added.assign_coords(spatial_ref=node["spatial_ref"])
    nodes = {key: child.to_dataset() for key, child in cube.children.items()}
    return complete(xr.DataTree.from_dict({"/": cube.to_dataset(), **nodes, name: added}))


def _extended(name: str, node: xr.Dataset, asked: np.ndarray) -> xr.Dataset:
    old = node.time.values
    new = np.setdiff1d(asked, old)
    if not new.size:
        return node
    both = np.union1d(old, new)
    kind = kind_of(name)
    nearest = [v for v in node.data_vars if v in (*kind.angles, *OWN) and "time" in node[v].dims]
    fill = {v: False for v in ("valid", "withheld") if v in node}
    attrs = {v: node[v].attrs for v in node.variables}
    extended = node.drop_vars(nearest).reindex(time=both, fill_value={**fill, kind.values: np.nan})
    extended = extended.assign({v: node[v].reindex(time=both, method="nearest") for v in nearest})
    if "sza" in nearest:
        extended["sza"] = _sun(name, extended, np.isin(both, new), old)
    for variable, meaning in attrs.items():
        extended[variable].attrs.update(meaning)
    return extended


def _sun(name: str, node: xr.Dataset, is_new: np.ndarray, old: np.ndarray) -> xr.DataArray:
    """Sun zenith with the new dates computed, where the place is known."""
    try:
        place = centre(name, node)
    except CubeError:
        return node["sza"]
    day = np.timedelta64(1, "D")
    usual = np.median((old - old.astype("datetime64[D]")) / day)
    moments = node.time.values.astype("datetime64[D]").astype("datetime64[ns]") + (
        usual * day.astype("timedelta64[ns]")
    )
    zenith, _ = sentinel2.sun_angles(moments, *place)
    computed = xr.DataArray(np.minimum(zenith, 89.0), dims="time")
    return node["sza"].where(xr.DataArray(~is_new, dims="time"), computed).astype(np.float32)
