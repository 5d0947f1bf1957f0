"""A cube drawn from the model's own prior is recovered: the whole chain, against a known truth."""

import numpy as np
import pytest
import torch

from inference import fit, posterior
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def _model():
    return PhysicsVAE({"s2": Optical(bands=BANDS), "s1": Radar()})


@pytest.mark.slow
def test_lai_is_recovered_with_honest_intervals():
    torch.manual_seed(1)
    cube = simulate(_model(), pattern(size=48, bands=BANDS, optical_days=30, radar_days=30), seed=1)
    torch.manual_seed(2)
    run = fit(_model(), cube, steps=600, pixels=256, seed=2, progress=False)
    tree = posterior(run, cube, draws=100, pixels=400, seed=0)
    lai = cube["truth"].to_dataset()["lai"].transpose("y", "x", "time").values
    truth = lai[tree.posterior.pixel_row.values, tree.posterior.pixel_column.values]
    draws = tree.posterior["lai"].isel(chain=0).transpose("pixel", "time", "draw").values
    r2 = 1 - ((draws.mean(-1) - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    low, high = np.quantile(draws, [0.05, 0.95], axis=-1)
    coverage = ((truth >= low) & (truth <= high)).mean()
    print(f"LAI R2 {r2:.3f}, 90 % coverage {coverage:.3f}")
    assert r2 >= 0.8
    assert 0.85 <= coverage <= 0.95
