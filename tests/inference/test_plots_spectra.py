"""Spectra and residuals of a pixel show the draws and observations they are given."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import FillBetweenPolyCollection, LineCollection

from inference.plots import residual_series, spectrum
from pi_vae.physics.sensors import GRID, load_sensor


def bars(axes) -> list[np.ndarray]:
    """`[band, (x, low, high)]` of the 90 % and the 50 % intervals."""
    collections = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [np.array([[s[0, 0], s[0, 1], s[1, 1]] for s in c.get_segments()]) for c in collections]


# Spectrum


def test_bars_are_quantiles_at_the_mean_wavelength_of_the_bands(tree: xr.DataTree) -> None:
    date = tree["posterior_predictive"].s2_time.values[5]
    axes = spectrum(tree, 3, date).axes[0]
    draws = tree["posterior_predictive"]["s2"].values[0, :, 3, 5]
    wavelength = load_sensor("S2A").select(["B04", "B08"]).response @ GRID
    for found, levels in zip(bars(axes), ((0.05, 0.95), (0.25, 0.75)), strict=True):
        expected = np.quantile(draws, levels, axis=0, method="weibull")
        np.testing.assert_allclose(found, np.stack([wavelength, *expected], -1))
    assert 655 < wavelength[0] < 675 and 820 < wavelength[1] < 850, "red and near infrared"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(draws, 0))
    assert axes.get_xlabel() == "wavelength [nm]" and axes.get_ylabel() == "reflectance [–]"
    assert str(date)[:10] in axes.get_title()
    (top,) = axes.child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == ["B04", "B08"]


def test_observed_values_are_dots_and_a_date_without_says_so(tree: xr.DataTree) -> None:
    seen = tree["constant_data"]["s2_seen"].values[3]
    dates = tree["posterior_predictive"].s2_time.values
    at, unseen = np.flatnonzero(seen)[1], np.flatnonzero(~seen)[0]
    figure = spectrum(tree, 3, dates[at])
    np.testing.assert_array_equal(figure.axes[0].lines[2].get_ydata(), tree["observed_data"]["s2"].values[3, at])
    words = [text.get_text() for text in figure.legends[0].texts]
    assert words == ["predictive median", "90 %", "50 %", "observed"]
    assert "not observed" not in figure.axes[0].get_title()
    figure = spectrum(tree, 3, dates[unseen])
    assert "not observed" in figure.axes[0].get_title()
    assert "observed" not in [text.get_text() for text in figure.legends[0].texts]


def test_the_date_is_the_nearest_or_the_middle_one_that_was_observed(tree: xr.DataTree) -> None:
    dates = tree["posterior_predictive"].s2_time.values
    observed = np.flatnonzero(tree["constant_data"]["s2_seen"].values[3])
    assert str(dates[observed[len(observed) // 2]])[:10] in spectrum(tree, 3).axes[0].get_title()
    assert str(dates[2])[:10] in spectrum(tree, 3, str(dates[2] + np.timedelta64(8, "D"))[:10]).axes[0].get_title()


def test_bands_of_several_nodes_are_one_spectrum_in_order_of_wavelength(tree: xr.DataTree) -> None:
    groups = {}
    for key in ("posterior_predictive", "observed_data"):
        whole = tree[key].to_dataset()
        parts = {}
        for name, channel, shift in (("s2_20m", "B04", 0), ("s2_10m", "B08", 3600)):
            part = whole["s2"].sel(s2_channel=[channel]).rename(s2_time=f"{name}_time", s2_channel=f"{name}_channel")
            times = part[f"{name}_time"].values + np.timedelta64(shift, "s")
            parts[name] = part.assign_coords({f"{name}_time": times})
        groups[key] = xr.Dataset(parts)
    several = xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset(), **groups})
    date = tree["posterior_predictive"].s2_time.values[5]
    for one, other in zip(bars(spectrum(tree, 3, date).axes[0]), bars(spectrum(several, 3, date).axes[0]), strict=True):
        np.testing.assert_allclose(other, one)


def test_spectra_that_cannot_be_drawn_are_refused(tree: xr.DataTree) -> None:
    posterior, predictive = (tree[key].to_dataset() for key in ("posterior", "posterior_predictive"))
    radar = xr.DataTree.from_dict({"posterior": posterior, "posterior_predictive": predictive.drop_vars("s2")})
    with pytest.raises(ValueError, match=r"no predictive of an optical modality \(s2, s2_10m"):
        spectrum(radar)
    strange = predictive.assign_coords(s2_channel=["B04", "red edge"])
    with pytest.raises(ValueError, match="S2A does not have 'red edge': choose from B01"):
        spectrum(xr.DataTree.from_dict({"posterior": posterior, "posterior_predictive": strange}))
    with pytest.raises(ValueError, match="no pixel 24: give one of 0 to 23"):
        spectrum(tree, 24)
    with pytest.raises(ValueError, match="Date 'May' cannot be read"):
        spectrum(tree, 0, "May")


# Residual


def test_residuals_have_a_panel_a_channel_with_quantiles_of_the_draws(tree: xr.DataTree) -> None:
    figure = residual_series(tree, 3, "s1")
    assert [axes.get_ylabel() for axes in figure.axes] == ["VV [dB]", "VH [dB]"]
    assert figure.axes[-1].get_xlabel() == "date [UTC], pixel 3"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    for c, axes in enumerate(figure.axes):
        draws = tree["posterior"]["residual_s1"].values[0, :, 3, :, c]
        outer, inner = (x for x in axes.collections if isinstance(x, FillBetweenPolyCollection))
        for band, levels in ((outer, (0.05, 0.95)), (inner, (0.25, 0.75))):
            drawn = band.get_paths()[0].vertices[:, 1]
            for level in np.quantile(draws, levels, axis=0, method="weibull"):
                assert np.isclose(drawn[:, None], level).any(0).all()
        np.testing.assert_allclose(axes.lines[1].get_ydata(), np.median(draws, 0))


def test_strokes_are_the_dates_that_the_modality_saw(tree: xr.DataTree) -> None:
    axes = residual_series(tree, 3, "s1").axes[0]
    strokes = next(line for line in axes.lines if line.get_marker() == "|")
    seen = tree["constant_data"]["s1_seen"].values[3]
    np.testing.assert_array_equal(strokes.get_xdata(), tree["constant_data"].s1_time.values[seen])
    bare = xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset()})
    assert not any(line.get_marker() == "|" for line in residual_series(bare, 3, "s1").axes[0].lines)


def test_residuals_that_are_not_there_are_refused(tree: xr.DataTree) -> None:
    with pytest.raises(ValueError, match="no residual of modality 's2': choose s1"):
        residual_series(tree, 0, "s2")
    bare = xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset().drop_vars("residual_s1")})
    with pytest.raises(ValueError, match=r"no residual of modality 's1': fit a model that has one"):
        residual_series(bare, 0, "s1")
    with pytest.raises(ValueError, match="no pixel 99"):
        residual_series(tree, 99, "s1")
