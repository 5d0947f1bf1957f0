"""Bare soil backscatter against reference vectors, orders of polarisations, derivatives."""

import pytest
import torch

from pi_vae.physics import dubois1995, mironov2009, oh1992, oh2004
from pi_vae.variables import CATALOGUE

KS_PER_CM = 2 * torch.pi * 5.405 / 29.9792458


def grid(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moisture, ks and incidence over the supports of the catalogue and the swath."""
    mv, s = CATALOGUE["soil_moisture"], CATALOGUE["roughness"]
    axes = torch.linspace(mv.low, mv.high, 9), torch.linspace(s.low, s.high, 9) * KS_PER_CM, torch.linspace(20, 50, 7)
    return tuple(a.reshape(-1).to(dtype).requires_grad_() for a in torch.meshgrid(*axes, indexing="ij"))


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(got, expected, rtol=1e-6, atol=0)


def test_all_models_match_the_reference(reference_csv) -> None:
    t = reference_csv("sar_c_band.csv")
    eps = torch.complex(t["hallik6GHz_re"], t["hallik6GHz_im"])
    for got, name in zip(oh2004(t["mv"], t["ks"], t["theta_deg"]), ("vv", "hh", "vh"), strict=True):
        assert close(got, t[f"oh04_{name}"]), name
    for got, name in zip(oh1992(eps, t["ks"], t["theta_deg"]), ("vv", "hh", "vh"), strict=True):
        assert close(got, t[f"oh92_{name}"]), name
    for got, name in zip(dubois1995(eps, t["ks"], t["theta_deg"], 5.405), ("vv", "hh"), strict=True):
        assert close(got, t[f"dubois_{name}"]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", ["oh2004", "oh1992"])
def test_polarisations_are_ordered_and_derivatives_finite(model: str, dtype: torch.dtype) -> None:
    mv, ks, incidence = grid(dtype)
    vv, hh, vh = oh2004(mv, ks, incidence) if model == "oh2004" else oh1992(mironov2009(mv, 20.0, 5.405), ks, incidence)
    assert (vh < hh).all() and (hh <= vv).all() and (vh > 0).all()
    slopes = torch.autograd.grad((vv + hh + vh).log().sum(), (mv, ks, incidence))
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert (slopes[0] > 0).all()  # wetter soil is brighter


def test_derivatives_match_finite_differences() -> None:
    inputs = [a.detach()[::97].requires_grad_() for a in grid()]
    assert torch.autograd.gradcheck(oh2004, inputs)
    assert torch.autograd.gradcheck(lambda mv, ks, i: oh1992(mironov2009(mv, 20.0, 5.405), ks, i), inputs, rtol=1e-3)
    assert torch.autograd.gradcheck(
        lambda mv, ks, i: dubois1995(mironov2009(mv, 20.0, 5.405), ks, i, 5.405), inputs, rtol=1e-3
    )


def test_rough_soil_depolarises_towards_equal_channels() -> None:
    vv, hh, _ = oh2004(torch.tensor(0.2), torch.tensor(6.0), torch.tensor(35.0))
    assert float(hh / vv) == pytest.approx(1, abs=0.02)
