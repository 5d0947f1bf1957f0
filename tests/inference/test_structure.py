"""Structure of residuals: processes that predict withheld observations are told from those that do not."""

import numpy as np
import pytest
import torch

from inference import Run
from inference.structure import _judge, prune, residual_structure
from pi_vae.data import withhold


def _parts(strength, n=600, seed=0):
    rng = np.random.default_rng(seed)
    truth, noise = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    process = np.stack([truth, rng.normal(size=(n, 2))], 1) * np.array([strength, 0.5])[:, None]
    return {"left": strength * truth + noise, "process": process, "date": rng.integers(5, size=n), "values": 3 * truth}


def test_a_process_that_predicts_is_found_and_one_of_noise_is_not():
    row = _judge(_parts(1.0), 200, np.random.default_rng(0))
    assert row["predicted"][0] == pytest.approx(1 / 2.25, abs=0.06), "beside noise and the other process"
    assert row["p_value"][0] < 0.01 and row["predicted"][1] < 0 and row["p_value"][1] > 0.05
    assert row["predicted"][0] > row["null"][0]


def test_a_common_value_of_the_date_is_no_structure_of_a_pixel():
    parts = _parts(0.0)
    level = np.random.default_rng(1).normal(size=5)[parts["date"]][:, None]
    parts |= {"left": parts["left"] + level, "process": np.repeat(level[:, None, :], 2, -1)}
    row = _judge(parts, 100, np.random.default_rng(0))
    assert row["predicted"][0] > 0.1 and row["p_value"][0] == 1.0, "every pixel of a date says the same"


def test_p_values_are_spread_where_there_is_nothing():
    found = [_judge(_parts(0.0, 120, seed), 99, np.random.default_rng(seed))["p_value"][1] for seed in range(60)]
    assert (np.array(found) < 0.1).mean() < 0.25 and 0.35 < np.mean(found) < 0.65


@pytest.fixture(scope="module")
def hidden(simulated):
    return withhold(simulated, 0.3, block=2, seed=0)


def test_the_table_of_a_run_and_what_is_pruned(build, hidden):
    run = Run(build().eval())
    table = residual_structure(run, hidden, draws=16, permutations=50)
    assert table["predicted"].dims == ("modality", "process") and table.sizes == {"modality": 2, "process": 1}
    assert (table["energy"] >= 0).all() and ((table["p_value"] > 0) & (table["p_value"] <= 1)).all()
    before = {name: m.residual.loading.loc.clone() for name, m in run.model.modalities.items()}
    silenced = prune(run, table)
    for name, m in run.model.modalities.items():
        structured = bool(table["structured"].sel(modality=name, process=1))
        assert (f"{name} residual 1" in silenced) != structured
        expected = before[name] if structured else torch.zeros_like(before[name])
        assert torch.equal(m.residual.loading.loc, expected)
        assert (m.residual.strength < 1e-6).all() != structured


def test_wrong_input_is_refused_in_one_sentence(build, simulated, hidden):
    with pytest.raises(ValueError, match="'s2' of the cube has no withheld observation to predict"):
        residual_structure(Run(build().eval()), simulated)
    with pytest.raises(ValueError, match="No modality in the cube has a residual"):
        residual_structure(Run(build(residual=0)), hidden)
