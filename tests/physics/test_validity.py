"""Ranges of the empirical models: flags are exact, the report comes once and costs nothing after."""

import logging

import pytest
import torch

from pi_vae.physics import WaterCloud, dobson1985, dubois1995, hallikainen1985, mironov2009, oh1992, oh2004, topp1980
from pi_vae.physics.dielectric import topp1980_inverse
from pi_vae.physics.validity import RANGES, forget, outside, report


@pytest.fixture(autouse=True)
def _anew() -> None:
    forget()


def sentences(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pi_vae.physics.validity"]


MODELS = {
    "oh2004": lambda x: oh2004(x["mv"], x["ks"], x["incidence"]),
    "oh1992": lambda x: oh1992(torch.full_like(x["ks"], 10.0), x["ks"], x["incidence"]),
    "dubois1995": lambda x: dubois1995(torch.full_like(x["ks"], 10.0), x["ks"], x["incidence"], x["frequency_ghz"]),
    "mironov2009": lambda x: mironov2009(x["mv"], x["clay"], x["frequency_ghz"]),
    "hallikainen1985": lambda x: hallikainen1985(x["mv"], x["sand"], x["clay"], 5.4),
    "dobson1985": lambda x: dobson1985(x["mv"], x["sand"], x["clay"], 1.4, x["frequency_ghz"]),
    "topp1980": lambda x: topp1980(x["mv"]),
    "topp1980_inverse": lambda x: topp1980_inverse(x["eps"]),
}


def middle(model: str) -> dict:
    values = {name: (low + high) / 2 for name, (low, high, _) in RANGES[model].items()}
    return {name: v if name == "frequency_ghz" else torch.full((3,), v) for name, v in values.items()}


@pytest.mark.parametrize(("model", "name"), [(model, name) for model in RANGES for name in RANGES[model]])
def test_every_model_says_once_which_input_left_its_range(model: str, name: str, caplog) -> None:
    caplog.set_level(logging.WARNING)
    inputs = middle(model)
    MODELS[model](inputs)
    assert sentences(caplog) == []
    low, high, _ = RANGES[model][name]
    for beyond in (high + 0.1 * (high - low), max(low - 0.1 * (high - low), 1e-3) if low > 0 else high * 1.2):
        wrong = beyond if name == "frequency_ghz" else torch.tensor([inputs[name][0], beyond, inputs[name][0]])
        MODELS[model](inputs | {name: wrong})
    found = sentences(caplog)
    assert len(found) == 1 and found[0].startswith(f"{model}: {name} is ") and f"{low:g}..{high:g}" in found[0]


def test_flags_name_the_samples() -> None:
    mv = torch.tensor([0.03, 0.1, 0.4, float("nan")])
    assert outside("oh2004", mv=mv, incidence=35.0).tolist() == [True, False, True, True]
    assert outside("oh2004", mv=mv[1], ks=torch.tensor([[1.0], [9.0]]), incidence=torch.tensor([5.0, 35.0])).tolist() \
        == [[True, False], [True, True]]  # fmt: skip


def test_the_operator_flags_pixels_and_dates() -> None:
    variables = {
        "lai": torch.ones(2, 1),
        "soil_moisture": torch.tensor([0.1, 0.2, 0.45]),
        "roughness": torch.ones(2, 1),
    }
    variables |= {name: torch.tensor(0.1) for name in ("a_vv", "a_vh", "b_vv", "b_vh")}
    geometry = {"incidence": torch.tensor([[38.0], [75.0]])}
    assert WaterCloud().outside(variables, geometry).tolist() == [[False, False, True], [True, True, True]]
    assert WaterCloud("oh1992").outside(variables, geometry).tolist() == [[False] * 3, [True] * 3]


def test_nothing_is_looked_at_once_it_was_said(monkeypatch) -> None:
    looked = []
    monkeypatch.setattr(torch, "aminmax", lambda x, f=torch.aminmax: (looked.append(1), f(x))[1])
    wet = torch.full((4,), 0.4)
    for _ in range(5):
        report("oh2004", mv=wet)
    assert len(looked) == 1


def test_transforms_pass_and_the_flag_works_inside_them() -> None:
    mv = torch.tensor([0.1, 0.4])
    rest = torch.tensor(1.0), torch.tensor(35.0)
    slopes = torch.func.vmap(torch.func.grad(lambda m: oh2004(m, *rest)[0]))(mv)
    assert torch.isfinite(slopes).all() and slopes.shape == (2,)
    assert torch.func.vmap(lambda m: outside("oh2004", mv=m))(mv).tolist() == [False, True]
    assert oh2004(torch.empty(0), *rest)[0].shape == (0,)


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="oh2005"):
        outside("oh2005", mv=0.1)
    with pytest.raises(ValueError, match="incidence"):
        outside("oh2004", clay=0.1)
