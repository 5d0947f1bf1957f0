"""Pixels of different sizes in one cube: coarse observations are means over fine pixels, wherever they are used."""

import numpy as np
import pytest
import torch
import xarray as xr
from pyro import poutine

from inference import fit, neural_posterior, posterior, predict, withheld_scores
from inference.objective import hidden_means
from inference.sleep import dream
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import pattern, simulate, withhold
from pi_vae.data.occlusion import occlude
from pi_vae.data.tensors import CubeTensors

FINE, COARSE = ("B03", "B04", "B08"), ("B8A", "B11")


def _coarser(node: xr.Dataset, factor: int) -> xr.Dataset:
    """The same node with larger pixels; the observations are placeholders."""
    over = {"y": factor, "x": factor}
    values = node[["reflectance"]].coarsen(over).mean().reflectance.astype("float32")
    return node.drop_dims(["y", "x"]).assign(reflectance=values, valid=node.valid.coarsen(over).min())


def _cube(size: int = 12, **options) -> xr.DataTree:
    bands = (*FINE, *COARSE, "B09") if "B09" in options.get("bands", ()) else (*FINE, *COARSE)
    cube = pattern(size=size, bands=bands, optical_days=40, radar_days=40, cloudy=0.2)
    s2 = cube["s2"].to_dataset()
    nodes = {"s2_10m": s2.sel(band=list(FINE)), "s2_20m": _coarser(s2.sel(band=list(COARSE)), 2), "s1": cube["s1"]}
    if "B09" in bands:
        nodes["s2_60m"] = _coarser(s2.sel(band=["B09"]), 6)
    return xr.DataTree.from_dict({k: v.to_dataset() if isinstance(v, xr.DataTree) else v for k, v in nodes.items()})


def _model(seed: int = 0, names=("s2_10m", "s2_20m", "s1"), **options) -> PhysicsVAE:
    torch.manual_seed(seed)
    parts = {
        "s2_10m": lambda: Optical(FINE, nodes=1, residual=1),
        "s2_20m": lambda: Optical(COARSE, nodes=1, residual=1),
        "s2_60m": lambda: Optical(["B09"], nodes=1, residual=1),
        "s1": lambda: Radar(residual=1),
    }
    return PhysicsVAE({name: parts[name]() for name in names}, **({"width": 16, "layers": 1} | options)).eval()


@pytest.fixture(scope="module")
def simulated() -> xr.DataTree:
    return simulate(_model(), _cube(), seed=2)


def _tensors(model, cube, **options) -> CubeTensors:
    return CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()}, **options)


def test_simulated_coarse_values_are_means_of_what_fine_pixels_show():
    model = _model()
    with torch.no_grad():
        for modality in model.modalities.values():
            modality.noise.prior_loc.fill_(-14.0)  # nearly no noise
            modality.noise.prior_scale.fill_(1e-3)
    cube = simulate(model, _cube(), seed=2)
    assert cube["s2_20m"].sizes["y"] == 6 and cube["truth"]["lai"].sizes["y"] == 12
    data = _tensors(model, cube)
    assert data.coarsest == 2 and data.finest in ("s2_10m", "s1") and data.shape == (12, 12)
    truth = cube["truth"].to_dataset()
    values = {name: torch.from_numpy(truth[name].values) for name in (*model.dynamic, *model.static)}
    index = data.modalities["s2_20m"].index
    values = {k: v[index].movedim(0, -1) if v.dim() == 3 else v.unsqueeze(-1) for k, v in values.items()}  # [y, x, T]
    angles = {k: g[0] if g.dim() > 1 else g for k, g in data.modalities["s2_20m"].geometry.items()}
    with torch.no_grad():
        signal = model.modalities["s2_20m"].expected(values, angles, {}, None).permute(2, 3, 0, 1)
    signal = signal.numpy() + truth["s2_20m_residual"].values
    means = signal.reshape(*signal.shape[:2], 6, 2, 6, 2).mean((3, 5))
    found = cube["s2_20m"]["reflectance"].values
    assert np.isfinite(found).any() and np.nanmax(np.abs(found - means)) < 1e-4


