"""The guide teaches itself to do with less: what changes, and what does not."""

import copy
import dataclasses

import pytest
import torch
import xarray as xr

from inference import Run, distil, fit, load
from inference.distillation import _loss
from inference.draws import seeded
from inference.holdout import Holdout
from pi_vae import Optical, PhysicsVAE
from pi_vae.data.tensors import CubeTensors

QUIET = {"pixels": 40, "device": "cpu", "progress": False}


def test_the_encoder_learns_and_the_global_latents_stay(build, simulated) -> None:
    run = distil(Run(build()), simulated, steps=3, patch_size=6, holdout=0, **QUIET)
    before, after = build().state_dict(), run.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("encoder.") for name in changed)
    assert not run.model.training
    assert [p.requires_grad for p in run.model.parameters()] == [p.requires_grad for p in build().parameters()]


def test_what_predicts_pixels_held_out_worse_than_before_is_not_kept(build, simulated) -> None:
    run = fit(build(), simulated, steps=20, **QUIET)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    distil(run, simulated, steps=2, patch_size=6, holdout=0.2, learning_rate=0.3, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_series_held_out_set_the_spread_and_nothing_else(build, simulated, monkeypatch) -> None:
    kept, look = {}, Holdout.look

    def noted(held, model) -> float:
        score = look(held, model)
        kept.update(held.weights)
        return score

    monkeypatch.setattr(Holdout, "look", noted)
    run = distil(Run(build()), simulated, steps=16, patch_size=6, holdout=0.2, **QUIET)
    after = run.model.state_dict()
    changed = {name for name, value in kept.items() if not torch.equal(value, after[name])}
    spread = {id(p) for head in run.model.encoder.spread_heads() for p in head.parameters()}
    assert changed == {name for name, p in run.model.named_parameters() if id(p) in spread}


def test_the_same_seed_gives_the_same_weights_and_the_checkpoint_has_them(build, simulated, tmp_path) -> None:
    weights = []
    for folder in ("a", "b"):
        run = fit(build(), simulated, steps=4, checkpoint=tmp_path / folder, **QUIET)
        distil(run, simulated, steps=2, holdout=0, seed=3, **QUIET)
        weights.append(load(tmp_path / folder).model.state_dict())
        assert all(torch.equal(value, weights[-1][name]) for name, value in run.model.state_dict().items())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_wrong_input_is_refused_in_one_sentence(build, simulated) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        distil(Run(build()), simulated, steps=0)
    with pytest.raises(ValueError, match="'s2' alone"):
        distil(Run(PhysicsVAE({"s2": Optical(nodes=1)})), simulated)
    with pytest.raises(ValueError, match="no node 's1'"):
        distil(Run(build()), xr.DataTree.from_dict({"s2": simulated["s2"].to_dataset()}))


def test_a_loss_that_runs_away_leaves_the_model_as_it_was(build, simulated) -> None:
    run = Run(build())
    with pytest.raises(FloatingPointError, match="learning_rate"):
        distil(run, simulated, steps=20, learning_rate=1e30, holdout=0, patch_size=6, **QUIET)
    before, after = build().state_dict(), run.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_with_one_sensor_the_guide_comes_to_say_what_it_said_with_both(build, simulated) -> None:
    run = fit(build(), simulated, steps=100, hide_modality=0.0, **QUIET)
    model, teacher = run.model, copy.deepcopy(run.model.encoder)
    data = CubeTensors.read(simulated, {name: m.channels for name, m in model.modalities.items()})
    whole = data.patches(4, 6, 100, torch.Generator().manual_seed(0))
    optical = whole.modalities["s2"]
    hidden = dataclasses.replace(optical, seen=torch.zeros_like(optical.seen))
    radar = dataclasses.replace(whole, modalities=whole.modalities | {"s2": hidden})

    def distance(seen) -> float:
        with seeded(0):
            return _loss(model, teacher, whole, seen).item()

    least, before = distance(whole), distance(radar)
    distil(run, simulated, steps=80, hide_modality=0.9, holdout=0, device="cpu", progress=False)
    assert distance(radar) < before - 0.2 * (before - least)
