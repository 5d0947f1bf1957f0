"""4SAIL: energy, reciprocity, limits, derivatives. Agreement with reference vectors is in test_prosail.py."""

import math

import pytest
import torch

from pi_vae.physics.canopy import four_stream, hemispherical, hot_spot, layer_geometry
from pi_vae.physics.leaf_angle import campbell, verhoef

DOUBLE = torch.float64


def tensor(value) -> torch.Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def factors(lai, rho, tau, soil, sza=35.0, vza=20.0, raa=70.0, ala=55.0, h=0.2):
    layer = layer_geometry(campbell(tensor(ala)), tensor(sza), tensor(vza), tensor(raa))
    spot = hot_spot(tensor(lai), tensor(h), layer)
    return hemispherical(tensor([rho]), tensor([tau]), tensor([soil]), tensor(lai), layer, spot)


@pytest.mark.parametrize("classes", [18, 13])
@pytest.mark.parametrize("ala", [5.0, 30.0, 57.0, 57.5, 80.0, 85.0])
def test_campbell_is_a_distribution_with_the_asked_mean(ala: float, classes: int) -> None:
    share = campbell(tensor(ala), classes)
    edges = torch.arange(0, 91, 5).double() if classes == 18 else tensor([*range(0, 81, 10), 82, 84, 86, 88, 90])
    mean = float((share * (edges[1:] + edges[:-1]) / 2).sum())
    assert share.min() > 0 and float(share.sum()) == pytest.approx(1, abs=1e-12)
    assert mean == pytest.approx(ala, abs=2.5)  # the cubic for chi is a fit


def test_campbell_matches_its_density() -> None:
    theta = (torch.arange(90000).double() + 0.5) / 1000
    for ala in (25.0, 57.4, 75.0):
        chi = math.exp(3.2491 - 0.1239 * ala + 2.1145e-3 * ala**2 - 1.6184e-5 * ala**3)
        t = torch.deg2rad(theta)
        density = torch.sin(t) / (torch.cos(t) ** 2 + chi**2 * torch.sin(t) ** 2) ** 2
        expected = density.reshape(18, -1).sum(-1) / density.sum()
        assert torch.allclose(campbell(tensor(ala)), expected, atol=1e-7)


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (-0.35, -0.15)])
def test_verhoef_mean_slope(a: float, b: float) -> None:
    # lidf_a sets the mean slope, 45 - 360 a / pi^2 degrees, and lidf_b leaves it alone (Verhoef 1998)
    share = verhoef(tensor(a), tensor(b))
    assert share.min() > -1e-9 and float(share.sum()) == pytest.approx(1, abs=1e-6)
    assert float((share * (torch.arange(18) * 5 + 2.5)).sum()) == pytest.approx(45 - 360 * a / math.pi**2, abs=1.0)


def test_verhoef_derivative() -> None:
    inputs = (tensor([-0.35, 0.2]).requires_grad_(), tensor([-0.15, 0.3]).requires_grad_())
    assert torch.autograd.gradcheck(verhoef, inputs)


def test_spherical_leaves_project_half_their_area() -> None:
    theta = torch.arange(0, 91, 5).double().deg2rad()
    share = theta.cos()[:-1] - theta.cos()[1:]
    for sza in (0.0, 30.0, 60.0):
        layer = layer_geometry(share, tensor(sza), tensor(0.0), tensor(0.0))
        assert float(layer.ks) * math.cos(math.radians(sza)) == pytest.approx(0.5, abs=2e-3)
    assert float(layer.bf) == pytest.approx(1 / 3, abs=2e-3)


@pytest.mark.parametrize("lai", [0.1, 1.0, 4.0, 12.0])
def test_nothing_is_lost_without_absorption(lai: float) -> None:
    # white soil, white leaves: all light that enters leaves again
    result = factors(lai, 0.55, 0.45 - 1e-12, 1.0)
    assert float(result.dhr) == pytest.approx(1, abs=1e-5)
    assert float(result.bhr) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("lai", [0.3, 3.0, 9.0])
