"""Derivatives in closed form against automatic differentiation of the definition, and compiled kernels."""

import pytest
import torch

from pi_vae.physics import Prosail
from pi_vae.physics.canopy import multiple_scattering
from pi_vae.physics.fused import Transfer, compile_kernels, eligible
from pi_vae.physics.fused_leaf import Plates
from pi_vae.physics.leaf import Prospect, plates

DOUBLE = torch.float64


def states(samples: int = 200, wavelengths: int = 5) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Inputs of the transfer: three optical ``[wavelength, sample]``, seven ``[sample]``; nearly white leaves, no
    leaves and deep canopies among them."""
    generator = torch.Generator().manual_seed(1)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=DOUBLE)

    rho, tau, soil = (uniform(0.01, high, wavelengths, samples) for high in (0.5, 0.49, 0.9))
    lai, ks, ko = uniform(0, 12, samples), uniform(0.3, 3, samples), uniform(0.3, 3, samples)
    lai[:3], rho[:, 3:6], tau[:, 3:6] = 0.0, 0.5, 0.4999
    tss, too = torch.exp(-ks * lai), torch.exp(-ko * lai)
    z = (1 - torch.exp(-(ks + ko) * lai)) / (ks + ko)
    return [rho, tau, soil], [lai, ks, ko, uniform(0.05, 0.95, samples), tss, too, z]


def slopes(value: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    return torch.autograd.grad((value * weight).sum(), inputs)


def test_transfer_is_the_definition_and_so_are_its_derivatives() -> None:
    inputs = [x.requires_grad_() for part in states() for x in part]
    fused, plain = Transfer.apply(*inputs), multiple_scattering(*inputs)[0]
    assert torch.allclose(fused, plain, rtol=1e-11, atol=1e-13)
    for one, other in zip(slopes(fused, inputs), slopes(plain, inputs), strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


def test_plates_are_the_definition_and_so_are_their_derivatives() -> None:
    generator = torch.Generator().manual_seed(2)
    optics = Prospect("prospect-d", [420, 680, 800, 1450, 2200]).optics.unsqueeze(-1)
    k = (3 * torch.rand(5, 100, generator=generator, dtype=DOUBLE) ** 4).requires_grad_()
    layers = (2 * torch.rand(100, generator=generator, dtype=DOUBLE)).requires_grad_()
    for which in (0, 1):
        fused, plain = Plates.apply(k, layers, optics)[which], plates(k, layers, *optics.unbind(0))[which]
        assert torch.allclose(fused, plain, rtol=1e-11, atol=1e-13)
        for one, other in zip(slopes(fused, [k, layers]), slopes(plain, [k, layers]), strict=True):
            assert torch.allclose(one, other, rtol=1e-7, atol=1e-10)


def test_second_derivatives_go_through_the_definition() -> None:
    optics, parameters = states(samples=2, wavelengths=1)
    inputs = [x.clone().add_(0.05).requires_grad_() for x in (*optics, *parameters)]
    assert torch.autograd.gradgradcheck(Transfer.apply, inputs, atol=1e-4, rtol=1e-3)


def test_nothing_is_fused_until_asked_for() -> None:
    assert not eligible(torch.ones(1, requires_grad=True))


@pytest.mark.slow
def test_compiled_kernels_give_the_same(canopies) -> None:
    op = Prosail(bands=["B04", "B08", "B11"], nodes=3)

    def both(size: int) -> list[torch.Tensor]:
        variables, geometry = canopies(size, dtype=torch.float32)
        inputs = [variables[name].requires_grad_() for name in op.variables]
        reflectance = op(variables, geometry)
        return [reflectance, *torch.autograd.grad(reflectance.sum(), inputs)]

    ordinary = both(50), both(90)
    if not compile_kernels():
        pytest.skip("no working C++ compiler")
    try:
        assert eligible(torch.ones(1, requires_grad=True))
        for expected, found in zip(ordinary, (both(50), both(90)), strict=True):
            for one, other in zip(expected, found, strict=True):
                assert (one - other).abs().max() <= 2e-4 * one.abs().max()
        variables, geometry = canopies(4)
        variables = {name: variables[name] for name in op.variables}
        assert torch.func.vmap(torch.func.jacrev(op))(variables, geometry)["lai"].shape == (4, 3)
    finally:
        assert not compile_kernels(False)


@pytest.mark.slow
def test_the_whole_operator_compiles(canopies) -> None:
    op = Prosail(bands=["B04", "B08"], nodes=1)
    compiled = torch.compile(op, dynamic=False)
    results = []
    for run in (op, compiled):
        variables, geometry = canopies(64, dtype=torch.float32)
        lai = variables["lai"].requires_grad_()
        reflectance = run({name: variables[name] for name in op.variables}, geometry)
        results.append((reflectance.detach(), torch.autograd.grad(reflectance.sum(), lai)[0]))
    for one, other in zip(*results, strict=True):
        assert (one - other).abs().max() <= 1e-4 * one.abs().max()
