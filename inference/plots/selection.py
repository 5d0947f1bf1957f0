"""What of a posterior tree is drawn: one pixel, one date."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

__all__ = ["nearest", "of_pixel"]


def of_pixel(tree: xr.DataTree, pixel: int) -> dict[str, xr.Dataset]:
    """Every group of a tree at one pixel.

    Args:
        tree: what `inference.posterior` returns.
        pixel: position along ``pixel``.

    Returns:
        Group -> dataset without the dimension ``pixel``.

    Raises:
        ValueError: the tree holds no posterior, or no such pixel.
    """
    if "posterior" not in tree.children:
        raise ValueError("The tree holds no group 'posterior': give what inference.posterior returns.")
    count = tree["posterior"].sizes["pixel"]
    if not 0 <= pixel < count:
        raise ValueError(f"The posterior holds no pixel {pixel}: give one of 0 to {count - 1}.")
    return {key: group.to_dataset().isel(pixel=pixel, missing_dims="ignore") for key, group in tree.children.items()}


def nearest(times: np.ndarray, date: Any) -> int:
    """Position of the date nearest to one that is asked for.

    Args:
        times: `[T]` datetime64.
        date: datetime64, datetime, or text such as ``"2021-06-15"``.

    Raises:
        ValueError: the date cannot be read.
    """
    try:
        wanted = np.datetime64(date, "ns")
    except ValueError as error:
        raise ValueError(f"Date {date!r} cannot be read: write it as '2021-06-15'.") from error
    return int(np.abs(times.astype("datetime64[ns]") - wanted).argmin())
