"""Cubes drawn from a model's prior: they have its marginals, its physics, its noise."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from pi_vae import PhysicsVAE
from pi_vae.data import pattern, simulate, validate
from pi_vae.variables import CATALOGUE

BANDS = ("B03", "B04", "B08")


@pytest.fixture(scope="module")
def empty():
    """40 x 40 pixels, 5 optical and 4 radar dates."""
    cube = pattern(size=40, bands=BANDS)
    steps = {"s2": slice(0, 19, 4), "s1": slice(0, 31, 9)}
    return xr.DataTree.from_dict({name: cube[name].to_dataset().isel(time=step) for name, step in steps.items()})


@pytest.fixture(scope="module")
def drawn(build, empty):
    """Drawn in tiles that do not divide the cube."""
    return simulate(build(), empty, seed=1, tile=17)


def _prior(name):
    v = CATALOGUE[name]
    return stats.truncnorm((v.low - v.loc) / v.scale, (v.high - v.loc) / v.scale, v.loc, v.scale)


@pytest.mark.parametrize("name", ["lai", "soil_moisture", "cab", "soil_brightness", "roughness"])
def test_true_variables_have_the_marginals_of_the_catalogue(drawn, name):
    truth = drawn["truth"][name]
    assert truth.attrs["units"] == CATALOGUE[name].unit
    dates = truth.values if CATALOGUE[name].dynamic else truth.values[None]
    for values in dates[:: len(dates) // 2 + 1]:  # pixels are independent, dates are not
        assert stats.kstest(values.ravel(), _prior(name).cdf).pvalue > 1e-3


def test_dates_of_a_pixel_are_correlated_as_the_lengthscale_says(build, drawn):
    truth = drawn["truth"]
    v = CATALOGUE["lai"]
    u = stats.norm.ppf(np.clip(_prior("lai").cdf(truth["lai"].values.astype(float)), 1e-6, 1 - 1e-6))
    assert v.dynamic and len(u) == len(truth.time)
    days = torch.from_numpy((truth.time.values - truth.time.values[0]) / np.timedelta64(1, "D"))
    lengthscale, odds = (torch.from_numpy(truth[f"global_{g}"].values) for g in ("lengthscale", "static_odds"))
    expected = build().temporal.covariance(days, days, lengthscale, odds)[build().dynamic.index("lai")].numpy()
    found = np.corrcoef(u.reshape(len(u), -1))
    assert np.abs(found - expected).max() < 4 / np.sqrt(u[0].size)


@pytest.mark.parametrize("name", ["s2", "s1"])
def test_an_observation_is_operator_plus_residual_plus_student_noise(build, drawn, name):
    modality = build().modalities[name]
    truth, node = drawn["truth"], drawn[name]
    inputs = {}
    for variable in modality.variables:
        if variable in truth:
            field = truth[variable]
            dynamic = "time" in field.dims
            field = field.sel(time=node.time.values) if dynamic else field.expand_dims(time=len(node.time))
            inputs[variable] = torch.from_numpy(field.values.copy())
    if name == "s1":
        inputs |= dict(zip(modality.coefficient_names, torch.from_numpy(truth["global_s1_coefficients"].values),
                           strict=True))  # fmt: skip
    angles = {a: torch.from_numpy(node[a].values)[:, None, None] for a in modality.angles}
    with torch.no_grad():
        signal = modality.operator(inputs, angles).movedim(-1, 1).numpy()
    variable = "backscatter" if name == "s1" else "reflectance"
    observed = node[variable].values
    if name == "s1":
        signal, observed = 10 * np.log10(signal), 10 * np.log10(observed)
    residual = truth[f"{name}_residual"].values
    assert residual.std() > 0
    noise = truth[f"global_{name}_noise"].values[:, None, None]
    standardised = ((observed - signal - residual) / noise).swapaxes(0, 1)[:, node["valid"].values]
    assert standardised.shape[1] >= 1600
    for channel in standardised:
        assert stats.kstest(channel, stats.t(modality.degrees_of_freedom).cdf).pvalue > 1e-3
    if name == "s2":
        assert not np.isfinite(observed.swapaxes(0, 1)[:, ~node["valid"].values]).any()


def test_what_the_cube_is_stays_and_what_it_saw_is_replaced(empty, drawn):
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        before, after = empty[name].to_dataset(), drawn[name].to_dataset()
        assert after.drop_vars(variable).equals(before.drop_vars(variable))
        assert before.attrs.items() <= after.attrs.items()
        assert after[variable].dims == before[variable].dims and after[variable].attrs == before[variable].attrs
        assert not np.array_equal(after[variable], before[variable], equal_nan=True)


def test_the_seed_decides_the_cube_and_disturbs_nobody(build, empty):
    model = build()
    small = xr.DataTree.from_dict({k: empty[k].to_dataset().isel(x=slice(6), y=slice(6)) for k in ("s2", "s1")})
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, second, other = (simulate(model, small, seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.identical(second)
    assert not first["s1"].to_dataset().equals(other["s1"].to_dataset())


def test_points_are_drawn_as_points(build, points):
    points["s2"] = points["s2"].to_dataset().sel(band=list(BANDS))
    found = simulate(build(), points, seed=0)
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        assert found[name][variable].sizes["point"] == 20 and np.isfinite(found[name][variable]).any()
        valid = points[name]["valid"].values
        assert np.array_equal(np.isfinite(found[name][variable].values).all(1), valid)
    assert found["truth"]["lai"].shape == (12, 20, 1)


def test_a_simulated_cube_holds_the_channels_of_the_model_under_their_names(build, drawn, empty):
    # The cube names its bands the other way round and has one that the model does not read.
    optical = empty["s2"].to_dataset()
    more = optical.isel(band=[2, 1, 0, 0]).assign_coords(band=["B08", "B04", "B03", "B02"])
    found = simulate(build(), xr.DataTree.from_dict({"s2": more, "s1": empty["s1"].to_dataset()}), seed=1, tile=17)
    for band in BANDS:
        expected = drawn["s2"]["reflectance"].sel(band=band).values
        assert np.array_equal(found["s2"]["reflectance"].sel(band=band).values, expected, equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_simulated_cube_keeps_the_data_contract(seed):
    cube = simulate(PhysicsVAE(), pattern(size=12), seed)
    assert validate(cube) is cube


def test_the_pattern_hides_blocks_of_optical_dates():
    cube = pattern(size=50, bands=BANDS, cloudy=0.3, seed=2)
    assert validate(cube) is cube
    clear = cube["s2"]["valid"].values
    for y in range(0, 50, 20):
        for x in range(0, 50, 20):
            block = clear[:, y : y + 20, x : x + 20]
            assert (block == block[:, :1, :1]).all()
    assert abs(1 - clear[:, ::20, ::20].mean() - 0.3) < 4 * np.sqrt(0.21 / (19 * 9))
    assert cube["s1"]["valid"].values.all()
