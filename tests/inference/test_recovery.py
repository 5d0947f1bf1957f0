"""A cube drawn from the model's own prior is recovered: the whole chain, against a known truth."""

import pytest
import torch

from inference import fit, posterior
from inference.calibration import at_pixels, coverage
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def _model():
    return PhysicsVAE({"s2": Optical(bands=BANDS), "s1": Radar()})


@pytest.mark.slow
def test_lai_is_recovered_with_honest_intervals():
    torch.manual_seed(1)
    cube = simulate(_model(), pattern(size=60, bands=BANDS, optical_days=30, radar_days=30), seed=1)
    torch.manual_seed(2)
    run = fit(_model(), cube, steps=600, seed=2, progress=False)
    drawn = posterior(run, cube, draws=100, pixels=400, seed=0)["posterior"].to_dataset()[["lai"]]
    truth = at_pixels(cube["truth"].to_dataset(), drawn)
    error, spread = drawn.lai.mean(("chain", "draw")) - truth.lai, truth.lai - truth.lai.mean()
    r2 = 1 - float((error**2).sum() / (spread**2).sum())
    held = coverage(drawn, truth, levels=(0.9,)).coverage.item()
    print(f"LAI R2 {r2:.3f}, 90 % coverage {held:.3f}")
    assert r2 >= 0.8
    assert 0.85 <= held <= 0.95