def test_footprints_are_whole_squares_whatever_the_order():
    model = _model(names=("s2_10m", "s2_20m", "s2_60m", "s1"))
    data = _tensors(model, _cube(bands=("B09",)))
    assert data.coarsest == 6
    batch = data.patches(3, 7, 100, torch.Generator().manual_seed(0))
    assert batch.shape[1:] == (12, 12) and len(batch.pixels) % 36 == 0
    batch.pixels = batch.pixels[torch.randperm(len(batch.pixels))][:-1]
    _, height, width = batch.shape
    for name, side in (("s2_10m", 1), ("s2_20m", 2), ("s2_60m", 6)):
        pixels = batch.pixels[batch.footprints(name)]
        patch, y, x = pixels // (height * width), pixels // width % height // side, pixels % width // side
        assert pixels.shape[1] == side**2 and all((k == k[:, :1]).all() for k in (patch, y, x))
        assert len(pixels) == len(batch.pixels) // side**2  # one fine pixel is missing: one footprint of each is


def test_likelihood_is_that_of_the_mean_over_the_footprint(simulated):
    model = _model()
    batch = _tensors(model, simulated).patches(2, 4, 16, torch.Generator().manual_seed(1))
    with torch.no_grad():
        nodes = poutine.trace(model.model).get_trace(batch).nodes
        drawn = {k: v["value"] for k, v in nodes.items() if v["type"] == "sample"}
        shared = {site: drawn[site] for site in model.globals("prior")}
        mean = model.expected("s2_20m", model.latents(drawn, batch.dates, shared), batch, shared)
    members = batch.footprints("s2_20m")
    assert len(members) == len(batch.pixels) // 4
    by_hand = torch.stack([mean[list(m)].mean(0) for m in members.tolist()])
    assert torch.allclose(nodes["s2_20m"]["fn"].base_dist.base_dist.loc, by_hand, atol=1e-6)
    seen = batch.modalities["s2_20m"]
    for corner in members.T:  # every fine pixel of a footprint was given the observation of the whole
        assert torch.equal(seen.series(batch.pixels)[corner], nodes["s2_20m"]["value"])


def test_mini_batches_count_every_coarse_pixel_alike(simulated):
    model = _model()
    data, generator = _tensors(model, simulated), torch.Generator().manual_seed(3)
    total = {
        name: float((m.values[0] * m.seen[0].unsqueeze(1)).sum()) / m.factor**2 for name, m in data.modalities.items()
    }
    estimates = {name: [] for name in total}
    for _ in range(600):
        batch = data.patches(2, 4, 12, generator)
        for name, seen in batch.modalities.items():
            pixels = batch.pixels[batch.footprints(name)[:, 0]]
            part = (seen.series(pixels) * seen.mask(pixels).unsqueeze(-1)).sum()
            estimates[name].append(float(batch.scale * part))
    for name, values in estimates.items():
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values) - total[name]) < 4 * error and error < 0.05 * abs(total[name])


def test_hidden_coarse_pixels_are_hidden_and_scored_as_a_whole(simulated):
    model, generator = _model(), torch.Generator().manual_seed(0)
    batch = occlude(_tensors(model, simulated).patches(2, 6, 36, generator), generator, blocks=1.0)
    seen = batch.modalities["s2_20m"].seen
    squares = seen.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    assert (squares == squares[..., :1, :, :1]).all() and not seen.all()
    with torch.no_grad():
        shared = model.draw_globals()
        drawn = model.posterior(model.encode(batch), batch.dates, shared).rsample((3,))
        latents = model.latents(drawn, batch.dates, shared)
        mean, values = hidden_means(model, "s2_20m", batch, latents, shared)
        fine = model.expected("s2_20m", latents, batch, shared)
    members = batch.footprints("s2_20m")
    observed = batch.modalities["s2_20m"]
    hidden = (observed.mask(batch.pixels, "valid") & ~observed.mask(batch.pixels))[members[:, 0]]
    assert hidden.any() and mean.shape == (3, int(hidden.sum()), 2)
    assert torch.allclose(mean, fine[:, members].mean(2)[:, hidden], atol=1e-5)
    assert torch.equal(values, observed.series(batch.pixels)[members[:, 0]][hidden])


