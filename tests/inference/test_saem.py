"""Global latents from chains: they are found, and what has no say in them stays."""

import numpy as np
import pytest
import torch

from inference import Run, learn_globals
from pi_vae.data import simulate, withhold


def _medians(model, site):
    return model.globals("posterior")[site].base_dist.loc.detach().numpy().copy()


def test_the_encoder_has_no_say_and_does_not_change(build, simulated):
    run = learn_globals(Run(build()), simulated, steps=12, pixels=6, progress=False)
    before = build().state_dict()
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("encoder.") for name in changed)
    for part in ("lengthscale.loc", "static_odds.loc", "modalities.s1.coefficients.loc", "modalities.s2.noise.loc"):
        assert part in changed, changed
    assert "modalities.s2.residual.loading.loc" in changed
    for g in run.model.global_latents.values():
        spread = g.log_scale.exp()
        assert (spread > 0).all() and (spread <= 1.0001 * g.prior_scale).all(), "the prior's at most"
    assert [p.requires_grad for p in run.model.parameters()] == [p.requires_grad for p in build().parameters()]


def test_withheld_observations_are_not_used(build, simulated):
    cube = withhold(simulated, fraction=0.2, block=2)
    other = cube.copy(deep=True)
    other["s2"]["reflectance"] = other["s2"]["reflectance"].where(~other["s2"]["withheld"], 0.1)
    models = [learn_globals(Run(build()), c, steps=12, pixels=20, progress=False).model for c in (cube, other)]
    assert np.array_equal(_medians(models[0], "s2_noise"), _medians(models[1], "s2_noise"))


def test_wrong_input_is_refused_in_one_sentence(build, simulated):
    with pytest.raises(ValueError, match="steps is 3"):
        learn_globals(Run(build()), simulated, steps=3)


@pytest.mark.slow
def test_noise_and_lengthscales_of_a_simulated_cube_are_found(build, simulated):
    model, learner = build(), build()
    shared = {site: value.mean.detach() for site, value in model.globals("posterior").items()}
    shared |= {site: factor * shared[site] for site, factor in (("s2_noise", 0.4), ("s1_noise", 0.4))}
    shared["lengthscale"] = 3.0 * shared["lengthscale"]
    model.draw_globals = lambda which="posterior": shared
    cube = simulate(model, simulated, 1)
    errors = []
    for trained in (False, True):
        if trained:
            learn_globals(Run(learner), cube, steps=300, pixels=100, progress=False)
        sites = ("s2_noise", "s1_noise", "lengthscale")
        errors.append({s: float(np.abs(_medians(learner, s) - shared[s].log().numpy()).mean()) for s in sites})
    assert all(errors[1][site] < 0.5 * errors[0][site] for site in ("s2_noise", "s1_noise")), errors
    assert errors[1]["lengthscale"] < 0.8 * errors[0]["lengthscale"], errors
    spread = learner.modalities["s1"].noise.log_scale.exp()
    assert (spread < 0.25).all(), "half of the prior's: six hundred observations tell the noise"
