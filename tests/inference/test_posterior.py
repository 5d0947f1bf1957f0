"""Posterior trees: laid out as ArviZ wants it, consistent in themselves, the prior where nothing was seen."""

import arviz as az
import numpy as np
import pytest
import torch
from scipy import stats

from inference import posterior
from pi_vae.data import CubeError, withhold
from pi_vae.variables import CATALOGUE

PIXELS = [(0, 0), (9, 11), (4, 5)]


@pytest.fixture(scope="module")
def tree(build, simulated):
    from inference import Run

    return posterior(Run(build().eval()), simulated, draws=40, pixels=PIXELS, seed=2)


def _prior(name):
    v = CATALOGUE[name]
    return stats.truncnorm((v.low - v.loc) / v.scale, (v.high - v.loc) / v.scale, v.loc, v.scale)


def test_groups_dims_and_units_are_those_of_the_documentation(tree, simulated, build):
    assert set(tree.children) == {
        "posterior", "posterior_predictive", "log_likelihood", "observed_data", "constant_data"
    }  # fmt: skip
    sample = ("chain", "draw", "pixel")
    drawn = tree["posterior"]
    assert drawn["lai"].dims == (*sample, "time") and drawn["lai"].shape == (1, 40, 3, 11)
    assert drawn["ala"].dims == sample
    assert drawn["residual_s2"].dims == (*sample, "time", "s2_channel")
    assert drawn["global_s1_coefficients"].dims == ("chain", "draw", "s1_coefficient")
    assert drawn["global_lengthscale"].sel(variable="lai").attrs["units"] == "day"
    assert drawn["global_s2_loading"].dims[2:] == ("s2_channel", "s2_process")
    assert drawn["global_s2_static_odds"].dims[2:] == ("s2_process",) and "B04" in drawn["global_s2_noise"].s2_channel
    model = build()
    for name in (*model.dynamic, *model.static):
        assert drawn[name].attrs["units"] == CATALOGUE[name].unit
    for name, unit in (("s2", "1"), ("s1", "dB")):
        axes = ("pixel", f"{name}_time", f"{name}_channel")
        assert tree["observed_data"][name].dims == axes
        assert tree["posterior_predictive"][name].dims == ("chain", "draw", *axes)
        assert tree["log_likelihood"][name].dims == ("chain", "draw", *axes[:2])
        assert tree["observed_data"][name].attrs["units"] == drawn[f"residual_{name}"].attrs["units"] == unit
        assert np.array_equal(tree["observed_data"][f"{name}_time"], simulated[name]["time"])
    assert tree["observed_data"]["s2_channel"].values.tolist() == ["B03", "B04", "B08"]


def test_pixels_carry_their_place(tree, simulated):
    group = tree["posterior"]
    assert list(zip(group["pixel_row"].values.tolist(), group["pixel_column"].values.tolist(), strict=True)) == PIXELS
    assert np.array_equal(group["y"], simulated["s2"]["y"].values[[0, 9, 4]])
    assert np.array_equal(group["x"], simulated["s2"]["x"].values[[0, 11, 5]])


def test_observed_data_are_the_observations_and_nothing_else(tree, simulated):
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        node = simulated[name]
        values = 10 * np.log10(node[variable].values) if name == "s1" else node[variable].values
        for i, (row, column) in enumerate(PIXELS):
            valid = node["valid"].values[:, row, column]
            found = tree["observed_data"][name].values[i]
            assert np.allclose(found[valid], values[:, :, row, column][valid], atol=1e-4)
            assert np.isnan(found[~valid]).all()
            assert np.array_equal(tree["constant_data"][f"{name}_seen"].values[i], valid)
            assert np.array_equal(np.isfinite(tree["log_likelihood"][name].values[0, :, i]).all(0), valid)


