"""The generative program and its guide: what a batch is worth, what it may not see, what the physics says."""

import dataclasses
import math
import warnings

import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO

from pi_vae.data.batches import ModalityBatch
from pi_vae.data.tensors import CubeTensors

LOCAL = ("dynamic", "static", "residual_s2", "residual_s1")


def _read(cube, model):
    return CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})


def _whole(cube, model):
    """The cube as one batch."""
    ((_, _, batch),) = _read(cube, model).tiles(50, 0)
    return batch


def _loss(model, batch, seed=0):
    """ELBO loss and the gradient of every parameter."""
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    loss = TraceMeanField_ELBO().differentiable_loss(model.model, model.guide, batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def _local_terms(model, batch, values):
    """Log density of what belongs to pixels, given all latents; scaled as the ELBO scales it."""
    trace = poutine.trace(poutine.condition(model.model, values)).get_trace(batch)
    trace.compute_log_prob()
    return sum(trace.nodes[site]["log_prob_sum"].item() for site in (*LOCAL, "s2", "s1"))


def test_mini_batches_are_unbiased_for_the_cube_at_fixed_latents(build, simulated):
    model = build()
    data = _read(simulated, model)
    ids = torch.arange(data.pixels, dtype=torch.float32).view(1, 1, 1, *data.shape)
    everywhere = torch.ones(1, 1, *data.shape, dtype=torch.bool)
    # A channel that no modality reads tells which pixels of the cube a batch holds.
    label = ModalityBatch(ids, everywhere, everywhere, torch.tensor([0]), {})
    data = dataclasses.replace(data, modalities={**data.modalities, "label": label})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        torch.manual_seed(1)
        whole = data.at(torch.arange(120) // 12, torch.arange(120) % 12, 0)
        sites = poutine.trace(poutine.uncondition(model.model)).get_trace(whole).nodes
        fixed = {k: s["value"] for k, s in sites.items() if s["type"] == "sample" and k[:2] not in ("s1", "s2", "pi")}
        fixed |= {k: s["value"] for k, s in sites.items() if k in model.globals("prior")}
        shared = {k: v for k, v in fixed.items() if k not in LOCAL}
        full = _local_terms(model, whole, fixed)
        estimates = []
        for _ in range(400):
            batch = data.patches(2, 5, 12, generator)
            pixels = batch.modalities["label"].series(batch.pixels)[:, 0, 0].long()
            here = {k: fixed[k][pixels] for k in LOCAL}
            estimates.append(_local_terms(model, batch, here | shared))
    estimates = torch.tensor(estimates, dtype=torch.float64)
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.05 * abs(full)
    assert abs(estimates.mean() - full) < 4 * error


def test_globals_count_once_however_small_the_batch(build, simulated):
    model = build()
    with torch.no_grad():
        for scale in (1.0, 40.0):
            batch = dataclasses.replace(_whole(simulated, model), scale=scale)
            torch.manual_seed(0)
            trace = poutine.trace(model.model).get_trace(batch)
            trace.compute_log_prob()
            site = trace.nodes["lengthscale"]
            assert site["log_prob_sum"] == pytest.approx(site["fn"].log_prob(site["value"]).item())
            local = trace.nodes["static"]
            assert local["log_prob_sum"].item() == pytest.approx(
                scale * local["fn"].log_prob(local["value"]).sum().item(), rel=1e-5
            )


def test_the_weight_of_the_divergence_scales_both_sides_alike(build, simulated):
    model = build()
    batch = _whole(simulated, model)
    losses = []
    for weight in (0.25, 0.5, 1.0):
        model.kl_weight = weight
        losses.append(_loss(model, batch)[0])
    quarter, half, full = losses
    assert full > half, "a divergence is positive"
    assert half - quarter == pytest.approx(0.5 * (full - half), rel=1e-3)


def test_model_and_guide_have_the_same_latent_sites(build, simulated):
    model = build()
    batch = _whole(simulated, model)

    def latents(program):
        nodes = poutine.trace(program).get_trace(batch).nodes.items()
        return {
            name: node["value"].shape
            for name, node in nodes
            if node["type"] == "sample"
            and not node["is_observed"]
            and name.split("_")[-1] not in ("pixel", "footprint")
        }

    assert latents(model.model) == latents(model.guide)
    assert {"dynamic", "static", "residual_s2", "residual_s1", "lengthscale", "s1_coefficients"} <= set(
        latents(model.model)
    )


def test_pyro_accepts_the_pair_and_every_parameter_learns(build, simulated):
    model = build()
    batch = _whole(simulated, model)
    for m in batch.modalities.values():
        m.given[0] = False  # else nothing is to be learned about channels that are absent
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pyro warns where the sites of a pair do not match
        loss, gradients = _loss(model, batch)
    assert math.isfinite(loss)
    missing = [name for name, gradient in gradients.items() if gradient is None]
    assert not missing
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    still = [name for name, gradient in gradients.items() if not gradient.any()]
    assert not still


def test_invalid_observations_of_a_cube_change_nothing(build, simulated):
    model = build()
    expected = _loss(model, _whole(simulated, model))
    for poison in (float("nan"), float("inf"), 1e6):
        cube = simulated.copy()
        for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
            node = simulated[name].to_dataset()
            cube[name].dataset = node.assign({variable: node[variable].where(node["valid"], poison)})
        loss, gradients = _loss(model, _whole(cube, model))
        assert loss == expected[0]
        assert all(torch.equal(gradients[k], g) for k, g in expected[1].items())


def test_valid_but_unseen_observations_change_nothing(build, simulated):
    model = build()
    batch = _whole(simulated, model)
    modalities = {}
    for name, m in batch.modalities.items():
        seen = m.seen & (torch.rand(m.seen.shape, generator=torch.Generator().manual_seed(0)) < 0.7)
        modalities[name] = dataclasses.replace(m, seen=seen)
    batch = dataclasses.replace(batch, modalities=modalities)
    moved = {
        name: dataclasses.replace(m, values=torch.where(m.seen.unsqueeze(2), m.values, m.values + 7.0))
        for name, m in modalities.items()
    }
    expected, found = _loss(model, batch), _loss(model, dataclasses.replace(batch, modalities=moved))
    assert found[0] == expected[0] != _loss(model, _whole(simulated, model))[0]
    assert all(torch.equal(found[1][k], g) for k, g in expected[1].items())


def test_a_cube_without_a_modality_of_the_model_is_refused(build, simulated):
    model = build()
    cube = type(simulated).from_dict({"s2": simulated["s2"].to_dataset()})
    with pytest.raises(ValueError, match="no node 's1', which the model reads"):
        _read(cube, model)


def test_a_model_of_one_modality_reads_it_alone(build, simulated):
    model = build(modalities=("s1",))
    assert model.dynamic == ("lai", "soil_moisture") and model.static == ("roughness",)
    loss, gradients = _loss(model, _whole(simulated, model))
    assert math.isfinite(loss) and all(g is not None for g in gradients.values())


def test_the_mean_of_the_likelihood_is_the_operator_plus_the_loaded_residual(build, simulated):
    model = build()
    batch = _whole(simulated, model)
    pixel, date = 17, 3
    with torch.no_grad():
        torch.manual_seed(0)
        shared = model.draw_globals("prior")
        n = len(batch.pixels)
        drawn = {k: p.expand([n]).rsample() for k, p in model.priors(batch.dates, shared).items()}
        latents = model.latents(drawn, batch.dates, shared)
        values = model.variables(latents)
        for name, observed in batch.modalities.items():
            modality = model.modalities[name]
            union = observed.index[date]
            inputs = {k: v[pixel, union] if k in model.dynamic else v[pixel, 0] for k, v in values.items()}
            if name == "s1":
                inputs |= dict(zip(modality.coefficient_names, shared["s1_coefficients"], strict=True))
            signal = modality.operator(inputs, {k: angle[date] for k, angle in observed.geometry.items()})
            signal = 10 * signal.log10() if name == "s1" else signal
            physics = model.expected(name, latents, batch, shared, residual=False)
            assert torch.allclose(physics[pixel, date], signal, rtol=1e-4, atol=1e-6)
            loaded = (shared[f"{name}_relevance"] * shared[f"{name}_loading"]) @ latents.residual[name][pixel, :, union]
            assert loaded.abs().max() > 0
            whole = model.expected(name, latents, batch, shared)
            assert torch.allclose((whole - physics)[pixel, date], loaded, atol=1e-5)


def test_optical_and_radar_read_the_same_leaf_area_and_soil_moisture(build, simulated):
    model = build()
    batch = _whole(simulated, model)
    with torch.no_grad():
        shared = model.draw_globals("prior")
        n, dates = len(batch.pixels), len(batch.dates)
        none = {"dynamic": torch.zeros(n, len(model.dynamic), dates), "static": torch.zeros(n, len(model.static))}
        latents = model.latents(none, batch.dates, shared)
        before = {m: model.expected(m, latents, batch, shared) for m in batch.modalities}
        for variable in ("lai", "soil_moisture"):
            moved = latents.dynamic.clone()
            moved[:, model.dynamic.index(variable)] += 1.0
            after = dataclasses.replace(latents, dynamic=moved)
            for m in batch.modalities:
                assert (model.expected(m, after, batch, shared) - before[m]).abs().min(0).values.max() > 0


@pytest.mark.parametrize("options", [{}, {"residual": 0}, {"lengthscale": {"lai": 25.0}}, {"modalities": ("s1",)}])
def test_settings_rebuild_the_model(build, simulated, options):
    model = build(seed=5, **options)
    again = type(model).from_settings(model.settings)
    first, second = model.state_dict(), again.state_dict()
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    again.load_state_dict(first)
    assert again.settings == model.settings
    with torch.no_grad():
        batch = _whole(simulated, model)
        torch.manual_seed(0)
        shared = model.draw_globals()
        first, second = (m.posterior(m.encode(batch), batch.dates, shared) for m in (model, again))
    assert first.names == second.names
    for site in first.names[1:]:
        assert torch.equal(first.processes[site].mean, second.processes[site].mean)
        assert torch.equal(first.processes[site].variance, second.processes[site].variance)


def test_a_modality_of_the_users_own_cannot_be_rebuilt(build):
    settings = build().settings
    settings["modalities"]["s1"] |= {"class": "Thermal"}
    with pytest.raises(ValueError, match="'s1' is a Thermal, unknown to pi_vae"):
        type(build()).from_settings(settings)
