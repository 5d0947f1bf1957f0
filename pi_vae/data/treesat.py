"""TreeSatAI time series: one wooded spot of 60 m, all images of a year by both satellites, both passes of the radar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from pi_vae.data.sentinel1 import POLARISATIONS, relative_orbit, s1_node
from pi_vae.data.sentinel2 import s2_node

__all__ = ["read_treesat"]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")  # by wavelength, as in the file
CLEAR = 20  # percent: snow and cloud probability below it
PASSES = {"asc": "ascending", "des": "descending"}


def read_treesat(file: Path, corner: tuple[float, float], crs: str) -> xr.DataTree:
    """Read a file of TreeSatAI-Time-Series (Astruc et al. 2024, ECCV; IGN France).

    Args:
        file: HDF5 with reflectance times 10,000, probabilities of snow and cloud, and linear backscatter.
        corner: centre of the upper left pixel; the file does not say where it lies.
        crs: its reference system.

    Returns:
        A cube without angles: `pi_vae.data.complete` computes sun and incidence from dates and place. Images without
        any usable pixel are left out.
    """
    with h5py.File(file) as source:
        stored = {name: source[name][:] for name in source}
    products = {k.removesuffix("-products"): v for k, v in stored.items() if k.endswith("-products")}
    products = {k: [product.decode().split("_") for product in v] for k, v in products.items()}
    size = stored["sen-2-data"].shape[-2:]
    place: dict[str, Any] = {
        "x": corner[0] + 10.0 * np.arange(size[1]),
        "y": corner[1] - 10.0 * np.arange(size[0]),
        "crs": crs,
    }

    reflectance = stored["sen-2-data"] / 1e4
    # A fill value passes for clear; so do reflectances above 1, which are cloud.
    valid = (stored["sen-2-masks"][:, :2] < CLEAR).all(1) & (reflectance > 0).all(1) & (reflectance < 1).all(1)
    keep = valid.any((1, 2))
    names = [name for name, kept in zip(products["sen-2"], keep, strict=True) if kept]
    attrs = {"processing_level": "L2A", "offset_applied": 1}
    s2 = s2_node(
        reflectance[keep], np.array([_moment(name[2]) for name in names]), BANDS, valid=valid[keep],
        platform=[name[0] for name in names], attrs=attrs, **place,
    )  # fmt: skip

    power = np.concatenate([stored[f"sen-1-{short}-data"] for short in PASSES])
    rows = [(name, full) for short, full in PASSES.items() for name in products[f"sen-1-{short}"]]
    times = np.array([_moment(name[4]) for name, _ in rows])
    order = np.argsort(times)
    rows, power = [rows[i] for i in order], power[order]
    s1 = s1_node(
        np.where(power > 0, power, np.nan), times[order], POLARISATIONS, valid=(power > 0).all(1),
        orbit_pass=[full for _, full in rows], platform=[name[0] for name, _ in rows],
        relative_orbit=[relative_orbit(name[0], int(name[6])) for name, _ in rows], **place,
    )  # fmt: skip
    return xr.DataTree.from_dict({"s2": s2, "s1": s1})


def _moment(text: str) -> np.datetime64:
    """20200102T102421 -> date."""
    return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:15]}", "ns")