def test_the_log_likelihood_is_that_of_the_variables_in_the_tree(build, tree):
    """Radar at one pixel, recomputed from what the tree says of every draw."""
    modality, pixel = build().modalities["s1"], 2
    drawn = tree["posterior"].isel(chain=0, pixel=pixel)
    at = drawn.sel(time=tree["observed_data"]["s1_time"].values)
    inputs = {v: torch.from_numpy(at[v].values.copy()) for v in ("lai", "soil_moisture")}
    inputs["roughness"] = torch.from_numpy(drawn["roughness"].values.copy())[:, None]
    coefficients = torch.from_numpy(drawn["global_s1_coefficients"].values.copy())
    inputs |= {name: coefficients[:, i, None] for i, name in enumerate(modality.coefficient_names)}
    with torch.no_grad():
        signal = modality.operator(inputs, {"incidence": torch.tensor(38.5)}).numpy()
    mean = 10 * np.log10(signal) + at["residual_s1"].values
    noise = drawn["global_s1_noise"].values[:, None]
    observed = tree["observed_data"]["s1"].values[pixel]
    expected = stats.t(modality.degrees_of_freedom, mean, noise).logpdf(observed).sum(-1)
    assert np.allclose(tree["log_likelihood"]["s1"].values[0, :, pixel], expected, rtol=1e-3, atol=1e-3)
    spread = tree["posterior_predictive"]["s1"].values[0, :, pixel] - mean
    assert stats.kstest((spread / noise).ravel(), stats.t(modality.degrees_of_freedom).cdf).pvalue > 1e-3


def test_arviz_reads_the_tree(tree):
    summary = az.summary(tree, var_names=["lai"])
    assert len(summary) == 3 * 11
    expected = tree["posterior"]["lai"].mean(("chain", "draw")).values.ravel()
    assert np.allclose(summary["mean"].astype(float), expected, rtol=0.02, atol=0.02)
    assert float(az.ess(tree, var_names=["ala"])["ala"].min()) > 5


@pytest.mark.parametrize("name", ["lai", "soil_moisture", "roughness", "hspot"])
def test_a_pixel_without_observation_has_the_prior(run, simulated, name):
    drawn = posterior(run, simulated, draws=1500, pixels=[(0, 0)], seed=1)["posterior"][name].values[0, :, 0]
    values = drawn[:, 4] if CATALOGUE[name].dynamic else drawn
    assert stats.kstest(values, _prior(name).cdf).pvalue > 1e-3
    assert values.std() == pytest.approx(_prior(name).std(), rel=0.1)


