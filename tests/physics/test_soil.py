"""Soil: brightness multiplies, wetness mixes, moisture darkens."""

import numpy as np
import pytest
import torch

from pi_vae.physics.soil import Soil


def state(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_brightness_multiplies_and_wetness_mixes() -> None:
    soil = Soil()
    dry, wet = soil(state(soil_brightness=1.0, soil_wetness=0.0)), soil(state(soil_brightness=1.0, soil_wetness=1.0))
    assert torch.allclose(dry, soil.dry, atol=1e-15) and torch.allclose(wet, soil.wet, atol=1e-15)
    mixed = soil(state(soil_brightness=1.4, soil_wetness=0.3))
    assert torch.allclose(mixed, 1.4 * (0.3 * wet + 0.7 * dry), atol=1e-14)
    assert not torch.allclose(mixed, soil(state(soil_brightness=0.3, soil_wetness=1.4)), atol=0.05)


def test_argument_order_against_the_reference(reference_prosail) -> None:
    # the sparsest canopy (LAI 0.002) is almost bare soil: rsoil (psoil dry + (1 - psoil) wet)
    variables, _, arrays = reference_prosail("prospect-d")
    soil = Soil()
    sparse = int(np.argmin(arrays["in_lai"][:40]))
    seen = torch.from_numpy(arrays["refl"][sparse]).double()
    values = {name: variables[name][sparse] for name in soil.variables}
    assert (soil(values) - seen).abs().max() < 0.01
    swapped = {"soil_brightness": values["soil_wetness"], "soil_wetness": values["soil_brightness"]}
    inverted = values | {"soil_wetness": 1 - values["soil_wetness"]}
    assert (soil(swapped) - seen).abs().max() > 0.02
    assert (soil(inverted) - seen).abs().max() > 0.02


def test_moisture_darkens_towards_saturation() -> None:
    soil = Soil("moisture")
    theta = torch.linspace(0, 0.5, 11, dtype=torch.float64)
    reflectance = soil({"soil_brightness": torch.ones_like(theta), "soil_moisture": theta})
    assert torch.allclose(reflectance[0], soil.dry)
    assert (reflectance.mean(-1).diff() < 0).all()
    share = (reflectance[4] - soil.wet) / (soil.dry - soil.wet)
    assert torch.allclose(share, torch.full_like(share, float(np.exp(-7 * 0.2))), atol=1e-9)


def test_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="dampness"):
        Soil("dampness")
