"""Terms that hold residuals back: each punishes what it is there for, and all of them serve a fit."""

import dataclasses

import pyro
import pytest
import torch
from pyro import poutine

from inference import fit, load
from inference.terms import TERMS, Explanation, Restraint
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate
from pi_vae.data.tensors import CubeTensors

BANDS = ("B03", "B04", "B08")


@pytest.fixture(scope="module")
def model() -> PhysicsVAE:
    torch.manual_seed(0)
    modalities = {"s2": Optical(BANDS, nodes=1, residual=1), "s1": Radar(residual=1)}
    return PhysicsVAE(modalities, width=16, layers=1)


@pytest.fixture(scope="module")
def cube(model):
    return simulate(model, pattern(size=8, bands=BANDS, optical_days=40, radar_days=40), seed=3)


@pytest.fixture
def explained(model, cube) -> Explanation:
    torch.manual_seed(1)
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    batch = data.patches(2, 8, 60, torch.Generator().manual_seed(0))
    return explain(model, batch)


def explain(model, batch) -> Explanation:
    guide = poutine.trace(model.guide).get_trace(batch)
    sites = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch).nodes
    drawn = {name: node["value"] for name, node in guide.nodes.items() if node["type"] == "sample"}
    means = {name: sites[f"{name}_mean"]["value"] for name in batch.modalities}
    return Explanation(model, batch, guide.nodes["_RETURN"]["value"], drawn, means, batch)


def with_residual(e: Explanation, factor: float) -> Explanation:
    """The same with the residual of the radar times a factor."""
    own = e.residual("s1", e.drawn["residual_s1"])
    drawn = dict(e.drawn) | {"residual_s1": factor * e.drawn["residual_s1"]}
    return dataclasses.replace(e, drawn=drawn, means=dict(e.means) | {"s1": e.means["s1"] + (factor - 1) * own})


def with_batch(e: Explanation, modalities) -> Explanation:
    return dataclasses.replace(e, batch=dataclasses.replace(e.batch, modalities=modalities))


@pytest.mark.parametrize("name", list(TERMS))
def test_a_term_is_a_finite_number_that_teaches_the_residual(name, model, explained) -> None:
    model.zero_grad()
    value = TERMS[name](explained)
    assert value.shape == () and torch.isfinite(value)
    value.backward()
    learned = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert any("residual" in n for n in learned)


@pytest.mark.parametrize("name", ["ablation", "tangent"])
def test_a_louder_residual_costs_more_and_none_costs_nothing(name, explained) -> None:
    values = []
    for factor in (0.0, 1.0, 3.0):
        torch.manual_seed(2)
        values.append(TERMS[name](with_residual(explained, factor)).item())
    assert values[0] < values[1] < values[2]
    silent = dict(explained.drawn) | {f"residual_{m}": 0.0 * explained.drawn[f"residual_{m}"] for m in ("s1", "s2")}
    assert TERMS[name](dataclasses.replace(explained, drawn=silent)).item() == 0.0


def test_observations_lose_more_with_the_residual_of_another_the_more_of_them_it_is(explained) -> None:
    values = []
    for factor in (1.0, 3.0, 10.0):
        torch.manual_seed(2)
        e = with_residual(explained, factor)
        observed = e.batch.modalities["s1"]
        values_there = observed.values.permute(0, 3, 4, 1, 2).flatten(0, 2)
        values_there[e.batch.pixels] = e.means["s1"].detach()
        exact = values_there.unflatten(0, (2, 8, 8)).permute(0, 3, 4, 1, 2)
        modalities = dict(e.batch.modalities) | {"s1": dataclasses.replace(observed, values=exact)}
        values.append(TERMS["cross_reconstruction"](with_batch(e, modalities)).item())
    assert 0.0 < values[0] < values[1] < values[2]


def test_least_action_is_the_divergence_of_two_normal_predictions(explained) -> None:
    expected = 0.0
    for name in ("s2", "s1"):
        noise, (_, scored) = explained.drawn[f"{name}_noise"], explained.scored(name)
        said = explained.residual(name, explained.drawn[f"residual_{name}"])
        full, physics = (torch.distributions.Normal(mean, noise) for mean in (explained.means[name],) * 2)
        physics = torch.distributions.Normal(explained.means[name] - said, noise)
        expected += (torch.distributions.kl_divergence(full, physics) * scored).sum()
    assert torch.allclose(TERMS["ablation"](explained), explained.batch.scale * expected, rtol=1e-4)


