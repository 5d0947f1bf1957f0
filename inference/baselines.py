"""What a user would pick instead of a model: simple gap filling of image time series.

Both take values `[time, channel, y, x]` and a mask `[time, y, x]` of what may be used, and estimate every value.
"""

from __future__ import annotations

import numpy as np

__all__ = ["date_mean", "linear_interpolation"]


def linear_interpolation(values: np.ndarray, seen: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Linear interpolation of each pixel in time, constant beyond its first and last observation.

    Args:
        values: `[time, channel, y, x]`.
        seen: `[time, y, x]` bool.
        days: `[time]` increasing.

    Returns:
        `[time, channel, y, x]`; where a date is seen, its value. A pixel never seen gets the date's mean.
    """
    estimate = date_mean(values, seen)
    for y, x in np.argwhere(seen.any(0)):
        mask = seen[:, y, x]
        for channel in range(values.shape[1]):
            estimate[:, channel, y, x] = np.interp(days, days[mask], values[mask, channel, y, x])
    return estimate


def date_mean(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean of each date over the seen pixels; for a date never seen, the mean over all dates.

    Args:
        values: `[time, channel, y, x]`.
        seen: `[time, y, x]` bool.

    Returns:
        `[time, channel, y, x]`.
    """
    weight = seen[:, None].astype(float)
    count = weight.sum((2, 3))
    total = (np.where(seen[:, None], values, 0.0)).sum((2, 3))
    overall = total.sum(0) / np.maximum(count.sum(0), 1)
    means = np.where(count > 0, total / np.maximum(count, 1), overall)
    return np.broadcast_to(means[:, :, None, None], values.shape).copy()
