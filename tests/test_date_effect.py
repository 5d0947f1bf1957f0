"""What a single date does to all pixels: where it is added, what is known of it, and whether a fit finds it."""

import numpy as np
import pytest
import torch

from inference import Run, fit, load, posterior
from inference.refinement import WhitenedPosterior
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import simulate
from pi_vae.data.tensors import CubeTensors
from pi_vae.date_effect import DateEffect

BANDS = ("B03", "B04", "B08")


def model(seed: int = 0) -> PhysicsVAE:
    torch.manual_seed(seed)
    parts = {"s2": Optical(BANDS, nodes=1, residual=1, date_effect=True), "s1": Radar(residual=1)}
    return PhysicsVAE(parts, width=16, layers=1)


def read(vae: PhysicsVAE, cube) -> CubeTensors:
    return CubeTensors.read(cube, {name: m.channels for name, m in vae.modalities.items()})


@pytest.fixture
def known(simulated):
    """A model with an effect of some size at every date, and a batch of the cube."""
    vae = model().eval()
    data = read(vae, simulated)
    vae.know_dates(data)
    effect = vae.modalities["s2"].date_effect
    with torch.no_grad():
        effect.value.loc.normal_()
        effect.size.loc.fill_(np.log(0.05))
    return vae, data.at(torch.tensor([2, 5, 7]), torch.tensor([1, 4, 8]), vae.encoder.radius)


def test_what_is_known_stays_and_dates_are_told_apart_by_a_quarter_of_an_hour():
    effect = DateEffect(2, 0.01)
    effect.know(torch.tensor([100.0, 105.0]))
    with torch.no_grad():
        effect.value.loc.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    effect.know(torch.tensor([105.005, 110.0, 100.0]))
    assert effect.dates.tolist() == [100.0, 105.0, 110.0]
    assert effect.value.loc.tolist() == [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
    assert effect.value.prior().event_shape == effect.value.posterior().event_shape == (3, 2)
    found = effect(effect.value.loc, torch.tensor([1.0, 10.0]), torch.tensor([105.0, 102.0, 100.005]))
    assert found.tolist() == [[3.0, 40.0], [0.0, 0.0], [1.0, 20.0]]


def test_every_pixel_gets_the_same_and_the_radar_nothing(known):
    vae, batch = known
    with torch.no_grad():
        shared = vae.draw_globals()
        drawn = vae.posterior(vae.encode(batch), batch.dates, shared).rsample((4,))
        latents = vae.latents(drawn, batch.dates, shared)
        without = shared | {"s2_effect": torch.zeros_like(shared["s2_effect"])}
        for residual in (True, False):
            moved = vae.expected("s2", latents, batch, shared, residual)
            added = moved - vae.expected("s2", latents, batch, without, residual)
            assert torch.allclose(added, (shared["s2_effect"] * shared["s2_size"]).expand_as(added), atol=1e-6)
        assert added.abs().max() > 0.05
        s1 = (vae.expected("s1", latents, batch, s) for s in (shared, without))
        assert torch.equal(*s1)


def test_the_encoder_reads_what_is_left(known):
    vae, batch = known
    with torch.no_grad():
        moved = vae.encode(batch)
        effect = vae.modalities["s2"].date_effect
        shift = effect.median(batch.dates[batch.modalities["s2"].index])
        batch.modalities["s2"].values -= shift[:, :, None, None]
        effect.value.loc.zero_()
        plain = vae.encode(batch)
    assert torch.allclose(moved.static_mean, plain.static_mean, atol=1e-5)
    assert torch.allclose(moved.mean["dynamic"], plain.mean["dynamic"], atol=1e-5)


def test_chains_know_of_it(known):
    vae, batch = known
    with torch.no_grad():
        target = WhitenedPosterior(vae, batch, vae.median_globals())
        w = 0.3 * torch.randn(3, target.size)
        gradient = target.normal_equations(w)[1]
    w.requires_grad_()
    (expected,) = torch.autograd.grad(target.log_prob(w).sum(), w)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-2 * expected.abs().max())


def test_a_model_is_loaded_with_its_dates_and_the_tree_names_them(simulated, tmp_path):
    run = fit(model(), simulated, steps=3, checkpoint=tmp_path, progress=False)
    again = load(tmp_path)
    effect = again.model.modalities["s2"].date_effect
    seen = read(again.model, simulated).without_empty_dates()
    assert torch.equal(effect.dates, seen.dates[seen.index["s2"]])
    assert torch.equal(effect.value.loc, run.model.modalities["s2"].date_effect.value.loc)
    fewer = model()
    fewer.know_dates(read(fewer, simulated).without_empty_dates())
    fewer.modalities["s2"].date_effect.know(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="belongs to a model of another structure"):
        load(tmp_path, fewer)
    tree = posterior(again, simulated, draws=4, pixels=2)
    named = tree["posterior"]["global_s2_effect"]
    assert named.dims == ("chain", "draw", "s2_date", "s2_channel")
    apart = np.abs(named.s2_date.values[:, None] - simulated["s2"].time.values).min(1)
    assert (apart < np.timedelta64(1, "s")).all()
    assert tree["posterior"]["global_s2_size"].dims == ("chain", "draw", "s2_channel")


def test_a_model_that_knows_no_date_yet_has_none(simulated):
    tree = posterior(Run(model().eval()), simulated, draws=4, pixels=2)
    assert tree["posterior"]["global_s2_effect"].shape == (1, 4, 0, 3)
    assert np.isfinite(tree["posterior_predictive"]["s2"].values).all()


def test_other_dates_have_none(known, simulated):
    vae, _ = known
    later = np.datetime64("2022-03-01T10:00", "ns")
    tree = posterior(Run(vae), simulated, draws=4, pixels=1, times=[later])
    assert np.isfinite(tree["posterior_predictive"]["s2"].values).all()
    at = torch.tensor([later.astype("datetime64[s]").astype(np.int64) / 86400.0])
    assert (vae.modalities["s2"].date_effect.median(at) == 0).all()


@pytest.mark.slow
def test_a_fit_finds_what_was_planted(simulated):
    source, learner = model(), model()
    cube = simulate(source, simulated, 1)
    truth, node = cube["truth"].to_dataset(), cube["s2"].to_dataset()
    before = truth["global_s2_effect"].values * truth["global_s2_size"].values
    planted = before * (0.03 / before.std())
    shift = (planted - before)[:, :, None, None].astype(np.float32)
    cube["s2"] = node.assign(reflectance=node.reflectance + shift)
    fit(learner, cube, steps=150, patches=2, pixels=96, progress=False)
    effect, clear = learner.modalities["s2"].date_effect, node.valid.any(("y", "x")).values
    found = (effect.value.loc * effect.size.median).detach().numpy()
    assert np.corrcoef(found.ravel(), planted[clear].ravel())[0, 1] > 0.8
