"""Residuals given the physics: those of a dense reference, the prior where nothing was seen, deaf to outliers."""

import dataclasses

import pytest
import torch

from inference import exclusive
from inference.draws import Group, groups, seeded
from inference.exclusive import ROUNDS, _drawn
from inference.exclusive_filter import filtered
from pi_vae import Latents, Optical, PhysicsVAE
from pi_vae.data.batches import Batch
from pi_vae.data.tensors import CubeTensors
from pi_vae.priors import TemporalGP
from pi_vae.priors.noise import by_place

PIXELS = torch.tensor([4, 0]), torch.tensor([5, 0])  # the second was never seen


@pytest.fixture(params=["filter", "dense"])
def way(request, monkeypatch) -> str:
    """Of computing them; the cube is short, and would be dense by itself."""
    monkeypatch.setattr(exclusive, "LEAST_DATES", 0 if request.param == "filter" else 1000)
    return request.param


@pytest.fixture
def case(build, simulated, way):
    """A model whose optical residual is strong, one draw of two pixels, and observations that belong to it."""
    model = build(residual=2).eval()
    data = CubeTensors.read(simulated, {name: m.channels for name, m in model.modalities.items()})
    with seeded(0):
        model.modalities["s2"].residual.loading.loc.copy_(torch.tensor([[5.0, 1.0], [-2.0, 5.0], [9.0, 0.5]]))
        batch = data.at(*PIXELS, model.encoder.radius)
        shared = model.median_globals()
        latents = model.latents(
            model.posterior(model.encode(batch), batch.dates, shared).rsample((1,)), batch.dates, shared
        )
        mean = model.expected("s2", latents, batch, shared)[0]
        values = model.modalities["s2"].likelihood(mean, shared["s2_noise"]).sample()
        batch = with_values(batch, values, model.encoder.radius)
    return model, batch, shared, latents


def with_values(batch: Batch, values: torch.Tensor, centre: int) -> Batch:
    """The batch with optical values `[pixel, T_m, C]` at its pixels."""
    observed = batch.modalities["s2"]
    replaced = observed.values.clone()
    replaced[..., centre, centre] = values
    modalities = batch.modalities | {"s2": dataclasses.replace(observed, values=replaced)}
    return dataclasses.replace(batch, modalities=modalities)


def redrawn(model: PhysicsVAE, batch: Batch, latents: Latents, shared: dict[str, torch.Tensor]) -> Latents:
    return Group.of(model, batch, latents, shared).with_residuals_redrawn(model, batch).latents


def repeated(latents: Latents, count: int) -> Latents:
    """The same draw many times."""

    def many(x: torch.Tensor) -> torch.Tensor:
        return x.expand(count, *x.shape[1:])

    residual = {name: many(r) for name, r in latents.residual.items()}
    return Latents(many(latents.dynamic), many(latents.static), residual)


def test_they_are_those_of_a_dense_gaussian(case) -> None:
    model, batch, shared, latents = case
    model.modalities["s2"].degrees_of_freedom = 1e9
    with seeded(1):
        drawn = redrawn(model, batch, repeated(latents, 4000), shared).residual["s2"][:, 0].flatten(1).double()
        left = batch.modalities["s2"].series(batch.pixels) - model.expected("s2", latents, batch, shared, False)
        prior = torch.block_diag(*model.priors(batch.dates, shared)["residual_s2"].covariance.double())
    observed = batch.modalities["s2"]
    loading = (shared["s2_relevance"] * shared["s2_loading"]).double()
    dates = len(batch.dates)
    rows = [
        (torch.cat([loading[c, k] * torch.eye(dates)[i] for k in range(2)]), left[0, 0, t, c], shared["s2_noise"][c])
        for t, i in enumerate(observed.index)
        for c in range(3)
        if observed.seen[0, t, model.encoder.radius, model.encoder.radius]
    ]
    basis = torch.stack([row[0] for row in rows]).double()
    signal, noise = (torch.stack([row[i] for row in rows]).double().detach() for i in (1, 2))
    gain = prior @ basis.T @ torch.linalg.inv(basis @ prior @ basis.T + torch.diag(noise**2))
    mean, covariance = gain @ signal, prior - gain @ basis @ prior
    sd = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - mean) / sd).abs().max() < 4 / 4000**0.5
    difference = (drawn.T.cov() - covariance) / (sd[:, None] * sd)
    assert difference.abs().max() < 0.1
    assert sd.min() < 0.7 * prior.diagonal().sqrt().min()  # else the observations say little, and the test as well


