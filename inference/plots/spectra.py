"""Spectrum of one pixel at one date."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.lines import Line2D

from inference.plots.selection import nearest, of_pixel
from inference.plots.style import BLACK, BLUE, Figure, styled
from pi_vae.data.kinds import OPTICAL
from pi_vae.physics.sensors import GRID, load_sensor

__all__ = ["spectrum"]

SAME_DATE = np.timedelta64(12, "h")  # nodes of one sensor in several resolutions


@styled
def spectrum(tree: xr.DataTree, pixel: int = 0, date: Any = None) -> Figure:
    """Observed reflectance of one pixel at one date against its predictive intervals, over wavelength.

    A band lies at the mean wavelength of its spectral response (Sentinel-2A). Bands of several optical nodes
    (``s2_10m``, ``s2_20m``) that share the date are drawn together.

    Args:
        tree: what `inference.posterior` returns.
        pixel: position along ``pixel``.
        date: the nearest date of the optical modality is taken; by default, of the dates at which the pixel was
            observed, the one in the middle.

    Returns:
        The figure: median, 50 and 90 % interval of the predictive of every band, and what was observed, where it was.

    Raises:
        ValueError: there is no such pixel, no predictive of an optical modality, a band that Sentinel-2 does not have,
            or a date that cannot be read.
    """
    groups = of_pixel(tree, pixel)
    predictive, data = (groups.get(key, xr.Dataset()) for key in ("posterior_predictive", "observed_data"))
    names = [name for name in OPTICAL.nodes if name in predictive]
    if not names:
        raise ValueError(
            f"The tree holds no predictive of an optical modality ({', '.join(OPTICAL.nodes)}): give the posterior of "
            "a model that has one."
        )
    first = f"{names[0]}_time"
    times = predictive[first].values
    seen = np.isfinite(data[names[0]].transpose(first, ...).values).any(1) if names[0] in data else np.zeros(len(times))
    if date is None:
        choice = np.flatnonzero(seen) if seen.any() else np.arange(len(times))
        date = times[choice[len(choice) // 2]]
    moment = times[nearest(times, date)]
    sensor, parts = load_sensor("S2A"), []
    for name in names:
        dates, bands = (predictive[f"{name}_{axis}"].values for axis in ("time", "channel"))
        place = nearest(dates, moment)
        if abs(dates[place] - moment) > SAME_DATE:
            continue
        at = {f"{name}_time": place}
        draws = predictive[name].isel(at).transpose("chain", "draw", ...).values.reshape(-1, len(bands))
        observed = data[name].isel(at).values if name in data else np.full(len(bands), np.nan)
        parts.append((sensor.select([str(band) for band in bands]).response @ GRID, bands, draws, observed))
    wavelength, bands, draws, observed = (np.concatenate([p[i] for p in parts], -1) for i in range(4))
    order = np.argsort(wavelength)
    wavelength, bands, draws, observed = wavelength[order], bands[order], draws[:, order], observed[order]

    low, lower, median, upper, high = np.quantile(draws, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0, method="weibull")
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(wavelength, median, color=BLUE, lw=0.8, alpha=0.5)
    axes.vlines(wavelength, low, high, color=BLUE, lw=6, alpha=0.28)
    axes.vlines(wavelength, lower, upper, color=BLUE, lw=6, alpha=0.5)
    axes.plot(wavelength, median, "_", ms=8, mew=1.4, color=BLUE)
    axes.plot(wavelength, observed, "o", ms=4, color=BLACK)
    axes.set(xlabel="wavelength [nm]", ylabel="reflectance [–]")
    axes.margins(x=0.03)
    top = axes.secondary_xaxis("top")
    top.set_xticks(wavelength, list(bands), rotation=90, fontsize=7)
    top.spines["top"].set_visible(False)
    day, unseen = np.datetime_as_string(moment, "D"), "" if np.isfinite(observed).any() else ", not observed"
    axes.set_title(f"Pixel {pixel}, {day}{unseen}")
    keys = {"predictive median": Line2D([], [], ls="", marker="_", ms=8, mew=1.4, color=BLUE)}
    keys |= {words: Line2D([], [], color=BLUE, lw=6, alpha=a) for words, a in (("90 %", 0.28), ("50 %", 0.6))}
    if not unseen:
        keys["observed"] = Line2D([], [], ls="", marker="o", ms=4, color=BLACK)
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=len(keys))
    return figure
