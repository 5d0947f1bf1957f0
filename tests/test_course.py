"""The course that all pixels share: what it adds, where nothing was seen, and whether a fit finds it."""

import dataclasses

import numpy as np
import pytest
import torch

from inference import Run, fit, posterior
from inference.draws import Group
from pi_vae import PhysicsVAE
from pi_vae.course import CommonCourse
from pi_vae.data import pattern, simulate
from pi_vae.data.tensors import CubeTensors
from pi_vae.season import YEAR


def redrawn(model, batch, latents, shared):
    return Group.of(model, batch, latents, shared).with_residuals_redrawn(model, batch).latents


def test_the_mean_has_the_spread_that_is_stated_and_comes_back_every_year():
    course = CommonCourse({"dynamic": 1, "residual_s2": 1}, 3)
    days = torch.tensor([18262.3, 18262.3 + YEAR, 18300.0], dtype=torch.float64)
    torch.manual_seed(0)
    means = torch.stack([course(course.prior().sample(), days) for _ in range(4000)])
    assert torch.allclose(means[..., 0], means[..., 1], atol=1e-5)
    expected = 0.5 * (1 + 1 + 1 / 4 + 1 / 9) ** 0.5
    assert torch.allclose(means.std(0), torch.full((2, 3), expected), rtol=0.06)


def test_it_is_added_to_the_processes_and_to_nothing_else(build, simulated):
    model = build(course=2)
    with torch.no_grad():
        dates = torch.linspace(18000, 18300, 5, dtype=torch.float64)
        drawn = {"dynamic": torch.randn(4, len(model.dynamic), 5), "static": torch.randn(4, len(model.static))}
        drawn |= {site: torch.randn(4, 1, 5) for site in ("residual_s2", "residual_s1")}
        shared = {"course": model.course.prior().sample()}
        found = model.latents(drawn, dates, shared)
    whole = model.course(shared["course"], dates)
    parts = [found.dynamic - drawn["dynamic"], *(found.residual[m] - drawn[f"residual_{m}"] for m in found.residual)]
    assert len(parts) == 3 and torch.allclose(torch.cat(parts, -2), whole.expand(4, -1, -1), atol=1e-5)
    assert found.static is drawn["static"]


def test_a_pixel_never_seen_follows_the_others(build, simulated):
    model = build(course=1).eval()
    leaf = model.dynamic.index("lai")
    with torch.no_grad():
        model.course.loc[leaf, 0] = 1.0
        model.course.log_scale.fill_(-9.0)
    tree = posterior(Run(model), simulated, draws=400, pixels=[(0, 0)])
    plain = posterior(Run(build().eval()), simulated, draws=400, pixels=[(0, 0)])
    assert tree["posterior"]["global_course"].dims == ("chain", "draw", "course_process", "course_term")
    assert tree["posterior"].course_process.values[-1] == "s1 residual 1"
    assert tree["posterior"].course_term.values.tolist() == ["constant", "cosine 1", "sine 1"]
    shift = {n: float(tree["posterior"][n].mean() - plain["posterior"][n].mean()) for n in ("lai", "soil_moisture")}
    assert shift["lai"] > 0.5 and abs(shift["soil_moisture"]) < 0.02


@pytest.mark.parametrize("days", [40, 15])  # dense, and by the filter
def test_what_all_pixels_leave_over_is_no_residual_of_any(build, days):
    """With a course the residual given data is what it is without, given the data less what the course says."""
    model = build(course=1).eval()
    cube = simulate(
        build(), pattern(size=3, bands=model.modalities["s2"].channels, optical_days=days, radar_days=days), seed=3
    )
    batch = next(CubeTensors.read(cube, {m: o.channels for m, o in model.modalities.items()}).tiles(3, 0))[2]
    with torch.no_grad():
        shared = model.median_globals()
        shared["s2_loading"] = torch.full_like(shared["s2_loading"], 0.7)
        drawn = model.posterior(model.encode(batch), batch.dates, shared).rsample((5,))
        without = shared | {"course": torch.zeros_like(shared["course"])}
        row = len(model.dynamic)
        shared["course"] = without["course"].index_fill(0, torch.tensor(row), 0.8)
        mean = model.common(batch.dates, shared)["residual_s2"]
        observed = batch.modalities["s2"]
        added = (shared["s2_relevance"] * shared["s2_loading"]) @ mean[:, observed.index]
        values = observed.values + added.mT[:, :, None, None]
        shifted = dataclasses.replace(
            batch, modalities=batch.modalities | {"s2": dataclasses.replace(observed, values=values)}
        )
        torch.manual_seed(1)
        plain = redrawn(model, batch, model.latents(drawn, batch.dates, without), without)
        torch.manual_seed(1)
        found = redrawn(model, shifted, model.latents(drawn, batch.dates, shared), shared)
        assert torch.allclose(found.residual["s2"], plain.residual["s2"] + mean, atol=2e-3)
        unseen = dataclasses.replace(batch, modalities={"s1": batch.modalities["s1"]})
        prior = redrawn(model, unseen, model.latents(drawn, batch.dates, shared), shared).residual["s2"]
        assert (prior.mean((0, 1)) - mean).abs().mean() < 0.5 < mean.abs().mean()


def test_settings_build_the_same_model_again(build):
    model = build(course=3)
    again = PhysicsVAE.from_settings(model.settings)
    assert again.course.terms == model.course.terms and again.settings == model.settings
    assert PhysicsVAE.from_settings(build().settings).course is None


def test_wrong_input_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="has -1 harmonics"):
        PhysicsVAE(course=-1)


@pytest.mark.slow
def test_a_fit_finds_the_course_of_leaf_area(build, simulated):
    source, learner = build(course=1), build(course=1)
    leaf = source.dynamic.index("lai")
    shared = {site: value.detach() for site, value in source.median_globals().items()}
    shared["course"][leaf] = torch.tensor([0.2, -1.2, 0.8])
    source.draw_globals = lambda which="posterior": shared
    cube = simulate(source, simulated, 1)
    fit(learner, cube, steps=200, patches=2, pixels=96, progress=False)
    days = torch.from_numpy(cube["s2"].time.values.astype("datetime64[s]").astype(np.int64) / 86400.0)
    with torch.no_grad():
        found, true = (learner.course(c, days)[leaf].numpy() for c in (learner.course.loc, shared["course"]))
    assert np.corrcoef(found, true)[0, 1] > 0.8 and np.abs(found - true).mean() < 0.6 * np.abs(true).mean()
