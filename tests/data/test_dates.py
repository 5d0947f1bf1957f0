"""Dates that nobody observed: added without a trace of an observation, with the geometry of their day."""

import numpy as np
import pytest

from pi_vae.data import pattern, validate, with_dates

NEW = np.array(["2021-12-24", "2021-06-03"], "datetime64[ns]")


@pytest.fixture(scope="module")
def cube():
    return pattern(size=3, optical_days=20, radar_days=12)


def test_old_observations_stay_and_new_dates_have_none(cube) -> None:
    longer = validate(with_dates(cube, NEW))
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        old = cube[name].time.values
        assert set(longer[name].time.values) == {*old, *NEW}
        assert longer[name][variable].sel(time=old).identical(cube[name][variable])
        assert longer[name].valid.dtype == bool and not longer[name].valid.sel(time=NEW).any()
        assert longer[name].attrs == cube[name].attrs


def test_the_sun_is_that_of_the_day_at_the_usual_hour(cube) -> None:
    sza = with_dates(cube, NEW)["s2"].sza
    same_season = cube["s2"].sza.sel(time="2021-06-13", method="nearest")
    assert abs(float(sza.sel(time=NEW[1])) - float(same_season)) < 2
    winter = cube["s2"].sza.sel(time="2020-12-15", method="nearest")
    assert abs(float(sza.sel(time=NEW[0])) - float(winter)) < 2
    assert with_dates(cube, NEW)["s1"].incidence.sel(time=NEW[0]) == cube["s1"].incidence[-1]


def test_a_cube_without_place_takes_the_nearest_sun(cube) -> None:
    nodes = {n: node.to_dataset().drop_vars(["spatial_ref", "x", "y"]) for n, node in cube.children.items()}
    nowhere = cube.from_dict(nodes)
    assert with_dates(nowhere, NEW)["s2"].sza.sel(time=NEW[0]) == nowhere["s2"].sza[-1]


def test_dates_that_are_there_change_nothing(cube) -> None:
    again = with_dates(cube, cube["s2"].time.values[:2])
    assert again["s2"].to_dataset().identical(cube["s2"].to_dataset())


@pytest.mark.parametrize("times", [[], ["NaT"], ["tomorrow"], ["2021-02-30"]])
def test_says_what_is_wrong_with_the_dates(cube, times) -> None:
    with pytest.raises(ValueError, match="times"):
        with_dates(cube, times)
