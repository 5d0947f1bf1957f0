"""Every value of a node, looked at once, in parts that fit in memory."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Iterator

import numpy as np
import xarray as xr

__all__ = ["CubeError", "CubeWarning", "computed", "search"]

PART = 5e6  # numbers in memory at a time
SAMPLED_PIXELS = 4096  # per date: enough for percentiles, and no more to hold in memory


class CubeError(ValueError):
    """The cube breaks the data contract; the message says what, where and how to mend it."""


class CubeWarning(UserWarning):
    """The cube keeps the data contract but something in it is hard to believe."""


def computed[Part: (xr.Dataset, xr.DataArray)](name: str, part: Part) -> Part:
    """A part of a node in memory.

    Raises:
        CubeError: it cannot be read from where it lies.
    """
    try:
        return part.compute()
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        raise CubeError(
            f"Node '{name}' cannot be read ({type(error).__name__}: {' '.join(str(error).split())}): a chunk or file "
            "of it is damaged or was cut off, so copy it anew."
        ) from error


def search(name: str, dataset: xr.Dataset, values: str, channel: str) -> tuple[np.ndarray, float]:
    """Read a node once, and refuse NaN that is valid and a mask without a usable pixel.

    Args:
        name: of the node.
        dataset: the node; in it ``valid`` `(time, *space)`.
        values: its variable `(time, channel, *space)`.
        channel: name of that dimension.

    Returns:
        `[channel, sample]` values at usable pixels (NaN elsewhere), and the usable share of all pixels, 0-1.

    Raises:
        CubeError: a value that is not finite but valid, or no usable pixel.
    """
    seen, usable = [], 0
    pixels = math.prod(dataset["valid"].shape[1:])
    step = -(-pixels // SAMPLED_PIXELS)
    for part in _parts(dataset[values], channel):
        valid, data = _loaded(name, dataset, values, channel, part)
        bad = np.argwhere(~np.isfinite(data) & valid)
        if len(bad):
            label = dataset[channel].values[bad[0, 0]]
            offset = [part[dim].start for dim in dataset["valid"].dims]
            index = tuple(int(i + o) for i, o in zip(bad[0, 1:], offset, strict=True))
            raise CubeError(
                f"{len(bad)} values that are not finite but 'valid' in node '{name}', variable '{values}', "
                f"{channel} {label}, index {index}: set 'valid' to false there."
            )
        usable += int(valid.sum())
        flat, mask = data.reshape(*data.shape[:2], -1), valid.reshape(len(valid), -1)
        some = np.where(mask[:, ::step], flat[..., ::step], np.nan)  # a copy: a view would keep the whole part
        seen.append(some.reshape(len(data), -1))
    if not usable:
        raise CubeError(
            f"No usable pixel at any date in node '{name}', variable 'valid': true must mean usable, "
            "so invert the mask if it marks clouds, or leave the node out."
        )
    sample = np.concatenate(seen, axis=1)
    if np.isnan(sample).all():  # a few usable pixels that the even sample missed
        sample = np.concatenate(list(_usable(name, dataset, values, channel)), axis=1)
    return sample, usable / dataset["valid"].size


def _usable(name: str, dataset: xr.Dataset, values: str, channel: str) -> Iterator[np.ndarray]:
    """`[channel, n]` usable values, some of every part."""
    for part in _parts(dataset[values], channel):
        valid, data = _loaded(name, dataset, values, channel, part)
        yield data[:, valid][:, :SAMPLED_PIXELS]


def _loaded(
    name: str, dataset: xr.Dataset, values: str, channel: str, part: dict[Hashable, slice]
) -> tuple[np.ndarray, np.ndarray]:
    """Masks `[time, *space]` and values `[channel, time, *space]` of a part."""
    # Before it is transposed: a lazy array would look up every number.
    data, valid = (computed(name, dataset[variable].isel(part)) for variable in (values, "valid"))
    return valid.values, data.transpose(channel, *dataset["valid"].dims).values


def _parts(variable: xr.DataArray, channel: str) -> Iterator[dict[Hashable, slice]]:
    """Slices that cover an array once: as many dates and rows as fit in memory, whole chunks where there are some.

    Chunks are shared out along space first: a chunk holds many dates of few pixels, or few dates of many.
    """
    chunks = variable.encoding.get("preferred_chunks") or {}
    space = [dim for dim in variable.dims if dim not in ("time", channel)]
    sizes = dict(variable.sizes)
    side = {dim: min(sizes[dim], int(chunks.get(dim, sizes[dim]))) for dim in (*space, "time")}
    for dim in (space[0], "time"):  # whole chunks, the rest of the array where it is all one chunk
        others = sizes[channel] * math.prod(side[d] for d in side if d != dim)
        fitting = max(1, int(PART / max(others, 1)))
        unit = min(side[dim], fitting) if dim not in chunks else side[dim]
        side[dim] = max(unit, fitting // max(unit, 1) * unit)
    starts = [range(0, sizes[dim], side[dim]) for dim in (*space, "time")]
    for index in np.ndindex(*map(len, starts)):
        yield {
            dim: slice(start[i], min(start[i] + side[dim], sizes[dim]))
            for dim, start, i in zip((*space, "time"), starts, index, strict=True)
        }