@pytest.mark.parametrize("kernel", ["matern32", "matern12 + 2 * matern52"])
def test_the_filter_finds_what_the_dense_covariance_says(kernel) -> None:
    """Without random numbers draws are means, which depend on the variances by the weights of Student's noise."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    draws, pixels, dates, channels, count = 3, 4, 17, 3, 2
    days = (200 * torch.rand(dates, generator=generator, dtype=torch.float64)).sort().values
    days[4] = days[3]  # two images of a day
    given = days, torch.tensor([20.0, 90.0]).double(), torch.tensor([0.0, 1.5]).double()
    dense, process = (TemporalGP(kernel, backend).prior(*given).gram for backend in ("dense", "kalman"))
    index = torch.tensor([0, 2, 3, 4, 8, 11, 16])
    left, loading, noise = 2 * normal(draws, pixels, len(index), channels), normal(channels, count), normal(channels)
    seen = normal(*left.shape[1:]) > -0.5
    known = loading, noise.exp(), 4.0
    none, before = torch.zeros_like(left), torch.zeros(draws, pixels, count, dates).double()
    found = filtered(left, seen, none, before, *known, process, index, rounds=ROUNDS)
    factor = torch.linalg.cholesky(dense.matrix.double())
    expected = _drawn(left, seen, before.flatten(2).transpose(0, 1), *known, factor, index)
    assert torch.allclose(found, expected, atol=1e-6)


def test_what_nothing_was_seen_of_is_the_prior(case) -> None:
    model, batch, shared, latents = case
    with seeded(2):
        everywhere = redrawn(model, batch, repeated(latents, 4000), shared)
        absent = dataclasses.replace(batch, modalities={"s1": batch.modalities["s1"]})
        without = redrawn(model, absent, repeated(latents, 4000), shared)
        prior = model.priors(batch.dates, shared)["residual_s2"].covariance
    for drawn in (everywhere.residual["s2"][:, 1], without.residual["s2"][:, 0]):
        assert drawn.mean(0).abs().max() < 0.08
        assert (torch.stack([drawn[:, k].T.cov() for k in range(2)]) - prior).abs().max() < 0.12


def test_what_a_pixel_draws_does_not_depend_on_which_are_drawn_together(case) -> None:
    model, batch, shared, latents = case
    found = []
    for chosen in (torch.tensor([0, 1]), torch.tensor([1])):
        part = dataclasses.replace(batch, pixels=batch.pixels[chosen])
        residual = {name: process[:, chosen] for name, process in latents.residual.items()}
        few = Latents(latents.dynamic[:, chosen], latents.static[:, chosen], residual)
        with seeded(5), by_place(*(rows[chosen] for rows in PIXELS)):
            found.append(redrawn(model, part, few, shared).residual)
    for name in ("s2", "s1"):
        assert torch.allclose(found[0][name][:, 1:], found[1][name], atol=1e-5)


def test_one_wild_date_does_not_move_the_others(case) -> None:
    model, batch, shared, latents = case
    centre = model.encoder.radius
    seen = batch.modalities["s2"].seen[0, :, centre, centre].nonzero().flatten()
    found = {}
    for wild in (0.0, 5.0):
        values = batch.modalities["s2"].series(batch.pixels).clone()
        values[0, seen[2]] += wild
        moved = with_values(batch, values, centre)
        with seeded(3):
            found[wild] = redrawn(model, moved, repeated(latents, 2000), shared).residual["s2"][:, 0].mean(0)
    others = [int(i) for i in batch.modalities["s2"].index[seen] if i != batch.modalities["s2"].index[seen[2]]]
    assert (found[5.0] - found[0.0])[:, others].abs().max() < 0.3
    model.modalities["s2"].degrees_of_freedom = 1e9
    with seeded(3):
        gaussian = redrawn(model, moved, repeated(latents, 2000), shared).residual["s2"][:, 0].mean(0)
    assert (gaussian - found[0.0])[:, others].abs().max() > 1


def test_all_posterior_draws_have_them_and_the_physics_stays(case) -> None:
    model, batch, shared, latents = case
    with seeded(4):
        (group,) = groups(model, batch, 64, 1)
    with seeded(4):
        shared = model.draw_globals()
        drawn = model.posterior(model.encode(batch), batch.dates, shared).rsample((64,))
    assert torch.equal(group.latents.static, drawn["static"])

    def error(given: Latents) -> torch.Tensor:
        mean = model.expected("s2", given, batch, shared)[:, 0]
        seen = batch.modalities["s2"].scored(batch.pixels)[0]
        return ((mean - batch.modalities["s2"].series(batch.pixels)[0]) / shared["s2_noise"])[:, seen].square().mean()

    with torch.no_grad():
        assert error(group.latents) < 0.7 * error(model.latents(drawn, batch.dates, shared))


@pytest.mark.parametrize("options", [{"network": 3}, {"smoothness": 2.0}])
def test_residuals_that_are_not_linear_or_bind_pixels_stay(simulated, options) -> None:
    torch.manual_seed(0)
    model = PhysicsVAE({"s2": Optical(("B03", "B04", "B08"), nodes=1, residual=1, **options)}, width=16, layers=1)
    data = CubeTensors.read(simulated, {"s2": model.modalities["s2"].channels})
    with seeded(0):
        batch = data.at(*PIXELS, model.encoder.radius)
        shared = model.median_globals()
        drawn = model.posterior(model.encode(batch), batch.dates, shared).rsample((3,))
        latents = model.latents(drawn, batch.dates, shared)
        assert torch.equal(redrawn(model, batch, latents, shared).residual["s2"], latents.residual["s2"])
