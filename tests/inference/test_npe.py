"""The guide learns from simulations: what changes, what does not, and whether intervals then hold."""

import numpy as np
import pytest
import torch
import xarray as xr

from inference import Run, fit, load, neural_posterior, npe, posterior
from inference.calibration import at_pixels, coverage
from pi_vae.data import simulate


@pytest.fixture
def taught(build, simulated):
    return neural_posterior(Run(build()), simulated, steps=3, pixels=20, patch_size=6, device="cpu", progress=False)


def test_the_encoder_learns_and_the_global_latents_stay(build, taught):
    before, after = build().state_dict(), taught.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("encoder.") for name in changed)
    assert not taught.model.training
    learns = [p.requires_grad for p in build().parameters()]
    assert [p.requires_grad for p in taught.model.parameters()] == learns, "as before"


def test_at_last_the_skewness_learns_alone(build, points, monkeypatch):
    weights = []
    for last in (1000, 1):  # one step of it, and as many as there are others
        monkeypatch.setattr(npe, "LAST", last)
        options = {"steps": 4, "pixels": 20, "device": "cpu", "progress": False}
        weights.append(neural_posterior(Run(build()), points, **options).model.state_dict())
    changed = {name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])}
    assert changed and all(".skewness." in name for name in changed)


def test_what_is_forgotten_is_the_prior_again(build, simulated):
    options = {"steps": 2, "pixels": 20, "patch_size": 6, "device": "cpu", "progress": False}
    model = build()
    for parameter in model.parameters():
        parameter.data.add_(0.3)
    other = neural_posterior(Run(model), simulated, forget=True, **options).model
    for site, prior in other.globals("prior").items():
        posterior = other.globals("posterior")[site]
        assert torch.distributions.kl_divergence(*(d.base_dist for d in (posterior, prior))).abs().max() < 1e-6, site
    failed = build()
    with pytest.raises(FloatingPointError):
        neural_posterior(Run(failed), simulated, forget=True, learning_rate=1e30, **options | {"steps": 20})
    assert torch.equal(failed.lengthscale.log_scale, build().lengthscale.log_scale), "as it was"


def test_what_is_forgotten_is_drawn_many_times_a_step(build, points, monkeypatch):
    model, simulated_with, options = build(), [], {"steps": 1, "pixels": 260, "device": "cpu", "progress": False}
    expected = model.expected
    monkeypatch.setattr(
        model, "expected", lambda name, *rest: simulated_with.append(rest[-1]["lengthscale"]) or expected(name, *rest)
    )
    neural_posterior(Run(model), points, **options)
    assert len({id(lengthscale) for lengthscale in simulated_with}) == 2, "a step, and one of the marginals"
    simulated_with.clear()
    neural_posterior(Run(model), points, forget=True, **options)
    assert len({id(lengthscale) for lengthscale in simulated_with}) == 8


def test_the_values_of_points_are_not_read(build, points):
    other = points.copy(deep=True)
    other["s2"]["reflectance"] = 0.5 * other["s2"]["reflectance"]
    options = {"steps": 3, "pixels": 20, "device": "cpu", "progress": False}
    weights = [neural_posterior(Run(build()), cube, **options).model.state_dict() for cube in (points, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_checkpoint_is_brought_up_to_date(build, simulated, tmp_path):
    options = {"device": "cpu", "progress": False, "pixels": 20}
    run = fit(build(), simulated, steps=4, checkpoint=tmp_path, **options)
    neural_posterior(run, simulated, steps=2, **options)
    found = load(tmp_path).model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in run.model.state_dict().items())


def test_wrong_input_is_refused_in_one_sentence(build, simulated):
    for cubes in (0, 3):
        with pytest.raises(ValueError, match=f"cubes is {cubes}: give 1 to 2"):
            neural_posterior(Run(build()), simulated, 1, forget=True, cubes=cubes, device="cpu")
    with pytest.raises(ValueError, match="with forget=True"):
        neural_posterior(Run(build()), simulated, 1, cubes=1, device="cpu")
    with pytest.raises(ValueError, match="device is 'abacus'.*give 'cpu'"):
        neural_posterior(Run(build()), simulated, 1, device="abacus")
    with pytest.raises(ValueError, match="steps is 0"):
        neural_posterior(Run(build()), simulated, steps=0)
    with pytest.raises(ValueError, match="s1"):
        neural_posterior(Run(build()), xr.DataTree.from_dict({"s2": simulated["s2"].to_dataset()}), steps=1)


def test_a_loss_that_runs_away_leaves_the_model_as_it_was(build, simulated):
    run = Run(build())
    with pytest.raises(FloatingPointError, match="learning_rate"):
        neural_posterior(
            run, simulated, steps=20, learning_rate=1e30, pixels=20, patch_size=6, device="cpu", progress=False
        )
    before, after = build().state_dict(), run.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.fixture
def points(simulated):
    """Series with the dates and masks of seen pixels, each a point."""
    pixels = 1 + np.arange(480) % 80

    def flat(node: xr.Dataset) -> xr.Dataset:
        return node.stack(point=("y", "x")).reset_index("point").transpose("time", ..., "point").isel(point=pixels)

    return xr.DataTree.from_dict({name: flat(simulated[name].to_dataset()) for name in ("s2", "s1")})


@pytest.mark.slow
def test_intervals_hold_where_the_model_is_right(build, points):
    """Points drawn from the prior: those of a guide that has seen simulations alone hold on average."""
    model = build()
    cube = simulate(model, points, 1)
    truth = cube["truth"].to_dataset()
    shared = {n[7:]: torch.from_numpy(v.values.astype(np.float32)) for n, v in truth.items() if n.startswith("global_")}
    model.draw_globals = lambda which="posterior": shared
    run = neural_posterior(Run(model), cube, steps=700, pixels=200, learning_rate=5e-3, device="cpu", progress=False)
    drawn = posterior(run, cube, draws=200)["posterior"].to_dataset()[[*model.dynamic, *model.static]]
    held = coverage(drawn, at_pixels(truth, drawn), levels=(0.9,))["coverage"].squeeze("level")
    # the standard error of a static variable's is 0.014
    assert (abs(held - 0.9) < 0.045).all() and abs(held.mean() - 0.9) < 0.015, held.to_series()
