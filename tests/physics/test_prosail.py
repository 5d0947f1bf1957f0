"""Prosail: reference vectors, precision, derivatives on the whole support, shapes, refusals."""

import numpy as np
import pytest
import torch

from pi_vae.physics import Prosail
from pi_vae.variables import CATALOGUE

BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12"]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 5e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize("sensor", ["S2A", "S2B"])
@pytest.mark.parametrize("leaf", ["prospect-5", "prospect-d"])
def test_bands_match_the_reference(reference_prosail, leaf: str, sensor: str, dtype: torch.dtype, bound: float) -> None:
    # all rows, those with hspot 1e-3 among them: the reference does not cap the hot spot either
    variables, geometry, arrays = reference_prosail(leaf, dtype)
    error = np.abs(Prosail(leaf, sensor)(variables, geometry).numpy() - arrays[sensor.lower()])
    assert error.max() < bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 5e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize("leaf", ["prospect-5", "prospect-d"])
def test_spectra_match_the_reference(reference_prosail, leaf: str, dtype: torch.dtype, bound: float) -> None:
    variables, geometry, arrays = reference_prosail(leaf, dtype)
    first = lambda values: {name: value[:40] for name, value in values.items()}  # noqa: E731
    error = np.abs(Prosail(leaf).spectrum(first(variables), first(geometry)).numpy() - arrays["refl"])
    assert error.max() < bound