def test_a_dream_shows_coarse_pixels_as_one(simulated):
    model = _model()
    batch = _tensors(model, simulated).patches(2, 6, 36, torch.Generator().manual_seed(0))
    with torch.no_grad():
        imagined = dream(model, batch, model.draw_globals())[1]
    for name, one in (("s2_20m", True), ("s2_10m", False)):
        values = imagined.modalities[name].values.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
        assert bool((values == values[..., :1, :, :1]).all()) is one


def test_a_cube_of_two_resolutions_from_fit_to_maps(simulated, tmp_path):
    cube = withhold(simulated, 0.2, block=2)
    run = fit(_model(1), cube, steps=6, patches=2, patch_size=6, pixels=32, progress=False)
    neural_posterior(run, cube, steps=2, patch_size=6, pixels=32, progress=False)
    scores = withheld_scores(run, cube, draws=8, tile=5)
    assert scores["s2_20m"]["n"] == int(cube["s2_20m"].withheld.sum()) and np.isfinite(scores["s2_20m"]["coverage_90"])
    tree = posterior(run, cube, draws=6, pixels=[(0, 0), (7, 5)])
    assert np.isnan(tree["log_likelihood"]["s2_20m"]).all() and np.isfinite(tree["log_likelihood"]["s2_10m"]).any()
    assert np.array_equal(tree["posterior"].y, cube["s2_10m"].y.values[[0, 7]])
    maps = predict(run, cube, tmp_path / "maps", draws=4, tile=5)
    assert maps["s2_20m_mean"].sizes["y"] == 12 and np.isfinite(maps.lai_mean).all()
    with pytest.raises(ValueError, match="share observations of 's2_20m'"):
        posterior(run, cube, draws=6, pixels=[(0, 0)], refine="chains", chains=1)


@pytest.mark.slow
def test_coarse_data_alone_tell_the_coarse_mean_and_invent_no_detail():
    """Only 20 m bands are seen: the mean over their pixels is found, and at 10 m intervals say what is not known."""
    names = ("s2_10m", "s2_20m")
    with torch.no_grad():
        cube = simulate(_model(names=names), _cube(size=20).drop_nodes("s1"), seed=5)
    nodes = {name: node.to_dataset() for name, node in cube.children.items()}
    nodes["s2_10m"]["withheld"] = nodes["s2_10m"]["valid"]
    blind = xr.DataTree.from_dict(nodes)
    few = {"patch_size": 10, "pixels": 100, "progress": False, "seed": 1}
    run = fit(_model(1, names), blind, steps=40, patches=1, **few)
    known = {k[7:]: torch.from_numpy(v.values) for k, v in cube["truth"].data_vars.items() if k.startswith("global_")}
    run.model.draw_globals = lambda which="posterior": known  # what is judged is the guide
    neural_posterior(run, blind, steps=200, **few)
    tree = posterior(run, blind, draws=60, pixels=[(r, c) for r in range(20) for c in range(20)])
    drawn = tree["posterior"].to_dataset()[["lai"]]
    dates = np.isin(drawn.time, cube["s2_20m"].time[cube["s2_20m"].valid.values.all((1, 2))])

    def squares(field: np.ndarray) -> np.ndarray:
        """`[..., y * x]` -> `[..., square, pixel]`."""
        parts = field.reshape(*field.shape[:-1], 10, 2, 10, 2)
        return np.moveaxis(parts, -2, -3).reshape(*field.shape[:-1], 100, 4)

    mean = squares(drawn.lai.mean(("chain", "draw")).values[:, dates].T)
    truth = squares(cube["truth"].lai.values[dates].reshape(int(dates.sum()), -1))
    skill = np.corrcoef(mean.mean(-1).ravel(), truth.mean(-1).ravel())[0, 1]
    detail = (mean - mean.mean(-1, keepdims=True)).std() / (truth - truth.mean(-1, keepdims=True)).std()
    spread = drawn.lai.std(("chain", "draw")).values[:, dates].mean()
    assert skill > 0.6 and detail < 0.2
    assert spread > 0.8 * (truth - truth.mean(-1, keepdims=True)).std()
