"""WaterCloud: reference vectors, limits, derivatives, shapes, refusals."""

import math
from pathlib import Path

import numpy as np
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
    assert WaterCloud().pols == ("VV", "VH")
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


def test_two_passes_of_one_slope_go_together() -> None:
    # ascending and descending pass of the same pixels, local incidence by pixel and date
    incidence = torch.tensor([[31.0, 44.0, 31.0], [39.0, 36.0, 39.0]]).double()
    variables = state(lai=[[1.0], [3.0]], soil_moisture=[0.1, 0.2, 0.3], roughness=[[1.0], [2.0]])
    together = WaterCloud()(variables, {"incidence": incidence})
    assert together.shape == (2, 3, 2)
    for pixel in range(2):
        for date in range(3):
            one = state(
                lai=float(variables["lai"][pixel]),
                soil_moisture=float(variables["soil_moisture"][date]),
                roughness=float(variables["roughness"][pixel]),
            )
            alone = WaterCloud()(one, {"incidence": incidence[pixel, date]})
            assert torch.allclose(together[pixel, date], alone, rtol=1e-12)
    # the same ground is darker under the flatter beam
    bare = WaterCloud()(state(lai=0.0), {"incidence": torch.tensor([31.0, 44.0]).double()})
    assert (bare[1] < bare[0]).all()


def test_water_content_takes_the_place_of_leaf_area() -> None:
    wet = WaterCloud(vegetation="vwc")
    assert wet.variables == ("vwc", "soil_moisture", "roughness")
    variables = state(vwc=2.0)
    assert torch.equal(wet(variables | {"lai": torch.tensor(9.0)}, ANGLE), WaterCloud()(state(lai=2.0), ANGLE))
    with pytest.raises(ValueError, match="'vwc'"):
        wet(state(), ANGLE)


def test_exponent_of_one_changes_nothing_and_channels_are_named() -> None:
    op = WaterCloud(exponent=True, pols=("VH", "HH", "VV"))
    assert op.coefficients == ("a_vh", "a_hh", "a_vv", "b_vh", "b_hh", "b_vv", "e_vh", "e_hh", "e_vv")
    more = state(a_hh=0.03, b_hh=0.2, e_vh=1.0, e_hh=1.0, e_vv=1.0)
    power = op(more, ANGLE)
    assert torch.allclose(power[[2, 0]], WaterCloud()(state(), ANGLE), rtol=1e-14)
    _, hh, _ = oh2004(torch.tensor(0.2).double(), torch.tensor(1.5 * KS_PER_CM).double(), ANGLE["incidence"])
    assert torch.allclose(op(more | {"lai": torch.tensor(0.0).double()}, ANGLE)[1], hh)
    assert op(more | {"e_hh": torch.tensor(-0.5).double()}, ANGLE)[1] < power[1]


def fit(operator: WaterCloud, known: dict, free: dict[str, float], target: torch.Tensor) -> dict[str, float]:
    """Positive coefficients (their logarithms; exponents as they are) that bring the operator to the target."""
    start = [v if name.startswith("e_") else math.log(v) for name, v in free.items()]
    latent = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([latent], max_iter=2000, tolerance_grad=1e-14, tolerance_change=1e-18,
                                  history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

    def values() -> dict[str, torch.Tensor]:
        return {n: x if n.startswith("e_") else x.exp() for n, x in zip(free, latent.unbind(), strict=True)}

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        error = (operator(known | values(), ANGLE).log() - target.log()).square().mean()
        error.backward()
        return error

    for _ in range(3):
        optimizer.step(loss)
    return {name: float(v.detach()) for name, v in values().items()}


@pytest.fixture(scope="module")
def wheat() -> dict[str, torch.Tensor]:
    """The simulated wheat table: leaf area, moisture, backscatter ``[47, 2]`` in VV and VH."""
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "cropradar_wcm" / "wheat_simulated"
    if not folder.is_dir():
        pytest.skip(f"no simulated wheat in {folder}")
    crop = np.loadtxt(folder / "calibrationcrop.csv", delimiter=",", skiprows=1)
    power = np.loadtxt(folder / "LUT_sigma0.csv", delimiter=",", skiprows=1)
    return {"lai": torch.from_numpy(crop[:, 0]), "soil_moisture": torch.from_numpy(crop[:, 2]),
            "power": torch.from_numpy(power[:, ::-1].copy())}  # fmt: skip


def test_recovers_the_cloud_of_the_simulated_wheat(wheat) -> None:
    # its VV channel is a cloud so dense that no soil is seen: A and E can be known, of B that it is large
    known = {"lai": wheat["lai"], "soil_moisture": wheat["soil_moisture"], "roughness": torch.tensor(1.5).double()}
    op = WaterCloud(exponent=True, pols=("VV",))
    found = fit(op, known, {"a_vv": 0.05, "b_vv": 0.3, "e_vv": 0.0}, wheat["power"][:, :1])
    modelled = op(known | {name: torch.tensor(v).double() for name, v in found.items()}, ANGLE)[:, 0]
    assert (modelled / wheat["power"][:, 0] - 1).abs().max() < 1e-6  # the table has eight digits
    # independent: a straight line through logarithms, with the angle of this test
    design = torch.stack([torch.ones_like(wheat["lai"]), wheat["lai"].log()], -1)
    line = torch.linalg.lstsq(design, wheat["power"][:, :1].log()).solution[:, 0]
    assert found["e_vv"] == pytest.approx(float(line[1]), abs=1e-6)
    assert found["a_vv"] * math.cos(math.radians(38)) == pytest.approx(float(line[0].exp()), rel=1e-6)
    assert found["b_vv"] > 3


def test_recovers_all_coefficients_of_its_own_wheat(wheat) -> None:
    known = {"lai": wheat["lai"] / 3, "soil_moisture": wheat["soil_moisture"], "roughness": torch.tensor(1.5).double()}
    truth = dict(a_vv=0.06, a_vh=0.01, b_vv=0.2, b_vh=0.35, e_vv=0.7, e_vh=1.2)
    op = WaterCloud(exponent=True)
    target = op(known | {name: torch.tensor(v).double() for name, v in truth.items()}, ANGLE)
    found = fit(op, known, dict(a_vv=0.1, a_vh=0.03, b_vv=0.1, b_vh=0.1, e_vv=1.0, e_vh=1.0), target)
    assert found == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "word"), [(dict(vegetation="biomass"), "vwc"), (dict(pols=("VV", "HV")), "HV"), (dict(pols=()), "VH")]
)
def test_refuses_unknown_descriptors_and_channels(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        WaterCloud(**arguments)


def test_refuses_missing_inputs_and_unknown_soils() -> None:
    with pytest.raises(ValueError, match="'b_vh'"):
        WaterCloud()({k: v for k, v in state().items() if k != "b_vh"}, ANGLE)
    with pytest.raises(ValueError, match="'incidence'"):
        WaterCloud()(state(), {})
    with pytest.raises(ValueError, match="dubois1995"):
        WaterCloud("dubois1995")
