r"""Structure or noise? What a residual's own prior predicts of observations that it has not seen.

At observations withheld from the fit, let :math:`e = y - E[h(z)]` be what physics leaves, and
:math:`c_k = W_k\,E[r_k]` what process `k` of the exclusive residual says there, both given what was seen. A process
with structure (a course in time, a texture in space) predicts: with the others taken off,
:math:`e_k = e - \sum_{j \ne k} c_j`, its share

.. math:: R_k^2 = 1 - \frac{\sum (e_k - c_k)^2}{\sum e_k^2}

is above zero, and above that of predictions that belong to other pixels of the same date. A process that has only
learned the noise of what it saw predicts nothing.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from inference.draws import groups, present, seeded
from inference.training import Run, keep_weights
from pi_vae.data import validate
from pi_vae.data.tensors import CubeTensors
from pi_vae.residual import Residual

__all__ = ["prune", "residual_structure"]

LEVEL = 0.05
TILE = 50  # pixels


def residual_structure(
    run: Run, cube: xr.DataTree, draws: int = 32, permutations: int = 200, seed: int = 0
) -> xr.Dataset:
    """Which processes of the exclusive residuals have structure.

    Args:
        run: a run fitted to the cube with its ``withheld`` masks (`pi_vae.data.withhold`).
        cube: that cube.
        draws: of the posterior, whose means are taken.
        permutations: of the predictions among the pixels of a date.
        seed: of draws and permutations.

    Returns:
        Dataset over ``modality`` and ``process`` (1 to the largest rank; NaN beyond that of a modality): ``strength``,
        what the process adds (`pi_vae.residual.Residual.strength`) in units of the noise, root mean square over
        channels; what its relevance has shrunk below a tenth is none by the prior's own judgement; ``energy``,
        the share of the variance of the observations that the process says of itself; ``predicted``, the share
        :math:`R_k^2` of what is left; ``null``, the largest share of a permutation in twenty; ``p_value`` (one is the
        least of all permutations), and ``structured``: predicted is above 0 and the p-value, times the number of
        processes of the modality (Bonferroni), below 0.05.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: no modality in the cube has a residual, or one of those has no withheld observation.
    """
    validate(cube)
    model = run.model
    data = CubeTensors.read(cube, present(model, cube), score_withheld=True, partial=True)
    residuals = {name: r for name in data.modalities if (r := model.modalities[name].residual) is not None}
    names = list(residuals)
    if not names:
        raise ValueError("No modality in the cube has a residual: build the model with one, such as Radar(residual=2).")
    with seeded(seed):
        found = {name: _withheld(run, data, name, residual, draws) for name, residual in residuals.items()}
    rng = np.random.default_rng(seed)
    most = max(parts["process"].shape[1] for parts in found.values())
    rows: dict[str, list[np.ndarray]] = {}
    for parts in found.values():
        row = {"strength": parts.pop("strength")} | _judge(parts, permutations, rng)
        for key, values in row.items():
            rows.setdefault(key, []).append(np.pad(values, (0, most - len(values)), constant_values=np.nan))
    arrays = {key: (("modality", "process"), np.stack(values)) for key, values in rows.items()}
    table = xr.Dataset(arrays, {"modality": names, "process": np.arange(1, most + 1)})
    return table.assign(
        structured=(table["predicted"] > 0) & (table["p_value"] * table["p_value"].count("process") < LEVEL)
    )


def prune(run: Run, table: xr.Dataset) -> list[str]:
    """Silence the processes that have no structure, by loadings of zero; a checkpoint is brought up to date.

    Args:
        run: the run that the table is of; its model is changed in place.
        table: what `residual_structure` returns.

    Returns:
        What was silenced, such as ``["s1 residual 2"]``.
    """
    silenced = []
    for name in table.modality.values:
        residual = run.model.modalities[str(name)].residual
        if residual is None:
            continue
        for k in range(residual.rank):
            if not bool(table["structured"].sel(modality=name, process=k + 1)):
                residual.silence(k)
                silenced.append(f"{name} residual {k + 1}")
    keep_weights(run)
    return silenced


def _withheld(run: Run, data: CubeTensors, name: str, residual: Residual, draws: int) -> dict[str, np.ndarray]:
    """At `n` withheld observations: ``left`` by physics `[n, C]`, ``process`` `[n, K, C]`, their ``date`` `[n]`."""
    model = run.model
    parts: dict[str, list[torch.Tensor]] = {}
    modality, given = model.modalities[name], data.modalities[name].given
    for _, _, batch in data.tiles(TILE, model.encoder.radius):
        observed, members = batch.modalities[name], batch.footprints(name)
        physics, process = torch.zeros(()), torch.zeros(())
        for group in groups(model, batch, draws):
            share = len(group.latents.static) / draws
            mean = group.physics[name].mean(0)
            features = residual.features(group.latents.residual[name], group.shared.get(f"{name}_network"))
            features = features.mean(0)[..., observed.index]
            physics = physics + share * mean[members].mean(1)
            loading = group.shared[f"{name}_relevance"] * group.shared[f"{name}_loading"]
            process = process + share * torch.einsum("mkt,ck->mtkc", features[members].mean(1), loading)
        first = batch.pixels[members[:, 0]]
        hidden = observed.mask(first, "valid") & ~observed.mask(first)
        kept = {"left": (observed.series(first) - physics)[hidden], "process": process[hidden]}
        kept |= {"date": hidden.nonzero()[:, 1], "values": observed.series(first)[hidden]}
        for key, value in kept.items():
            parts.setdefault(key, []).append(value[..., given] if key != "date" else value)
    joined = {key: torch.cat(values).numpy() for key, values in parts.items()}
    joined["strength"] = (residual.strength / modality.noise.median.square().mean().sqrt()).detach().numpy()
    if not len(joined["date"]):
        raise ValueError(
            f"Node {name!r} of the cube has no withheld observation to predict: mark some with pi_vae.data.withhold "
            "before the fit."
        )
    return joined


def _judge(parts: dict[str, np.ndarray], permutations: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Energy, share predicted, null and p-value of every process."""
    left, process, date = parts["left"], parts["process"], parts["date"]
    scale = left.std(0).clip(1e-12)
    left, process = left / scale, process / scale
    variance = (parts["values"] / scale).var(0).mean()
    count = process.shape[1]
    whole = process.sum(1)
    rest = [left - whole + process[:, k] for k in range(count)]
    predicted = np.array([_share(rest[k], process[:, k]) for k in range(count)])
    null = np.empty((permutations, count))
    for i in range(permutations):
        order = _within(date, rng)
        null[i] = [_share(rest[k], process[order, k]) for k in range(count)]
    energy = np.square(process).mean((0, 2)) / variance
    p_value = (1 + (null >= predicted).sum(0)) / (1 + permutations)
    return {"energy": energy, "predicted": predicted, "null": np.quantile(null, 0.95, axis=0), "p_value": p_value}


def _share(left: np.ndarray, said: np.ndarray) -> float:
    return float(1 - np.square(left - said).sum() / np.square(left).sum())


def _within(date: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A permutation that exchanges observations of the same date only."""
    order = np.empty(len(date), int)
    for day in np.unique(date):
        where = np.flatnonzero(date == day)
        order[where] = rng.permutation(where)
    return order
