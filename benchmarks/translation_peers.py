"""What else predicts optical series: regressions on radar series, and what fills gaps of a pixel from its other dates.

All arrays are `[pixel, T, channel]`, NaN where nothing is known. Every peer learns from training pixels only; its
settings are chosen there too, by cross-validation over groups of pixels or, for those that fill gaps, on gaps of the
same kind in half of the training pixels. What predicts single values is dressed with errors that it made there on
pixels it had not learned from (split-conformal prediction, Lei et al. 2018, Journal of the American Statistical
Association 113, 1094): those of the same date, or of the same length of a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded
from sklearn.base import RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, ParameterGrid, cross_val_predict

from inference.baselines import linear_interpolation

__all__ = [
    "Prediction", "climatology", "date_mean", "datewise", "filled", "fillers", "hants", "interpolated", "seriewise",
    "whittaker",
]  # fmt: skip

FOLDS = 3
TREES = 100
FOREST = {"min_samples_leaf": [3, 10], "max_features": [0.4, 1.0]}
RIDGE = {"alpha": np.logspace(-1, 4, 11).tolist()}
SMOOTHING = np.logspace(-2, 4, 13)
HARMONICS, DAMPING, TOLERANCE = (1, 2, 3), (0.01, 0.1, 0.5), (2.0, np.inf)
YEAR = 365.2425
ENOUGH = 20  # errors of a date or gap length; with fewer, those of all


@dataclass
class Prediction:
    """Predicted values with an ensemble or a standard deviation.

    Attributes:
        value: `[..., C]`.
        draws: `[S, ..., C]`, or none.
        sd: `[..., C]` of a normal distribution, where there are no draws.
    """

    value: np.ndarray
    draws: np.ndarray | None = None
    sd: np.ndarray | None = None

    def at(self, where: np.ndarray) -> Prediction:
        """The samples that a mask over all dimensions but the channels selects."""
        draws = None if self.draws is None else self.draws[:, where]
        return Prediction(self.value[where], draws, None if self.sd is None else self.sd[where])


def interpolated(series: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Every channel interpolated in time; of a pixel without any value, the mean of the date."""
    parts = []
    for channel in np.moveaxis(series, -1, 0):
        seen = np.isfinite(channel)
        parts.append(linear_interpolation(np.where(seen, channel, 0).T[:, None, :, None], seen.T[..., None], days))
    return np.concatenate(parts, 1)[..., 0].transpose(2, 0, 1)


def dressed(value: np.ndarray, errors: Sequence[np.ndarray], kind: np.ndarray, draws: int, seed: int) -> Prediction:
    """Values with errors added to them.

    Args:
        value: `[P, T, C]`.
        errors: of each kind, `[n, C]`.
        kind: `[P, T]` which errors a value gets; negative for none.
        draws: size of the ensemble.
        seed: of the choice of errors.
    """
    rng = np.random.default_rng(seed)
    every = np.concatenate(list(errors))
    drawn = np.repeat(value[None], draws, 0)
    for i, own in enumerate(errors):
        own = own if len(own) >= ENOUGH else every
        where = kind == i
        for c in range(value.shape[-1]):
            drawn[:, where, c] += rng.choice(own[:, c], (draws, int(where.sum())))
    return Prediction(value, drawn)


def climatology(optical: np.ndarray, count: int, draws: int, seed: int) -> Prediction:
    """The training pixels' mean of the date, and their deviations from it, for a number of pixels."""
    mean, errors = date_mean(optical), []
    for t in range(optical.shape[1]):
        errors.append((optical[:, t] - mean[t])[np.isfinite(optical[:, t]).all(-1)])
    return dressed(np.repeat(mean[None], count, 0), errors, _dates(count, optical.shape[1]), draws, seed)


def datewise(
    method: str, known: np.ndarray, optical: np.ndarray, asked: np.ndarray, groups: np.ndarray, draws: int, seed: int
) -> Prediction:
    """Ridge regression (``"ridge"``) or random forest (``"forest"``) on what is known at the date, and the date.

    Ridge has an intercept for every date and slopes that consist of a common part and one of the date's own, which is
    shrunk as well. The forest reads the number of the date and the differences between channels beside the channels.

    Args:
        method: ``"ridge"`` or ``"forest"``.
        known: `[N, T, R]` complete predictors of the training pixels.
        optical: `[N, T, C]` what they are to predict.
        asked: `[P, T, R]` predictors of the pixels to predict.
        groups: `[N]` of the cross-validation.
        draws, seed: of the ensemble.
    """
    seen = np.isfinite(optical).all(-1)
    pixel, date = np.nonzero(seen)
    design = _slopes if method == "ridge" else _channels
    loc, scale = known.mean((0, 1)), known.std((0, 1))
    x, new = (design((series - loc) / scale) for series in (known, asked))
    make, grid = (Ridge, RIDGE) if method == "ridge" else (_forest, FOREST)
    settings, errors = _chosen(make, grid, [(x[seen], optical[seen], groups[pixel])])
    level, spread = optical[seen].mean(0), optical[seen].std(0)
    fitted = make(**settings).fit(x[seen], (optical[seen] - level) / spread)
    value = fitted.predict(new.reshape(-1, new.shape[-1])).reshape(*new.shape[:2], -1) * spread + level
    by_date = [errors[0][date == t] for t in range(seen.shape[1])]
    return dressed(value, by_date, _dates(*value.shape[:2]), draws, seed)


