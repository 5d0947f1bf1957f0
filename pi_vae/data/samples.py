"""Sample data by URL and SHA-256: found in a local folder, else in the cache, else downloaded once.

`path` looks in the folder named by the environment variable ``PI_VAE_DATA``, in ``shared/data`` beside the repository,
and in the user's cache. Nothing is used unless its checksum is the registered one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from pi_vae.data.cube import complete, validate
from pi_vae.data.sentinel1 import dn_to_linear, s1_node
from pi_vae.data.sentinel2 import dn_to_reflectance, s2_node
from pi_vae.data.treesat import read_treesat

__all__ = ["SAMPLES", "Sample", "SampleError", "load", "path"]


class SampleError(RuntimeError):
    """A sample cannot be had, or a file is not the one registered."""


@dataclass(frozen=True)
class Sample:
    """A file on the web that makes a cube.

    Attributes:
        url: where it is downloaded from, at a fixed revision.
        sha256: checksum of the file, hexadecimal.
        local: path relative to a data folder.
        loader: turns the file into a cube (not yet completed or validated).
        licence: SPDX name.
        attribution: whom to credit.
    """

    url: str
    sha256: str
    local: str
    loader: Callable[[Path], xr.DataTree]
    licence: str
    attribution: str


def load(name: str = "worldcereal_patch_belgium") -> xr.DataTree:
    """The cube of a sample, validated.

    Args:
        name: key of `SAMPLES`.

    Returns:
        The cube; its attributes name sample, licence and attribution.

    Raises:
        SampleError: unknown name, wrong checksum, or neither a local file nor a download.
    """
    file = path(name)
    cube = SAMPLES[name].loader(file)
    cube.attrs |= {"sample": name, "licence": SAMPLES[name].licence, "attribution": SAMPLES[name].attribution}
    return validate(complete(cube))


def path(name: str) -> Path:
    """Where the file of a sample lies on this machine, downloaded if need be, its checksum verified.

    Args:
        name: key of `SAMPLES`.

    Returns:
        Path of the file.

    Raises:
        SampleError: unknown name, wrong checksum, or neither a local file nor a download.
    """
    import pooch  # a tenth of a second

    if name not in SAMPLES:
        raise SampleError(f"Unknown sample '{name}': use one of {', '.join(SAMPLES)}.")
    sample = SAMPLES[name]
    folders = _folders()
    for folder in folders:
        file = folder / sample.local
        if file.is_file():
            found = pooch.file_hash(file)
            if found != sample.sha256:
                raise SampleError(
                    f"Wrong checksum {found[:12]}… (registered {sample.sha256[:12]}…) in sample '{name}', file {file}: "
                    "replace the file, or remove it to have it downloaded."
                )
            return file
    try:
        return Path(
            pooch.retrieve(
                sample.url,
                known_hash=f"sha256:{sample.sha256}",
                fname=Path(sample.local).name,
                path=pooch.os_cache("pi_vae") / Path(sample.local).parent,
            )
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
        looked = ", ".join(map(str, folders))
        raise SampleError(
            f"Sample '{name}' is neither in {looked} nor downloadable from {sample.url} ({type(error).__name__}): "
            f"connect to the internet, or set PI_VAE_DATA to a folder that holds {sample.local}."
        ) from error


def _folders() -> list[Path]:
    named = os.environ.get("PI_VAE_DATA")
    beside_repository = Path(__file__).parents[2].parent / "shared" / "data"
    return ([Path(named)] if named else []) + [beside_repository]


_MONTHLY = "monthly composite, labelled with the middle of the month; composite_start is its first day"


def _worldcereal_patch(file: Path) -> xr.DataTree:
    """Monthly composites of Sentinel-2, Sentinel-1 and weather as uint16, 65535 = no data."""
    with xr.open_dataset(file, engine="h5netcdf") as source:
        source.load()
    start = source["t"].values.astype("datetime64[ns]")
    # Every composite stands for its month. 10:45 UTC is the usual overpass there and gives the sun its right height.
    time = start + np.timedelta64(14, "D") + np.timedelta64(10 * 60 + 45, "m")
    grid = {"x": source["x"].values, "y": source["y"].values, "crs": source["crs"].attrs["crs_wkt"]}

    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
    dn = np.stack([source[f"S2-L2A-{band}"].values for band in bands], axis=1)
    # A surface reflectance of exactly 0 in several bands at once is a gap that was not marked as one.
    valid = (dn != 65535).all(axis=1) & ((dn == 0).sum(axis=1) < 2)
    s2 = s2_node(
        dn_to_reflectance(dn), time, bands, valid=valid, **grid,
        attrs={"platform": "unknown", "processing_level": "L2A", "comment": _MONTHLY},
    )  # fmt: skip
    backscatter = dn_to_linear(np.stack([source[f"S1-SIGMA0-{pol}"].values for pol in ("VV", "VH")], axis=1))
    s1 = s1_node(backscatter, time, **grid, attrs={"platform": "unknown", "comment": _MONTHLY})

    drivers = xr.Dataset(coords={"time": s2["time"].variable}, attrs={"source": "AgERA5", "comment": _MONTHLY})
    for variable, name, units, long_name in (
        ("AGERA5-TMEAN", "air_temperature", "K", "air temperature at 2 m, mean of the month"),
        ("AGERA5-PRECIP", "precipitation", "mm", "precipitation, sum of the month"),
    ):
        field = source[variable].values / 100.0
        attrs = {"long_name": long_name, "units": units, "standard_name": _STANDARD_NAMES[name]}
        uniform = (field == field[:, :1, :1]).all()  # the weather grid is far coarser than the patch
        values = field[:, 0, 0] if uniform else field
        drivers[name] = (("time",) if uniform else ("time", "y", "x"), values.astype(np.float32), attrs)
        if not uniform:
            drivers = drivers.assign_coords(x=s2["x"], y=s2["y"], spatial_ref=s2["spatial_ref"])
    nodes = {"s2": s2, "s1": s1, "drivers": drivers}
    return xr.DataTree.from_dict({k: node.assign_coords(composite_start=("time", start)) for k, node in nodes.items()})


_STANDARD_NAMES = {"air_temperature": "air_temperature", "precipitation": "lwe_thickness_of_precipitation_amount"}

#: The samples that can be opened by name.
SAMPLES: dict[str, Sample] = {
    "worldcereal_patch_belgium": Sample(
        url=(
            "https://raw.githubusercontent.com/WorldCereal/worldcereal-classification/"
            "6c574425857177d9476bcf0876895e368ce445bb/tests/worldcerealtests/testresources/"
            "worldcereal_preprocessed_inputs.nc"
        ),
        sha256="7b9361a2697fe77e79266eb7436eea2e898b101c52d40b85ef9c2b8cde51e909",
        local="worldcereal_patch_belgium/worldcereal_preprocessed_inputs.nc",
        loader=_worldcereal_patch,
        licence="MIT",
        attribution="WorldCereal (VITO); contains modified Copernicus Sentinel data 2020-2021; AgERA5 (C3S)",
    ),
    "treesat_abies_2020": Sample(
        url=(
            "https://raw.githubusercontent.com/gastruc/AnySat/e03e72e4cb52bfaffc7d0b6831da2caea7236696/.media/"
            "Abies_alba_1_1005_WEFL_NLF.h5"
        ),
        sha256="02e5ca5bd915c71e6909e74b1b11a32b6dc3733db866aa2937c8a7b4215c8b3b",
        local="treesat_abies_2020/Abies_alba_1_1005_WEFL_NLF.h5",
        # of the aerial image of the same spot
        loader=partial(read_treesat, corner=(565647.6, 5770975.4), crs="EPSG:25832"),
        licence="CC-BY-4.0",
        attribution="TreeSatAI-Time-Series (IGN France); contains modified Copernicus Sentinel data 2020",
    ),
}
