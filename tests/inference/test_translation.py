"""Translation: nothing of the target is used, all that is promised is there, and the source does inform."""

import dataclasses

import numpy as np
import pytest
import torch

from inference import fit, neural_posterior, posterior, predict, translate
from inference.calibration import at_pixels, coverage
from pi_vae.data import CubeError, simulate, withhold

PIXELS = [(1, 1), (5, 4)]


def _changed(cube, name, variable, factor):
    nodes = {key: node.to_dataset().copy(deep=True) for key, node in cube.children.items()}
    nodes[name][variable] = nodes[name][variable] * factor
    return type(cube).from_dict(nodes)


def test_what_the_target_saw_has_no_influence(run, simulated):
    first = translate(run, simulated, ["s1"], "s2", draws=8, pixels=PIXELS)
    other = translate(run, _changed(simulated, "s2", "reflectance", 0.5), ["s1"], "s2", draws=8, pixels=PIXELS)
    assert np.array_equal(first["posterior_predictive"]["s2"], other["posterior_predictive"]["s2"])
    third = translate(run, _changed(simulated, "s1", "backscatter", 0.5), ["s1"], "s2", draws=8, pixels=PIXELS)
    assert not np.array_equal(first["posterior"]["lai"], third["posterior"]["lai"])


def test_groups_are_those_of_the_documentation(run, simulated):
    tree = translate(run, withhold(simulated, 0.3), ["s1"], "s2", draws=8, pixels=PIXELS)
    assert set(tree.children) == {"posterior", "posterior_predictive", "observed_data", "constant_data"}
    assert set(tree["posterior_predictive"].data_vars) == set(tree["observed_data"].data_vars) == {"s2"}
    assert tree["posterior_predictive"]["s2"].dims == ("chain", "draw", "pixel", "s2_time", "s2_channel")
    # What the target did see is there to compare with, withheld or not.
    rows, columns = np.array(PIXELS).T
    node = simulated["s2"].to_dataset()
    seen = node.reflectance.where(node.valid).values[:, :, rows, columns].transpose(2, 0, 1)
    assert np.allclose(tree["observed_data"]["s2"], seen, equal_nan=True)
    assert not tree["constant_data"]["s2_seen"].any() and tree["constant_data"]["s1_seen"].any()


@pytest.mark.parametrize(("source", "target"), [("s1", "s2"), ("s2", "s1")])
def test_a_cube_without_the_target_is_enough(run, simulated, source, target):
    alone = simulated.drop_nodes(target)
    tree = translate(run, alone, [source], target, times=["2021-03-04T10:00"], draws=8, pixels=PIXELS)
    found = tree["posterior_predictive"][target]
    assert np.datetime64("2021-03-04T10:00", "ns") in found[f"{target}_time"].values
    assert found.sizes[f"{target}_time"] == simulated[source].sizes["time"] + 1
    assert np.isfinite(found).all() and tree["observed_data"][target].isnull().all()
    same = posterior(run, alone, draws=8, pixels=PIXELS)
    assert set(same["posterior_predictive"].data_vars) == {source}


def test_gap_filling_uses_both(run, simulated):
    hidden = withhold(simulated, 0.3)
    both = translate(run, hidden, ["s1", "s2"], "s2", draws=8, pixels=PIXELS)
    whole = posterior(run, hidden, draws=8, pixels=PIXELS)
    assert np.array_equal(both["posterior_predictive"]["s2"], whole["posterior_predictive"]["s2"])


def test_maps_of_a_cube_with_one_modality(run, simulated, tmp_path):
    maps = predict(run, simulated.drop_nodes("s2"), tmp_path / "maps", draws=4)
    assert "s1_mean" in maps and "s2_mean" not in maps and np.isfinite(maps.lai_mean).all()


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (["s1"], "s3", "'s3' is unknown to the model: give one of s2, s1"),
        (["s9"], "s2", "'s9' is unknown"),
        ([], "s2", "is not in the cube"),
    ],
)
def test_wrong_names_are_refused(run, simulated, source, target, words):
    with pytest.raises(ValueError, match=words):
        translate(run, simulated, source, target, draws=4, pixels=PIXELS)


def test_an_absent_source_and_a_cube_of_other_sensors_are_refused(run, simulated, build):
    with pytest.raises(ValueError, match="'s1' is not in the cube: it has s2"):
        translate(run, simulated.drop_nodes("s1"), ["s1"], "s2", draws=4)
    other = dataclasses.replace(run, model=build(modalities=("s1",)).eval())
    with pytest.raises(ValueError, match="reads 's1', and the nodes of the cube are 's2'"):
        posterior(other, simulated.drop_nodes("s1"), draws=4)


def test_a_place_is_needed_for_the_sun(run, simulated):
    nowhere = simulated.drop_nodes("s2")
    nodes = {name: node.to_dataset().drop_vars(["x", "y"]) for name, node in nowhere.children.items() if "x" in node}
    with pytest.raises(CubeError, match="no place to compute"):
        translate(run, type(simulated).from_dict(nodes), ["s1"], "s2", draws=4, pixels=PIXELS)


@pytest.mark.slow
def test_radar_tells_what_optical_will_see_and_says_how_well(build):
    """On a simulated cube: intervals from radar alone hold, are wider than those from both, and beat the prior."""
    from pi_vae.data import pattern

    with torch.no_grad():
        cube = simulate(build(), pattern(size=30, bands=("B03", "B04", "B08"), optical_days=40, radar_days=60), seed=3)
    few = {"patch_size": 12, "pixels": 128, "hide_modality": 0.4, "progress": False}
    run = fit(build(seed=1), cube, steps=40, patches=2, **few)
    known = {k[7:]: torch.from_numpy(v.values) for k, v in cube["truth"].data_vars.items() if k.startswith("global_")}
    run.model.draw_globals = lambda which="posterior": known  # what is judged is the guide
    neural_posterior(run, cube, steps=200, **few)
    truth, picked = cube["truth"].to_dataset(), {"draws": 100, "pixels": 300, "seed": 1}
    trees = {s: translate(run, cube, s.split(), "s2", **picked)["posterior"].to_dataset() for s in ("s1", "s1 s2")}
    table = {}
    for source, drawn in trees.items():
        there = drawn[["lai"]].sel(time=cube["s2"].time)
        table[source] = coverage(there, at_pixels(truth, drawn)[["lai"]].sel(time=cube["s2"].time), [0.9]).squeeze()
        assert 0.85 <= float(table[source]["coverage"]) <= 0.95, table[source]
    assert float(table["s1"]["width"]) > float(table["s1 s2"]["width"])
