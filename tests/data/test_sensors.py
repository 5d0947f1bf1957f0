"""Converters against their closed forms, sun angles against celestial mechanics."""

import numpy as np
import pytest

from pi_vae.data.sentinel1 import db_to_linear, dn_to_linear, linear_to_db, s1_node
from pi_vae.data.sentinel2 import BANDS, dn_to_reflectance, s2_node, sun_angles


def test_reflectance_of_digital_numbers() -> None:
    dn = np.array([0, 1000, 11000, 65535], np.uint16)
    np.testing.assert_allclose(dn_to_reflectance(dn), [0, 0.1, 1.1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(dn_to_reflectance(dn, offset=-1000), [-0.1, 0, 1, np.nan], rtol=1e-6)
    assert dn_to_reflectance(dn).dtype == np.float32


def test_power_of_digital_numbers() -> None:
    dn = np.array([0, 1, 4467, 65535], np.uint16)
    power = dn_to_linear(dn)
    assert power.dtype == np.float32
    np.testing.assert_allclose(linear_to_db(power[1:3]), 20 * np.log10([1.0, 4467.0]) - 83, rtol=1e-5)
    assert np.isnan(power[[0, 3]]).all(), "neither 0 nor 65535 has decibels"


def test_decibels_invert() -> None:
    db = np.linspace(-40, 10, 11)
    np.testing.assert_allclose(linear_to_db(db_to_linear(db)), db, atol=1e-12)
    assert db_to_linear(-10.0) == pytest.approx(0.1)
    assert np.isnan(linear_to_db(np.array([0.0, -1.0]))).all()


@pytest.mark.parametrize(("lat", "sign"), [(50.0, 1), (0.0, -1), (-30.0, -1)])
def test_sun_at_solstice_noon(lat: float, sign: int) -> None:
    """At true noon of the June solstice the zenith angle is |lat - 23.44|, the sun due south or north."""
    day = np.datetime64("2021-06-21T00:00", "ns") + np.arange(0, 24 * 60, 2) * np.timedelta64(1, "m")
    zenith, azimuth = sun_angles(day, 0.0, lat)
    noon = int(zenith.argmin())
    assert zenith[noon] == pytest.approx(abs(lat - 23.44), abs=0.01)
    assert np.cos(np.radians(azimuth[noon])) == pytest.approx(-sign, abs=1e-3)
    equation_of_time = 2.0  # minutes by which the sun is late that day
    assert abs(noon * 2 - 12 * 60 - equation_of_time) <= 2


def test_sun_rises_earlier_in_the_east() -> None:
    """15 degrees of longitude are an hour."""
    time = np.array(["2021-03-20T09:00", "2021-03-20T10:00"], "datetime64[ns]")
    west, _ = sun_angles(time[1:], 0.0, 45.0)
    east, _ = sun_angles(time[:1], 15.0, 45.0)
    assert west[0] == pytest.approx(east[0], abs=0.05)


def test_s2_node_layout() -> None:
    time = np.array(["2021-03-01", "2021-03-06"], "datetime64[ns]")
    values = np.full((2, 2, 3), 0.1)
    values[1, 0, 2] = np.nan
    node = s2_node(values, time, ["B04", "B8A"], sza=40.0, platform=["S2A", "S2B"])
    assert node["reflectance"].dims == ("time", "band", "point") and node["reflectance"].dtype == np.float32
    assert node["valid"].values.tolist() == [[True, True, True], [True, True, False]]
    assert node["sza"].dims == ("time",) and "vza" not in node
    assert node["wavelength"].values.tolist() == [BANDS["B04"], BANDS["B8A"]]
    assert node["platform"].values.tolist() == ["S2A", "S2B"]


def test_s1_node_layout() -> None:
    time = np.array(["2021-03-01"], "datetime64[ns]")
    incidence = np.full((1, 2, 3), 35.0)
    node = s1_node(
        np.full((1, 2, 2, 3), 0.1), time, calibration="gamma0", incidence=incidence, relative_orbit=[37],
        x=np.arange(3.0), y=np.arange(2.0), crs="EPSG:32631",
    )  # fmt: skip
    assert node["backscatter"].dims == ("time", "pol", "y", "x") and node.attrs["calibration"] == "gamma0"
    assert node["incidence"].dims == ("time", "y", "x")
    assert node.rio.crs.to_epsg() == 32631 and node["x"].attrs["standard_name"] == "projection_x_coordinate"


def test_bands_are_in_order_of_wavelength() -> None:
    assert list(BANDS.values()) == sorted(BANDS.values())
