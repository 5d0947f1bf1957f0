"""Sheets over the pixels of a patch: density and draws against the dense normal distribution, and models with them."""

import math

import pytest
import torch

from inference import Run, fit, learn_globals, load, posterior
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate
from pi_vae.priors import SpatialPrior, TemporalGP

SHAPE = (2, 3, 4)
PIXELS = torch.tensor([0, 1, 5, 11, 12, 17, 23])
DATES = torch.tensor([0.0, 4.0, 30.0, 31.0], dtype=torch.float64)
REACH = torch.tensor([2.0, 5.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def temporal():
    days, odds = torch.tensor([10.0, 40.0], dtype=torch.float64), torch.tensor([0.5, 0.1], dtype=torch.float64)
    return TemporalGP(backend="dense").prior(DATES, days, odds)


@pytest.fixture(scope="module")
def sheet(temporal):
    return SpatialPrior(temporal, REACH, PIXELS, SHAPE)


def _covariance(temporal, process):
    """`[N T, N T]` of one process, pixel by pixel."""
    places = [(p // 12, p // 4 % 3, p % 4) for p in PIXELS.tolist()]
    space = torch.tensor(
        [
            [0.0 if a[0] != b[0] else -(abs(a[1] - b[1]) + abs(a[2] - b[2])) / float(REACH[process]) for b in places]
            for a in places
        ],
        dtype=torch.float64,
    ).exp()
    space = space * torch.tensor([[float(a[0] == b[0]) for b in places] for a in places], dtype=torch.float64)
    space = (1 - 1e-4) * space + 1e-4 * torch.eye(len(places), dtype=torch.float64)
    return torch.kron(space, temporal.covariance[process])


def test_the_densities_of_all_pixels_sum_to_that_of_the_whole(sheet, temporal):
    value = sheet.sample()
    assert value.shape == (7, 2, 4)
    whole = 0.0
    for k in range(2):
        dense = torch.distributions.MultivariateNormal(
            torch.zeros(28, dtype=torch.float64), covariance_matrix=_covariance(temporal, k)
        )
        whole = whole + dense.log_prob(value[:, k].flatten())
    torch.testing.assert_close(sheet.log_prob(value).sum(), whole, rtol=1e-8, atol=1e-8)


def test_draws_have_that_covariance(sheet, temporal):
    torch.manual_seed(0)
    drawn = sheet.rsample((20_000,))
    for k in range(2):
        found = drawn[:, :, k].flatten(1).T.cov()
        torch.testing.assert_close(found, _covariance(temporal, k), rtol=0, atol=0.05)


def test_a_pixel_without_neighbours_has_the_temporal_prior(temporal):
    alone = SpatialPrior(temporal, REACH, torch.arange(5), (5, 1, 1))
    value = alone.sample()
    torch.testing.assert_close(alone.log_prob(value), temporal.expand([5]).log_prob(value), rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="A prior of 5 pixels cannot be that of"):
        alone.expand([3])


def _model(smoothness):
    torch.manual_seed(0)
    bands = ("B03", "B04", "B08")
    modalities = {
        "s2": Optical(bands, nodes=1, residual=0, transient=1, smoothness=smoothness),
        "s1": Radar(residual=1, smoothness=smoothness),
    }
    return PhysicsVAE(modalities, width=16, layers=1)


@pytest.fixture(scope="module")
def cube():
    return simulate(_model(8.0), pattern(20, ("B03", "B04", "B08"), optical_days=40, radar_days=40), seed=1)


def _neighbours(field):
    """Correlation of neighbouring columns, at the same date and channel."""
    left, right = field[..., :-1], field[..., 1:]
    return float(((left - left.mean()) * (right - right.mean())).mean() / field.var())


def test_simulated_residuals_are_smooth_where_asked(cube):
    for name in ("s1", "s2"):
        reach = cube["truth"][f"global_{name}_reach"].item()
        assert _neighbours(cube["truth"][f"{name}_residual"].values) == pytest.approx(math.exp(-1 / reach), abs=0.15)
    empty = pattern(20, ("B03", "B04", "B08"), optical_days=40, radar_days=40)
    apart = simulate(_model(0.0), empty, seed=1)["truth"]["s1_residual"].values
    assert abs(_neighbours(apart)) < 0.15


def test_a_fit_learns_the_reach_and_its_checkpoint_keeps_it(cube, tmp_path):
    model = _model(3.0)
    before = model.modalities["s1"].residual.reach.median.detach().clone()
    terms = ("cross_reconstruction", "minimality")
    fit(model, cube, steps=12, pixels=60, patches=1, patch_size=12, terms=terms, checkpoint=tmp_path, progress=False)
    again = load(tmp_path).model
    assert again.settings["modalities"]["s1"]["smoothness"] == 3.0
    reach = again.modalities["s1"].residual.reach.median
    assert torch.isfinite(reach).all() and not torch.equal(reach, before)
    tree = posterior(Run(model), cube, draws=4, pixels=3)
    assert tree["posterior"]["global_s1_reach"].attrs["units"] == "pixel"


def test_what_takes_pixels_one_by_one_refuses(cube):
    run = Run(_model(3.0))
    for ask in (
        lambda: posterior(run, cube, draws=20, pixels=2, refine="chains"),
        lambda: learn_globals(run, cube, 10),
    ):
        with pytest.raises(ValueError, match="'s2' is smooth in space, and this takes pixels one by one"):
            ask()
    with pytest.raises(ValueError, match="smoothness=-1.0: give a distance"):
        Radar(smoothness=-1.0)
