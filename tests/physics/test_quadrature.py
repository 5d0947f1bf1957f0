"""Reduced mode: stored rules against the exact operator, and fitting one's own."""

import numpy as np
import pytest
import torch

from pi_vae.physics import Prosail
from pi_vae.physics.quadrature import fit_quadrature, load_quadrature
from pi_vae.physics.sensors import Sensor, load_sensor

# largest error over 10,000 fresh draws as printed by benchmarks/fit_quadrature.py, with a margin
BOUND = dict.fromkeys(("prospect-d", "prospect-5"), {1: 4e-2, 2: 2e-3, 3: 5e-4, 4: 3e-4, 5: 1.5e-4, 6: 7e-5})
BOUND["prospect-pro"] = {1: 4e-2, 2: 3e-3, 3: 1.1e-3, 4: 9e-4, 5: 3e-4, 6: 8e-5}


@pytest.mark.parametrize("leaf", BOUND)
@pytest.mark.parametrize("sensor", ["S2A", "S2B"])
def test_reduced_mode_is_close_to_exact_on_fresh_draws(canopies, sensor: str, leaf: str) -> None:
    variables, geometry = canopies(300, seed=11)
    with torch.no_grad():
        exact = Prosail(leaf, sensor)(variables, geometry)
        for nodes, bound in BOUND[leaf].items():
            reduced = Prosail(leaf, sensor, nodes=nodes)
            assert len(reduced.wavelength) <= 13 * nodes
            assert (reduced(variables, geometry) - exact).abs().max() < bound, nodes


@pytest.mark.parametrize("nodes", [1, 4, 6])
def test_stored_rules_are_means_over_wavelengths_of_the_band(nodes: int) -> None:
    sensor, rule = load_sensor("S2A"), load_quadrature("S2A", "prospect-d", nodes)
    response = rule.response(sensor.bands)
    assert rule.bands == sensor.bands and rule.weight.min() >= 0
    assert np.allclose(response.sum(1), 1, atol=1e-9)
    assert not (response[sensor.response == 0] > 0).any()


def test_derivatives_of_the_reduced_mode_are_close_to_exact(canopies) -> None:
    variables, geometry = canopies(100, seed=5)
    for name in ("lai", "cab", "cw", "soil_brightness"):
        slopes = []
        for nodes in (None, 4):
            value = variables[name].clone().requires_grad_()
            band = Prosail(bands=["B04", "B05", "B11"], nodes=nodes)(variables | {name: value}, geometry)
            slopes.append(torch.autograd.grad(band.sum(), value)[0])
        assert (slopes[0] - slopes[1]).norm() < 0.01 * slopes[0].norm(), name


@pytest.mark.parametrize("sensor", ["S2A", "S2B"])
def test_an_error_may_be_asked_for_instead_of_a_number(canopies, sensor: str) -> None:
    variables, geometry = canopies(300, seed=12)
    bands = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
    exact = Prosail(sensor=sensor, bands=bands)(variables, geometry)
    lengths = []
    for allowed in (2e-3, 5e-4, 2e-4):
        op = Prosail(sensor=sensor, bands=bands, nodes=allowed)
        assert (op(variables, geometry) - exact).abs().max() < 1.7 * allowed
        lengths.append(len(op.wavelength))
    assert lengths == sorted(lengths) and lengths[1] < len(Prosail(sensor=sensor, bands=bands, nodes=3).wavelength)


def test_a_rule_of_ones_own_recovers_smooth_spectra() -> None:
    camera = Sensor.from_bands("camera", {"wide": ([500, 600, 700], [0.2, 1, 0.4]), "narrow": ([800, 801], [1, 1])})
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 2101, dtype=torch.float64)
    basis = torch.stack([torch.ones_like(x), x, x**2, torch.sin(20 * x)])
    spectra = torch.rand(200, 4, generator=generator, dtype=torch.float64) @ basis
    rule = fit_quadrature(spectra, camera, nodes=3)
    exact = spectra @ torch.from_numpy(camera.response).T
    assert (spectra @ torch.from_numpy(rule.response(camera.bands)).T - exact).abs().max() < 2e-3
    op = Prosail(sensor=camera, nodes=rule)
    assert op.bands == ("wide", "narrow") and set(op.wavelength) == set(rule.wavelength.ravel().tolist())


def test_says_how_to_fit_a_missing_rule() -> None:
    for arguments in (
        dict(nodes=9),
        dict(nodes=7, leaf="prospect-pro"),
        dict(nodes=2, sensor={"x": ([500, 510], [1, 1])}),
    ):
        with pytest.raises(ValueError, match="fit_quadrature"):
            Prosail(**arguments)
