"""What the model simulates for its encoder, and what the encoder learns from it."""

import dataclasses

import pytest
import torch
from torch.distributions import Normal

from inference import sleep
from inference.sleep import dream, marginal_loss, recovery_loss
from pi_vae.data.batches import parted
from pi_vae.data.tensors import CubeTensors


@pytest.fixture
def model(build):
    return build()


@pytest.fixture
def batch(model, simulated):
    data = CubeTensors.read(simulated, {name: m.channels for name, m in model.modalities.items()})
    return data.patches(4, 10, data.pixels, torch.Generator().manual_seed(0))


def _dream(model, batch, seed=0):
    with torch.no_grad():
        torch.manual_seed(seed)
        return dream(model, batch, model.draw_globals())


def test_every_pixel_has_the_prior_and_resembles_its_neighbours(model, batch):
    values = torch.cat([_dream(model, batch, seed)[0]["static"].unflatten(0, (4, 10, 10)) for seed in range(40)])
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.05
    neighbours = (values[:, 1:] * values[:, :-1]).mean()
    assert 0.25 < neighbours < 0.75, "half of the variance is shared within a region, on average"
    elsewhere = (values[1:, 0, 0] * values[:-1, 0, 0]).mean()
    assert abs(elsewhere) < 0.15, "patches have nothing in common"


def test_a_dream_is_observed_as_the_batch_is(model, batch):
    drawn, simulated = _dream(model, batch)
    for name, observed in simulated.modalities.items():
        real = batch.modalities[name]
        assert observed.values.shape == real.values.shape and torch.isfinite(observed.values).all()
        assert torch.equal(observed.seen, real.seen) and torch.equal(observed.index, real.index)
        # The values lie around what the operators say of the latents, not around the cube's.
        with torch.no_grad():
            torch.manual_seed(0)
            shared = model.draw_globals()
            everywhere = dataclasses.replace(batch, pixels=torch.arange(400))
            mean = model.expected(name, model.latents(drawn, batch.dates, shared), everywhere, shared)
        error = (observed.series(everywhere.pixels) - mean) / shared[f"{name}_noise"]
        assert 0.5 < error.abs().median() < 1.0, "of the order of the noise scale (0.67 to 0.76 for Student-t)"


def test_only_the_encoder_learns_from_dreams(model, batch):
    recovery_loss(model, batch).backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning and all(name.startswith("encoder.") for name in learning)


def test_where_nothing_is_seen_the_loss_is_that_of_the_prior(model, batch):
    blind = {n: dataclasses.replace(m, seen=torch.zeros_like(m.seen)) for n, m in batch.modalities.items()}
    batch = dataclasses.replace(batch, modalities=blind)
    torch.manual_seed(3)
    found = recovery_loss(model, batch)
    with torch.no_grad():
        torch.manual_seed(3)
        shared, _ = model.draw_globals(), model.draw_globals()
        drawn, _ = dream(model, batch, shared)
        drawn = {name: value[batch.pixels] for name, value in drawn.items()}
        expected = -sum(p.log_prob(drawn[n]).sum() for n, p in model.priors(batch.dates, shared).items())
        expected = expected - sum(Normal(0, 1).log_prob(v).sum() for n, v in drawn.items() if n != "static")
    assert found.item() == pytest.approx(batch.scale * expected.item(), rel=1e-4)


def test_patches_may_come_from_several_cubes(model, batch, monkeypatch):
    draws = [model.draw_globals("prior") for _ in range(4)]
    drawn, simulated = _dream(model, batch)

    def loss(order, cubes):
        """With these draws of the global latents, but always of the same dream."""
        shared, dreams, size = iter(order), [], 400 // cubes
        for i, part in enumerate(parted(simulated, cubes)):
            dreams.append(({name: value[i * size :][:size] for name, value in drawn.items()}, part))
        monkeypatch.setattr(model, "draw_globals", lambda: draws[next(shared)])
        monkeypatch.setattr(sleep, "dream", lambda *_: dreams.pop(0))
        with torch.no_grad():
            return recovery_loss(model, batch, cubes).item()

    assert loss([0, 1, 0, 1], 2) == pytest.approx(loss([0, 1], 1), rel=1e-5), (
        "the same ones, for one half and the other"
    )
    halves = [loss([i, j, i, j], 2) for i, j in ((0, 1), (2, 3))]
    mixed = loss([0, 1, 2, 3], 2), loss([2, 3, 0, 1], 2)
    assert sum(mixed) == pytest.approx(sum(halves), rel=1e-5) and mixed[0] != pytest.approx(mixed[1], rel=1e-5)


def test_marginals_are_scored_over_draws_of_the_static_latents(model, batch, monkeypatch):
    """By hand, from the chain itself, with the same draws."""
    drawn, simulated = _dream(model, batch)
    truth = {name: value[batch.pixels] for name, value in drawn.items()}
    shared = model.draw_globals("prior")
    monkeypatch.setattr(model, "draw_globals", lambda: shared)
    monkeypatch.setattr(sleep, "dream", lambda *_: (drawn, simulated))
    with torch.no_grad():
        torch.manual_seed(4)
        found = marginal_loss(model, batch).item()
        torch.manual_seed(4)
        posterior = model.posterior(model.encode(simulated), batch.dates, shared)
        static = posterior.static.rsample((8,))
        expected = 0.0
        for name in posterior.names[1:]:
            each = [posterior.conditional(name, truth | {"static": one}) for one in static]
            densities = torch.stack([one.datewise_log_prob(truth[name]) for one in each]).double().exp()
            expected -= densities.sum(0).log().sum().item()
    assert found == pytest.approx(batch.scale * expected, rel=1e-4)


def test_dreams_alone_teach_the_encoder(model, batch):
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=5e-3)

    def mean_loss():
        with torch.no_grad():
            torch.manual_seed(1)
            return sum(recovery_loss(model, batch).item() for _ in range(5)) / 5

    before = mean_loss()
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        (recovery_loss(model, batch) / batch.scale / 400).backward()
        optimizer.step()
    after = mean_loss()
    assert before - after > 2.0 * batch.scale * len(batch.pixels), "two nats per pixel"