def test_the_tangent_term_knows_what_physics_could_say(explained) -> None:
    """A residual in a direction of the Jacobian costs more than one of the same size across it."""
    from inference.terms import _jacobian

    latents, observed = explained.latents, explained.batch.modalities["s2"]
    pixel, date = (x[:1] for x in observed.mask(explained.batch.pixels).nonzero(as_tuple=True))
    noise = explained.drawn["s2_noise"].detach()
    with torch.no_grad():
        jacobian = _jacobian(explained, "s2", latents, pixel, date)[0] / noise[:, None]
        directions, sizes, _ = torch.linalg.svd(jacobian)
    latent = torch.ones_like(explained.drawn["residual_s2"])
    cost = []
    for direction in (directions[:, 0], directions[:, -1]):
        drawn = dict(explained.drawn)
        drawn |= {"s2_loading": (direction * noise)[:, None], "residual_s2": latent, "s2_relevance": torch.ones(1)}
        drawn["residual_s1"] = 0.0 * drawn["residual_s1"]
        alone = torch.zeros_like(observed.seen)
        patch, cell = divmod(int(explained.batch.pixels[pixel]), 64)
        alone[patch, date, cell // 8, cell % 8] = True
        modalities = dict(explained.batch.modalities) | {"s2": dataclasses.replace(observed, seen=alone)}
        e = with_batch(dataclasses.replace(explained, drawn=drawn), modalities)
        cost.append(TERMS["tangent"](e).item())
    share = sizes**2 / (1 + sizes**2)
    expected = 0.5 * explained.batch.scale * share[[0, -1]]
    assert torch.allclose(torch.tensor(cost), expected, rtol=1e-3)


def test_dependence_costs_a_tenth_of_a_nat_a_pixel_and_independence_none_on_average(explained) -> None:
    torch.manual_seed(4)
    dynamic, costs = explained.drawn["dynamic"], {"alone": [], "leaf": []}
    for _ in range(30):
        alone = torch.randn_like(dynamic[:, :1])
        for name, latent in (("alone", alone), ("leaf", dynamic[:, :1])):
            drawn = dict(explained.drawn) | {"residual_s1": latent, "residual_s2": torch.randn_like(alone)}
            cost = TERMS["independence"](dataclasses.replace(explained, drawn=drawn)).item()
            costs[name].append(cost / len(alone) / explained.batch.scale)
    mean = {name: sum(values) / 30 for name, values in costs.items()}
    assert mean["leaf"] > 0.05 and abs(mean["alone"]) < 0.2 * mean["leaf"]


def test_terms_have_no_weight_before_the_data_are_fitted_and_the_whole_in_the_end(model, explained) -> None:
    restraint = Restraint(model, ("ablation", "minimality"))
    assert restraint.terms == ("minimality", "ablation")
    arguments = explained.batch, explained.posterior, explained.drawn, explained.means
    assert restraint(*arguments).item() == 0.0
    restraint.share = 1.0
    whole = sum(TERMS[name](explained).item() for name in restraint.terms)
    assert restraint(*arguments).item() == pytest.approx(0.1 * whole, rel=1e-5)


def test_a_fit_with_all_terms_resumes_to_the_same_weights(model, cube, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("inference.training.SAVE_EVERY", 3)
    options = {"steps": 10, "terms": tuple(TERMS), "patches": 2, "patch_size": 8, "pixels": 40, "progress": False}

    def fresh() -> PhysicsVAE:
        pyro.set_rng_seed(0)
        torch.manual_seed(0)
        return PhysicsVAE.from_settings(model.settings)

    whole = fit(fresh(), cube, checkpoint=tmp_path / "whole", **options).model.state_dict()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        looked = iter(range(7))
        real = Restraint.__call__
        patch.setattr(Restraint, "__call__", lambda *a: real(*a) if next(looked, None) is not None else killed())
        fit(fresh(), cube, checkpoint=tmp_path / "killed", **options)
    again = fit(fresh(), cube, checkpoint=tmp_path / "killed", **options).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    with pytest.raises(ValueError, match="other terms, parts or holdout"):
        fit(fresh(), cube, checkpoint=tmp_path / "whole", **options | {"terms": ()})
    assert load(tmp_path / "whole").history["step"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [(("ablation", "magic"), "no term 'magic': choose among cross_reconstruction"), ("magic", "no term 'magic'")],
)
def test_an_unknown_term_is_refused(model, cube, terms, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit(model, cube, steps=2, terms=terms, progress=False)


def test_terms_without_a_residual_are_refused() -> None:
    plain = PhysicsVAE({"s1": Radar(residual=0)}, width=16, layers=1)
    with pytest.raises(ValueError, match="No modality has a residual"):
        Restraint(plain, ("ablation",))
