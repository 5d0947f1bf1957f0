"""Sensors: order of bands, weighted means, sensors of one's own."""

import numpy as np
import pytest

from pi_vae.physics.sensors import GRID, Sensor, load_sensor


@pytest.mark.parametrize("name", ["S2A", "S2B"])
def test_sentinel2_bands_are_in_order_and_centred(name: str) -> None:
    sensor = load_sensor(name)
    assert sensor.bands == tuple("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split())
    assert np.allclose(sensor.response.sum(1), 1, atol=1e-12)
    # central wavelengths of the mission's handbook
    centres = [443, 492, 560, 665, 704, 740, 781, 833, 864, 944, 1375, 1612, 2194]
    assert np.abs(sensor.response @ GRID - centres).max() < 12


def test_band_value_is_the_weighted_mean() -> None:
    sensor = Sensor.from_bands("toy", {"x": ([500, 510], [1, 1]), "y": ([2400.0, 2600.0], [0.0, 1.0])})
    spectrum = GRID.astype(float)
    assert sensor.response[0] @ spectrum == pytest.approx(505)
    assert np.allclose(sensor.response.sum(1), 1)
    assert load_sensor({"x": ([500, 510], [2, 2])}).response == pytest.approx(sensor.response[:1])


def test_selects_in_the_order_asked() -> None:
    sensor = load_sensor("S2A")
    picked = sensor.select(["B8A", "B02"])
    assert picked.bands == ("B8A", "B02")
    assert np.array_equal(picked.response, sensor.response[[8, 1]])


@pytest.mark.parametrize("bands", [["B8"], []])
def test_refuses_unknown_bands(bands: list[str]) -> None:
    with pytest.raises(ValueError, match="B8A"):
        load_sensor("S2A").select(bands)


@pytest.mark.parametrize(
    "band", [([300, 350], [1, 1]), ([500, 490], [1, 1]), ([500, 510], [1, -1]), ([500, 510, 520], [1, 1])]
)
def test_refuses_responses_that_cannot_be_used(band: tuple) -> None:
    with pytest.raises(ValueError, match="'x'"):
        Sensor.from_bands("toy", {"x": band})


def test_refuses_unknown_sensors() -> None:
    with pytest.raises(ValueError, match="S2A or S2B"):
        load_sensor("S9")
