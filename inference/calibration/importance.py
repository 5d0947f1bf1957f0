r"""How far the guide is from the posterior: Pareto k-hat of its importance ratios, pixel by pixel.

For draws :math:`z_s \sim q(z \mid x)` of all local latents of a pixel, given one set of global latents, the log ratios

.. math:: \log r_s = \log p(x, z_s) - \log q(z_s)

would be constant if the guide were the posterior. Their upper tail is fitted by a generalised Pareto distribution,
whose shape :math:`\hat k` says whether importance sampling can repair the guide: below
:math:`\min(1 - 1 / \log_{10} S, 0.7)` it can, above 1 the guide misses mass (Vehtari et al. 2024, Pareto smoothed
importance sampling, JMLR 25; Yao et al. 2018, Yes, but did it work?). The fit and the smoothed weights are
`psislw` of ArviZ (`arviz_stats.base.array_stats`).

A pixel has some hundred latents, so a large :math:`\hat k` of the joint ratios does not mean that the margin of one
variable is wrong; a small one means that all of them are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from arviz_stats.base import array_stats
from torch import Tensor

from inference.draws import seeded
from inference.posterior import choose_pixels, pixel_location
from inference.training import Run
from pi_vae import PhysicsVAE
from pi_vae.data import validate
from pi_vae.data.batches import Batch
from pi_vae.data.tensors import CubeTensors

__all__ = ["importance", "log_joint", "refine", "smoothed_weights"]

MEMORY = 4e6  # latents of all draws of a chunk of pixels
ROUNDING = 5e-3  # of log densities of hundreds of nats in float32


def importance(
    run: Run, cube: xr.DataTree, draws: int = 1000, pixels: int | list[tuple[int, int]] | None = None, seed: int = 0
) -> xr.Dataset:
    """Pareto k-hat of the guide for every pixel.

    Args:
        run: a fitted run.
        cube: a valid cube; observations marked ``withheld`` are not used.
        draws: of the local latents of each pixel.
        pixels: as for `inference.posterior`.
        seed: of the draws, of the set of global latents (one for all pixels) and of the choice of pixels.

    Returns:
        Dataset over ``pixel``: ``khat``, ``effective`` (effective number of draws after weighting), ``reliable`` (bool,
        k-hat below ``attrs["threshold"]``; -inf where the guide is the
        posterior) and ``elbo`` (mean log ratio, nats, whose difference between guides of the
        same model is that of their divergences from the posterior).

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: fewer than 100 draws, or a pixel lies outside the cube.
    """
    parts = [(khat, effective, elbo) for *_, (khat, effective, elbo, _) in _chunks(run, cube, draws, pixels, seed)]
    khat, effective, elbo = (np.concatenate(column) for column in zip(*parts, strict=True))
    location, _ = _places(run, cube, pixels, seed)
    return _diagnostics(khat, effective, draws).assign(elbo=("pixel", elbo, {"units": "nat"})).assign_coords(location)


def refine(
    run: Run,
    cube: xr.DataTree,
    draws: int = 200,
    candidates: int = 2000,
    pixels: int | list[tuple[int, int]] | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Draws of the variables, corrected by importance resampling with Pareto-smoothed weights.

    Every pixel takes ``draws`` out of ``candidates`` draws of the guide, with replacement, by systematic resampling
    (Carpenter et al. 1999). Where ``reliable`` is false the correction leans on a few draws, and the guide's own draws
    (`inference.posterior`) are no worse.

    Args:
        run, cube, pixels, seed: as for `importance`.
        draws: to return.
        candidates: to choose from.

    Returns:
        DataTree with the groups ``posterior`` (variables `(chain, draw, pixel, time)` or `(chain, draw, pixel)`) and
        ``sample_stats`` (``khat``, ``effective`` and ``reliable`` by pixel).

    Raises:
        CubeError, ValueError: as for `importance`.
    """
    model, rng = run.model, np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {}
    stats: list[tuple[np.ndarray, np.ndarray]] = []
    for drawn, dates, shared, (khat, effective, _, weights) in _chunks(run, cube, candidates, pixels, seed):
        index = torch.from_numpy(_systematic(weights, draws, rng))
        columns = torch.arange(index.shape[1])
        chosen = {site: value[index, columns] for site, value in drawn.items()}
        for name, value in model.variables(model.latents(chosen, dates, shared)).items():
            kept.setdefault(name, []).append((value if model.catalogue[name].dynamic else value.squeeze(-1)).numpy())
        stats.append((khat, effective))
    location, times = _places(run, cube, pixels, seed)
    variables = {}
    for name, parts in kept.items():
        variable = model.catalogue[name]
        dims = ("chain", "draw", "pixel", "time") if variable.dynamic else ("chain", "draw", "pixel")
        attrs = {"units": variable.unit, "long_name": variable.long_name}
        variables[name] = (dims, np.concatenate(parts, 1)[None], attrs)
    khat, effective = (np.concatenate(column) for column in zip(*stats, strict=True))
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(variables, {"time": times}).assign_coords(location),
            "sample_stats": _diagnostics(khat, effective, candidates).assign_coords(location),
        }
    )


