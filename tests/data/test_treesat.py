"""Irregular dates of three interleaved series: what the file holds, where each pass looks from, and one fit of all."""

import numpy as np
import pytest

from inference import embed, fit, posterior
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import samples, validate
from pi_vae.data.sentinel1 import ALTITUDE, EARTH, INCLINATION, PERIOD, incidence_angles


@pytest.fixture(scope="module")
def cube():
    try:
        return samples.load("treesat_abies_2020")
    except samples.SampleError as error:
        pytest.skip(f"The sample cannot be had: {error}")


def test_the_file_is_read_as_it_is_described(cube):
    validate(cube)
    s1, s2 = cube["s1"], cube["s2"]
    assert s1.sizes["time"] == 60 + 86 and s2.sizes["time"] == 71 and s2.sizes["y"] == s2.sizes["x"] == 6
    passes = s1.orbit_pass.values
    assert set(zip(passes, s1.relative_orbit.values.tolist(), strict=True)) == {("ascending", 117), ("descending", 66)}
    assert (passes == "ascending").sum() == 60
    power = s1.backscatter.where(s1.valid)
    vv, vh = (10 * np.log10(power.sel(pol=p).median()) for p in ("VV", "VH"))
    assert -12 < vv < -7 and -17 < vh < -12, "a wood at C band"
    seen = s2.reflectance.where(s2.valid)
    summer = seen.sel(time=slice("2020-06-01", "2020-08-31")).median(("time", "y", "x"))
    red, infrared = (float(summer.sel(band=b)) for b in ("B04", "B08"))
    assert (infrared - red) / (infrared + red) > 0.6
    assert float((seen > 1).sum()) == 0 and float(seen.min()) > 0


def test_every_pass_has_its_own_incidence(cube):
    s1 = cube["s1"]
    angles = {p: np.unique(s1.incidence.values[s1.orbit_pass.values == p]) for p in ("ascending", "descending")}
    assert all(len(found) == 1 and 29 < found[0] < 46 for found in angles.values())
    assert angles["ascending"] != angles["descending"] and "computed" in s1.incidence.attrs["comment"]


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("lat", [-33.0, 5.0, 52.0])
def test_incidence_agrees_with_an_orbit_flown_in_space(ascending, lat):
    """A satellite flies over the turning Earth, and marks a place to its right, square to its way in space."""
    tilt, rate, spin = np.radians(INCLINATION), 2 * np.pi / PERIOD, 2 * np.pi / 86400
    node = np.radians(30.0)  # longitude at which the equator is crossed northward
    at = np.arcsin(np.sin(np.radians(lat)) / np.sin(tilt)) / rate
    since = at if ascending else np.pi / rate - at

    def position(t):
        u, turn = rate * t, node - spin * t
        x, y, z = np.cos(u), np.sin(u) * np.cos(tilt), np.sin(u) * np.sin(tilt)
        return np.array([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), z])

    satellite = position(since)
    fixed = position(since + 1) - position(since - 1) + 2 * np.cross([0, 0, spin], satellite)  # in space
    along = fixed / np.linalg.norm(fixed)
    right = np.cross(along, satellite)
    for degrees in (3.5, 4.5, 5.5):
        distance = np.radians(degrees)
        place = np.cos(distance) * satellite + np.sin(distance) * right
        ray = (EARTH + ALTITUDE) * satellite - EARTH * place
        expected = np.degrees(np.arccos(ray @ place / np.linalg.norm(ray)))
        lon = np.degrees(np.arctan2(place[1], place[0]))
        # The mean sun stands so that the node lies at 18 h local time.
        seconds = 18 * 3600 - np.degrees(node) * 240 + since
        moment = np.datetime64("2020-05-01", "s") + np.timedelta64(round(seconds % 86400), "s")
        found = incidence_angles([moment], lon, np.degrees(np.arcsin(place[2])), np.array([ascending]))
        assert found[0] == pytest.approx(expected, abs=1.0), degrees


def test_a_pass_that_cannot_be_is_not_given_an_angle():
    noon = np.array(["2021-03-01T12:00"], "datetime64[s]")
    assert np.isnan(incidence_angles(noon, 4.0, 51.0, np.array([True]))).all()
    assert np.isnan(incidence_angles(noon, 4.0, 86.0, np.array([True]))).all()


def test_all_three_series_are_fitted_in_one_run(cube):
    model = PhysicsVAE(
        {"s2": Optical(cube["s2"].band.values, nodes=1, residual=1), "s1": Radar(residual=1)}, width=16, layers=1
    )
    run = fit(model, cube, steps=2, patches=1, pixels=8, progress=False)
    tree = posterior(run, cube, draws=4, pixels=[(2, 3)])
    assert tree["posterior"].sizes["time"] == 71 + 146
    seen = tree["constant_data"]
    ascending = cube["s1"].orbit_pass.values == "ascending"
    assert seen["s1_seen"].values[0, ascending].all() and seen["s1_seen"].values[0, ~ascending].mean() > 0.9
    assert len(np.unique(seen["s1_incidence"])) == 2
    score = tree["log_likelihood"]
    assert np.isfinite(score["s1"].values[..., ascending]).all() and np.isfinite(score["s2"]).any()
    assert np.isfinite(embed(run, cube, pixels=[(2, 3)]).features).all()