def test_reflectance_never_exceeds_incoming_light(lai: float) -> None:
    for rho, tau, soil in ((0.5, 0.45, 0.9), (0.05, 0.01, 0.3), (0.4, 0.1, 0.0)):
        result = factors(lai, rho, tau, soil)
        assert 0 < float(result.dhr) < 1 and 0 < float(result.bhr) < 1


def test_sun_and_view_can_be_exchanged() -> None:
    one, other = factors(2.5, 0.4, 0.3, 0.2, sza=50.0, vza=20.0), factors(2.5, 0.4, 0.3, 0.2, sza=20.0, vza=50.0)
    assert float(one.sdr) == pytest.approx(float(other.sdr), rel=1e-10)
    assert float(one.dhr) == pytest.approx(float(other.hdr), rel=1e-10)


def test_no_leaves_is_bare_soil_and_the_slope_is_right() -> None:
    bare = factors(0.0, 0.4, 0.3, 0.23)
    assert all(float(part) == pytest.approx(0.23, abs=1e-12) for part in bare)
    layer = layer_geometry(campbell(tensor(55.0)), tensor(35.0), tensor(20.0), tensor(70.0))

    def reflectance(lai):
        return four_stream(tensor([0.4]), tensor([0.3]), tensor([0.23]), lai, layer, hot_spot(lai, tensor(0.2), layer))

    zero = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(reflectance(zero), zero)
    one_sided = (4 * reflectance(tensor(1e-4)) - reflectance(tensor(2e-4)) - 3 * reflectance(tensor(0.0))) / 2e-4
    assert float(slope) == pytest.approx(float(one_sided), rel=1e-5)


def test_a_deep_canopy_hides_the_soil() -> None:
    assert float(factors(12.0, 0.05, 0.03, 0.0).sdr) == pytest.approx(
        float(factors(12.0, 0.05, 0.03, 0.6).sdr), abs=1e-3
    )


def test_black_leaves_leave_the_soil_seen_and_lit() -> None:
    lai, h = tensor(2.0), tensor(0.2)
    layer = layer_geometry(campbell(tensor(55.0)), tensor(35.0), tensor(20.0), tensor(70.0))
    spot = hot_spot(lai, h, layer)
    black = torch.zeros(1, dtype=DOUBLE)
    assert float(four_stream(black, black, tensor([0.3]), lai, layer, spot)) == pytest.approx(
        0.3 * float(spot.tsstoo), rel=1e-9
    )


def test_hot_spot_limits() -> None:
    lai, ala = tensor(3.0), campbell(tensor(55.0))
    exact = layer_geometry(ala, tensor(30.0), tensor(30.0), tensor(0.0))
    spot = hot_spot(lai, tensor(0.1), exact)
    assert float(spot.tsstoo) == pytest.approx(float(spot.tss), rel=1e-6)  # what the sun sees the eye sees
    apart = layer_geometry(ala, tensor(60.0), tensor(60.0), tensor(180.0))
    none = hot_spot(lai, tensor(1e-6), apart)
    total = float((apart.ks + apart.ko) * lai)
    assert float(none.tsstoo) == pytest.approx(float(none.tss * none.too), rel=1e-3)  # tiny leaves: independent paths
    assert float(none.leaf) == pytest.approx(float(lai) * (1 - math.exp(-total)) / total, rel=1e-3)


def test_hot_spot_integral_converges_to_quadrature() -> None:
    lai, h = tensor(3.0), tensor(0.15)
    layer = layer_geometry(campbell(tensor(55.0)), tensor(40.0), tensor(10.0), tensor(30.0))
    alpha = 2 * layer.dso / (h * (layer.ks + layer.ko))
    x = (torch.arange(200000).double() + 0.5) / 200000
    y = -(layer.ks + layer.ko) * lai * x + torch.sqrt(layer.ks * layer.ko) * lai * -torch.expm1(-alpha * x) / alpha
    assert float(hot_spot(lai, h, layer, steps=2000).leaf) == pytest.approx(float(lai * y.exp().mean()), rel=1e-6)
    assert float(hot_spot(lai, h, layer).leaf) == pytest.approx(float(lai * y.exp().mean()), rel=5e-3)


def test_refuses_other_class_counts() -> None:
    with pytest.raises(ValueError, match="18"):
        campbell(tensor(50.0), classes=7)
