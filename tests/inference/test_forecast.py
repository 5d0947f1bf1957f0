"""The benchmark of forecasts: nothing after an origin enters one, and the simple forecasts are what they are called."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from inference.training import Run
from pi_vae import PhysicsVAE
from pi_vae.data import complete
from pi_vae.data.sentinel1 import s1_node
from pi_vae.data.sentinel2 import s2_node

pytest.importorskip("pandas")
DAY = np.timedelta64(1, "D")
BANDS, POINTS = ("B03", "B04", "B08"), 6


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import forecast

        yield forecast


def _problem(benchmark, yearly=True):
    rng = np.random.default_rng(0)
    times = np.datetime64("2020-01-15T10:30", "ns") + np.arange(20) * 30 * DAY
    place = {"x": np.linspace(9.0, 9.1, POINTS), "y": np.full(POINTS, 42.0), "crs": "EPSG:4326"}
    reflectance = rng.uniform(0.05, 0.4, (20, 3, POINTS))
    valid = rng.random((20, POINTS)) > 0.2
    nodes = {
        "s2": s2_node(np.where(valid[:, None], reflectance, np.nan), times, BANDS, valid=valid, **place),
        "s1": s1_node(rng.uniform(0.02, 0.2, (20, 2, POINTS)), times, **place),
    }
    cube = complete(xr.DataTree.from_dict(nodes))
    return benchmark.Problem(cube, times[[14, 16]] + DAY, (30, 60), 5.0, yearly, np.arange(POINTS) // 3)


def _with_another_future(problem, origin):
    """The same problem, but all that happened after the origin is different, and what was seen of it, too."""
    nodes = {}
    for name, node in problem.cube.children.items():
        dataset = node.to_dataset()
        later = dataset.time > origin
        values = "reflectance" if name == "s2" else "backscatter"
        dataset["valid"] = dataset.valid | later
        dataset[values] = dataset[values].where(~later, 0.77)
        nodes[name] = dataset
    return type(problem)(xr.DataTree.from_dict(nodes), *[getattr(problem, f) for f in _FIELDS])


_FIELDS = ("origins", "horizons", "tolerance", "yearly", "field")


def _equal(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for m in first for a, b in zip(first[m], second[m], strict=True))


@pytest.mark.parametrize("yearly", [True, False])
def test_the_future_changes_no_forecast(benchmark, yearly):
    problem = _problem(benchmark, yearly)
    origin = problem.origins[0]
    other = _with_another_future(problem, origin)
    truths = [benchmark.measured(p.cube["s1"].to_dataset()) for p in (problem, other)]
    assert not np.array_equal(*truths)
    first, second = (benchmark.peers(p, origin, 20) for p in (problem, other))
    assert all(_equal(first[row], second[row]) for row in benchmark.PEERS)
    torch.manual_seed(0)
    run = Run(benchmark.build(problem, "gp").eval())
    assert isinstance(run.model, PhysicsVAE)
    assert _equal(*(benchmark.ours(p, run, origin, 8) for p in (problem, other)))


def test_what_a_fit_is_given_ends_with_the_origin(benchmark):
    problem = _problem(benchmark)
    for node in problem.past(problem.origins[0]).children.values():
        assert (node.time.values <= problem.origins[0]).all() and node.sizes["time"] == 15


def test_targets_follow_the_origin_within_the_horizons(benchmark):
    problem = _problem(benchmark)
    lead = (problem.targets("s2", problem.origins[0]) - problem.origins[0]) / DAY
    assert (problem.horizon(lead) == [0, 1]).all()
    assert (problem.horizon(np.array([-30.0, 0.0, 15.0, 34.0, 90.0])) == [-1, -1, -1, 0, -1]).all()


def test_persistence_is_the_last_observation_and_climatology_the_month_a_year_before(benchmark):
    problem = _problem(benchmark)
    times = np.datetime64("2020-01-01", "ns") + np.arange(14) * 30 * DAY
    values = np.arange(14.0)[:, None, None] * np.ones((14, 2, 3))
    values[13, :, 0] = np.nan  # cloud
    target = times[-1:] + 30 * DAY
    made = benchmark.plain(problem, times, values, target)
    assert made["persistence"][0, 0].tolist() == [12.0, 13.0, 13.0]
    assert (made["climatology"] == 2.0).all()  # 365 days before day 420 is day 55: the third month
    assert np.isnan(benchmark.plain(problem, times[5:], values[5:], target)["climatology"]).all()


def test_weight_of_the_mixture_is_that_of_least_squares(benchmark):
    rng = np.random.default_rng(0)
    persistence, climatology = rng.normal(size=(2, 2, 5000))
    truth = np.array([[0.7], [1.6]]) * persistence + np.array([[0.3], [-0.6]]) * climatology
    truth = truth + 0.1 * rng.normal(size=truth.shape)
    share = benchmark.weights({"persistence": persistence, "climatology": climatology, "truth": truth})
    np.testing.assert_allclose(share, [0.7, 1.0], atol=0.01)  # never beyond persistence
    empty = {row: np.empty((2, 0)) for row in ("persistence", "climatology", "truth")}
    assert benchmark.weights(empty).tolist() == [0.5, 0.5]


def test_hindsight_leaves_out_the_own_field(benchmark):
    problem = _problem(benchmark, yearly=False)
    origin = problem.origins[0]
    node = problem.cube["s1"].to_dataset()
    found = benchmark.others(problem, origin)["s1"]
    values = benchmark.measured(node)[np.isin(node.time.values, problem.targets("s1", origin))]
    np.testing.assert_allclose(found[:, :, 0], values[:, :, 3:].mean(-1), rtol=1e-6)


def test_scores_of_a_forecast_that_is_right(benchmark):
    truth = np.random.default_rng(0).normal(size=(50, 2))
    good = benchmark._scores(truth, truth, np.repeat(truth[None], 5, 0))
    poor = benchmark._scores(truth, truth + 1, np.repeat(truth[None] + 1, 5, 0))
    assert (good["rmse"] == 0).all() and (good["coverage"] == 1).all()
    np.testing.assert_allclose(good["crps"], 0.0, atol=1e-12)
    np.testing.assert_allclose(poor["crps"], 1.0)
    compared = benchmark._compared({"persistence": poor, "climatology": poor, "gp": good})
    assert compared["gp"]["rmse/persistence"] == 0 and compared["persistence"]["crps/climatology"] == 1
