"""Units: what is consistent whatever units the constants have, and what is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.discovery.dataset import KNOWN_INPUTS
from inference.discovery.dimensions import Units, dimension, inconsistency, unit_of
from pi_vae.law import parse

UNITS = Units({"lai": "m2 m-2", "air_temperature": "K", "precipitation": "mm", "roughness": "cm"}, "dB")


@pytest.mark.parametrize(
    ("law", "free", "pure"),
    [
        ("2.0*exp(-0.5*lai)", True, True),
        ("2.0*air_temperature", True, False),
        ("air_temperature", False, False),
        ("lai + precipitation", False, False),
        ("lai + 0.1*precipitation", True, False),
        ("exp(air_temperature)", False, False),
        ("1.5*exp(0.1*air_temperature)", True, False),
        ("precipitation/roughness", True, True),
        ("2.0*sqrt(roughness**2 + precipitation**2)", True, False),
        ("2.0*lai*(roughness + precipitation**2)", False, False),
        ("1.2 + 0.3*log(precipitation)", True, False),
        ("0.3*log(precipitation)", False, False),
        ("0.3*log(precipitation/roughness)", True, True),
        ("0.5/(1 + 0.3*precipitation)", True, False),
        ("0.5/(1 + precipitation)", False, False),
        ("sin(lai)*cos(0.1*precipitation)", True, False),
    ],
)
def test_consistency(law: str, free: bool, pure: bool) -> None:
    expression = parse(law, UNITS.inputs)
    assert (inconsistency(expression, UNITS) is None) == free
    assert (inconsistency(expression, UNITS, dimensionless_constants=True) is None) == pure


def test_one_constant_cannot_have_two_units() -> None:
    units = Units(UNITS.inputs, "K")
    assert inconsistency(parse("air_temperature*exp(0.1*lai)", UNITS.inputs), units) is None
    assert "not in the unit K" in inconsistency(parse("exp(0.1*lai)", UNITS.inputs), units)
    assert "terms" in inconsistency(parse("air_temperature + lai*air_temperature**2", UNITS.inputs), units)


@given(st.permutations(["m2", "kg-1", "K3"]), st.sampled_from(["mm", "g", "day", "dB", "%"]))
@settings(max_examples=30, deadline=None)
def test_a_unit_is_a_product(parts: list[str], more: str) -> None:
    assert dimension(" ".join(parts)) == {"m": 2, "kg": -1, "K": 3}
    assert dimension(f"{more} {more}-1") == {}


def test_all_inputs_have_a_known_unit() -> None:
    assert all(dimension(unit_of(name)) is not None for name in KNOWN_INPUTS)
    with pytest.raises(ValueError, match="'furlong' is unknown"):
        dimension("furlong")
