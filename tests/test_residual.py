"""Exclusive residuals: the part that lasts and the part that is new at every date."""

import pytest
import torch

from inference import Run, fit, load, posterior
from inference.refinement import WhitenedPosterior
from pi_vae import Optical, PhysicsVAE
from pi_vae.data import pattern, simulate
from pi_vae.data.tensors import CubeTensors
from pi_vae.priors import GlobalLatents
from pi_vae.residual import Residual

BANDS = ("B03", "B04", "B08")


@pytest.fixture(scope="module")
def model() -> PhysicsVAE:
    torch.manual_seed(0)
    return PhysicsVAE({"s2": Optical(BANDS, nodes=1, residual=1, transient=2)}, width=16, layers=1).eval()


def test_transient_processes_are_new_at_every_date_and_the_others_last(model) -> None:
    dates = torch.tensor([0.0, 2.0, 5.0, 40.0])
    residual = model.modalities["s2"].residual
    covariance = residual.temporal.covariance(dates, dates, residual.lengthscale.median, residual.static_odds.median)
    apart = covariance.abs()[:, ~torch.eye(4, dtype=torch.bool)]
    assert apart[0].min() > 0.5
    assert apart[1:].max() < 2e-3


def test_draws_have_the_scales_of_the_prior_and_are_common_to_the_bands() -> None:
    torch.manual_seed(0)
    residual = Residual(6, 1, 0.01, transient=1, transient_scale=0.03)
    loading, relevance = residual.loading.prior().expand([4000]).sample(), residual.relevance.prior().sample((4000,))
    loadings = loading * relevance.unsqueeze(1)
    assert loadings.shape == (4000, 6, 2)
    assert torch.allclose(loadings.square().mean((0, 1)).sqrt(), torch.tensor([0.01, 0.03]), rtol=0.06)
    latents = torch.zeros(2, 3)
    latents[1, 1] = 1.0  # the transient process, at the second date alone
    contribution = residual.contribution(latents, loading[0], relevance[0], None)
    assert torch.equal(contribution[1], loadings[0][:, 1])
    assert not contribution[[0, 2]].any()


def test_the_state_is_that_of_runs_without_transient_processes() -> None:
    names = {"loading.loc", "relevance.loc", "lengthscale.loc", "static_odds.loc"}
    state = Residual(3, 2, 0.01).state_dict()
    assert names < set(state) and "network.loc" not in state
    assert state["loading.loc"].shape == (3, 2)
    settings = PhysicsVAE({"s2": Optical(BANDS, nodes=1)}).settings
    del settings["modalities"]["s2"]["transient"]
    assert PhysicsVAE.from_settings(settings).modalities["s2"].residual.rank == 3


def test_transient_processes_may_be_the_only_ones() -> None:
    assert Optical(BANDS, nodes=1, residual=0, transient=1).residual.rank == 1
    assert Optical(BANDS, nodes=1, residual=0).residual is None


def test_a_fit_keeps_transient_processes_through_its_checkpoint(model, tmp_path) -> None:
    cube = simulate(model, pattern(size=4, bands=BANDS, optical_days=40), seed=3)
    fitted = PhysicsVAE.from_settings(model.settings)
    before = fitted.modalities["s2"].residual.loading.loc.clone()
    fit(fitted, cube, steps=4, checkpoint=tmp_path, progress=False)
    residual, again = fitted.modalities["s2"].residual, load(tmp_path).model
    assert not torch.equal(residual.loading.loc, before)
    assert again.settings["modalities"]["s2"]["transient"] == 2
    assert torch.equal(again.modalities["s2"].residual.loading.loc, residual.loading.loc)
    drawn = posterior(Run(again), cube, draws=8, pixels=[(1, 2)])["posterior"]["residual_s2"]
    assert drawn.dims == ("chain", "draw", "pixel", "time", "s2_channel")


