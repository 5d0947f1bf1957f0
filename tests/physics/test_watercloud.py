"""WaterCloud: reference vectors, limits, derivatives, shapes, refusals."""

import math

import pytest
import torch

from pi_vae.physics import WaterCloud, oh2004
from pi_vae.variables import CATALOGUE

KS_PER_CM = 2 * math.pi * 5.405 / 29.9792458
COEFFICIENTS = dict(a_vv=0.05, a_vh=0.012, b_vv=0.12, b_vh=0.09)


def state(dtype: torch.dtype = torch.float64, **values) -> dict[str, torch.Tensor]:
    defaults = dict(lai=2.0, soil_moisture=0.2, roughness=1.5) | COEFFICIENTS
    return {name: torch.tensor(value, dtype=dtype) for name, value in (defaults | values).items()}


ANGLE = {"incidence": torch.tensor(38.0, dtype=torch.float64)}


def test_matches_the_reference(reference_csv) -> None:
    t = reference_csv("sar_c_band.csv")
    variables = {
        "lai": t["wcm_V"],
        "soil_moisture": t["mv"],
        "roughness": t["ks"] / KS_PER_CM,
        "a_vv": t["wcm_A"],
        "a_vh": 0.25 * t["wcm_A"],
        "b_vv": t["wcm_B"],
        "b_vh": t["wcm_B"],
    }
    got = WaterCloud()(variables, {"incidence": t["theta_deg"]})
    expected = torch.stack([t["wcm_tot_vv_with_oh04"], t["wcm_tot_vh_veg0p25_oh04"]], -1)
    assert torch.allclose(got, expected, rtol=1e-6, atol=0)


def test_roughness_is_in_centimetres(reference_csv) -> None:
    t = reference_csv("sar_c_band.csv")
    assert torch.allclose(100 * t["s_m"] * KS_PER_CM, t["ks"], rtol=1e-6)


@pytest.mark.parametrize("soil", ["oh2004", "oh1992"])
def test_no_leaves_is_bare_soil_and_dense_leaves_hide_it(soil: str) -> None:
    op = WaterCloud(soil)
    dry, wet = (op(state(lai=0.0, soil_moisture=mv), ANGLE) for mv in (0.05, 0.4))
    assert (wet > 1.5 * dry).all()
    hidden = [op(state(lai=12.0, soil_moisture=mv, b_vv=1.0, b_vh=1.0), ANGLE) for mv in (0.05, 0.4)]
    assert torch.allclose(*hidden, rtol=1e-6)
    assert torch.allclose(hidden[0], torch.tensor([0.05, 0.012]).double() * 12 * math.cos(math.radians(38)), rtol=1e-6)


def test_bare_soil_is_oh2004_in_the_order_vv_vh() -> None:
    vv, _, vh = oh2004(torch.tensor(0.2).double(), torch.tensor(1.5 * KS_PER_CM).double(), ANGLE["incidence"])
    assert WaterCloud.pols == ("VV", "VH")
    assert torch.allclose(WaterCloud()(state(lai=0.0), ANGLE), torch.stack([vv, vh]), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soil", ["oh2004", "oh1992"])
def test_derivatives_are_finite_on_all_corners(soil: str, dtype: torch.dtype) -> None:
    op = WaterCloud(soil)
    names = op.variables
    limits = [torch.tensor([CATALOGUE[name].low, CATALOGUE[name].high], dtype=dtype) for name in names]
    points = [p.reshape(-1).requires_grad_() for p in torch.meshgrid(*limits, indexing="ij")]
    others = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in COEFFICIENTS.items()}
    for incidence in (20.0, 46.0):
        power = op(dict(zip(names, points, strict=True)) | others, {"incidence": torch.tensor(incidence)})
        assert (power > 0).all() and power.dtype == dtype
        for slope in torch.autograd.grad(power.log().sum(), [*points, *others.values()]):
            assert torch.isfinite(slope).all()


def test_derivatives_match_finite_differences() -> None:
    op = WaterCloud()
    names = (*op.variables, *op.coefficients)
    values = [v.requires_grad_() for v in state().values()]
    assert torch.autograd.gradcheck(lambda *x: op(dict(zip(names, x, strict=True)), ANGLE), values)


def test_float32_agrees_with_float64() -> None:
    lai = torch.linspace(0, 12, 50).tolist()
    single, double = (WaterCloud()(state(dtype, lai=lai), ANGLE) for dtype in (torch.float32, torch.float64))
    assert ((single.double() - double) / double).abs().max() < 2e-5


def test_pixels_dates_and_coefficients_broadcast() -> None:
    variables = state(lai=[[1.0], [2.0], [3.0]], soil_moisture=[0.1, 0.2, 0.3, 0.4])
    power = WaterCloud()(variables, {"incidence": torch.full((4,), 38.0).double()})
    assert power.shape == (3, 4, 2)
    assert torch.allclose(power[1, 2], WaterCloud()(state(lai=2.0, soil_moisture=0.3), ANGLE))


def test_refuses_missing_inputs_and_unknown_soils() -> None:
    with pytest.raises(ValueError, match="'b_vh'"):
        WaterCloud()({k: v for k, v in state().items() if k != "b_vh"}, ANGLE)
    with pytest.raises(ValueError, match="'incidence'"):
        WaterCloud()(state(), {})
    with pytest.raises(ValueError, match="dubois1995"):
        WaterCloud("dubois1995")
