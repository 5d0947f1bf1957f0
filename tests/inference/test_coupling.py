"""A law in the operator: exactly the law, in its channel, its coefficients with the prior that discovery gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.discovery import Law, Laws, couple
from pi_vae import PhysicsVAE, Radar
from pi_vae.law import parse


@pytest.fixture(scope="module")
def laws(leafy: Law) -> Laws:
    return Laws("s1", (leafy,), leafy.null)


@pytest.fixture(scope="module")
def model() -> PhysicsVAE:
    return PhysicsVAE({"s1": Radar()}, width=16, layers=1)


def test_constants_beyond_the_largest_float_are_written_out(laws: Laws) -> None:
    steep = {"form": parse("1/(1 + exp(c0 - c1*lai))", ("lai", "c0", "c1")), "coefficients": {"c0": 1e4, "c1": 4e3}}
    text = str(Law(**laws.best[0].__dict__ | steep))
    assert "oo" not in text and "e+4342" in text


def test_coupling_adds_exactly_the_law(model: PhysicsVAE, laws: Laws) -> None:
    coupled = couple(model, laws, widen=0.0)
    assert len(model.modalities["s1"].laws) == 0 and len(coupled.modalities["s1"].laws) == 1
    low, high = laws.best[0].ranges["lai"]
    lai = torch.linspace(low, high, 12).reshape(2, 6).requires_grad_()
    variables = {"lai": lai, "soil_moisture": torch.full((2, 6), 0.2), "roughness": torch.ones(2, 1)}
    coefficients = model.modalities["s1"].coefficients.prior_loc.exp()
    geometry = {"incidence": torch.full((6,), 38.9)}
    before, after = (m.modalities["s1"].expected(variables, geometry, {}, coefficients) for m in (model, coupled))
    expected = laws.best[0].evaluate({"lai": lai.detach().numpy()})
    np.testing.assert_allclose((after - before)[..., 0].detach(), expected, atol=1e-5)
    np.testing.assert_array_equal((after - before)[..., 1].detach(), 0)
    after.sum().backward()
    assert torch.isfinite(lai.grad).all()
    term = coupled.modalities["s1"].laws[0]
    assert (term.shift.grad != 0).all()
    known = term.prior().covariance_matrix.double().numpy()
    np.testing.assert_allclose(known, laws.best[0].covariance, rtol=0.05, atol=1e-5)
    wider = couple(model, laws).modalities["s1"].laws[0].prior().variance
    values = torch.tensor(list(laws.best[0].coefficients.values()))
    torch.testing.assert_close(wider - term.prior().variance, (0.3 * values) ** 2, rtol=1e-3, atol=1e-7)


def test_a_law_without_coefficients_couples_and_has_one_curve(model: PhysicsVAE, laws: Laws) -> None:
    plain = {"form": parse("lai**2", ("lai",)), "coefficients": {}, "covariance": ()}
    law = Law(**laws.best[0].__dict__ | plain)
    assert law.evaluate_draws({"lai": np.array([1.0, 2.0])}, draws=3).tolist() == [[1.0, 4.0]] * 3
    assert not any("law" in site for site in couple(model, law).globals("prior"))


def test_no_law_couples_to_an_equal_copy(model: PhysicsVAE) -> None:
    assert couple(model, Laws("s1", (), ())).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "s2"}, "modality 's2'"),
        ({"channel": "HH"}, "channel 'HH'"),
        ({"units": {"day_of_year": "day"}}, "'day_of_year', which the model does not give"),
    ],
)
def test_laws_that_do_not_fit_the_model(model: PhysicsVAE, laws: Laws, changes: dict, message: str) -> None:
    law = Law(**laws.best[0].__dict__ | changes)
    with pytest.raises(ValueError, match=message):
        couple(model, law)
