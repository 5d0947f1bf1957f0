"""Hamiltonian Monte Carlo in the coordinates of the guide: right on known targets, and whatever the guide."""

import arviz as az
import pytest
import torch

from inference import posterior
from inference.refinement import hamiltonian, refined_groups
from pi_vae.data.batches import CubeTensors


def test_many_gaussians_at_once_have_their_means_and_variances() -> None:
    torch.manual_seed(0)
    scale = torch.tensor([[0.5, 1.0, 2.0], [1.0, 1.0, 0.3]])
    mean = torch.tensor([[1.0, 0.0, -3.0], [0.0, 2.0, 0.1]])

    def density(x: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((x - mean) / scale).square().sum(-1)

    draws, found = hamiltonian(density, torch.zeros(2, 3), draws=3000, warmup=300)
    assert ((draws.mean(0) - mean) / scale).abs().max() < 0.15
    assert (draws.std(0) / scale - 1).abs().max() < 0.1
    assert (found["acceptance"] - 0.8).abs().max() < 0.15


def test_a_skewed_target_has_its_moments() -> None:
    torch.manual_seed(0)
    rate = torch.tensor([1.0, 3.0, 8.0])  # log of gamma variables: mean digamma(rate), variance trigamma(rate)

    def density(x: torch.Tensor) -> torch.Tensor:
        return (rate * x - x.exp()).sum(-1)

    draws, _ = hamiltonian(density, torch.zeros(5, 3), draws=1500, warmup=300)
    assert (draws.mean((0, 1)) - torch.digamma(rate)).abs().max() < 0.1
    assert (draws.var((0, 1)) / torch.polygamma(1, rate) - 1).abs().max() < 0.2


def test_the_map_of_the_guide_has_constant_volume(build, simulated) -> None:
    model = build().eval()
    data = CubeTensors.read(simulated, {n: m.channels for n, m in model.modalities.items()})
    batch = data.at(torch.tensor([4, 5]), torch.tensor([3, 7]), model.encoder.radius)
    with torch.no_grad():
        chain = model.posterior(model.encoder(batch), batch.dates, model.draw_globals())
        shapes = {"static": chain.static.event_shape} | {k: p.event_shape for k, p in chain.processes.items()}
        noise = {k: torch.randn(6, 2, *shape) for k, shape in shapes.items()}
        drawn = chain.transport(noise)
        level = sum(chain.conditional(k, drawn).log_prob(drawn[k]) for k in chain.names)
        standard = sum(-0.5 * v.flatten(2).square().sum(-1) for v in noise.values())
    difference = level - standard
    assert (difference - difference.mean(0)).abs().max() < 0.05  # of numbers of the order of a hundred
    assert difference.abs().min() > 1


@pytest.mark.slow
def test_two_guides_that_disagree_end_at_the_same_posterior(build, simulated) -> None:
    first, second = build(seed=0).eval(), build(seed=3).eval()
    for name, value in first.state_dict().items():
        if not name.startswith("encoder"):
            second.state_dict()[name].copy_(value)
    data = CubeTensors.read(simulated, {n: m.channels for n, m in first.modalities.items()})
    batch = data.at(torch.tensor([2, 5, 9, 3, 7, 6]), torch.tensor([2, 8, 11, 6, 1, 4]), first.encoder.radius)
    torch.manual_seed(0)
    shared = {name: value.detach() for name, value in first.draw_globals().items()}
    first.draw_globals = second.draw_globals = lambda which="posterior": shared
    guides, refined = [], []
    for model in (first, second):
        with torch.no_grad():
            guides.append(model.posterior(model.encoder(batch), batch.dates, shared).static.mean)
        groups = refined_groups(model, batch, draws=400, chains=4, warmup=120, thin=1)
        refined.append(torch.cat([g.latents.dynamic.flatten(2) for g in groups]))
    assert (guides[0] - guides[1]).abs().max() > 0.1
    mean, sd = ([f(draws, 0) for draws in refined] for f in (torch.mean, torch.std))
    error = (mean[0] - mean[1]).abs() / sd[0]
    assert error.median() < 0.15 and error.quantile(0.9) < 0.5
    assert (sd[0] / sd[1] - 1).abs().median() < 0.12


@pytest.mark.slow
def test_chains_are_chains_of_arviz(run, simulated) -> None:
    tree = posterior(run, simulated, draws=80, pixels=[(4, 5), (0, 0)], refine=True, chains=2, times=["2021-12-01"])
    assert tree["posterior"]["lai"].dims == ("chain", "draw", "pixel", "time")
    assert tree["posterior"]["lai"].shape[:3] == (2, 40, 2)
    assert tree["posterior_predictive"]["s2"].shape[:2] == (2, 40)
    assert float(az.rhat(tree["posterior"]["lai"].isel(pixel=1)).max()) < 1.5


def test_the_prior_stays_the_prior(run, simulated) -> None:
    data = CubeTensors.read(simulated, {n: m.channels for n, m in run.model.modalities.items()})
    batch = data.at(torch.zeros(40, dtype=torch.long), torch.zeros(40, dtype=torch.long), run.model.encoder.radius)
    torch.manual_seed(0)
    (group,) = refined_groups(run.model, batch, draws=20, chains=1, warmup=60)
    assert abs(float(group.latents.dynamic.mean())) < 0.05 and abs(float(group.latents.dynamic.std()) - 1) < 0.05


def test_draws_must_be_shared_out(run, simulated) -> None:
    with pytest.raises(ValueError, match="4 chains"):
        posterior(run, simulated, draws=50, pixels=[(0, 0)], refine=True)
