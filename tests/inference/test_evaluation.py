"""Scores on withheld observations, against baselines computed by hand and a posterior that is known."""

import numpy as np
import pytest
import torch
import xarray as xr

from inference import Run, withheld_scores
from inference.baselines import date_mean, linear_interpolation
from pi_vae.data import withhold

DAYS = np.array([0.0, 10.0, 30.0, 40.0])


def _series(*pixels):
    """`[time, 1, 1, x]` values; NaN where not seen, and the mask."""
    values = np.array(pixels, float).T[:, None, None, :]
    return values, np.isfinite(values[:, 0])


def test_linear_interpolation_by_hand():
    values, seen = _series([1.0, np.nan, 4.0, np.nan], [np.nan, 2.0, np.nan, 8.0], [np.nan] * 4)
    found = linear_interpolation(values, seen, DAYS)[:, 0, 0].T
    assert found[0].tolist() == [1.0, 2.0, 4.0, 4.0], "a third of the way by days; constant after the last"
    assert found[1] == pytest.approx([2.0, 2.0, 6.0, 8.0]), "constant before the first"
    assert found[2].tolist() == [1.0, 2.0, 4.0, 8.0], "never seen: the mean of the date"


def test_the_date_mean_by_hand():
    values, seen = _series([1.0, np.nan, 4.0, np.nan], [3.0, 2.0, np.nan, np.nan], [np.nan] * 4)
    found = date_mean(values, seen)[:, 0, 0]
    assert (found == found[:, :1]).all(), "the same for every pixel"
    assert found[:, 0].tolist() == [2.0, 2.0, 4.0, 2.5], "a date never seen: the mean of all that is seen"


def test_baselines_ignore_what_is_not_seen_and_keep_channels_apart():
    random = np.random.default_rng(0)
    values, seen = random.normal(size=(4, 2, 3, 3)), random.random((4, 3, 3)) < 0.6
    poisoned = np.where(seen[:, None], values, 1e9)
    for estimate in (date_mean, lambda v, s: linear_interpolation(v, s, DAYS)):
        found = estimate(poisoned, seen)
        assert np.allclose(found, estimate(values, seen)) and found.max() < 10
        assert np.allclose(found[:, 1:], estimate(values[:, 1:], seen))
    kept = linear_interpolation(values, seen, DAYS).swapaxes(1, -1)[seen.swapaxes(1, 2)]
    assert np.allclose(kept, values.swapaxes(1, -1)[seen.swapaxes(1, 2)]), "what is seen stays"


@pytest.fixture(scope="module")
def hidden(simulated):
    return withhold(simulated, 0.3, block=2, seed=0)


@pytest.fixture(scope="module")
def scores(build, hidden):
    return withheld_scores(Run(build().eval()), hidden, draws=32)


def test_scores_have_the_documented_keys_for_every_channel(scores):
    for name, channels in (("s2", ["B03", "B04", "B08"]), ("s1", ["VV", "VH"])):
        score = scores[name]
        tables = [score["rmse"], score["width_90"], score["baselines"]["linear"], score["baselines"]["date_mean"]]
        for table in (*tables, score["coverage_50_by_channel"], score["coverage_90_by_channel"]):
            assert list(table) == channels and all(0 <= x < np.inf for x in table.values())
        assert 0 <= score["coverage_50"] < score["coverage_90"] <= 1
        assert score["coverage_90"] == pytest.approx(np.mean(list(score["coverage_90_by_channel"].values())), abs=1e-3)


def test_exactly_the_withheld_observations_are_scored(scores, hidden):
    for name in ("s2", "s1"):
        assert scores[name]["n"] == int(hidden[name]["withheld"].sum()) > 0


def test_baselines_are_scored_on_the_same_observations(scores, hidden):
    node = hidden["s1"]
    values = 10 * np.log10(node["backscatter"].values.astype(float))
    withheld = node["withheld"].values
    seen = node["valid"].values & ~withheld
    days = (node["time"].values - node["time"].values[0]) / np.timedelta64(1, "D")
    estimates = {"linear": linear_interpolation(values, seen, days), "date_mean": date_mean(values, seen)}
    for label, estimate in estimates.items():
        error = (estimate - values).swapaxes(0, 1)[:, withheld]
        expected = np.sqrt((error**2).mean(1))
        assert list(scores["s1"]["baselines"][label].values()) == pytest.approx(expected.tolist(), rel=1e-3)


