"""Permittivity of soil against reference vectors, limits and derivatives."""

import pytest
import torch

from pi_vae.physics.dielectric import dobson1985, hallikainen1985, mironov2009, topp1980, topp1980_inverse

MOISTURE = torch.linspace(0.03, 0.5, 40, dtype=torch.float64)


def agrees(got: torch.Tensor, real: torch.Tensor, imaginary: torch.Tensor) -> bool:
    return torch.allclose(got.real, real, rtol=1e-6, atol=0) and torch.allclose(got.imag, imaginary, rtol=1e-6, atol=0)


def test_mironov_matches_the_reference(reference_csv) -> None:
    t = reference_csv("dielectric_c_band.csv")
    assert agrees(mironov2009(t["mv"], t["clay_pct"], 5.405), t["mironov09_re"], t["mironov09_im"])


def test_hallikainen_matches_the_reference_in_both_conventions(reference_csv) -> None:
    t = reference_csv("dielectric_c_band.csv")
    inputs = t["mv"], t["sand_pct"], t["clay_pct"], 5.405
    assert agrees(hallikainen1985(*inputs), t["hallik_6GHz_re_sarssm"], t["hallik_6GHz_im_sarssm"])
    assert agrees(hallikainen1985(*inputs, interpolate=True), t["hallik_re_radarscatter"], t["hallik_im_radarscatter"])


def test_dobson_matches_the_reference_with_either_water(reference_csv) -> None:
    t = reference_csv("sar_c_band.csv")
    inputs = t["mv"], 100 * t["sand"], 100 * t["clay"], t["bulk"], 5.405
    assert agrees(dobson1985(*inputs), t["dobson_simple_re"], t["dobson_simple_im"])
    assert agrees(dobson1985(*inputs, temperature=t["temp_C"]), t["dobson_debye_re"], t["dobson_debye_im"])


def test_topp_matches_the_reference(reference_csv) -> None:
    t = reference_csv("sar_c_band.csv")
    assert torch.allclose(topp1980_inverse(t["hallik6GHz_re"]), t["topp_mv_from_hallik_re"], rtol=1e-6)


def test_topp_round_trip() -> None:
    assert (topp1980_inverse(topp1980(MOISTURE)) - MOISTURE).abs().max() < 0.024
    assert float(topp1980(torch.tensor(0.0))) == pytest.approx(3.03)


@pytest.mark.parametrize("clay", [0.0, 30.0, 70.0])
def test_wetter_soil_is_more_reflective_and_more_lossy(clay: float) -> None:
    eps = mironov2009(MOISTURE, clay, 5.405)
    assert (eps.real.diff() > 0).all() and (eps.imag.diff() > 0).all()
    assert 2 < float(eps.real[0]) < 5 and 15 < float(eps.real[-1]) < 40


def test_mironov_is_continuous_where_free_water_begins() -> None:
    limit = 0.02863 + 0.0030673 * 20
    below, above = mironov2009(torch.tensor([limit - 1e-9, limit + 1e-9], dtype=torch.float64), 20.0, 5.405)
    assert abs(below - above) < 1e-6


def test_derivatives_match_finite_differences() -> None:
    mv, clay = MOISTURE[::8].clone().requires_grad_(), torch.full((5,), 25.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mironov2009(a, b, 5.405), (mv, clay))
    assert torch.autograd.gradcheck(lambda a, b: hallikainen1985(a, 30.0, b, 5.405), (mv, clay))
    bulk, warmth = torch.full((5,), 1.4).double().requires_grad_(), torch.full((5,), 15.0).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, c, d: dobson1985(a, 30.0, b, c, 5.405, temperature=d), (mv, clay, bulk, warmth)
    )


def test_permittivities_agree_on_ordinary_soils() -> None:
    # four fits to overlapping sets of soils: they spread by some 20 % around each other
    mv = MOISTURE[(MOISTURE > 0.1) & (MOISTURE < 0.4)]
    models = torch.stack(
        [
            mironov2009(mv, 20.0, 5.405).real,
            hallikainen1985(mv, 30.0, 20.0, 5.405).real,
            dobson1985(mv, 30.0, 20.0, 1.4, 5.405, temperature=20.0).real,
            topp1980(mv),
        ]
    )
    assert ((models / models.mean(0) - 1).abs() < 0.25).all()


def test_refuses_frequencies_outside_the_table() -> None:
    with pytest.raises(ValueError, match="1.26 GHz"):
        hallikainen1985(MOISTURE, 30.0, 20.0, 1.26)
