"""Figures show what the data say: panels, units, masks, bands and bars are those of the input."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

from inference.discovery import Laws
from inference.discovery.figures import laws_figure, residual_law
from inference.plots import (
    elbo,
    pixel_series,
    reconstruction,
    residual_map,
    variable_map,
    withheld_skill,
)  # fmt: skip

MakeLaws = Callable[[float], Laws]


def panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def has_unit(label: str) -> bool:
    return label.endswith("]") and "[" in label


# Maps


def test_map_has_mean_and_sd_at_six_dates(maps: xr.Dataset) -> None:
    figure = variable_map(maps, "lai")
    grid = panels(figure)
    assert len(grid) == 12
    assert [a.get_title() for a in grid[:6]] == [str(d)[:10] for d in maps.time.values[[0, 3, 5, 8, 10, 13]]]
    np.testing.assert_allclose(grid[1].images[0].get_array(), np.ma.masked_array(maps.lai_mean[3]), rtol=1e-6)
    np.testing.assert_allclose(grid[7].images[0].get_array(), np.ma.masked_array(maps.lai_sd[3]), rtol=1e-6)
    labels = [a.get_ylabel() for a in figure.axes if a.get_label() == "<colorbar>"]
    assert [label.partition(" ")[0] for label in labels] == ["mean", "sd"]
    assert all(label.endswith("[m² m⁻²]") for label in labels)


def test_map_masks_pixels_never_observed_and_no_others(maps: xr.Dataset) -> None:
    for axes in panels(variable_map(maps, "lai")):
        masked = np.ma.getmaskarray(axes.images[0].get_array())
        assert masked[0, 0] and masked.sum() == 1


def test_maps_of_a_row_share_their_colours(maps: xr.Dataset) -> None:
    grid = panels(variable_map(maps, "lai"))
    for row, colours in ((grid[:6], "viridis"), (grid[6:], "magma")):
        assert len({a.images[0].get_clim() for a in row}) == 1
        assert {a.images[0].get_cmap().name for a in row} == {colours}
    assert grid[6].images[0].get_clim()[0] == 0


def test_dates_asked_for_are_the_nearest(maps: xr.Dataset) -> None:
    grid = panels(variable_map(maps, "lai", dates=["2021-03-10", np.datetime64("2021-06-25")]))
    assert [a.get_title() for a in grid[:2]] == ["2021-03-08", "2021-06-20"]


def test_static_variable_has_one_column_and_distances(maps: xr.Dataset) -> None:
    figure = variable_map(maps, "n")
    assert len(panels(figure)) == 2
    assert panels(figure)[0].get_ylabel() == "y [km]" and panels(figure)[1].get_xlabel() == "x [km]"
    assert panels(figure)[0].images[0].get_extent() == pytest.approx([0, 0.16, 0, 0.12])


def test_map_of_an_unknown_variable_is_refused(maps: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="'cab'"):
        variable_map(maps, "cab")


def test_residual_map_is_symmetric_about_zero(maps: xr.Dataset) -> None:
    grid = panels(residual_map(maps, "s1"))
    assert len(grid) == 2 * 6
    ((low, high),) = {a.images[0].get_clim() for a in grid}
    assert low == -high and grid[0].images[0].get_cmap().name == "RdBu"
    np.testing.assert_allclose(grid[7].images[0].get_array()[1:], maps.residual_s1_mean[3, 1, 1:])
    with pytest.raises(ValueError, match="'s3'"):
        residual_map(maps, "s3")


# Series


def test_series_has_a_panel_for_each_quantity_with_its_unit(tree: xr.DataTree) -> None:
    labels = [a.get_ylabel() for a in pixel_series(tree, 3).axes]
    assert [label.rpartition(" [")[2] for label in labels] == [
        "m² m⁻²]", "µg cm⁻²]", "m³ m⁻³]", "–]", "dB]", "dB]",
    ]  # fmt: skip
    assert labels[3:] == ["NDVI [–]", "VV [dB]", "VH [dB]"]


def test_bands_are_the_quantiles_of_the_draws(tree: xr.DataTree) -> None:
    axes = pixel_series(tree, 3).axes
    draws = tree["posterior"]["lai"].values[0, :, 3]
    outer, inner = (c for c in axes[0].collections if isinstance(c, FillBetweenPolyCollection))
    for band, levels in ((outer, (0.05, 0.95)), (inner, (0.25, 0.75))):
        drawn = band.get_paths()[0].vertices[:, 1]
        for level in np.quantile(draws, levels, axis=0, method="weibull"):
            assert np.isclose(drawn[:, None], level).any(0).all()
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), np.median(draws, 0))
    red, nir = np.moveaxis(tree["posterior_predictive"]["s2"].values[0, :, 3], -1, 0)
    (band,) = (c for c in axes[3].collections if isinstance(c, FillBetweenPolyCollection))
    ndvi = np.quantile((nir - red) / (nir + red), (0.05, 0.95), axis=0, method="weibull")
    assert np.isclose(band.get_paths()[0].vertices[:, 1][:, None], ndvi.ravel()).any(0).all()


def test_observations_are_dots_and_withheld_ones_open(tree: xr.DataTree) -> None:
    withheld = {"s1": (tree["posterior"].time.values[[2, 5]], np.array([[-10.0, -16.0], [-11.0, -15.0]]))}
    axes = pixel_series(tree, 3, withheld).axes
    dots = {line.get_label(): line for line in axes[5].lines}
    np.testing.assert_array_equal(dots["observed"].get_ydata(), tree["observed_data"]["s1"].values[3, :, 1])
    np.testing.assert_array_equal(dots["withheld"].get_ydata(), [-16.0, -15.0])
    assert dots["withheld"].get_markerfacecolor() == "white"
    assert "withheld" not in {line.get_label() for line in axes[3].lines}


def test_series_without_red_or_radar_leaves_panels_out(tree: xr.DataTree) -> None:
    part = tree["posterior_predictive"].to_dataset().drop_vars("s1").isel(s2_channel=[1])
    figure = pixel_series(xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset(),
                                                 "posterior_predictive": part}))  # fmt: skip
    assert len(figure.axes) == 3
    with pytest.raises(ValueError, match="0 to 23"):
        pixel_series(tree, 24)


# Skill


def test_reconstruction_gives_the_error_of_what_was_seen(maps: xr.Dataset, cube: xr.DataTree) -> None:
    found = panels(reconstruction(maps, cube))
    assert [a.get_title().split()[0] for a in found] == ["B04", "B08", "VV", "VH"]
    for axes, rmse, unit in zip(found, ("0.01", "0.01", "0.5", "0.5"), ("–", "–", "dB", "dB"), strict=True):
        assert f"RMSE {rmse}" in axes.get_title() and axes.get_xlabel() == f"observed [{unit}]"
        counted = axes.collections[0].get_array().sum()
        assert 0.99 * maps.lai_mean.size < counted < maps.lai_mean.size
    observed = np.delete(
        10 * np.log10(cube["s1"]["backscatter"].values[:, 0]), np.ravel_multi_index((3, 2, 2), maps.lai_mean.shape)
    )
    assert f"R² {1 - 0.25 / observed.var():.2f}" in found[2].get_title()


def test_elbo_is_the_negative_loss_and_clips_the_start() -> None:
    step = np.arange(0, 2000, 10)
    loss = -1.5 + 300 * np.exp(-step / 15) + 0.05 * np.random.default_rng(0).normal(size=step.size)
    (axes,) = elbo({"step": step.tolist(), "loss": loss.tolist(), "seconds": step.tolist()}).axes
    raw, smooth = axes.lines
    np.testing.assert_array_equal(raw.get_ydata(), -loss)
    assert np.std(np.diff(smooth.get_ydata()[-60:-10])) < 0.3 * np.std(np.diff(-loss[-60:-10]))
    assert -5 < axes.get_ylim()[0] < 1.4 < axes.get_ylim()[1] < 3
    assert has_unit(axes.get_xlabel()) and has_unit(axes.get_ylabel())
    with pytest.raises(ValueError, match="empty"):
        elbo({"step": [], "loss": [], "seconds": []})


def test_bars_are_ratios_and_dots_are_coverage(scores: dict) -> None:
    upper, lower = withheld_skill(scores).axes
    heights = [bar.get_height() for bar in upper.patches]
    np.testing.assert_allclose(heights, [0.5, 0.75, 1.2, 0.8, 0.5, np.nan])
    np.testing.assert_allclose(lower.lines[0].get_ydata(), [0.88, 0.92, 0.75])
    assert [t.get_text() for t in lower.get_xticklabels()] == ["B04", "B08", "VV"]
    assert lower.lines[1].get_ydata()[0] == 0.9 and lower.get_ylim()[0] < 0.75
    assert "s2 1,200" in lower.get_xlabel() and has_unit(upper.get_ylabel()) and has_unit(lower.get_ylabel())


# Laws


def test_the_law_that_passes_is_shown_and_named(tree: xr.DataTree, make_laws: MakeLaws) -> None:
    figure = residual_law(tree, make_laws(0.7))
    assert figure.get_suptitle() == "Laws that pass the null"
    vv, vh, front = figure.axes
    assert vv.get_title().startswith("VV: law") and "e^{" in vv.get_title()
    assert "fails the null" in vh.get_title()
    assert vv.get_xlabel() == "law [dB]" and vv.get_ylabel() == "VV left by physics [dB]"
    lai = tree["posterior"]["lai"].mean(("chain", "draw")).values[tree["constant_data"]["s1_seen"].values]
    points = vv.containers[0].lines[0]
    x = np.sort(points.get_xdata())
    assert len(x) == 250 < lai.size
    assert np.isclose(x[:, None], 1.5 * np.exp(-0.6 * lai)).any(1).all()
    sd = tree["posterior"]["residual_s1"].std(("chain", "draw")).values[..., 0]
    bars = np.array([np.ptp(s[:, 1]) / 2 for s in vv.containers[0].lines[2][0].get_segments()])
    assert np.isclose(bars[:, None], sd.ravel(), rtol=1e-4).any(1).all()


def test_front_has_the_null_and_fills_only_what_passes(tree: xr.DataTree, make_laws: MakeLaws) -> None:
    front = residual_law(tree, make_laws(0.7)).axes[-1]
    (band,) = front.patches
    assert band.get_y() + band.get_height() == pytest.approx(np.quantile(make_laws(0.7).null, 0.95, method="higher"))
    points = {(line.get_xdata()[0], round(float(line.get_ydata()[0]), 3)): line for line in front.lines
              if line.get_marker() == "o"}  # fmt: skip
    assert points[3, 0.05].get_markerfacecolor() == "white" != points[6, 0.7].get_markerfacecolor()
    assert front.get_ylim()[0] > -1, "a skill of -4 must not squeeze the rest"


def test_no_law_is_said_to_be_none(tree: xr.DataTree, make_laws: MakeLaws) -> None:
    figure = residual_law(tree, make_laws(0.08))
    assert figure.get_suptitle() == "No law passes the null"
    assert figure.axes[0].get_title().startswith("VV: best candidate, fails the null")
    empty = residual_law(tree, Laws("s1", (), ()))
    assert [a.get_title() for a in empty.axes[:2]] == ["VV: no candidate", "VH: no candidate"]


def test_laws_of_another_modality_are_refused(tree: xr.DataTree, make_laws: MakeLaws) -> None:
    with pytest.raises(ValueError, match="target='s1'"):
        residual_law(tree, make_laws(0.7), target="s2")


def test_what_an_input_does_is_shown_with_its_band(make_laws: MakeLaws) -> None:
    front, panel = laws_figure(make_laws(0.7)).axes
    assert front.get_xlabel() == "complexity [count]" and panel.get_xlabel() == "lai [m² m⁻²]"
    (curve,) = (line for line in panel.lines if len(line.get_xdata()) > 2)
    x = curve.get_xdata()
    np.testing.assert_allclose(curve.get_ydata(), 1.5 * np.exp(-0.6 * x))
    assert (x[0], x[-1]) == (0.3, 3.8)
    wide = max(panel.findobj(FillBetweenPolyCollection), key=lambda band: np.ptp(band.get_paths()[0].vertices[:, 1]))
    low, high = (np.quantile(1.5 + 0.1 * np.random.default_rng(1).normal(size=9999), q) for q in (0.05, 0.95))
    inside = wide.get_paths()[0].vertices
    at_start = inside[np.isclose(inside[:, 0], 0.3), 1]
    assert np.ptp(at_start) == pytest.approx((high - low) * np.exp(-0.18), rel=0.15)
    assert "fails the null" in laws_figure(make_laws(0.08)).axes[1].get_title()
    assert len(laws_figure(Laws("s1", (), ())).axes) == 1


# All


def test_figures_save_and_leave_no_state(
    tree: xr.DataTree, maps: xr.Dataset, cube: xr.DataTree, make_laws: MakeLaws, scores: dict
) -> None:
    before = dict(matplotlib.rcParams)
    for figure in (variable_map(maps, "lai"), pixel_series(tree), residual_law(tree, make_laws(0.7)),
                   reconstruction(maps, cube), withheld_skill(scores)):  # fmt: skip
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=40)
        assert file.getvalue()[:8] == b"\x89PNG\r\n\x1a\n"
    assert dict(matplotlib.rcParams) == before


def test_a_notebook_shows_them_without_pyplot() -> None:
    assert elbo({"step": [0, 1], "loss": [2.0, 1.0], "seconds": [0.0, 1.0]})._repr_png_()[:4] == b"\x89PNG"
