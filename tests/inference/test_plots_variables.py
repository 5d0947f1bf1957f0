"""Joint posteriors and seasons show the draws they are given."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from inference.plots import corner, phenology
from pi_vae.season import YEAR

JANUARY = 51 * YEAR  # days since 1970 of the first of 2021


@pytest.fixture(scope="module")
def seasonal(tree: xr.DataTree) -> xr.DataTree:
    """The tree with static variables: leaf angle goes against leaf area, roughness is constant, and two seasons."""
    rng = np.random.default_rng(3)
    posterior = tree["posterior"].to_dataset()
    sample, shape = ("chain", "draw", "pixel"), tuple(posterior.sizes[d] for d in ("chain", "draw", "pixel"))
    peak = posterior["lai"].isel(time=6)
    angle = 60 - 8 * (peak - peak.mean("draw")) + 0.5 * rng.normal(size=shape)
    posterior["ala"] = angle.drop_vars("time").assign_attrs(units="degree")
    posterior["roughness"] = (sample, np.full(shape, 1.5), {"units": "cm"})
    posterior["global_scale"] = (("chain", "draw"), rng.normal(size=shape[:2]))
    for name, middle in {"start": 120, "peak": 180, "end": 240, "start_2": 300, "peak_2": 330, "end_2": 380}.items():
        posterior[f"season_{name}"] = (sample, middle + 8 * rng.normal(size=shape), {"units": "day"})
    return xr.DataTree.from_dict({**{k: g.to_dataset() for k, g in tree.children.items()}, "posterior": posterior})


def without(tree: xr.DataTree, *names: str) -> xr.DataTree:
    return xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset().drop_vars(names)})


def triangle(figure: Figure, count: int) -> np.ndarray:
    return np.array(figure.axes, dtype=object).reshape(count, count)


# Joint posterior


def test_points_are_draws_and_numbers_are_rank_correlations(seasonal: xr.DataTree) -> None:
    names = ["lai", "ala", "soil_moisture"]
    date = seasonal["posterior"].time.values[6]
    grid = triangle(corner(seasonal, 3, names, date), 3)
    at = seasonal["posterior"].isel(pixel=3).sel(time=date)
    draws = np.stack([at[name].values[0] for name in names], -1)
    for i in range(3):
        for j in range(i):
            np.testing.assert_array_equal(grid[i, j].lines[0].get_xydata(), draws[:, [j, i]])
            expected = spearmanr(draws[:, i], draws[:, j]).statistic
            assert float(grid[j, i].texts[0].get_text().replace("−", "-")) == pytest.approx(expected, abs=0.0051)
    assert float(grid[0, 1].texts[0].get_text().replace("−", "-")) < -0.9, "leaf area against leaf angle"


def test_the_diagonal_counts_all_draws_and_tells_the_interval(seasonal: xr.DataTree) -> None:
    figure = corner(seasonal, 3, ["cab", "ala"])
    grid = triangle(figure, 2)
    values = seasonal["posterior"]["ala"].values[0, :, 3]
    assert sum(bar.get_height() for bar in grid[1, 1].patches) == values.size
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95), method="weibull")
    assert sorted(line.get_xdata()[0] for line in grid[1, 1].lines) == pytest.approx([low, median, high])
    assert grid[1, 1].get_title() == f"{median:.3g} ({low:.3g}, {high:.3g})"


def test_axes_of_a_column_agree_and_have_units(seasonal: xr.DataTree) -> None:
    grid = triangle(corner(seasonal, 0, ["lai", "ala", "season_end"]), 3)
    assert [axes.get_xlabel() for axes in grid[2]] == [
        r"$\mathrm{LAI}$ [m² m⁻²]", r"$\mathrm{ALA}$ [°]", "season end [day]",
    ]  # fmt: skip
    assert [axes.get_ylabel() for axes in grid[1:, 0]] == [r"$\mathrm{ALA}$ [°]", "season end [day]"]
    for j in range(3):
        assert len({grid[i, j].get_xlim() for i in range(j, 3)}) == 1


def test_the_date_is_the_nearest_or_that_of_most_leaves(seasonal: xr.DataTree) -> None:
    times = seasonal["posterior"].time.values
    assert str(times[4])[:10] in corner(seasonal, 0, date=times[4] + np.timedelta64(9, "D")).get_suptitle()
    fullest = seasonal["posterior"]["lai"].isel(pixel=5).median(("chain", "draw")).values.argmax()
    assert str(times[fullest])[:10] in corner(seasonal, 5).get_suptitle()
    assert " at " not in corner(seasonal, 5, ["ala", "season_end"]).get_suptitle()


def test_by_default_those_that_are_told_apart_badly(seasonal: xr.DataTree) -> None:
    figure = corner(seasonal)
    assert [axes.get_xlabel().partition(" ")[0] for axes in figure.axes[-4:]] == [
        r"$\mathrm{LAI}$", r"$\mathrm{ALA}$", r"$\mathrm{C_{ab}}$", r"$\mathrm{m_v}$",
    ]  # fmt: skip


def test_a_variable_that_does_not_vary_has_no_correlation(seasonal: xr.DataTree) -> None:
    grid = triangle(corner(seasonal, 0, ["ala", "roughness"]), 2)
    assert grid[0, 1].texts[0].get_text() == "–"


def test_no_more_points_than_a_figure_holds(seasonal: xr.DataTree) -> None:
    many = seasonal["posterior"].to_dataset().isel(draw=np.arange(3000) % 60).assign_coords(draw=np.arange(3000))
    grid = triangle(corner(xr.DataTree.from_dict({"posterior": many}), 0, ["lai", "ala"]), 2)
    assert len(grid[1, 0].lines[0].get_xdata()) == 1000
    assert sum(bar.get_height() for bar in grid[0, 0].patches) == 3000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pixel": 24}, "no pixel 24: give one of 0 to 23"),
        ({"names": ["lai", "biomass"]}, "no variable 'biomass': choose from lai, cab"),
        ({"names": ["lai", "residual_s1"]}, "no variable 'residual_s1'"),
        ({"names": ["lai", "global_scale"]}, "no variable 'global_scale'"),
        ({"names": ["lai", "lai"]}, "two variables or more, not 1"),
        ({"date": "midsummer"}, "Date 'midsummer' cannot be read: write it as '2021-06-15'"),
    ],
)
def test_what_cannot_be_joined_is_refused(seasonal: xr.DataTree, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        corner(seasonal, **arguments)


def test_a_tree_without_posterior_is_refused() -> None:
    with pytest.raises(ValueError, match="no group 'posterior': give what inference.posterior returns"):
        corner(xr.DataTree())


# Season


def intervals(axes) -> dict[float, list[tuple[float, float]]]:
    """Heights of the bars of a panel -> their edges."""
    found: dict[float, list[tuple[float, float]]] = {}
    for line in axes.lines:
        x, y = line.get_xdata(), line.get_ydata()
        if len(x) == 2 and y[0] == y[1]:
            found.setdefault(float(y[0]), []).append(tuple(x))
    return found


def test_events_are_the_quantiles_of_their_draws(seasonal: xr.DataTree) -> None:
    _, lower = phenology(seasonal, 4).axes
    assert [text.get_text() for text in lower.get_yticklabels()] == [
        "start", "peak", "end", "start 2", "peak 2", "end 2",
    ]  # fmt: skip
    assert lower.get_xlabel() == "day of year [day]"
    numbers = [text.get_text() for text in lower.texts]
    for place, name in enumerate(("start", "peak", "end", "start_2", "peak_2", "end_2")):
        draws = seasonal["posterior"][f"season_{name}"].values[0, :, 4]
        low, inner, median, outer, high = np.quantile(draws, (0.05, 0.25, 0.5, 0.75, 0.95), method="weibull")
        np.testing.assert_allclose(intervals(lower)[place], [(low, high), (inner, outer)])
        assert f"{median:.0f} ({low:.0f} to {high:.0f})" in numbers


def test_leaf_area_has_its_bands_and_events_their_dates(seasonal: xr.DataTree) -> None:
    upper, _ = phenology(seasonal, 4).axes
    draws = seasonal["posterior"]["lai"].values[0, :, 4]
    drawn = upper.collections[0].get_paths()[0].vertices[:, 1]
    for level in np.quantile(draws, (0.05, 0.95), axis=0, method="weibull"):
        assert np.isclose(drawn[:, None], level).any(0).all()
    assert upper.get_ylabel().endswith("[m² m⁻²]") and upper.get_xlabel() == "date [UTC], pixel 4"
    start = seasonal["posterior"]["season_start"].values[0, :, 4]
    moments = (JANUARY + np.quantile(start, (0.05, 0.95), method="weibull")) * 86400
    edges = [tuple(x.astype("datetime64[s]").astype(float) for x in bar)
             for bars in intervals(upper).values() for bar in bars]  # fmt: skip
    assert any(np.allclose(bar, moments, atol=1, rtol=0) for bar in edges)


def test_a_season_comes_in_every_year_of_the_series(seasonal: xr.DataTree) -> None:
    posterior = without(seasonal, *(f"season_{e}_2" for e in ("start", "peak", "end")))["posterior"].to_dataset()
    long = posterior.isel(time=slice(14)).assign_coords(
        time=np.datetime64("2019-01-01", "ns") + np.arange(14) * np.timedelta64(80, "D")
    )
    upper, lower = phenology(xr.DataTree.from_dict({"posterior": long.drop_vars("residual_s1")})).axes
    assert len(lower.get_yticklabels()) == 3
    years = sorted(
        str(line.get_xdata()[0])[:4] for line in upper.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 0
    )
    assert years == sorted(3 * ["2019", "2020", "2021"])


@pytest.mark.parametrize("name", ["season_peak", "season_start", "lai"])
def test_a_tree_without_a_season_is_refused(seasonal: xr.DataTree, name: str) -> None:
    with pytest.raises(ValueError, match=rf"no '{name}': fit PhysicsVAE\(..., phenology=1\)"):
        phenology(without(seasonal, name))


def test_a_pixel_beyond_the_tree_is_refused(seasonal: xr.DataTree) -> None:
    with pytest.raises(ValueError, match="no pixel -1"):
        phenology(seasonal, -1)