def seriewise(
    known: np.ndarray, optical: np.ndarray, asked: np.ndarray, groups: np.ndarray, draws: int, seed: int
) -> Prediction:
    """A random forest for every date, which reads the whole series of the pixel; arguments as for `datewise`."""
    x, new = (_channels(series).reshape(len(series), -1) for series in (known, asked))
    seen = np.isfinite(optical).all(-1)
    dates = [t for t in range(seen.shape[1]) if seen[:, t].sum() >= ENOUGH]
    tasks = [(x[seen[:, t]], optical[seen[:, t], t], groups[seen[:, t]]) for t in dates]
    settings, missed = _chosen(_forest, FOREST, tasks)
    value = np.repeat(date_mean(optical)[None], len(new), 0)
    errors = [np.empty((0, optical.shape[-1]))] * seen.shape[1]
    for t, (some, target, _), own in zip(dates, tasks, missed, strict=True):
        level, spread = target.mean(0), target.std(0) + 1e-9
        found = _forest(**settings).fit(some, (target - level) / spread).predict(new)
        value[:, t] = found.reshape(len(new), -1) * spread + level
        errors[t] = own
    return dressed(value, errors, _dates(*value.shape[:2]), draws, seed)


def _forest(**settings) -> RandomForestRegressor:
    return RandomForestRegressor(TREES, random_state=0, **settings)


def _channels(series: np.ndarray) -> np.ndarray:
    """`[P, T, R]` -> channels, differences between neighbouring ones, and the number of the date."""
    number = np.broadcast_to(np.arange(series.shape[1])[:, None], (*series.shape[:2], 1))
    return np.concatenate([series, np.diff(series, axis=-1), number], -1)


def _slopes(series: np.ndarray) -> np.ndarray:
    """`[P, T, R]` -> channels, an indicator of the date too large to be shrunk, and channels by date."""
    pixels, dates, channels = series.shape
    date = np.broadcast_to(np.eye(dates), (pixels, dates, dates))
    own = (series[..., None, :] * np.eye(dates)[..., None]).reshape(pixels, dates, -1)
    return np.concatenate([series, 100.0 * date, own], -1)


def _chosen(make: Callable[..., RegressorMixin], grid: Mapping, tasks: list) -> tuple[dict, list[np.ndarray]]:
    """Settings that serve all tasks best in cross-validation, and the errors that they made in it, by task."""
    best = (np.inf, {}, [])
    for settings in ParameterGrid(dict(grid)):
        loss, errors = 0.0, []
        for x, y, groups in tasks:
            level, spread = y.mean(0), y.std(0) + 1e-9
            folds = GroupKFold(min(FOLDS, len(np.unique(groups))))
            found = cross_val_predict(make(**settings), x, (y - level) / spread, groups=groups, cv=folds)
            errors.append(y - (found.reshape(y.shape) * spread + level))
            loss += ((errors[-1] / spread) ** 2).sum()
        if loss < best[0]:
            best = (loss, settings, errors)
    return best[1], best[2]


def _dates(pixels: int, dates: int) -> np.ndarray:
    return np.broadcast_to(np.arange(dates), (pixels, dates))


def date_mean(series: np.ndarray) -> np.ndarray:
    """`[T, C]` mean of the pixels; at a date without any, of all dates."""
    count = np.isfinite(series).sum(0)
    return np.where(count > 0, np.nansum(series, 0) / np.maximum(count, 1), np.nanmean(series, (0, 1)))