def test_the_haze_of_a_simulation_is_found_again() -> None:
    torch.manual_seed(0)
    model = PhysicsVAE({"s2": Optical(BANDS, nodes=1, residual=0, transient=1)}, width=16, layers=1).eval()
    model.modalities["s2"].residual.relevance = GlobalLatents([0.03], 0.01)  # not so faint as it might be
    cube = simulate(model, pattern(size=4, bands=BANDS, optical_days=20, cloudy=0.2), seed=3)
    truth = cube["truth"].to_dataset()
    shared = {k.removeprefix("global_"): torch.from_numpy(truth[k].values) for k in truth if k.startswith("global_")}
    data = CubeTensors.read(cube, {"s2": BANDS})
    batch = data.at(torch.arange(4), torch.arange(4), 0)
    with torch.no_grad():
        target = WhitenedPosterior(model, batch, shared)
        found = model.residual("s2", target.latents(target.mode()), shared)[:, batch.modalities["s2"].index]
    seen = batch.modalities["s2"].mask(batch.pixels)
    true = torch.from_numpy(truth["s2_residual"].values[..., range(4), range(4)]).permute(2, 0, 1)
    pair = torch.stack([found[seen].flatten(), true[seen].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.7


@pytest.mark.parametrize(("rank", "transient"), [(0, 0), (4, 0), (1, 4), (-1, 2)])
def test_a_residual_of_no_or_too_many_processes_is_refused(rank, transient) -> None:
    with pytest.raises(ValueError, match="over 3 channels has .* up to 3 processes of a kind"):
        Residual(3, rank, 0.01, transient=transient)


def test_what_is_new_at_every_date_has_no_period():
    assert Optical(residual=2, kernel="matern32 + periodic").residual.temporal.name == "matern32 + periodic"
    with pytest.raises(ValueError, match="transient=0"):
        Optical(residual=2, transient=1, kernel="matern32 + periodic")


def test_a_model_begins_without_residual_and_is_taught_one(model) -> None:
    fresh = PhysicsVAE.from_settings(model.settings)
    shared = fresh.median_globals()
    latents = torch.randn(4, 3, 7)
    parts = (shared[f"s2_{kind}"] for kind in ("loading", "relevance"))
    assert not fresh.modalities["s2"].residual.contribution(latents, *parts, None).any()


def test_a_network_is_a_line_at_the_start_and_bends_when_it_is_told_to() -> None:
    torch.manual_seed(0)
    residual = Residual(4, 2, 0.01, network=5)
    latents = torch.randn(3, 2, 7)
    assert torch.equal(residual.features(latents, residual.network.loc), latents)
    network = torch.randn(2, 5, 2)
    inner, outer = network
    expected = latents[1, :, 3] + outer.T @ torch.tanh(inner @ latents[1, :, 3]) / 5**0.5
    assert torch.allclose(residual.features(latents, network)[1, :, 3], expected, atol=1e-6)
    with pytest.raises(ValueError, match="network=-1"):
        Residual(4, 2, 0.01, network=-1)


def test_a_residual_with_a_network_is_fitted_saved_and_drawn(tmp_path) -> None:
    torch.manual_seed(0)
    model = PhysicsVAE({"s2": Optical(BANDS, nodes=1, residual=2, network=3)}, width=16, layers=1)
    cube = simulate(model, pattern(size=4, bands=BANDS, optical_days=40), seed=3)
    assert cube["truth"]["global_s2_network"].shape == (2, 3, 2)
    fit(model, cube, steps=4, checkpoint=tmp_path, progress=False)
    again = load(tmp_path).model
    assert torch.equal(again.modalities["s2"].residual.network.loc, model.modalities["s2"].residual.network.loc)
    drawn = posterior(Run(again), cube, draws=8, pixels=[(1, 2)])["posterior"]
    assert drawn["global_s2_network"].dims[2:] == ("s2_layer", "s2_hidden", "s2_process")
    assert drawn["global_s2_relevance"].attrs["units"] == "1"


def test_strength_is_that_of_draws_and_a_silenced_process_has_none() -> None:
    torch.manual_seed(0)
    residual = Residual(6, 2, 0.5)
    residual.loading.loc.data.normal_()
    residual.loading.log_scale.data.fill_(-1.0)
    draws = residual.relevance.median * residual.loading.posterior().sample((20000,))
    assert torch.allclose(residual.strength, draws.square().mean((0, 1)).sqrt(), rtol=0.02)
    residual.silence(1)
    assert residual.strength[0] > 0.1 and residual.strength[1] < 1e-6
