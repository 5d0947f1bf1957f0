"""PROSPECT: reference vectors, energy, limits, derivatives."""

import numpy as np
import pytest
import torch

from pi_vae.physics.leaf import CONTENTS, Prospect, interface_transmittance

TYPICAL = dict(n=1.6, cab=40.0, car=8.0, cant=2.0, cbrown=0.2, cw=0.012, cm=0.006, prot=0.001, cbc=0.009)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize("version", ["prospect-5", "prospect-d"])
def test_matches_the_reference(reference_prosail, version: str, dtype: torch.dtype, bound: float) -> None:
    variables, _, arrays = reference_prosail(version, dtype)
    got = torch.stack(Prospect(version)({k: v[:20] for k, v in variables.items()}), 1).numpy()
    error = np.abs(got - arrays["leaf_rt"]).max((0, 1))
    assert error.max() < bound


@pytest.mark.parametrize("version", CONTENTS)
def test_energy_is_conserved(version: str) -> None:
    leaf = Prospect(version)
    scale = torch.linspace(0, 2, 30, dtype=torch.float64)
    variables = {name: TYPICAL[name] * scale for name in leaf.variables} | {"n": 1 + scale}
    reflectance, transmittance = leaf(variables)
    assert (reflectance > 0).all() and (transmittance > 0).all()
    assert (reflectance + transmittance <= 1 + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1.0, 1.5, 3.0])
def test_an_empty_leaf_absorbs_nothing(dtype: torch.dtype, n: float) -> None:
    leaf = Prospect("prospect-d")
    variables = {name: torch.zeros((), dtype=dtype, requires_grad=True) for name in leaf.variables}
    variables["n"] = torch.tensor(n, dtype=dtype, requires_grad=True)
    reflectance, transmittance = leaf(variables)
    assert torch.allclose(reflectance + transmittance, torch.ones((), dtype=dtype), atol=2e-6)
    slopes = torch.autograd.grad(transmittance.sum(), list(variables.values()))
    assert all(torch.isfinite(s) for s in slopes)
    assert all(s < 0 for s in slopes)  # more of any content, or more layers, lets less light through


def test_absorption_grows_with_every_content() -> None:
    leaf = Prospect("prospect-pro")
    variables = {name: torch.tensor(TYPICAL[name], dtype=torch.float64) for name in leaf.variables}
    base = sum(leaf(variables))
    for name in leaf.variables[1:]:
        more = sum(leaf(variables | {name: variables[name] * 1.5}))
        assert (more <= base + 1e-12).all() and (more < base - 1e-6).any(), name


def test_pro_with_the_old_dry_matter_is_close_to_d() -> None:
    # protein and carbon-based constituents were calibrated to replace dry matter: cm = prot + cbc
    d, pro = Prospect("prospect-d"), Prospect("prospect-pro")
    variables = {name: torch.tensor(v, dtype=torch.float64) for name, v in TYPICAL.items()} | {
        "cm": torch.tensor(0.010, dtype=torch.float64)
    }
    for a, b in zip(d(variables), pro(variables), strict=True):
        assert (a - b).abs().mean() < 0.02


def test_derivatives_match_finite_differences() -> None:
    leaf = Prospect("prospect-d", [450, 680, 850, 1450, 2200])
    inputs = [
        torch.tensor([v, v * 1.3], dtype=torch.float64, requires_grad=True)
        for v in (TYPICAL[k] for k in leaf.variables)
    ]
    names = leaf.variables
    assert torch.autograd.gradcheck(lambda *x: leaf(dict(zip(names, x, strict=True))), inputs, eps=1e-7, atol=1e-5)


def test_interface_at_normal_incidence_is_fresnel() -> None:
    index = np.array([1.3, 1.5])
    fresnel = 4 * index / (1 + index) ** 2
    assert np.allclose(interface_transmittance(0.01, index), fresnel, rtol=1e-7)
    assert (interface_transmittance(90, index) < fresnel).all()


def test_refuses_unknown_versions_and_wavelengths() -> None:
    with pytest.raises(ValueError, match="prospect-x"):
        Prospect("prospect-x")
    with pytest.raises(ValueError, match="400..2500"):
        Prospect("prospect-d", [399])