def log_joint(model: PhysicsVAE, batch: Batch, drawn: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
    """Log density of the seen observations and the local latents of every pixel, given the global ones.

    Args:
        model: the model.
        batch: its `batch.pixels` are scored.
        drawn: local latents by site name, `[*draws, pixel, ...]`.
        shared: global latents by site name.

    Returns:
        `[*draws, pixel]` in nats; the priors of the global latents are not part of it.
    """
    model.check_pixelwise()
    priors = model.priors(batch.dates, shared)
    total = sum((prior.log_prob(drawn[site]) for site, prior in priors.items()), torch.zeros(()))
    latents = model.latents(drawn, batch.dates, shared)
    for name, observations in batch.modalities.items():
        mean = model.expected(name, latents, batch, shared)
        likelihood = model.modalities[name].likelihood(mean, shared[f"{name}_noise"])
        score = likelihood.log_prob(observations.series(batch.pixels))
        total = total + torch.where(observations.scored(batch.pixels), score, 0.0).sum((-2, -1))
    return total


def smoothed_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pareto-smoothed importance weights of `[draw, pixel]` log ratios.

    Returns:
        `[draw, pixel]` weights that sum to 1 over the draws, `[pixel]` k-hat, and `[pixel]` effective number of draws,
        one over the sum of squared weights. Draws of log ratio -inf or NaN get no weight. Where the ratios are all
        equal, k-hat is -inf.
    """
    ratios = np.where(np.isfinite(log_ratios), log_ratios, -1e10).astype(np.float64)
    ratios = ratios - ratios.max(0)
    weights, khat = np.zeros_like(ratios), np.full(ratios.shape[1], -np.inf)
    # Where the guide is the posterior, ratios differ by rounding alone, and rounding must not be fitted.
    uneven = np.ptp(ratios, axis=0) > ROUNDING
    if uneven.any():
        # it takes log likelihoods, whose importance ratios are the inverse
        smoothed, khat[uneven] = array_stats.psislw(-ratios[:, uneven], axis=0)
        weights[:, uneven] = np.moveaxis(smoothed, -1, 0)
    weights = np.exp(weights - weights.max(0))
    weights /= weights.sum(0)
    return weights, np.asarray(khat), 1 / (weights**2).sum(0)


def _chunks(run: Run, cube: xr.DataTree, draws: int, pixels, seed: int) -> Iterator[tuple]:
    """Draws, union dates, global latents, and (k-hat, effective, ELBO, weights) of one chunk of pixels at a time."""
    if draws < 100:
        raise ValueError(f"{draws} draws: the tail of importance ratios takes 100 at least.")
    validate(cube)
    model = run.model
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    rows, columns = choose_pixels(pixels, data, seed)
    with seeded(seed):
        shared = model.draw_globals()
        size = len(data.dates) * (len(model.dynamic) + 3 * len(model.modalities)) * draws
        for chunk in torch.arange(len(rows)).split(max(1, int(MEMORY // size))):
            batch = data.at(rows[chunk], columns[chunk], model.encoder.radius)
            posterior = model.posterior(model.encode(batch), batch.dates, shared)
            parts, ratios = [], []
            for count in _split(draws, 50):
                drawn = posterior.rsample((count,))
                density = sum(posterior.conditional(s, drawn).log_prob(drawn[s]) for s in posterior.names)
                ratios.append(log_joint(model, batch, drawn, shared) - density)
                parts.append(drawn)
            joined = {site: torch.cat([part[site] for part in parts]) for site in parts[0]}
            log_ratios = torch.cat(ratios).double().numpy()
            weights, khat, effective = smoothed_weights(log_ratios)
            yield joined, batch.dates, shared, (khat, effective, log_ratios.mean(0), weights)


def _split(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _diagnostics(khat: np.ndarray, effective: np.ndarray, draws: int) -> xr.Dataset:
    threshold = min(1 - 1 / math.log10(draws), 0.7)
    return xr.Dataset(
        {
            "khat": ("pixel", khat, {"long_name": "Pareto k-hat of the guide's importance ratios"}),
            "effective": ("pixel", effective, {"long_name": "effective number of draws after weighting"}),
            "reliable": ("pixel", khat < threshold),
        },
        attrs={"threshold": threshold, "draws": draws},
    )


def _systematic(weights: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """`[draw, pixel]` indices of resampled candidates, in random order."""
    marks = (np.arange(draws)[:, None] + rng.uniform(size=weights.shape[1])) / draws
    edges = np.cumsum(weights, 0)
    picks = [np.searchsorted(edges[:, i], marks[:, i]).clip(max=len(weights) - 1) for i in range(weights.shape[1])]
    return rng.permuted(np.stack(picks, 1), axis=0)


def _places(run: Run, cube: xr.DataTree, pixels, seed: int) -> tuple[dict, np.ndarray]:
    """Coordinates of the pixels chosen, and the union dates."""
    data = CubeTensors.read(cube, {name: m.channels for name, m in run.model.modalities.items()})
    rows, columns = choose_pixels(pixels, data, seed)
    return pixel_location(cube, data, rows, columns), data.times
