"""Versions of the package and of what its results depend on, for reports and for reports of faults."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]

PACKAGES = (
    "pi_vae", "torch", "pyro-ppl", "gpytorch", "numpy", "xarray", "rasterio", "arviz", "pyoperon", "pysindy", "pysr",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Package -> version, ``"not installed"`` where it is not, after that of Python.

    Example:
        >>> list(versions())[:3]
        ['python', 'pi_vae', 'torch']
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