@pytest.mark.parametrize("nodes", [None, 4])
def test_float32_agrees_with_float64(canopies, nodes: int | None) -> None:
    op = Prosail(bands=BANDS, nodes=nodes)
    exact, single = op(*canopies(500)), op(*canopies(500, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert (single.double() - exact).abs().max() < 2e-5


@pytest.mark.parametrize("soil", ["wetness", "moisture"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_are_finite_on_all_corners(corners, dtype: torch.dtype, soil: str) -> None:
    op = Prosail(bands=BANDS, nodes=2, soil=soil)
    variables, geometry = corners(4000, dtype)
    inputs = {name: variables[name] for name in op.variables} | geometry
    reflectance = op(variables, geometry)
    assert torch.isfinite(reflectance).all() and (reflectance > 0).all()
    for name, slope in zip(inputs, torch.autograd.grad(reflectance.sum(), list(inputs.values())), strict=True):
        assert torch.isfinite(slope).all(), name


def test_float32_derivatives_agree_with_float64(canopies) -> None:
    op, slopes = Prosail(bands=BANDS, nodes=4), []
    for dtype in (torch.float32, torch.float64):
        variables, geometry = canopies(500, dtype=dtype)
        variables = {name: variables[name].requires_grad_() for name in op.variables}
        slopes.append(torch.autograd.grad(op(variables, geometry).sum(), list(variables.values())))
    for name, single, double in zip(op.variables, *slopes, strict=True):
        assert (single.double() - double).abs().max() < 1e-3 * double.abs().max(), name


@pytest.mark.parametrize("lidf", ["campbell", "verhoef"])
def test_derivatives_match_finite_differences(canopies, lidf: str) -> None:
    op = Prosail(bands=["B04", "B8A", "B11"], nodes=2, lidf=lidf)
    variables, geometry = canopies(3, seed=4)
    variables |= {
        "lidf_a": torch.tensor([-0.35, 0.1, 0.4]).double(),
        "lidf_b": torch.tensor([-0.15, 0.0, 0.2]).double(),
    }
    # scaled to order one, so that one step suits all
    scale = {name: CATALOGUE[name].high if name in CATALOGUE else 1.0 for name in op.variables}
    inputs = [(variables[name] / scale[name]).requires_grad_() for name in op.variables]

    def reflectance(*values):
        return op({name: v * scale[name] for name, v in zip(op.variables, values, strict=True)}, geometry)

    assert torch.autograd.gradcheck(reflectance, inputs, eps=1e-6, atol=1e-6, rtol=1e-3)


def test_reverse_and_forward_jacobians_agree_under_vmap(canopies) -> None:
    op = Prosail(bands=["B04", "B8A"], nodes=2)
    variables, geometry = canopies(4)
    variables = {name: variables[name] for name in op.variables}
    reverse = torch.func.vmap(torch.func.jacrev(op))(variables, geometry)
    forward = torch.func.vmap(torch.func.jacfwd(op))(variables, geometry)
    for name in op.variables:
        assert reverse[name].shape == (4, 2)
        assert torch.allclose(reverse[name], forward[name], rtol=1e-8, atol=1e-12), name


def test_static_variables_and_dates_broadcast(canopies) -> None:
    op = Prosail(bands=BANDS, nodes=2)
    static, _ = canopies(3, seed=1)
    dynamic, geometry = canopies(5, seed=2)
    variables = {
        name: static[name].unsqueeze(-1)
        * (torch.ones(5) if CATALOGUE.get(name, CATALOGUE["lai"]).dynamic else torch.ones(1))
        for name in op.variables
    }
    together = op(variables, geometry)
    assert together.shape == (3, 5, len(BANDS))
    expanded = op(
        {k: v.expand(3, 5).reshape(-1) for k, v in variables.items()}, {k: v.repeat(3) for k, v in geometry.items()}
    )
    assert torch.allclose(together.reshape(15, -1), expanded, atol=1e-12)
    scalar = op({k: v[0, 0] for k, v in variables.items()}, {k: v[0] for k, v in geometry.items()})
    assert torch.allclose(scalar, together[0, 0], atol=1e-12)


def test_no_samples_give_no_reflectance(canopies) -> None:
    op = Prosail(bands=["B04", "B8A"], nodes=2)
    variables, geometry = canopies(4)
    none = {name: variables[name][:0].requires_grad_() for name in op.variables}
    out = op(none, {name: angle[:0] for name, angle in geometry.items()})
    assert out.shape == (0, 2)
    out.sum().backward()


def test_no_leaves_is_the_soil_in_every_band(canopies) -> None:
    op = Prosail()
    variables, geometry = canopies(20)
    bare = op(variables | {"lai": torch.zeros(20).double()}, geometry)
    assert torch.allclose(bare, op.soil(variables) @ op.weights, atol=1e-10)


def test_bands_are_means_of_the_spectrum(canopies) -> None:
    variables, geometry = canopies(5)
    op = Prosail(bands=["B12", "B02"])
    spectrum = op.spectrum(variables, geometry)
    assert spectrum.shape == (5, 2101) and op.bands == ("B12", "B02")
    weights = torch.zeros(2101, 2, dtype=torch.float64)
    weights[torch.tensor(op.wavelength) - 400] = op.weights
    assert torch.allclose(op(variables, geometry), spectrum @ weights, atol=1e-12)


def test_variables_of_the_leaf_models() -> None:
    assert Prosail().variables == tuple(
        "n cab car cant cbrown cw cm lai ala hspot soil_brightness soil_wetness".split()
    )
    assert "cant" not in Prosail("prospect-5").variables
    assert {"prot", "cbc"} < set(Prosail("prospect-pro").variables)
    assert Prosail(soil="moisture", lidf="verhoef").variables[-5:] == (
        "lidf_a", "lidf_b", "hspot", "soil_brightness", "soil_moisture",
    )  # fmt: skip


def test_refuses_missing_inputs_and_unknown_options(canopies) -> None:
    op = Prosail(bands=["B04"])
    variables, geometry = canopies(2)
    with pytest.raises(ValueError, match="'cab'"):
        op({k: v for k, v in variables.items() if k != "cab"}, geometry)
    with pytest.raises(ValueError, match="'raa'"):
        op(variables, {k: v for k, v in geometry.items() if k != "raa"})
    with pytest.raises(ValueError, match="B99"):
        Prosail(bands=["B99"])
    with pytest.raises(ValueError, match="ellipsoid"):
        Prosail(lidf="ellipsoid")