def whittaker(series: np.ndarray, smoothing: float) -> np.ndarray:
    r"""Penalised least squares (Eilers 2003, Analytical Chemistry 75, 3631) with second differences.

    Minimises :math:`\sum_t w_t (y_t - z_t)^2 + \lambda \sum_t (z_{t+1} - 2 z_t + z_{t-1})^2`, :math:`w_t` 1 where there
    is a value and 0 elsewhere. The dates are equally spaced; a pixel needs two of them, all channels at once.
    """
    dates = series.shape[1]
    difference = np.diff(np.eye(dates), 2, axis=0)
    penalty = difference.T @ difference
    band = np.zeros((3, dates))
    for k in range(3):
        band[2 - k, k:] = smoothing * np.diag(penalty, k)
    filled = np.empty_like(series)
    for row, values in zip(filled, series, strict=True):
        seen = np.isfinite(values).all(-1)
        row[:] = solveh_banded(band + np.array([[0.0], [0.0], [1.0]]) * seen, np.where(seen[:, None], values, 0.0))
    return filled


def hants(
    series: np.ndarray, days: np.ndarray, harmonics: int, damping: float, tolerance: float, rounds: int = 6
) -> np.ndarray:
    """Harmonic analysis of time series (Roerink et al. 2000, International Journal of Remote Sensing 21, 1911).

    Least squares by a mean and harmonics of the year, whose coefficients are damped; values further from the curve than
    so many standard deviations are left out and the fit is repeated, as long as two more than coefficients remain.
    """
    phase = 2 * np.pi * days[:, None] / YEAR * np.arange(1, harmonics + 1)
    basis = np.concatenate([np.ones((len(days), 1)), np.cos(phase), np.sin(phase)], 1)
    shrink = damping * np.diag([1e-9, *np.ones(2 * harmonics)])
    seen = np.isfinite(series).all(-1)[..., None] & np.ones(series.shape[-1], bool)
    values, weight = np.where(seen, series, 0.0), seen.astype(float)
    for _ in range(rounds):
        normal = np.einsum("ptc,ti,tj->pcij", weight, basis, basis) + shrink
        right = np.einsum("ptc,ti->pci", weight * values, basis)
        curve = np.einsum("ti,pci->ptc", basis, np.linalg.solve(normal, right[..., None])[..., 0])
        error = np.where(weight > 0, np.abs(values - curve), 0.0)
        count = weight.sum(1, keepdims=True)
        spread = np.sqrt((error**2).sum(1, keepdims=True) / count)
        far = (error > tolerance * spread) & (error == error.max(1, keepdims=True))  # the worst of each series
        far &= count > 2 * harmonics + 3
        if not far.any():
            break
        weight = np.where(far, 0.0, weight)
    return curve


def fillers(days: np.ndarray) -> dict[str, list[Callable[[np.ndarray], np.ndarray]]]:
    """Name -> ways to fill the gaps of `[P, T, C]`, one for every setting."""
    grid = ParameterGrid({"harmonics": HARMONICS, "damping": DAMPING, "tolerance": TOLERANCE})
    return {
        "linear": [lambda series: interpolated(series, days)],
        "whittaker": [lambda series, weight=weight: whittaker(series, weight) for weight in SMOOTHING],
        "hants": [lambda series, kw=kw: hants(series, days, **kw) for kw in grid],
    }


def filled(
    ways: Sequence[Callable[[np.ndarray], np.ndarray]],
    train: np.ndarray,
    hidden: np.ndarray,
    gapped: np.ndarray,
    kinds: Callable[[np.ndarray], np.ndarray],
    draws: int,
    seed: int,
) -> Prediction:
    """Gaps filled in the way that is best for each channel in gaps of half of the training pixels.

    Args:
        ways: functions that fill gaps.
        train: `[N, T, C]`.
        hidden: `[N, T]` gaps to make in them.
        gapped: `[P, T, C]` series to fill.
        kinds: `[P, T]` seen -> number of the kind of gap that every date lies in, negative where it is seen. Errors of
            the other half of the training pixels are kept apart by it.
        draws, seed: of the ensemble and the halves.
    """
    half = np.random.default_rng(seed).random(len(train)) < 0.5
    holey = np.where(hidden[..., None], np.nan, train)
    mine, other = half[:, None] & hidden, ~half[:, None] & hidden
    tried = [way(holey) for way in ways]
    loss = np.stack([((found - train)[mine] ** 2).mean(0) for found in tried])
    best = loss.argmin(0)

    def pick(results: list[np.ndarray]) -> np.ndarray:
        return np.stack([results[way][..., c] for c, way in enumerate(best)], -1)

    errors, kind = (train - pick(tried)), kinds(np.isfinite(holey).all(-1))
    by_kind = [errors[other & (kind == k)] for k in range(int(kind.max()) + 1)]
    found = {way: ways[way](gapped) for way in set(best.tolist())}
    asked = kinds(np.isfinite(gapped).all(-1)).clip(max=len(by_kind) - 1)
    value = np.stack([found[int(way)][..., c] for c, way in enumerate(best)], -1)
    return dressed(value, by_kind, asked, draws, seed)
