"""Scores on withheld observations, beside the baselines on the same samples."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from inference.baselines import date_mean, linear_interpolation
from inference.draws import fair_quantile, groups, present, seeded
from inference.objective import hidden_means
from inference.training import Run
from pi_vae.data import validate
from pi_vae.data.tensors import CubeTensors

__all__ = ["withheld_scores"]


def withheld_scores(run: Run, cube: xr.DataTree, draws: int = 128, tile: int = 50, seed: int = 0) -> dict[str, dict]:
    """Skill of the posterior predictive on the observations that `pi_vae.data.occlusion.withhold` marked.

    Args:
        run: a run fitted to the same cube.
        cube: the cube with its ``withheld`` masks.
        draws: predictive draws per observation.
        tile: side of the tiles worked on, in pixels.
        seed: of the draws.

    Returns:
        modality -> ``n``, ``rmse`` (by channel; reflectance or dB), ``coverage_50`` and ``coverage_90`` (share of
        observations inside the central intervals, over all channels), both also ``_by_channel``, ``width_90`` (mean
        width by channel), ``log_density`` (log posterior predictive density of an observation, all its channels
        together, mean over observations, in nats: what two models of the same cube are compared by),
        ``baselines.linear`` and ``baselines.date_mean`` (rmse by channel).

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: a modality has no withheld observation.
    """
    validate(cube)
    model = run.model
    data = CubeTensors.read(cube, present(model, cube), score_withheld=True, partial=True)
    collected: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in data.modalities}
    with seeded(seed):
        for _, _, batch in data.tiles(tile, model.encoder.radius):
            per_modality: dict[str, list] = {name: [] for name in data.modalities}
            for group in groups(model, batch, draws):
                for name in data.modalities:
                    mean, values = hidden_means(model, name, batch, group.latents, group.shared)
                    noise = group.shared[f"{name}_noise"]
                    likelihood = model.modalities[name].likelihood(mean, noise)
                    density = (likelihood.log_prob(values) * data.modalities[name].given).sum(-1)
                    per_modality[name].append((mean, likelihood.sample(), density, values))
            for name, parts in per_modality.items():
                means, predictive, density = (torch.cat([p[i] for p in parts]) for i in range(3))
                if means.numel():
                    quantiles = fair_quantile(predictive, [0.05, 0.25, 0.75, 0.95])
                    density = density.logsumexp(0) - math.log(len(density))
                    collected[name].append((parts[0][3], means.mean(0), quantiles, density))
    scores = {}
    for name, parts in collected.items():
        if not parts:
            raise ValueError(
                f"Node {name!r} of the cube has no withheld observation to score: mark some with "
                "pi_vae.data.withhold before the fit."
            )
        given = data.modalities[name].given
        arrays = (torch.cat([p[i] for p in parts], -2)[..., given].numpy() for i in range(3))
        scores[name] = _score(_channels(data, name), *arrays)
        scores[name]["log_density"] = round(float(torch.cat([p[3] for p in parts]).mean()), 5)
        scores[name]["baselines"] = _baselines(data, name)
    return scores


def _channels(data: CubeTensors, name: str) -> tuple[str, ...]:
    """Those that the cube has."""
    return tuple(c for c, given in zip(data.channels[name], data.modalities[name].given, strict=True) if given)


def _score(channels: tuple[str, ...], values: np.ndarray, mean: np.ndarray, quantiles: np.ndarray) -> dict:
    inside_90 = (values >= quantiles[0]) & (values <= quantiles[3])
    inside_50 = (values >= quantiles[1]) & (values <= quantiles[2])

    def by_channel(array: np.ndarray) -> dict[str, float]:
        return {c: round(float(x), 5) for c, x in zip(channels, array, strict=True)}

    return {
        "n": int(values.shape[0]),
        "rmse": by_channel(np.sqrt(((values - mean) ** 2).mean(0))),
        "coverage_50": round(float(inside_50.mean()), 4),
        "coverage_90": round(float(inside_90.mean()), 4),
        "coverage_50_by_channel": by_channel(inside_50.mean(0)),
        "coverage_90_by_channel": by_channel(inside_90.mean(0)),
        "width_90": by_channel((quantiles[3] - quantiles[0]).mean(0)),
    }


def _baselines(data: CubeTensors, name: str) -> dict[str, dict[str, float]]:
    m = data.modalities[name]
    values, seen = m.values[0][:, m.given].double().numpy(), m.seen[0].numpy()
    hidden = (m.valid & ~m.seen)[0].numpy()
    days = data.dates[m.index].numpy()
    rmse = {}
    for label, estimate in (
        ("linear", linear_interpolation(values, seen, days)),
        ("date_mean", date_mean(values, seen)),
    ):
        error = (estimate - values).swapaxes(0, 1)[:, hidden]
        squared = np.sqrt(np.nanmean(error**2, axis=1))
        rmse[label] = {c: round(float(x), 5) for c, x in zip(_channels(data, name), squared, strict=True)}
    return rmse
