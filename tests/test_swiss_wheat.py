"""What the benchmark of leaf area does to series and ratings before it compares them; on invented data."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from lai_insitu import passes, repeated  # noqa: E402
from swiss_wheat import BANDS, label_error, uncovered, view  # noqa: E402

NOON = np.array(["2022-05-15T10:25", "2022-05-17T10:25"], "datetime64[ns]")


def easting(lon: float, lat: float) -> tuple[np.ndarray, np.ndarray]:
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, 32632, always_xy=True).transform(lon, lat)
    return np.array([x]), np.array([y])


def test_below_the_track_the_view_is_nadir_and_at_the_edge_of_the_swath_it_is_not() -> None:
    below, _ = view(np.array(["R108"]), NOON[:1], *easting(7.42, 47.4))
    edge, _ = view(np.array(["R108"]), NOON[:1], *easting(7.42 + 145 / (111.3 * np.cos(np.radians(47.4))), 47.4))
    assert below[0, 0] < 0.1
    assert 10.5 < edge[0, 0] < 12.0  # a swath of 290 km


def test_between_two_tracks_one_looks_with_the_sun_and_the_other_against_it() -> None:
    vza, raa = view(np.array(["R108", "R065"]), NOON, *easting(8.68, 47.4))
    assert vza[:, 0] == pytest.approx(7.5, abs=0.5)
    assert raa[0, 0] > 120 and raa[1, 0] < 60
    assert raa.sum() == pytest.approx(180, abs=3)


def test_a_rise_of_blue_is_cloud_and_its_end_is_not() -> None:
    days = np.array([0.0, 3.0, 5.0, 8.0, 40.0])
    blue = np.array([[0.03, 0.03], [0.05, np.nan], [0.14, 0.10], [0.04, 0.05], [0.09, 0.05]])
    assert uncovered(blue, days).tolist() == [[True, True], [True, False], [False, False], [True, True], [True, True]]


def test_errors_of_repeated_observations_are_found_in_spite_of_the_season() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(9, 9)) / 50
    days = np.repeat(np.arange(0, 400, 20.0), 2) + np.tile([0.0, 2.0], 20)
    season = np.repeat(rng.normal(size=(20, 9, 300)), 2, axis=0)
    noise = np.einsum("bc,tcp->tbp", factor, rng.normal(size=(40, 9, 300)))
    assert np.allclose(repeated(season + noise, days), factor @ factor.T, atol=1.5e-4)
    assert len(BANDS) == 9


def test_the_day_of_a_stage_lies_between_the_ratings_around_it() -> None:
    rows = [("a", 0, "2022-04-01", 25.0), ("a", 0, "2022-04-11", 35.0), ("a", 1, "2022-04-01", 31.0),
            ("a", 1, "2022-04-11", 35.0), ("b", 0, "2022-04-11", 29.0), ("b", 0, "2022-04-21", 31.0)]  # fmt: skip
    ratings = pd.DataFrame(rows, columns=["parcel", "point_id", "date", "value"]).astype({"date": "datetime64[ns]"})
    days = passes(ratings, 30.0)
    assert days["a"] == 96.0  # the other point was past it when first seen
    assert days["b"] == 106.0


def test_the_error_of_labels_is_found_whatever_fields_and_points_are_like() -> None:
    rng = np.random.default_rng(0)
    fields, points, days = 30, 6, 8
    course = np.exp(rng.normal(0.8, 0.7, (fields, 1, days)) + rng.normal(0, 0.3, (fields, points, 1)))
    value = course + rng.normal(size=course.shape) * np.hypot(0.1, 0.12 * course)
    place = np.indices(value.shape).reshape(3, -1)
    date = np.datetime64("2022-04-01T10:00", "ns") + 7 * place[2] * np.timedelta64(1, "D")
    labels = pd.DataFrame({"parcel": place[0].astype(str), "point_id": place[1], "date": date})
    labels["value"] = value.ravel().clip(0.05)
    constant, share = label_error(labels)
    assert constant == pytest.approx(0.1, abs=0.04)
    assert share == pytest.approx(0.12, abs=0.02)