def test_the_seed_decides_the_draws_and_disturbs_nobody(run, simulated):
    state = torch.get_rng_state()
    first, second, other = (posterior(run, simulated, draws=8, pixels=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.identical(second)
    assert not np.array_equal(first["posterior"]["pixel_row"], other["posterior"]["pixel_row"]) or not first.equals(
        other
    )
    assert (
        len(set(zip(first["posterior"]["pixel_row"].values, first["posterior"]["pixel_column"].values, strict=True)))
        == 5
    )


def test_all_pixels_see_the_same_draws_of_the_global_latents(run, simulated):
    whole = posterior(run, simulated, draws=60)["posterior"]
    assert whole.sizes["pixel"] == 120, "more than one chunk"
    alone = posterior(run, simulated, draws=60, pixels=[(8, 3)])["posterior"]
    assert np.array_equal(whole["global_lengthscale"], alone["global_lengthscale"])
    assert len(np.unique(whole["global_lengthscale"].values[0, :, 0])) == 25
    assert whole["pixel_row"].values.tolist() == np.repeat(np.arange(10), 12).tolist()


def test_withheld_observations_are_not_used(run, simulated):
    cube = withhold(simulated, 0.4, block=1, seed=0)
    moved = cube.copy()
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        node = cube[name].to_dataset()
        moved[name].dataset = node.assign({variable: node[variable].where(~node["withheld"], 0.5)})
    first, second = (posterior(run, c, draws=8, pixels=20) for c in (cube, moved))
    assert first.identical(second)
    rows, columns = first["posterior"]["pixel_row"].values, first["posterior"]["pixel_column"].values
    for name in ("s2", "s1"):
        hidden = cube[name]["withheld"].values[:, rows, columns].T
        assert hidden.any() and np.isnan(first["observed_data"][name].values[hidden]).all()
        assert np.isnan(first["log_likelihood"][name].values[0][:, hidden]).all()


def test_more_draws_than_memory_holds_are_refused(run, simulated):
    with pytest.raises(ValueError, match=r"draws of 120 pixels are .* numbers: give fewer draws or pixels"):
        posterior(run, simulated, draws=100_000)


@pytest.mark.parametrize("pixel", [(10, 0), (0, 12), (-1, 3)])
def test_a_pixel_outside_the_cube_is_refused(run, simulated, pixel):
    with pytest.raises(ValueError, match="outside the cube of 10 rows and 12 columns"):
        posterior(run, simulated, draws=2, pixels=[pixel])


def test_a_cube_that_breaks_the_contract_is_refused(run, simulated):
    cube = simulated.copy()
    cube["s1"].dataset = cube["s1"].to_dataset().sortby("time", ascending=False)
    with pytest.raises(CubeError, match="Unsorted dates in node 's1'"):
        posterior(run, cube, draws=2, pixels=2)


def test_dates_that_nobody_observed_are_answered_and_change_nothing_else(run, simulated):
    asked = np.array(["2021-04-01", "2022-03-01"], "datetime64[ns]")
    plain, longer = (posterior(run, simulated, draws=400, pixels=[(4, 5)], seed=3, times=t) for t in (None, asked))
    before, after = plain["posterior"]["lai"], longer["posterior"]["lai"]
    assert set(after.time.values) == {*before.time.values, *asked}
    for name in ("s2", "s1"):
        there = {f"{name}_time": asked}
        assert np.isfinite(longer["posterior_predictive"][name].sel(there)).all()
        assert not longer["constant_data"][f"{name}_seen"].sel(there).any()
    mean, spread = before.mean(("chain", "draw")), before.std(("chain", "draw"))
    moved = after.sel(time=before.time).mean(("chain", "draw")) - mean
    assert float(abs(moved / spread).max()) < 0.3  # of other draws


def test_uncertainty_grows_away_from_the_data(run, simulated):
    last = simulated["s1"].time.values.max()
    ahead = last + np.array([5, 30, 120]).astype("timedelta64[D]")
    tree = posterior(run, simulated, draws=1500, pixels=[(4, 5), (6, 2), (8, 3)], seed=3, times=ahead)
    drawn = tree["posterior"]["lai"].sel(time=ahead).values.astype(float)
    latent = stats.norm.ppf(np.clip(_prior("lai").cdf(drawn), 1e-6, 1 - 1e-6))
    spread = latent.std(axis=(0, 1)).mean(0)  # [date]
    assert (np.diff(spread) > 0).all() and spread[-1] < 1.05
    there = tree["posterior"]["lai"].sel(time=last).values.astype(float)
    assert spread[0] > stats.norm.ppf(np.clip(_prior("lai").cdf(there), 1e-6, 1 - 1e-6)).std(axis=(0, 1)).mean()


def test_a_channel_that_the_cube_lacks_tells_nothing_and_is_predicted(run, simulated):
    part = simulated.copy()
    part["s2"] = simulated["s2"].to_dataset().sel(band=["B03", "B08"])
    part["s1"] = simulated["s1"].to_dataset().sel(pol=["VH"])
    tree = posterior(run, part, draws=20, pixels=PIXELS)
    observed = tree["observed_data"]["s2"]
    assert observed["s2_channel"].values.tolist() == ["B03", "B04", "B08"]
    full = posterior(run, simulated, draws=20, pixels=PIXELS)
    for channel in ("B03", "B08"):
        assert observed.sel(s2_channel=channel).equals(full["observed_data"]["s2"].sel(s2_channel=channel))
    assert np.isnan(observed.sel(s2_channel="B04")).all() and np.isnan(tree["observed_data"]["s1"].values[..., 0]).all()
    assert np.isfinite(tree["posterior_predictive"]["s2"]).all()
    assert not tree["posterior"]["lai"].equals(full["posterior"]["lai"])


def test_a_node_without_any_channel_of_the_model_counts_as_absent(run, simulated):
    strange = simulated.copy()
    strange["s2"] = simulated["s2"].to_dataset().assign_coords(band=["B8A", "B11", "B12"])
    found, alone = (posterior(run, c, draws=8, pixels=3) for c in (strange, simulated.drop_nodes("s2")))
    assert found["posterior"].equals(alone["posterior"])


def test_no_name_is_one_that_arviz_keeps_for_its_figures(tree):
    az.plot_forest(tree, var_names=["lai"], coords={"pixel": [0]}, combined=True, backend="none")
