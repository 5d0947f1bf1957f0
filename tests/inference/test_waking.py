"""How residuals begin: what factor analysis finds, who is woken, and that what is nothing falls silent again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference import fit
from inference.waking import _factors, _together, hold, wake
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import complete, pattern, simulate
from pi_vae.data.tensors import CubeTensors


def batch_of(model: PhysicsVAE, cube, count: int = 36):
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    return data.patches(1, 6, count, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cube():
    return simulate(PhysicsVAE({"s2": Optical(residual=0), "s1": Radar(residual=0)}), pattern(size=6), seed=0)


def test_factors_are_those_of_a_covariance() -> None:
    loading = torch.tensor([[2.0, 0.0], [1.0, 0.5], [0.0, 1.0], [0.0, 0.2]])
    noisy = _factors(loading @ loading.mT + 0.3 * torch.eye(4), 2, noisy=True)
    torch.testing.assert_close(noisy @ noisy.mT, loading @ loading.mT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        _factors(loading @ loading.mT, 4, noisy=False)[:, 2:], torch.zeros(4, 2), atol=1e-3, rtol=0
    )
    assert _factors(torch.eye(3), 0, noisy=True).shape == (3, 0)


def test_products_are_of_what_is_known() -> None:
    series = torch.randn(5, 7, 2)
    series[:, ::2, 1] = torch.nan
    known = series[:, 1::2]
    torch.testing.assert_close(_together(series, series)[0, 1], (known[..., 0] * known[..., 1]).mean())
    assert (_together(torch.full((2, 3, 2), torch.nan), torch.zeros(2, 3, 2)) == 0).all()


def test_silent_residuals_are_woken_and_others_left_alone(cube) -> None:
    torch.manual_seed(0)
    model = PhysicsVAE({"s2": Optical(residual=0), "s1": Radar(residual=1, transient=1)}, width=16, layers=1)
    batch = batch_of(model, cube)
    assert wake(model, batch) == ["s1"]
    begun = model.modalities["s1"].residual.loading.loc.clone()
    assert torch.isfinite(begun).all() and (begun != 0).any(0).all()
    assert (model.modalities["s1"].residual.strength > 0.2 * model.modalities["s1"].noise.median.mean()).any()
    assert wake(model, batch) == []
    assert torch.equal(model.modalities["s1"].residual.loading.loc, begun)


def test_who_was_not_observed_stays_silent(cube) -> None:
    model = PhysicsVAE({"s1": Radar()}, width=16, layers=1)
    batch = batch_of(model, cube)
    batch.modalities["s1"].seen[:] = False
    assert wake(model, batch) == []
    assert (model.modalities["s1"].residual.loading.loc == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False])
def test_what_is_there_wakes_in_a_short_fit_and_what_is_not_falls_silent(planted: bool) -> None:
    model = PhysicsVAE({"s1": Radar(residual=0)})
    cube = simulate(model, complete(pattern(size=10, radar_days=9)), seed=0)
    node = cube["s1"].to_dataset()
    if planted:  # what is new at every date and common to the pixels of a field
        dew = np.random.default_rng(1).normal(0, 2.5, node.sizes["time"])
        node["backscatter"] = node.backscatter * 10 ** (
            dew[:, None, None, None] * np.array([1.0, 0.4])[:, None, None] / 10
        )
        cube["s1"] = node
    torch.manual_seed(1)
    model = PhysicsVAE({"s1": Radar(residual=0, transient=1)}, width=32, layers=1)
    run = fit(model, cube, steps=140, pixels=64, progress=False, device="cpu", seed=1)
    part = run.model.modalities["s1"]
    strength = float(part.residual.strength[0] / part.noise.median.mean())
    assert strength > 0.5 if planted else strength < 0.1


def test_loadings_that_are_held_do_not_learn(cube) -> None:
    torch.manual_seed(0)
    model = PhysicsVAE({"s1": Radar(residual=1), "s2": Optical(residual=1)}, width=16, layers=1)
    loud = model.modalities["s2"].residual.loading.loc
    with torch.no_grad():
        loud.fill_(0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for silent, expected in ((True, ["s1"]), (False, ["s1", "s2"])):
        hold(model, silent)
        held = {n for n, p in model.named_parameters() if p.grad is None}
        own = {m: {f"modalities.{m}.residual.loading.{part}" for part in ("loc", "log_scale")} for m in expected}
        assert held == set.union(*own.values())
