"""Intervals, PIT and CRPS against posteriors that are known: a conjugate Gaussian passes, a narrow one does not."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from inference import posterior
from inference.calibration import at_pixels, coverage, crps, observed, pit
from inference.draws import fair_quantile

PIXELS, DATES, DRAWS = 400, 5, 300


def conjugate(shrink: float = 1.0, shift: float = 0.0, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Draws of theta ~ N(0, 1) given y ~ N(theta, 0.5^2), exact for shrink 1, and the truth."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(PIXELS, DATES))
    y = theta + 0.5 * rng.normal(size=theta.shape)
    mean, sd = y / 1.25, np.sqrt(0.25 / 1.25)
    draws = mean + shift + shrink * sd * rng.normal(size=(2, DRAWS // 2, PIXELS, DATES))
    dims = ("pixel", "time")
    return xr.Dataset({"lai": (("chain", "draw", *dims), draws)}), xr.Dataset({"lai": (dims, theta)})


def test_the_exact_posterior_covers_what_it_says():
    table = coverage(*conjugate()).sel(variable="lai")
    z = (table["coverage"] - table["level"]) / table["standard_error"]
    assert np.abs(z).max() < 4
    assert int(table["n"]) == PIXELS * DATES
    exact = 2 * stats.norm.ppf(0.95) * np.sqrt(0.2)
    assert float(table["width"].sel(level=0.9)) == pytest.approx(exact, rel=0.02)


def test_few_draws_hold_what_many_do():
    """Truth and draws from one distribution: 19 draws hold 90 %, neither less nor more."""
    values = np.random.default_rng(0).normal(size=(20, 40_000))
    draws = xr.Dataset({"lai": (("chain", "draw", "pixel"), values[None, :19])})
    held = coverage(draws, xr.Dataset({"lai": ("pixel", values[19])}), levels=[0.5, 0.9])["coverage"].values[0]
    assert held == pytest.approx([0.5, 0.9], abs=0.01)
    low, high = fair_quantile(torch.from_numpy(values[:19]), [0.05, 0.95]).numpy()
    assert ((values[19] >= low) & (values[19] <= high)).mean() == pytest.approx(0.9, abs=0.006)


def test_a_posterior_that_is_too_narrow_is_found_out():
    table = coverage(*conjugate(shrink=0.7)).sel(variable="lai", level=0.9)
    expected = 2 * stats.norm.cdf(0.7 * stats.norm.ppf(0.95)) - 1  # 0.75
    assert float(table["coverage"]) == pytest.approx(expected, abs=0.03)
    assert float(table["coverage"]) + 5 * float(table["standard_error"]) < 0.9


def test_errors_of_independent_values_are_binomial_and_those_of_repeated_ones_are_not():
    draws, truth = conjugate()
    one = coverage(draws, truth, [0.5], group=None)
    expected = np.sqrt(0.25 / (PIXELS * DATES))
    assert float(one["standard_error"].squeeze()) == pytest.approx(expected, rel=0.05)
    assert float(coverage(draws, truth, [0.5])["standard_error"].squeeze()) == pytest.approx(expected, rel=0.15)
    # The same date five times is one date: the clustered error knows, the binomial one does not.
    again = [d.isel(time=[0] * DATES) for d in (draws, truth)]
    clustered = float(coverage(*again, [0.5])["standard_error"].squeeze())
    assert clustered == pytest.approx(np.sqrt(0.25 / PIXELS), rel=0.05)


def test_coverage_is_counted_over_known_values_only():
    draws, truth = conjugate()
    holes = truth.where(np.arange(DATES) < 2)
    table = coverage(draws, holes, [0.9]).squeeze()
    kept = coverage(draws.isel(time=slice(2)), truth.isel(time=slice(2)), [0.9]).squeeze()
    assert int(table["n"]) == 2 * PIXELS
    for name in ("coverage", "standard_error", "width"):
        assert float(table[name]) == pytest.approx(float(kept[name]))
    nothing = coverage(draws, truth.where(False), [0.9]).squeeze()
    assert int(nothing["n"]) == 0 and np.isnan(nothing["coverage"])


def test_pit_values_are_uniform_for_the_exact_posterior_and_not_for_others():
    def p_value(**options):
        return stats.kstest(pit(*conjugate(**options))["lai"].values.ravel(), "uniform").pvalue

    assert p_value() > 0.01
    assert p_value(shrink=0.7) < 1e-6 and p_value(shrink=1.4) < 1e-6 and p_value(shift=0.1) < 1e-6


def test_pit_values_are_uniform_with_few_draws_and_with_ties():
    rng = np.random.default_rng(3)
    counts = xr.Dataset({"n": (("chain", "draw", "pixel"), rng.poisson(1.0, (1, 7, 4000)))})
    places = pit(counts, xr.Dataset({"n": ("pixel", rng.poisson(1.0, 4000))}))
    assert places.attrs["draws"] == 7
    assert stats.kstest(places["n"].values, "uniform").pvalue > 0.01


def test_the_score_of_a_gaussian_is_the_closed_form_whatever_the_number_of_draws():
    """CRPS of N(m, s) at y (Gneiting & Raftery 2007, eq. 21)."""
    rng = np.random.default_rng(0)
    y = np.array([-1.0, 0.0, 2.5])
    z = y / 1.5
    exact = 1.5 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    truth = xr.Dataset({"lai": (("pixel", "value"), np.tile(y, (20_000, 1)))})
    for count in (2, 10):
        draws = xr.Dataset({"lai": (("chain", "draw", "pixel", "value"), 1.5 * rng.normal(size=(1, count, 20_000, 3)))})
        score = crps(draws, truth)["lai"].mean("pixel").values
        assert np.allclose(score, exact, atol=0.03), count


def test_the_score_prefers_the_exact_posterior():
    score = {s: float(crps(*conjugate(shrink=s))["lai"].mean()) for s in (0.5, 1.0, 2.0)}
    assert score[1.0] < score[0.5] and score[1.0] < score[2.0]


def test_posterior_trees_are_scored_against_the_cube_and_against_the_observations(run, simulated):
    tree = posterior(run, simulated, draws=20, pixels=12, seed=0)
    group = tree["posterior"].to_dataset()
    truth = at_pixels(simulated["truth"].to_dataset(), group)
    place = int(group["pixel_row"][5]), int(group["pixel_column"][5])
    field = simulated["truth"]["lai"].transpose("y", "x", "time").values
    assert np.array_equal(truth["lai"].transpose("pixel", "time").values[5], field[place])
    table = coverage(group, truth, [0.9])
    assert {"lai", "ala", "soil_moisture"} <= set(table["variable"].values.tolist())
    predictive, seen = observed(tree)
    scores = coverage(predictive, seen, [0.9])
    assert {"s2_B04", "s1_VH"} <= set(scores["variable"].values.tolist())
    assert int(scores["n"].sel(variable="s1_VH")) == int(tree["constant_data"]["s1_seen"].sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: coverage(d, t.rename(lai="cab")), "no variable is in both; give them the same names"),
        (lambda d, t: coverage(d, t.isel(pixel=0)), r"dimensions .*'pixel'.*at_pixels picks"),
        (lambda d, t: coverage(d, t.isel(pixel=slice(3))), r"differ in size .* select the same pixel and time"),
        (lambda d, t: coverage(d, t, [0.9, 1.0]), "give numbers between 0 and 1"),
        (lambda d, t: crps(d.isel(chain=[0], draw=[0]), t), "takes two draws at least"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(*conjugate())
