"""The benchmark of translation: what is scored is not seen, and the peers are what they are called."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from inference.training import Run
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import complete
from pi_vae.data.sentinel1 import db_to_linear, s1_node
from pi_vae.data.sentinel2 import s2_node

pytest.importorskip("pandas")
DAY = np.timedelta64(1, "D")
BANDS, DATES, POINTS, SIDE = ("B03", "B04", "B08"), 9, 40, 30
OPTIONS = Namespace(draws=4, seed=0)


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import translation
        import translation_data
        import translation_gp
        import translation_peers
        import translation_probe

        patch.setattr(translation_peers, "TREES", 2)
        patch.setattr(translation_peers, "FOLDS", 2)
        patch.setattr(translation_peers, "RIDGE", {"alpha": [0.1, 10.0]})
        patch.setattr(translation_peers, "FOREST", {"min_samples_leaf": [3]})
        patch.setattr(translation_data, "BLOCK", 10)
        patch.setattr(translation_probe, "REPEATS", 1)
        patch.setattr(translation_probe, "PENALTY", (100.0,))
        modules = (translation_data, translation_gp, translation_peers, translation_probe)
        yield Namespace(main=translation, **{m.__name__.split("_")[1]: m for m in modules})


def _scene(benchmark, optical=None, grid=False):
    """Points or a grid; what the optical sensor sees can be replaced, `[P, T, C]`."""
    rng = np.random.default_rng(0)
    pixels = SIDE**2 if grid else POINTS
    times = np.datetime64("2020-01-15T10:30", "ns") + np.arange(DATES) * 30 * DAY
    green = rng.uniform(0, 1, (pixels, 1)) * (1 - np.cos(2 * np.pi * np.arange(DATES) / DATES)) / 2
    radar = np.stack([-12 + 3 * green, -19 + 5 * green], -1) + rng.normal(0, 0.5, (pixels, DATES, 2))
    made = np.stack([0.08 + 0.02 * green, 0.12 - 0.08 * green, 0.2 + 0.25 * green], -1)
    made = made + rng.normal(0, 0.01, made.shape)
    optical = made if optical is None else optical
    valid = rng.random((pixels, DATES)) > 0.1
    row, column = (
        (index.ravel() for index in np.indices((SIDE, SIDE))) if grid else (np.arange(pixels), np.zeros(pixels))
    )

    def laid_out(values):
        values = np.moveaxis(values, 0, -1)
        values = values.swapaxes(0, 1) if values.ndim == 3 and values.shape[0] != DATES else values
        return values.reshape(*values.shape[:-1], SIDE, SIDE) if grid else values

    place = {"x": 5e5 + 10.0 * np.arange(SIDE), "y": 5e6 - 10.0 * np.arange(SIDE), "crs": "EPSG:32631"}
    if not grid:
        place = {"x": np.linspace(9.0, 9.1, pixels), "y": np.full(pixels, 42.0), "crs": "EPSG:4326"}
    reflectance = laid_out(np.where(valid[..., None], optical, np.nan).transpose(0, 1, 2))
    nodes = {
        "s2": s2_node(reflectance, times, BANDS, valid=laid_out(valid), **place),
        "s1": s1_node(laid_out(db_to_linear(radar)), times, **place),
    }
    data = benchmark.data
    seen = np.where(valid[..., None], optical, np.nan)
    unit = data._blocks(SIDE, SIDE).ravel() if grid else np.arange(pixels)
    return data.Scene(
        complete(xr.DataTree.from_dict(nodes)),
        BANDS,
        data.with_ndvi(seen, BANDS),
        radar,
        rng.normal(size=(pixels, DATES, 2)),
        np.stack([row, column], 1).astype(int),
        unit,
        np.array(["one", "two", "three", "four"])[np.arange(pixels) % 4] if not grid else np.full(pixels, "one"),
        np.arange(pixels) // 2,
        np.arange(pixels) % 3,
    )


def _run():
    torch.manual_seed(0)
    model = PhysicsVAE({"s2": Optical(BANDS, nodes=1, residual=1), "s1": Radar(residual=1)}, width=16, layers=1)
    return Run(model.eval())


def _changed(scene, where):
    """The reflectances with other values at some pixel-dates."""
    return np.where(where[..., None], 0.33, scene.optical[..., :-1])


def test_grid_and_points_are_laid_out_as_the_arrays_say(benchmark):
    for grid in (False, True):
        scene = _scene(benchmark, grid=grid)
        node = scene.cube["s2"].to_dataset()
        for pixel in (0, 17, len(scene.at) - 1):
            row, column = scene.at[pixel]
            series = node.reflectance.values[:, :, row, column] if grid else node.reflectance.values[:, :, row]
            np.testing.assert_allclose(series, scene.optical[pixel, :, :-1], rtol=1e-6)


@pytest.mark.parametrize("kind", ["pixel", "region"])
def test_no_pixel_or_region_is_on_both_sides(benchmark, kind):
    scene = _scene(benchmark)
    part = benchmark.data.split(scene, kind, 0)
    groups = scene.unit if kind == "pixel" else scene.region
    assert not set(groups[part.train]) & set(groups[part.scored])
    assert sorted([*part.train, *part.scored]) == list(range(POINTS))
    assert part.training_cube()["s2"].sizes["point"] == len(part.train)


def test_a_single_region_cannot_be_split(benchmark):
    assert benchmark.data.split(_scene(benchmark, grid=True), "region", 0) is None


def test_scored_blocks_of_a_grid_hold_nothing_to_train_on(benchmark):
    scene = _scene(benchmark, grid=True)
    part = benchmark.data.split(scene, "pixel", 0)
    cube = part.training_cube()
    row, column = scene.at[part.scored].T
    for node, values in (("s2", "reflectance"), ("s1", "backscatter")):
        assert not cube[node].valid.values[:, row, column].any()
        assert np.isnan(cube[node][values].values[:, :, row, column]).all()
        assert cube[node].valid.values.sum() == scene.cube[node].valid.values[:, *scene.at[part.train].T].sum()
    assert "s2" not in part.radar_cube().children


@pytest.mark.parametrize("grid", [False, True])
def test_gaps_are_withheld_in_the_cube_where_the_arrays_have_them(benchmark, grid):
    scene = _scene(benchmark, grid=grid)
    part = benchmark.data.split(scene, "pixel", 0)
    usable = np.isfinite(scene.optical[part.scored]).all(-1)
    hidden = benchmark.data.gaps("random", usable, scene.unit[part.scored], np.random.default_rng(1))
    node = part.scored_cube(hidden)["s2"].to_dataset()
    place = scene.at[part.scored].T if grid else (np.arange(len(part.scored)),)
    np.testing.assert_array_equal(node.withheld.values[:, *place].T, hidden)
    assert node.withheld.values.sum() == hidden.sum()


def test_gaps_have_the_size_they_should(benchmark):
    rng = np.random.default_rng(0)
    usable = rng.random((200, 16)) > 0.1
    unit = np.arange(200)
    some = benchmark.data.gaps("random", usable, unit, rng)
    assert (some <= usable).all() and abs(some.sum() / usable.sum() - 0.2) < 0.02
    block = benchmark.data.gaps("block", usable, unit, rng)
    for hidden, seen in zip(block, usable & ~block, strict=True):
        dates = np.flatnonzero(hidden)
        assert len(dates) and seen[: dates[0]].any() and seen[dates[-1] + 1 :].any()
        assert not seen[dates[0] : dates[-1] + 1].any() and seen.sum() >= benchmark.data.LEFT
    lengths = benchmark.data.gap_lengths(np.array([[1, 0, 0, 1, 0, 1], [0, 1, 1, 1, 0, 0]], bool))
    assert lengths.tolist() == [[0, 2, 2, 0, 1, 0], [1, 0, 0, 0, 2, 2]]


def test_optical_data_of_scored_pixels_change_no_translation(benchmark):
    scene = _scene(benchmark)
    part = benchmark.data.split(scene, "pixel", 0)
    scored = np.isin(np.arange(POINTS), part.scored)[:, None]
    other = benchmark.data.split(_scene(benchmark, _changed(scene, scored & np.full(DATES, True))), "pixel", 0)
    assert not np.array_equal(scene.optical[part.scored], other.scene.optical[part.scored], equal_nan=True)
    xr.testing.assert_identical(part.training_cube(), other.training_cube())
    rows = [dict(benchmark.main.translations(_run(), p, OPTIONS)) for p in (part, other)]
    assert len(rows[0]) == 9
    for name, found in rows[0].items():
        np.testing.assert_array_equal(found.value, rows[1][name].value, err_msg=name)


def test_withheld_data_change_no_filling(benchmark):
    scene = _scene(benchmark)
    part = benchmark.data.split(scene, "pixel", 0)
    usable = np.isfinite(scene.optical[part.scored]).all(-1)
    mask = benchmark.data.gaps("block", usable, scene.unit[part.scored], np.random.default_rng(1))
    where = np.zeros((POINTS, DATES), bool)
    where[part.scored] = mask
    other = benchmark.data.split(_scene(benchmark, _changed(scene, where)), "pixel", 0)
    process = benchmark.gp.gaussian([scene.optical[part.train]], scene.days, True, 0)
    found = []
    for p in (part, other):
        rows = benchmark.main.fillings(
            _run(), _run(), p, "block", [mask], [process, lambda first, _: process(first)], OPTIONS
        )
        found.append({name: row.value for name, row in rows})
    assert len(found[0]) == 9
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)


def test_whittaker_solves_its_normal_equations_and_keeps_lines(benchmark):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(3, 9, 2))
    series[1, 3:6] = np.nan
    found = benchmark.peers.whittaker(series, 5.0)
    difference = np.diff(np.eye(9), 2, axis=0)
    weight = np.diag(np.isfinite(series[1, :, 0]).astype(float))
    expected = np.linalg.solve(weight + 5.0 * difference.T @ difference, np.nan_to_num(series[1]))
    np.testing.assert_allclose(found[1], expected)
    line = np.arange(9.0)[:, None] * [1.0, -2.0]
    holey = np.where((np.arange(9) % 4 == 0)[:, None], line, np.nan)[None]
    np.testing.assert_allclose(benchmark.peers.whittaker(holey, 100.0)[0], line, atol=1e-6)


def test_hants_finds_a_harmonic_in_spite_of_an_outlier(benchmark):
    days = np.arange(17) * 30.44
    curve = 0.4 + 0.2 * np.cos(2 * np.pi * days / 365.2425 - 1.0)
    series = curve[None, :, None].copy()
    series[0, 5] -= 0.3
    series[0, [2, 9]] = np.nan
    found = benchmark.peers.hants(series, days, 1, 1e-9, 2.0)
    np.testing.assert_allclose(found[0, :, 0], curve, atol=1e-6)
    kept = benchmark.peers.hants(series, days, 1, 1e-9, np.inf)
    assert np.abs(kept[0, :, 0] - curve).max() > 0.02


def test_process_predicts_the_conditional_of_its_joint_normal(benchmark):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(30, 5, 3)).cumsum(1)
    process = benchmark.gp.CoregionalisedGP(series, np.arange(5) * 30.0, steps=2)
    asked = series[:1].copy()
    asked[0, 2:4, :2] = np.nan
    found = process.predict(asked)
    covariance = process.covariance().detach().numpy()
    anomaly = ((asked[0] - process.mean) / process.spread).T.ravel()
    seen = np.isfinite(anomaly)
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    mean = (gain @ anomaly[seen]).reshape(3, 5).T * process.spread + process.mean
    sd = np.sqrt(np.diag(covariance - gain @ covariance[seen])[~seen]).reshape(2, 2).T * process.spread[2:4, :2]
    np.testing.assert_allclose(found.value, mean[None], atol=1e-4)
    np.testing.assert_allclose(found.sd[0, 2:4, :2], sd, atol=1e-4)


def test_process_carries_over_from_one_output_to_another(benchmark):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1)) + rng.normal(size=(300, 8))
    series = np.stack([shared, 5 - 2 * shared], -1) + 0.3 * rng.normal(size=(300, 8, 2))
    predict = benchmark.gp.gaussian([series[:200, :, :1], series[:200, :, 1:]], np.arange(8) * 30.0, True, 0)
    truth = series[200:, :, :1]
    found = predict(np.full_like(truth, np.nan), series[200:, :, 1:])
    error = found.value - truth
    assert np.sqrt((error**2).mean()) < 0.4  # noise of 0.3 and half of 0.3
    assert abs((np.abs(error) < 1.645 * found.sd).mean() - 0.9) < 0.03


def test_regressions_find_a_law_that_depends_on_the_date(benchmark):
    rng = np.random.default_rng(0)
    known = rng.normal(size=(120, 6, 2))
    slope = np.linspace(-1, 1, 6)[:, None]
    optical = slope * known + np.arange(6)[:, None] + 0.1 * rng.normal(size=(120, 6, 2))
    train, scored = slice(80), slice(80, None)
    groups = np.arange(80)
    arguments = (known[train], optical[train], known[scored], groups, 100, 0)
    truth = optical[scored]
    found = benchmark.peers.datewise("ridge", *arguments)
    low, high = np.quantile(found.draws, (0.05, 0.95), axis=0)
    assert np.sqrt(((found.value - truth) ** 2).mean()) < 0.12
    assert abs(((low <= truth) & (truth <= high)).mean() - 0.9) < 0.05
    usual = benchmark.peers.climatology(optical[train], 40, 100, 0)
    np.testing.assert_allclose(usual.value[0], optical[train].mean(0))
    for forest in (benchmark.peers.datewise("forest", *arguments), benchmark.peers.seriewise(*arguments)):
        assert ((forest.value - truth) ** 2).mean() < 0.6 * ((usual.value - truth) ** 2).mean()


def test_filling_takes_the_best_way_of_each_channel_and_errors_of_the_kind_of_gap(benchmark):
    rng = np.random.default_rng(0)
    train = rng.normal(size=(400, 6, 2))
    hidden = np.zeros((400, 6), bool)
    hidden[:, 2] = True
    hidden[200:, 3] = True

    def kinds(seen):
        return benchmark.data.gap_lengths(seen) - 1

    noise = np.array([[0.1, 0.1], [0.5, 0.5]])[(hidden.sum(1) - 1)][:, None] * rng.normal(size=train.shape)
    ways = [lambda series, c=c: train + noise + 3 * (np.arange(2) != c) for c in range(2)]
    gapped = np.where(hidden[..., None], np.nan, train)
    found = benchmark.peers.filled(ways, train, hidden, gapped, kinds, 50, 0)
    np.testing.assert_allclose(found.value, train + noise)  # each channel by the way that is right for it
    spread = found.draws.std(0)
    assert spread[~hidden].max() < 1e-12
    np.testing.assert_allclose([spread[:200, 2].mean(), spread[200:, 2:4].mean()], [0.1, 0.5], rtol=0.1)


def test_scores_of_a_normal_and_of_its_draws_agree(benchmark):
    rng = np.random.default_rng(0)
    truth, value = rng.normal(size=(2, 300, 2))
    sd = np.full((300, 2), 1.5)
    draws = value + sd * rng.normal(size=(2000, 300, 2))
    first = benchmark.main.scores(truth, benchmark.peers.Prediction(value, sd=sd))
    second = benchmark.main.scores(truth, benchmark.peers.Prediction(value, draws))
    np.testing.assert_allclose(first["crps"], second["crps"], rtol=0.01)
    np.testing.assert_allclose(first["coverage"], second["coverage"], atol=0.02)
    assert first["rmse"] == second["rmse"] and benchmark.main.ratio(first, first) == {"ndvi": 1.0, "bands": 1.0}
    rows = {"pi_vae": {"rmse": [1, 1]}, "a": {"rmse": [2, 5]}, "b": {"rmse": [3, 4]}, "a + weather": {"rmse": [0, 0]}}
    assert benchmark.main.best(rows) == {"rmse": [2, 4]}


def test_intervals_given_less_hold_draws_given_more(benchmark):
    rng = np.random.default_rng(0)
    radar = rng.normal(size=4000)  # what the radar tells; both know the rest but for 0.5
    both = radar + np.sqrt(0.75) * rng.normal(size=4000) + 0.5 * rng.normal(size=(200, 4000))
    table = benchmark.main.coherence({"both": both, "radar": radar + rng.normal(size=(200, 4000))})
    assert abs(table["radar"]["holds"] - 0.9) < 0.02 and table["radar"]["wider"] > 0.99
    assert table["both"]["rmsd"] == 0 and table["both"]["wider"] == 0


def test_probe_tells_good_features_from_noise(benchmark):
    rng = np.random.default_rng(0)
    code, cell = np.repeat(np.arange(3), 30), np.arange(90) // 3
    good = np.eye(3)[code] + 0.1 * rng.normal(size=(90, 3))
    for count, components in ((10, ()), (10, (1, 2)), (None, ())):
        assert np.mean(benchmark.probe.probe(good, code, cell, count, components, 0, True)) > 0.95
    assert np.mean(benchmark.probe.probe(rng.normal(size=(90, 3)), code, cell, 10, (), 0, True)) < 0.55
    mixed = np.concatenate([good, 0.05 * rng.normal(size=(90, 60))], 1)  # quiet where nothing is known
    scaled, plain = (np.mean(benchmark.probe.probe(mixed, code, cell, 10, (), 0, s)) for s in (True, False))
    assert plain > 0.95 > scaled
    for count in (3, 10):
        labelled = benchmark.probe.chosen_labels(code, count, rng)
        assert len(set(labelled)) == count and set(code[labelled]) == {0, 1, 2}


def test_seasonal_statistics_know_level_and_phase(benchmark):
    days = np.arange(12) * 365.2425 / 12
    series = 3 + np.cos(2 * np.pi * days / 365.2425 - 0.5)[None, :, None]
    found = benchmark.probe.seasonal(series, days)[0]
    np.testing.assert_allclose(found[0], 3.0)
    np.testing.assert_allclose(np.arctan2(found[-1], found[-2]), 0.5)
