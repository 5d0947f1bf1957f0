"""Figures of calibration show the numbers they are given."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from inference.calibration import coverage, simulation_based_calibration
from inference.plots import coverage_curves, rank_ecdf


@pytest.fixture(scope="module")
def pair() -> tuple[xr.Dataset, xr.Dataset]:
    rng = np.random.default_rng(0)
    draws = {n: (("chain", "draw", "pixel"), s * rng.normal(size=(1, 200, 300))) for n, s in (("lai", 1), ("cab", 0.5))}
    truth = {n: ("pixel", rng.normal(size=300)) for n in draws}
    return xr.Dataset(draws), xr.Dataset(truth)


def test_coverage_curves_are_those_of_the_table_with_two_standard_errors(pair) -> None:
    table = coverage(*pair)
    figure = coverage_curves(table)
    (axes,) = figure.axes
    diagonal, *curves = axes.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    assert [line.get_label() for line in curves] == ["lai", "cab"]
    for line, band in zip(curves, axes.collections, strict=True):
        found = table.sel(variable=line.get_label())
        assert np.array_equal(line.get_ydata(), found["coverage"])
        for edge in (found["coverage"] - 2 * found["standard_error"], found["coverage"] + 2 * found["standard_error"]):
            assert np.isclose(band.get_paths()[0].vertices[:, 1][:, None], edge.values).any(0).all()
    assert axes.get_xlabel().endswith("[–]") and axes.get_ylabel().endswith("[–]")
    assert [text.get_text() for text in figure.legends[0].texts] == ["lai", "cab"]


def test_thirteen_curves_differ_in_colour_or_stroke(pair) -> None:
    table = coverage(*pair).isel(variable=[0] * 13).assign_coords(variable=[f"v{i}" for i in range(13)])
    _, *curves = coverage_curves(table).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 13


def test_every_column_of_panels_has_its_ticks(pair) -> None:
    result = (
        simulation_based_calibration(*pair).isel(variable=[0] * 6).assign_coords(variable=[f"v{i}" for i in range(6)])
    )
    figure = rank_ecdf(result, simulations=50)
    figure.draw_without_rendering()
    shown = [any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks()) for axes in figure.axes]
    assert shown == [False, False, True, True, True, True]


def test_the_ecdf_leaves_its_band_where_the_test_says_so(pair) -> None:
    result = simulation_based_calibration(*pair)
    assert result["calibrated"].values.tolist() == [True, False]
    figure = rank_ecdf(result, simulations=200)
    assert len(figure.axes) == 2
    assert figure.get_supxlabel().endswith("[–]") and figure.get_supylabel().endswith("[–]")
    for axes, leaves, name in zip(figure.axes, (False, True), ("lai", "cab"), strict=True):
        band = axes.collections[0].get_paths()[0].vertices
        curve = axes.lines[0]
        low, high = band[:, 1].min(), band[:, 1].max()
        assert (curve.get_ydata().max() > high or curve.get_ydata().min() < low) == leaves
        assert axes.get_title() == f"{name}, p = {float(result['p_holm'].sel(variable=name)):.2g}"
    assert figure.axes[0].lines[0].get_color() != figure.axes[1].lines[0].get_color()
