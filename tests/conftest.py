"""A small model and a cube drawn from its prior, shared by the tests of fits, posteriors and maps."""

import pytest
import torch
import xarray as xr

from inference import Run
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate

BANDS = ("B03", "B04", "B08")


@pytest.fixture(scope="session")
def build():
    """Builder of small models: same seed, same weights."""

    def model(seed=0, residual=1, modalities=("s2", "s1"), **options) -> PhysicsVAE:
        torch.manual_seed(seed)
        parts = {"s2": lambda: Optical(BANDS, nodes=1, residual=residual), "s1": lambda: Radar(residual=residual)}
        return PhysicsVAE({name: parts[name]() for name in modalities}, **({"width": 16, "layers": 1} | options))

    return model


@pytest.fixture(scope="session")
def simulated(build):
    """10 x 12 pixels: 7 optical and 6 radar dates drawn from the prior; pixel (0, 0) is never seen. Do not change."""
    cube = pattern(size=12, bands=BANDS)
    nodes = {"s2": cube["s2"].to_dataset().isel(time=slice(0, 19, 3), y=slice(10)),
             "s1": cube["s1"].to_dataset().isel(time=slice(0, 31, 6), y=slice(10))}  # fmt: skip
    for node in nodes.values():
        node["valid"] = node["valid"].copy()
        node["valid"][1:, 7:, 9:] = False
        node["valid"][:, 0, 0] = False
    return simulate(build(), xr.DataTree.from_dict(nodes))


@pytest.fixture
def run(build) -> Run:
    """A model nobody trained, as a run; its encoder says something all the same."""
    return Run(build().eval())
