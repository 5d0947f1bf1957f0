"""From files to cubes: the data contract, the sensors' converters, the readers of their formats and the sample data."""

from typing import TYPE_CHECKING, Any

from pi_vae.data import samples
from pi_vae.data.cube import CubeError, CubeWarning, complete, open_cube, validate
from pi_vae.data.dates import with_dates, with_sensor
from pi_vae.data.kinds import NodeKind, register
from pi_vae.data.occlusion import withhold
from pi_vae.data.simulate import pattern, simulate

if TYPE_CHECKING:
    from pi_vae.data.readers import read_backscatter, read_geotiffs, read_maja, read_safe, read_stac

__all__ = [
    "CubeError",
    "CubeWarning",
    "NodeKind",
    "complete",
    "open_cube",
    "pattern",
    "read_backscatter",
    "read_geotiffs",
    "read_maja",
    "read_safe",
    "read_stac",
    "register",
    "samples",
    "simulate",
    "validate",
    "with_dates",
    "with_sensor",
    "withhold",
]


def __getattr__(name: str) -> Any:
    """Readers, when they are first asked for: a model alone does not wait for rasterio."""
    if name.startswith("read_") and name in __all__:
        from pi_vae.data import readers

        return getattr(readers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
