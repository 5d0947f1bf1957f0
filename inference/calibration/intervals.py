r"""Draws against known values: coverage of central intervals, their width, PIT values and CRPS.

Draws come with the dimensions ``chain`` and ``draw``, known values without; every other dimension has the same name in
both. Where the known value is NaN nothing is scored. ArviZ 1 has relatives of these functions
(`arviz_stats.loo_pit`, `arviz_stats.loo_score`), but they leave observations out and so need a pointwise likelihood,
which a latent variable has not; what is computed here has no counterpart there.

Example:
    >>> import numpy as np, xarray as xr
    >>> rng = np.random.default_rng(0)
    >>> draws = xr.Dataset({"lai": (("chain", "draw", "pixel"), rng.normal(size=(1, 999, 9000)))})
    >>> truth = xr.Dataset({"lai": ("pixel", rng.normal(size=9000))})
    >>> coverage(draws, truth, levels=[0.5, 0.9])["coverage"].sel(variable="lai").values.round(2).tolist()
    [0.5, 0.9]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

__all__ = ["at_pixels", "coverage", "crps", "observed", "pit"]

SAMPLE = ("chain", "draw")
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def coverage(
    draws: xr.Dataset, truth: xr.Dataset, levels: Sequence[float] = LEVELS, group: str | None = "pixel"
) -> xr.Dataset:
    r"""How often central intervals hold the known value.

    The interval of level :math:`c` goes from the quantile :math:`(1 - c) / 2` to :math:`(1 + c) / 2` of the draws, that
    of level :math:`p` at place :math:`p (S + 1)` of :math:`S` (Hyndman & Fan 1996, type 6), so that it holds a value
    that is exchangeable with the draws as often as it says, if they are not too few (19 for 0.9).
    Values of one group (the dates of a pixel) are not independent: the standard error is that of a mean of clustered
    data, :math:`se^2 = \frac{G}{G - 1} \sum_g (h_g - n_g p)^2 / n^2` with :math:`h_g` hits of :math:`n_g` values in
    group :math:`g` of :math:`G` (Cochran 1977, Sampling techniques, eq. 6.13). Without groups it is binomial.

    Args:
        draws: `(chain, draw, ...)` of each variable, such as ``tree["posterior"].to_dataset()``.
        truth: `(...)` known values of some of these variables, in the same units.
        levels: nominal levels, in (0, 1).
        group: dimension whose members are independent of each other; None: every value is.

    Returns:
        Dataset over `(variable, level)`: ``coverage``, ``standard_error`` (NaN for a single group) and ``width`` (mean
        width of the intervals, in the unit of the variable), and ``n (variable)``, the values scored.

    Raises:
        ValueError: no variable is in both, dimensions do not fit, or a level lies outside (0, 1).
    """
    nominal = np.atleast_1d(np.asarray(levels, float))
    if not ((nominal > 0) & (nominal < 1)).all():
        raise ValueError(f"Levels {nominal.tolist()} of intervals: give numbers between 0 and 1, such as 0.9.")
    rows = []
    for name, values, known in _pairs(draws, truth):
        seen = np.isfinite(known.values)
        places = np.concatenate([(1 - nominal) / 2, (1 + nominal) / 2])
        edges = np.quantile(values.values, places, axis=-1, method="weibull")
        low, high = edges[: len(nominal)], edges[len(nominal) :]
        hits = ((known.values >= low) & (known.values <= high) & seen).astype(float)
        axis = known.dims.index(group) if group in known.dims else None
        share, error = _clustered(hits, seen, axis)
        width = np.where(seen, high - low, 0).reshape(len(nominal), -1).sum(1) / max(seen.sum(), 1)
        rows.append((name, share, error, width, int(seen.sum())))
    names, shares, errors, widths, counts = zip(*rows, strict=True)
    over = ("variable", "level")
    return xr.Dataset(
        {
            "coverage": (over, np.stack(shares), {"long_name": "share of known values inside", "units": "1"}),
            "standard_error": (over, np.stack(errors), {"units": "1"}),
            "width": (over, np.stack(widths), {"long_name": "mean width of the interval, unit of the variable"}),
            "n": ("variable", list(counts)),
        },
        {"variable": list(names), "level": nominal},
    )


def pit(draws: xr.Dataset, truth: xr.Dataset, seed: int = 0) -> xr.Dataset:
    r"""Probability integral transform: the place of the known value among the draws, uniform if they are calibrated.

    .. math:: PIT = (r + V) / (S + 1), \qquad r = \#\{s : x_s < y\} + W

    with :math:`S` draws, :math:`V \sim U(0, 1)`, and ties broken at random (:math:`W` uniform on the number of draws
    that equal :math:`y`). Given exchangeable draws and truth it is exactly uniform for any :math:`S`; the rank of
    simulation-based calibration is :math:`r`.

    Args:
        draws, truth: as for `coverage`.
        seed: of the randomisation.

    Returns:
        Dataset with the dimensions of the known values, in (0, 1); NaN where these are NaN. The number of draws is the
        attribute ``draws``.

    Raises:
        ValueError: no variable is in both, or dimensions do not fit.
    """
    rng = np.random.default_rng(seed)
    places, count = {}, 0
    for name, values, known in _pairs(draws, truth):
        y, count = known.values[..., None], values.sizes["sample"]
        below, ties = (values.values < y).sum(-1), (values.values == y).sum(-1)
        rank = below + rng.integers(0, ties + 1)
        place = (rank + rng.uniform(size=rank.shape)) / (count + 1)
        places[name] = known.copy(data=np.where(np.isfinite(known.values), place, np.nan))
    return xr.Dataset(places).assign_attrs(draws=count)


def crps(draws: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    r"""Continuous ranked probability score of the draws, by the fair (unbiased) estimator.

    .. math:: CRPS = \frac1S \sum_s |x_s - y| - \frac{1}{2 S (S - 1)} \sum_{s, s'} |x_s - x_{s'}|

    (Ferro 2014, Quarterly Journal of the Royal Meteorological Society 140, eq. 6). Smaller is better; for a single
    certain value it is the absolute error. Divided by :math:`S^2` instead, as `arviz_stats.loo_score` does with its
    weights, the score would depend on the number of draws.

    Args:
        draws, truth: as for `coverage`; at least two draws.

    Returns:
        Dataset with the dimensions and units of the known values; NaN where these are NaN.

    Raises:
        ValueError: no variable is in both, dimensions do not fit, or there is one draw only.
    """
    scores = {}
    for name, values, known in _pairs(draws, truth):
        count = values.sizes["sample"]
        if count < 2:
            raise ValueError(f"One draw of '{name}': the spread of a posterior takes two draws at least.")
        ordered = np.sort(values.values.astype(np.float64), axis=-1)
        weights = (2 * np.arange(1, count + 1) - count - 1) / (count * (count - 1))
        score = np.abs(ordered - known.values[..., None]).mean(-1) - ordered @ weights
        scores[name] = known.copy(data=score)
    return xr.Dataset(scores)


def at_pixels(truth: xr.Dataset, posterior: xr.Dataset) -> xr.Dataset:
    """The known fields of a cube at the pixels of a posterior.

    Args:
        truth: fields `(..., y, x)` or `(..., point)` of the whole cube, such as ``cube["truth"]`` of a simulation.
        posterior: dataset with ``pixel_row`` and ``pixel_column`` by pixel, as `inference.posterior` gives it.

    Returns:
        The fields that lie on the grid, with a dimension ``pixel`` in place of the grid's.
    """
    rows = posterior["pixel_row"].variable
    columns = posterior["pixel_column"].variable
    fields = {}
    for name, field in truth.data_vars.items():
        if {"y", "x"} <= set(field.dims):
            fields[name] = field.variable.isel(y=rows, x=columns)
        elif "point" in field.dims:
            fields[name] = field.variable.isel(point=rows)
    coords = {d: c.variable for d, c in truth.coords.items() if d not in ("y", "x", "point") and c.dims == (d,)}
    return xr.Dataset(fields, coords)


def observed(tree: xr.DataTree) -> tuple[xr.Dataset, xr.Dataset]:
    """Predictive draws and observations of a posterior tree, as the other functions take them.

    The observations are those that the posterior was conditioned on: they show misfit, not skill. For skill, withhold
    some (`inference.withheld_scores`).

    Args:
        tree: as `inference.posterior` gives it.

    Returns:
        The groups ``posterior_predictive`` and ``observed_data`` with one variable per modality and channel
        (``s2_B04``).
    """
    parts = []
    for group in ("posterior_predictive", "observed_data"):
        dataset, split = tree[group].to_dataset(), {}
        for name, array in dataset.data_vars.items():
            for channel in array[f"{name}_channel"].values:
                split[f"{name}_{channel}"] = array.sel({f"{name}_channel": channel}, drop=True)
        parts.append(xr.Dataset(split))
    return parts[0], parts[1]


def _pairs(draws: xr.Dataset, truth: xr.Dataset) -> Iterator[tuple[str, xr.DataArray, xr.DataArray]]:
    """Name, draws `(..., sample)` and known values `(...)` of every variable of both, aligned."""
    names = [name for name in draws.data_vars if name in truth.data_vars]
    if not names:
        raise ValueError(
            f"Draws of {', '.join(map(str, draws.data_vars))} and known values of {', '.join(map(str, truth))}: "
            "no variable is in both; give them the same names."
        )
    for name in names:
        values, known = draws[name], truth[name]
        if set(values.dims) != {*SAMPLE, *known.dims}:
            raise ValueError(
                f"Draws of '{name}' have the dimensions {values.dims}, its known values {known.dims}: both need the "
                "same besides chain and draw (at_pixels picks the pixels of a posterior out of a cube)."
            )
        if any(values.sizes[d] != known.sizes[d] for d in known.dims):
            raise ValueError(
                f"Draws and known values of '{name}' differ in size along {known.dims}: {dict(values.sizes)} against "
                f"{dict(known.sizes)}; select the same {' and '.join(map(str, known.dims))}."
            )
        yield str(name), values.stack(sample=SAMPLE, create_index=False).transpose(*known.dims, "sample"), known


def _clustered(hits: np.ndarray, seen: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Share of hits `[level]` and its standard error; hits are `[level, ...]`, groups lie along axis of the rest."""
    count = seen.sum()
    if count == 0:
        return np.full(len(hits), np.nan), np.full(len(hits), np.nan)
    share = hits.reshape(len(hits), -1).sum(1) / count
    if axis is None:
        return share, np.sqrt(share * (1 - share) / count)
    per_group = np.moveaxis(hits, axis + 1, 1).reshape(len(hits), seen.shape[axis], -1).sum(2)
    size = np.moveaxis(seen, axis, 0).reshape(seen.shape[axis], -1).sum(1)
    groups = int((size > 0).sum())
    if groups < 2:
        return share, np.full(len(hits), np.nan)
    spread = (per_group - share[:, None] * size) ** 2
    return share, np.sqrt(groups / (groups - 1) * spread.sum(1)) / count
