"""DoubleLogistic: limits, half-rise, derivatives, refusals."""

import pytest
import torch

from pi_vae.physics import DoubleLogistic

SEASON = dict(base=0.5, amplitude=4.0, start=120.0, end=250.0, rate_up=0.15, rate_down=0.12)


def season(**changes: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in (SEASON | changes).items()}


def test_base_plateau_and_half_rise() -> None:
    time = torch.tensor([0.0, 120.0, 185.0, 250.0, 365.0], dtype=torch.float64)
    expected = torch.tensor([0.5, 2.5, 4.5, 2.5, 0.5], dtype=torch.float64)
    assert torch.allclose(DoubleLogistic()(season(), time), expected, atol=3e-3)


def test_steepest_rise_is_a_quarter_of_amplitude_times_rate() -> None:
    time = torch.tensor(120.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(DoubleLogistic()(season(), time), time)
    assert float(slope) == pytest.approx(4.0 * 0.15 / 4, rel=1e-5)


def test_pixels_and_dates_broadcast_and_derivatives_match() -> None:
    time = torch.linspace(0, 365, 8, dtype=torch.float64)
    names = DoubleLogistic.variables
    inputs = [v.expand(3, 1).clone().requires_grad_() for v in season().values()]
    lai = DoubleLogistic()(dict(zip(names, inputs, strict=True)), time)
    assert lai.shape == (3, 8)
    assert torch.autograd.gradcheck(lambda *x: DoubleLogistic()(dict(zip(names, x, strict=True)), time), inputs)


def test_refuses_missing_parameters() -> None:
    with pytest.raises(ValueError, match="rate_up"):
        DoubleLogistic()({k: v for k, v in season().items() if k != "rate_up"}, torch.zeros(1))
