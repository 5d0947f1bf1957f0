"""Figures of calibration show the numbers they are given."""

import numpy as np
import pytest
import xarray as xr

from inference.calibration import coverage, simulation_based_calibration
from inference.calibration.figures import coverage_curves, rank_ecdf


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    draws = {n: (("chain", "draw", "pixel"), s * rng.normal(size=(1, 200, 300))) for n, s in (("lai", 1), ("cab", 0.5))}
    truth = {n: ("pixel", rng.normal(size=300)) for n in draws}
    return xr.Dataset(draws), xr.Dataset(truth)


def test_coverage_curves_are_those_of_the_table(pair):
    table = coverage(*pair)
    axes = coverage_curves(table).axes[0]
    diagonal, *curves = axes.lines
    assert [line.get_label() for line in curves] == ["lai", "cab"]
    for line in curves:
        assert np.array_equal(line.get_ydata(), table["coverage"].sel(variable=line.get_label()))


def test_the_ecdf_leaves_its_band_where_the_test_says_so(pair):
    result = simulation_based_calibration(*pair)
    assert result["calibrated"].values.tolist() == [True, False]
    figure = rank_ecdf(result, simulations=200)
    assert len(figure.axes) == 2
    for axes, leaves in zip(figure.axes, (False, True), strict=True):
        band = axes.collections[0].get_paths()[0].vertices
        curve = axes.lines[0]
        low, high = band[:, 1].min(), band[:, 1].max()
        assert (curve.get_ydata().max() > high or curve.get_ydata().min() < low) == leaves
