"""A small sound cube that the tests break in one place each."""

import numpy as np
import pytest
import xarray as xr

from pi_vae.data.sentinel1 import s1_node
from pi_vae.data.sentinel2 import s2_node

BANDS = ("B02", "B03", "B04", "B08")


@pytest.fixture
def cube() -> xr.DataTree:
    """Six dates of 5 x 4 pixels: vegetation with dark water in one corner, one cloud, one pass, weather."""
    random = np.random.default_rng(0)
    time = np.datetime64("2021-03-01T10:45", "ns") + np.arange(6) * np.timedelta64(10, "D")
    grid = {"x": 600005.0 + 10 * np.arange(4), "y": 5600005.0 - 10 * np.arange(5), "crs": "EPSG:32631"}
    level = np.array([0.04, 0.06, 0.05, 0.30])[:, None, None]
    reflectance = level * random.uniform(0.8, 1.2, (6, 4, 5, 4))
    reflectance[:, :, 0, 0] *= 0.1
    valid = np.ones((6, 5, 4), bool)
    valid[1, 2, 3] = False
    reflectance[1, :, 2, 3] = np.nan
    power = np.array([0.1, 0.02])[:, None, None] * random.gamma(5.0, 0.2, (6, 2, 5, 4))
    drivers = xr.Dataset(
        {
            "air_temperature": ("time", np.linspace(275, 290, 6), {"units": "K"}),
            "precipitation": ("time", np.array([0.0, 3, 20, 0, 1, 8]), {"units": "mm"}),
        },
        coords={"time": time},
    )
    return xr.DataTree.from_dict(
        {
            "s2": s2_node(reflectance, time, BANDS, valid=valid, sza=45.0, vza=5.0, raa=90.0, **grid),
            "s1": s1_node(
                power, time + np.timedelta64(1, "D"), incidence=38.5, orbit_pass=["ascending"] * 6,
                relative_orbit=[88] * 6, **grid,
            ),
            "drivers": drivers,
        }
    )  # fmt: skip


@pytest.fixture
def points(cube: xr.DataTree) -> xr.DataTree:
    """The same cube as points instead of a grid."""

    def flat(node: xr.Dataset) -> xr.Dataset:
        axes = ("x", "y")
        return node.stack(point=axes).reset_index("point").transpose("time", ..., "point")

    nodes = {name: flat(cube[name].to_dataset()) for name in ("s2", "s1")}
    return xr.DataTree.from_dict(nodes)
