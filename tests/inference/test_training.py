"""`fit`: reproducible, resumable to the bit, blind to what is withheld, clear when it fails."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from pyro.infer import TraceMeanField_ELBO

from inference import fit, load, optimisation, training
from inference.holdout import LOOKS, Holdout, _chosen
from pi_vae import Optical, PhysicsVAE
from pi_vae.data import CubeError, withhold
from pi_vae.data.tensors import CubeTensors

SMALL = {"device": "cpu", "patches": 2, "patch_size": 5, "pixels": 12, "progress": False}
LONG = 106


def _fit(model, cube, steps=6, **options):
    return fit(model, cube, steps=steps, **(SMALL | options))


def _same(first, second):
    first, second = first.model.state_dict(), second.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _change(cube, name, variable, values):
    cube = cube.copy()
    node = cube[name].to_dataset()
    cube[name].dataset = node.assign({variable: (node[variable].dims, values)})
    return cube


def _moved_where(cube, marked):
    """Other values of all modalities where a boolean variable of the node says so."""
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        mask = cube[name][marked].values[:, None]
        values = cube[name][variable].values
        cube = _change(cube, name, variable, np.where(mask, 0.6 * values + 0.05, values))
    return cube


@pytest.fixture(scope="module")
def long(build, simulated, tmp_path_factory):
    """A fit that nothing interrupts."""
    return _fit(build(), simulated, LONG, checkpoint=tmp_path_factory.mktemp("long"))


def test_the_seed_decides_the_fit(build, simulated):
    first, second, other = (_fit(build(), simulated, seed=seed) for seed in (0, 0, 1))
    assert _same(first, second) and not _same(first, other)
    assert first.history["loss"] == second.history["loss"] != other.history["loss"]
    assert first.seed == 0 and not first.model.training and first.model.kl_weight == 1.0


def _chosen_pixels(cube):
    """`[y, x]` what a fit holds out."""
    channels = {"s2": tuple(cube["s2"].band.values), "s1": tuple(cube["s1"].pol.values)}
    return _chosen(CubeTensors.read(cube, channels), 0.3, torch.Generator().manual_seed(0)).numpy()


def test_what_others_drew_before_does_not_matter(build, simulated):
    first = _fit(build(), simulated)
    model = build()
    torch.rand(17)
    np.random.default_rng().random()
    assert _same(first, _fit(model, simulated))


@pytest.mark.parametrize("saves", [1, 2])  # while the model learns, and while its spread is set
def test_an_interrupted_fit_continues_to_the_same_bit(build, simulated, tmp_path, monkeypatch, saves):
    save, count, steps = training._save, 0, 44
    monkeypatch.setattr(training, "SAVE_EVERY", 20)
    whole = _fit(build(), simulated, steps, checkpoint=tmp_path / "whole")

    def killed(*arguments):
        nonlocal count
        save(*arguments)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            _fit(build(), simulated, steps, checkpoint=tmp_path / "again")
    stopped = load(tmp_path / "again")
    assert stopped.history["step"][-1] == (10, 38)[saves - 1] and not _same(stopped, whole)
    torch.rand(5)
    again = _fit(build(seed=7), simulated, steps, checkpoint=tmp_path / "again")  # its own weights do not matter
    assert _same(again, whole)
    assert again.history["step"] == whole.history["step"] and again.history["loss"] == whole.history["loss"]
    assert np.all(np.diff(again.history["seconds"]) >= 0), "the clock goes on"


def test_the_last_steps_set_the_spread_alone(build, simulated, monkeypatch):
    models = {}
    for share in (0.0, 0.25):
        monkeypatch.setattr(training, "CALIBRATION", share)
        monkeypatch.setattr(optimisation, "_schedule", lambda step, steps: 1.0)
        models[share] = _fit(build(), simulated, 24 if share else 18).model
    changed = {
        name
        for (name, before), after in zip(models[0.0].named_parameters(), models[0.25].parameters(), strict=True)
        if not torch.equal(before, after)
    }
    kinds = ("noise", "caution", "skewness", "coupling", "static_spread", "static_shape")
    assert all(any(kind in name for kind in kinds) for name in changed)
    assert all(any(kind in name for name in changed) for kind in kinds)
    assert all(p.requires_grad for p in models[0.25].encoder.parameters())


def test_a_finished_fit_is_loaded_as_it_was(build, simulated, long):
    assert [file.name for file in long.folder.iterdir()] == ["checkpoint.pt"]
    found = load(long.folder)
    assert _same(found, long) and found.history == long.history and found.seed == 0
    assert not found.model.training and found.model.settings == long.model.settings
    again = _fit(build(), simulated, LONG, checkpoint=long.folder)
    assert _same(again, long) and again.history == long.history, "nothing is left to do"


def test_the_fit_lowers_the_loss(build, simulated, long):
    def loss(model):
        channels = {name: m.channels for name, m in model.modalities.items()}
        ((_, _, batch),) = CubeTensors.read(simulated, channels).tiles(50, 0)
        torch.manual_seed(0)
        with torch.no_grad():
            return TraceMeanField_ELBO(num_particles=4).loss(model.model, model.guide, batch)

    untrained = build()
    untrained.encoder.load_state_dict(
        {k: v for k, v in long.model.encoder.state_dict().items() if k.startswith(("center", "spread"))}, strict=False
    )
    observations = sum(int(simulated[n]["valid"].sum()) * c for n, c in (("s2", 3), ("s1", 2)))
    assert loss(long.model) < loss(untrained) - observations, "one nat per observation"
    assert long.history["step"] == [
        *range(0, LONG - int(training.CALIBRATION * LONG), 10),
        LONG - int(training.CALIBRATION * LONG) - 1,
    ]


def test_the_encoder_is_standardised_by_the_valid_observations(build, simulated):
    model = _fit(build(), simulated, 1).model
    node = simulated["s1"]
    values = 10 * np.log10(node["backscatter"].values.swapaxes(0, 1)[:, node["valid"].values])
    assert np.allclose(model.encoder.center("s1").flatten(), values.mean(1), atol=1e-3)
    assert np.allclose(model.encoder.spread("s1").flatten(), values.std(1, ddof=1), atol=1e-3)


def test_withheld_observations_do_not_influence_the_fit(build, simulated):
    cube = withhold(simulated, 0.4, block=3, seed=0)
    first, second = (_fit(build(), c) for c in (cube, _moved_where(cube, "withheld")))
    assert _same(first, second) and first.history["loss"] == second.history["loss"]
    assert not _same(first, _fit(build(), _moved_where(cube, "valid"))), "the others do"


def test_invalid_observations_do_not_influence_the_fit(build, simulated):
    cube = simulated
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        valid, values = cube[name]["valid"].values[:, None], cube[name][variable].values
        cube = _change(cube, name, variable, np.where(valid, values, 7.0).astype(np.float32))
    assert _same(_fit(build(), simulated), _fit(build(), cube))


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 7}])
def test_a_checkpoint_of_another_fit_is_refused(build, simulated, tmp_path, change):
    _fit(build(), simulated, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds a fit with seed 0 and 6 steps.*or another folder"):
        _fit(build(), simulated, checkpoint=tmp_path, **change)
    assert load(tmp_path).seed == 0


def test_a_checkpoint_of_another_structure_is_refused(build, simulated, tmp_path):
    _fit(build(), simulated, checkpoint=tmp_path)
    wide = build(width=32)
    with pytest.raises(ValueError, match="belongs to a model of another structure") as error:
        _fit(wide, simulated, checkpoint=tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="belongs to a model of another structure"):
        load(tmp_path, wide)


def test_a_damaged_checkpoint_or_one_of_another_version_is_refused(build, simulated, tmp_path):
    _fit(build(), simulated, checkpoint=tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no checkpoint, or damaged") as error:
            load(tmp_path)
        assert "\n" not in str(error.value)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no checkpoint of a fit"):
        load(tmp_path)
    for other in (1, 99):
        torch.save(state | {"format": other, "version": "0.0.1"}, path)
        with pytest.raises(ValueError, match=f"written by pi_vae 0.0.1 in format {other}.*fit again"):
            load(tmp_path)
        with pytest.raises(ValueError, match="fit again"):
            _fit(build(), simulated, checkpoint=tmp_path)


def test_a_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        load(tmp_path)


def test_no_steps_are_refused(build, simulated):
    with pytest.raises(ValueError, match="steps is 0: give a positive number"):
        _fit(build(), simulated, 0)


def test_a_cube_that_breaks_the_contract_is_refused_before_anything_is_written(build, simulated, tmp_path):
    cube = _change(simulated, "s2", "reflectance", 10000 * simulated["s2"]["reflectance"].values)
    with pytest.raises(CubeError, match="scaled by 10000"):
        _fit(build(), cube, checkpoint=tmp_path / "run")
    alone = xr.DataTree.from_dict({"s2": simulated["s2"].to_dataset()})
    with pytest.raises(ValueError, match="no node 's1'"):
        _fit(build(), alone, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_corrupt_pixel_does_not_poison_the_rest(build, simulated, caplog):
    values = simulated["s2"]["reflectance"].values.copy()
    values[2, 0, 5, 5] = 1e25  # its square leaves float32
    corrupt = _fit(build(), _change(simulated, "s2", "reflectance", values), patches=8, patch_size=10, pixels=960)
    assert "1 of 840 observations of 's2'" in caplog.text
    valid = simulated["s2"]["valid"].values.copy()
    valid[2, 5, 5] = False
    assert _same(corrupt, _fit(build(), _change(simulated, "s2", "valid", valid), patches=8, patch_size=10, pixels=960))


def test_residuals_begin_after_a_share_of_few_steps_or_a_number_of_many(build, simulated, monkeypatch):
    held = []
    monkeypatch.setattr(training, "hold", lambda model, silent: held.append(silent))
    monkeypatch.setattr(training, "CALIBRATION", 0.0)
    _fit(build(), simulated, 15)
    assert held == [True] * 3 + [False] * 3  # silent until they begin, then as long at rest
    held.clear()
    monkeypatch.setattr(training, "RESIDUALS_BEGIN", 2)
    _fit(build(), simulated, 15)
    assert held == [True] * 2 + [False] * 2


def test_a_loss_that_is_not_finite_stops_the_fit_with_a_table(build, simulated):
    model = build()
    with torch.no_grad():
        model.modalities["s1"].noise.loc[1] = math.nan
    with pytest.raises(FloatingPointError, match=r"^The loss is (inf|nan) at step 0: lower learning_rate") as error:
        _fit(model, simulated)
    sentence, head, *rows = str(error.value).split("\n")
    assert head.split() == ["kind", "name", "not", "finite", "of", "largest", "first", "at"]
    assert rows[0].split()[:4] == ["parameter", "modalities.s1.noise.loc", "1", "2"]
    assert any(row.startswith("latent") and " s1_noise " in row for row in rows)
    assert not any(" s2 " in row and not row.startswith("observation") for row in rows)


def test_a_fit_that_diverges_stops_with_one_sentence_and_keeps_the_last_checkpoint(build, simulated, tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step \d+: lower learning_rate \(now 10000\)") as error:
        _fit(build(), simulated, learning_rate=1e4, checkpoint=tmp_path)
    assert str(tmp_path) in str(error.value) and "parameter" in str(error.value)
    assert not (tmp_path / "checkpoint.pt.part").exists()


def test_points_are_fitted(build, points_of):
    cube = points_of
    run = _fit(build(), cube, 40, pixels=20)
    assert all(math.isfinite(loss) for loss in run.history["loss"])
    assert run.history["loss"][-1] < run.history["loss"][0]


@pytest.fixture
def points_of(simulated):
    def flat(node: xr.Dataset) -> xr.Dataset:
        return node.stack(point=("y", "x")).reset_index("point").transpose("time", ..., "point")

    return xr.DataTree.from_dict({name: flat(simulated[name].to_dataset()) for name in ("s2", "s1")})


def test_a_fit_with_pixels_held_out_keeps_the_weights_that_predict_them_best(build, simulated, tmp_path, monkeypatch):
    looks, look = [], Holdout.look
    monkeypatch.setattr(Holdout, "look", lambda self, model: looks.append(look(self, model)) or looks[-1])
    monkeypatch.setattr(training, "CALIBRATION", 0.0)
    run = _fit(build(), simulated, 48, holdout=0.3, learning_rate=3e-2, checkpoint=tmp_path)
    assert len(looks) == LOOKS and all(np.isfinite(looks))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["holdout"]["best"] == max(looks)
    assert all(torch.equal(value, state["holdout"]["weights"][name]) for name, value in run.model.state_dict().items())


def test_pixels_held_out_do_not_influence_what_is_learned(build, simulated, monkeypatch):
    out = _chosen_pixels(simulated)
    monkeypatch.setattr(Holdout, "look", lambda self, model: setattr(self, "weights", model.state_dict()))
    monkeypatch.setattr(training, "CALIBRATION", 0.0)  # the spread is theirs to set
    cube = simulated
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        values = np.where(out, 0.4, cube[name][variable].values).astype(np.float32)
        cube = _change(cube, name, variable, values)
    runs = [_fit(build(), c, 12, holdout=0.3) for c in (simulated, cube)]
    assert out.any() and not out.all() and _same(*runs)


def test_an_interrupted_fit_with_pixels_held_out_continues_to_the_same_bit(build, simulated, tmp_path, monkeypatch):
    save, steps = training._save, 44
    monkeypatch.setattr(training, "SAVE_EVERY", 20)
    whole = _fit(build(), simulated, steps, checkpoint=tmp_path / "whole", holdout=0.3)

    def killed(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            _fit(build(), simulated, steps, checkpoint=tmp_path / "again", holdout=0.3)
    with pytest.raises(ValueError, match="other terms, parts or holdout"):
        _fit(build(), simulated, steps, checkpoint=tmp_path / "again")
    assert _same(_fit(build(), simulated, steps, checkpoint=tmp_path / "again", holdout=0.3), whole)


@pytest.mark.parametrize(("share", "words"), [(0.7, "below 0.5"), (0.001, "no observed pixel")])
def test_a_share_that_cannot_be_held_out_is_refused(build, simulated, share, words):
    with pytest.raises(ValueError, match=words):
        _fit(build(), simulated, 5, holdout=share)


def test_pixels_of_different_sizes_cannot_be_held_out(simulated):
    coarse = simulated["s2"].to_dataset().isel(y=slice(0, None, 2), x=slice(0, None, 2))
    coarse = coarse.assign_coords(x=coarse.x + 5, y=coarse.y - 5)
    cube = xr.DataTree.from_dict({"s2_10m": simulated["s2"].to_dataset(), "s2_20m": coarse})
    model = PhysicsVAE({n: Optical(("B03", "B04", "B08"), nodes=1, residual=0) for n in ("s2_10m", "s2_20m")}, width=16)
    with pytest.raises(ValueError, match="the nodes of the cube differ in their pixels: give 0"):
        _fit(model, cube, 5, holdout=0.3)