def test_only_channels_of_the_cube_are_scored(build, hidden):
    part = hidden.copy()
    part["s2"] = hidden["s2"].to_dataset().sel(band=["B03", "B08"])
    found = withheld_scores(Run(build().eval()), part, draws=32)
    assert list(found["s2"]["rmse"]) == list(found["s2"]["baselines"]["linear"]) == ["B03", "B08"]
    assert 0 < found["s2"]["coverage_90"] <= 1


def test_the_seed_decides_the_scores(build, hidden, scores):
    run = Run(build().eval())
    assert withheld_scores(run, hidden, draws=32) == scores != withheld_scores(run, hidden, draws=32, seed=1)


def test_the_values_of_withheld_observations_do_not_move_the_prediction(build, hidden, scores):
    moved = hidden.copy()
    node = hidden["s1"].to_dataset()
    moved["s1"].dataset = node.assign(backscatter=node["backscatter"].where(~node["withheld"], 1e-5))
    found = withheld_scores(Run(build().eval()), moved, draws=32)
    # What is scored moved by tens of dB; what is predicted did not.
    assert found["s1"]["width_90"] == scores["s1"]["width_90"] and found["s2"] == scores["s2"]
    assert found["s1"]["rmse"]["VV"] > scores["s1"]["rmse"]["VV"] + 10


def test_where_the_posterior_is_exact_intervals_cover_what_they_say(build, simulated):
    """The global latents are the true ones and the pixels scored are seen nowhere: the posterior is the prior."""
    model, truth = build().eval(), simulated["truth"]
    parts = {"lengthscale": model.lengthscale, "static_odds": model.static_odds}
    for name, modality in model.modalities.items():
        parts |= {f"{name}_noise": modality.noise, f"{name}_lengthscale": modality.residual.lengthscale,
                  f"{name}_static_odds": modality.residual.static_odds}  # fmt: skip
        if modality.coefficients is not None:
            parts[f"{name}_coefficients"] = modality.coefficients
        parts[f"{name}_relevance"] = modality.residual.relevance
        modality.residual.loading.loc.data = torch.from_numpy(truth[f"global_{name}_loading"].values.copy())
        modality.residual.loading.log_scale.data.fill_(-20.0)
    for site, part in parts.items():
        part.loc.data = torch.from_numpy(truth[f"global_{site}"].values.copy()).log()
        part.log_scale.data.fill_(-20.0)
    cube = simulated.copy()
    for name in ("s2", "s1"):
        node = simulated[name].to_dataset()
        alone = xr.zeros_like(node["valid"])
        alone[:, 9, 0] = True
        cube[name].dataset = node.assign(withheld=node["valid"] & ~alone)
    exact = withheld_scores(Run(model), cube, draws=400, tile=20)
    for name, score in exact.items():
        # Dates and channels of a pixel are correlated: the pixels count, and some 117 are scored.
        assert score["n"] > 117
        assert abs(score["coverage_90"] - 0.9) < 4 * np.sqrt(0.09 / 117), name
        assert abs(score["coverage_50"] - 0.5) < 4 * np.sqrt(0.25 / 117), name
    for change in (-1.5, 1.5):  # no noise predicts as well as the true one
        for modality in model.modalities.values():
            modality.noise.loc.data += change
        for name, score in withheld_scores(Run(model), cube, draws=400, tile=20).items():
            assert score["log_density"] < exact[name]["log_density"] - 0.05
        for modality in model.modalities.values():
            modality.noise.loc.data -= change


def test_tiles_without_withheld_observations_are_passed_over(build, simulated):
    cube = simulated.copy()
    for name in ("s2", "s1"):
        node = simulated[name].to_dataset()
        corner = xr.zeros_like(node["valid"])
        corner[:, :3, :3] = True
        cube[name].dataset = node.assign(withheld=node["valid"] & corner)
    run = Run(build().eval())
    whole, tiled = (withheld_scores(run, cube, draws=64, tile=tile) for tile in (50, 5))
    for name in ("s2", "s1"):
        assert whole[name]["n"] == tiled[name]["n"] == int(cube[name]["withheld"].sum())
        assert list(tiled[name]["rmse"].values()) == pytest.approx(list(whole[name]["rmse"].values()), rel=0.15)
        assert whole[name]["baselines"] == tiled[name]["baselines"]


def test_a_cube_with_nothing_withheld_is_refused(build, simulated):
    with pytest.raises(ValueError, match="withheld|withhold"):
        withheld_scores(Run(build().eval()), simulated, draws=4)
