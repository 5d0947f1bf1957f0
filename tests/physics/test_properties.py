"""What must hold for every canopy, not only for the examples: bounds, energy, limits, order, finite derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_vae.physics import Prosail
from pi_vae.physics.canopy import absorbed, layer_geometry
from pi_vae.physics.leaf import CONTENTS, Prospect
from pi_vae.physics.leaf_angle import campbell
from pi_vae.variables import CATALOGUE

DOUBLE = torch.float64
BANDS = ["B02", "B04", "B05", "B8A", "B11", "B12"]
WAVELENGTHS = [400, 450, 500, 550, 600, 675, 720, 800, 970, 1200, 1450, 1650, 1940, 2200, 2500]

# the catalogue's support, widened to all that the operator promises
WIDER = {
    "lai": (0.0, 12.0), "hspot": (1e-3, 1.0), "ala": (5.0, 85.0), "n": (1.0, 3.5), "cab": (0.0, 120.0),
    "car": (0.0, 30.0), "cbrown": (0.0, 4.0), "cw": (0.0, 0.1), "cm": (0.0, 0.04), "soil_brightness": (0.0, 2.0),
    "soil_wetness": (0.0, 1.0), "prot": (0.0, 0.003), "cbc": (0.0, 0.04),
}  # fmt: skip
SUPPORT = {v.name: (v.low, v.high) for v in CATALOGUE.values()}
LIMITS = SUPPORT | WIDER
ANGLES = {"sza": (0.0, 85.0), "vza": (0.0, 80.0), "raa": (-180.0, 360.0)}


def values(limits: dict[str, tuple[float, float]], names: tuple[str, ...]) -> st.SearchStrategy[dict[str, float]]:
    """One value of each name; hypothesis prefers the ends and round numbers."""
    return st.fixed_dictionaries({name: st.floats(*limits[name], allow_subnormal=False) for name in names})


def tensors(numbers: dict[str, float], dtype: torch.dtype = DOUBLE) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=dtype) for name, value in numbers.items()}


LEAVES = {version: Prospect(version, WAVELENGTHS) for version in CONTENTS}
CANOPY = Prosail(bands=BANDS, nodes=2)
canopies = values(LIMITS, CANOPY.variables)
angles = values(ANGLES, tuple(ANGLES))
angles_of_sentinel2 = values({"sza": (15, 75), "vza": (0, 15), "raa": (0, 180)}, tuple(ANGLES))
many = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("version", CONTENTS)
def test_leaves_return_no_more_than_they_get(version: str, dtype: torch.dtype) -> None:
    leaf, eps = LEAVES[version], 4e-6 if dtype == torch.float32 else 1e-9

    @many
    @given(values(LIMITS, leaf.variables))
    def check(contents: dict[str, float]) -> None:
        reflectance, transmittance = leaf(tensors(contents, dtype))
        assert reflectance.min() >= 0 and transmittance.min() >= 0
        assert (reflectance + transmittance).max() <= 1 + eps

    check()


@pytest.mark.parametrize("version", CONTENTS)
def test_more_of_any_content_absorbs_more(version: str) -> None:
    leaf = LEAVES[version]

    @many
    @given(values(LIMITS, leaf.variables), st.sampled_from(leaf.variables[1:]), st.floats(1.01, 3.0))
    def check(contents: dict[str, float], name: str, factor: float) -> None:
        less, more = (sum(leaf(tensors(contents | {name: contents[name] * f}))) for f in (1.0, factor))
        assert (more <= less + 1e-12).all()

    check()


@many
@given(canopies, angles)
def test_canopies_return_no_more_than_they_get(variables: dict[str, float], geometry: dict[str, float]) -> None:
    variables, geometry = tensors(variables), tensors(geometry)
    factors = CANOPY.factors(variables, geometry)
    for name in ("dhr", "hdr", "bhr"):
        part = getattr(factors, name)
        assert (part >= -1e-9).all() and (part <= 1 + 1e-9).all(), name
    assert (factors.sdr >= -1e-9).all()
    assert torch.equal(factors.sdr, CANOPY(variables, geometry))
    for value in (*(CANOPY.fapar(variables, geometry, sky) for sky in (0.0, 1.0)), CANOPY.fcover(variables)):
        assert -1e-9 <= value <= 1


@many
@given(values(LIMITS | SUPPORT | {"soil_brightness": (0.3, 1.8)}, CANOPY.variables), angles_of_sentinel2)
def test_sensors_see_factors_between_nought_and_one(variables: dict[str, float], geometry: dict[str, float]) -> None:
    # A directional factor may exceed one: leaves without any content near the hot spot, or a grazing view. On the
    # supports of the catalogue, as Sentinel-2 looks, none does; brightness ends where the soil itself would be white
    # (twice the dry soil is 1.02 in B11).
    reflectance = CANOPY(tensors(variables), tensors(geometry))
    assert (reflectance >= 0).all() and (reflectance <= 1).all()


@many
@given(canopies, angles, st.sampled_from(["cab", "car", "cant", "cbrown", "cw", "cm"]), st.floats(1.05, 3.0))
def test_more_absorption_in_the_leaf_is_a_darker_canopy(variables, geometry, name: str, factor: float) -> None:
    geometry = tensors(geometry)
    less, more = (
        CANOPY.factors(tensors(variables | {name: variables[name] * f}), geometry) for f in (1.0, factor)
    )  # fmt: skip
    assert (more.dhr <= less.dhr + 1e-9).all() and (more.bhr <= less.bhr + 1e-9).all()


@many
@given(canopies, values({"sza": (0, 70), "vza": (0, 60), "raa": (0, 180)}, tuple(ANGLES)))
def test_the_last_leaf_leaves_the_soil(variables: dict[str, float], geometry: dict[str, float]) -> None:
    variables = tensors(variables)
    soil = CANOPY.soil(variables) @ CANOPY.weights
    for lai, bound in ((0.0, 1e-12), (1e-7, 1e-5)):
        seen = CANOPY(variables | {"lai": torch.tensor(lai, dtype=DOUBLE)}, tensors(geometry))
        assert (seen - soil).abs().max() < bound


HARD = {"lai": st.sampled_from([0.0, 1e-6, 12.0]), "hspot": st.just(1e-3), "soil_wetness": st.sampled_from([0.0, 1.0])}
HARD_ANGLES = st.sampled_from(
    [dict(sza=0.0, vza=0.0, raa=0.0), dict(sza=30.0, vza=30.0, raa=0.0), dict(sza=30.0, vza=30.0, raa=360.0),
     dict(sza=85.0, vza=80.0, raa=180.0), dict(sza=85.0, vza=0.0, raa=90.0)]
)  # fmt: skip
bare_leaf = {name: st.just(0.0) for name in CONTENTS["prospect-d"]}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_derivatives_of_every_input_are_finite(dtype: torch.dtype) -> None:
    easy = {name: st.floats(*LIMITS[name], allow_subnormal=False) for name in CANOPY.variables}
    empty = easy | HARD | bare_leaf | {"n": st.just(1.0)}
    somewhere_hard = st.one_of(canopies, st.fixed_dictionaries(easy | HARD), st.fixed_dictionaries(empty))

    @many
    @given(somewhere_hard, st.one_of(angles, HARD_ANGLES))
    def check(variables: dict[str, float], geometry: dict[str, float]) -> None:
        inputs = [{k: v.requires_grad_() for k, v in tensors(x, dtype).items()} for x in (variables, geometry)]
        leaves = [v for x in inputs for v in x.values()]
        outputs = [CANOPY(*inputs).sum(), CANOPY.fapar(*inputs), CANOPY.fcover(inputs[0])]
        outputs += [part.sum() for part in CANOPY.factors(*inputs)]
        for output in outputs:
            assert torch.isfinite(output)
            for slope in torch.autograd.grad(output, leaves, allow_unused=True, retain_graph=True):
                assert slope is None or torch.isfinite(slope)

    check()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**31))
def test_derivatives_match_finite_differences_at_random_points(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    op = Prosail(bands=["B04", "B8A", "B11"], nodes=1)
    limits = LIMITS | ANGLES | {"sza": (5.0, 70.0), "vza": (5.0, 60.0), "raa": (5.0, 175.0), "hspot": (0.02, 1.0)}
    names = (*op.variables, *ANGLES)
    inside = 0.02 + 0.96 * torch.rand(len(names), generator=generator, dtype=DOUBLE)  # share of the support
    shares = [share.clone().requires_grad_() for share in inside]

    def reflectance(*shares: torch.Tensor) -> torch.Tensor:
        named = {n: limits[n][0] + (limits[n][1] - limits[n][0]) * x for n, x in zip(names, shares, strict=True)}
        return op(named, named)

    assert torch.autograd.gradcheck(reflectance, shares, eps=1e-6, atol=2e-6, rtol=2e-3)


def test_fapar_and_fcover_in_closed_form() -> None:
    # black leaves over black soil take exactly what they intercept: 1 - exp(-ks LAI)
    variables = {name: torch.tensor(value, dtype=DOUBLE) for name, value in dict(
        n=1.0, cab=1e4, car=1e3, cant=1e3, cbrown=1e3, cw=0.0, cm=1.0, lai=1.7, ala=57.0, hspot=0.1,
        soil_brightness=0.0, soil_wetness=0.0).items()}  # fmt: skip
    geometry = {name: torch.tensor(value, dtype=DOUBLE) for name, value in dict(sza=40.0, vza=0.0, raa=0.0).items()}
    leaf_surface = 0.06  # what a leaf reflects without being entered
    ks = float(layer_geometry(campbell(variables["ala"]), *geometry.values()).ks)
    intercepted = 1 - math.exp(-ks * 1.7)
    found = float(CANOPY.fapar(variables, geometry))
    assert (1 - 2 * leaf_surface) * intercepted < found < intercepted
    flat = tensors({"lai": 1.0, "ala": 10.0})
    upright = tensors({"lai": 1.0, "ala": 80.0})
    assert 0.5 < float(CANOPY.fcover(flat)) < 1 - math.exp(-1.0) and float(CANOPY.fcover(upright)) < 0.25


def test_fapar_does_not_depend_on_the_sensor_and_needs_no_more_wavelengths() -> None:
    variables = tensors(dict(n=1.5, cab=40.0, car=8.0, cant=1.0, cbrown=0.0, cw=0.01, cm=0.005, lai=3.0, ala=57.0,
                             hspot=0.1, soil_brightness=1.0, soil_wetness=0.3))  # fmt: skip
    geometry = tensors(dict(sza=35.0, vza=5.0, raa=90.0))
    one, other = CANOPY.fapar(variables, geometry), Prosail(sensor="S2B").fapar(variables, geometry)
    assert torch.equal(one, other) and 0.75 < float(one) < 0.97
    every_nanometre = Prosail(sensor={str(nm): ([nm - 1, nm, nm + 1], [0, 1, 0]) for nm in range(401, 700)})
    leaf, soil = every_nanometre.leaf(variables), every_nanometre.soil(variables)
    exact = absorbed(*leaf, soil, variables["lai"], *every_nanometre._structure(variables, geometry)).sun.mean()
    assert float(one) == pytest.approx(float(exact), abs=1e-3)


@pytest.mark.parametrize("cap", [None, 200.0])
def test_the_hot_spot_convention_matters_only_for_tiny_leaves(reference_prosail, cap: float | None) -> None:
    variables, geometry, arrays = reference_prosail("prospect-d")
    error = torch.from_numpy(arrays["s2a"]) - Prosail(hot_spot_cap=cap)(variables, geometry)
    flagged = torch.from_numpy(arrays["hotspot_clamp_sensitive"]).bool()
    assert error[~flagged].abs().max() < 5e-6
    if cap is None:
        assert error.abs().max() < 5e-6
    else:
        assert 2e-3 < error[flagged].abs().max() < 0.0105
