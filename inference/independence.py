r"""Does a residual carry physics? One call, one table.

Where the model is right, the posteriors of all pixels together are the prior, in which the latents `r` that one sensor
sees alone are independent of the physical ones `z`. So one draw of every pixel, at one of its dates, is a sample in
which both must be independent, and is tested as such: by the Hilbert-Schmidt independence criterion (`inference.hsic`)
with the p-value of permutations, and by what a regression finds of `z` in `r`. Three more questions: do physical
variables stay where they are when pixels exchange their residuals (swap)? How much of the signal is residual? And what
does physics reconstruct with the residual that was found, with one drawn from the prior, and with none?

Permutations take pixels for exchangeable. Those of a real scene resemble their neighbours, in residual and physics
alike, so that p-values are too small there; the regressions, which leave whole blocks out, are not deceived by that.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import xarray as xr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from torch import Tensor

from inference.draws import present, seeded
from inference.hsic import hsic_test
from inference.plots.style import COLOURS, Figure
from inference.posterior import choose_pixels
from inference.training import Run
from pi_vae import Latents, PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data import validate
from pi_vae.data.batches import Batch
from pi_vae.data.tensors import CubeTensors

__all__ = ["independence", "independence_figure"]

BLOCK = 10  # pixels along each side of a group of the cross-validation
FOLDS = 5
DRAWS = 8  # of every pixel, for the regressions
PATCH, PATCHES = 24, 4  # where residuals are exchanged on a grid
TOGETHER = 128  # pixels


def independence(run: Run, cube: xr.DataTree, pixels: int = 400, permutations: int = 500, seed: int = 0) -> xr.Dataset:
    """How far the exclusive residuals of a fitted run are from physics.

    Modalities with pixels larger than the finest are left out: a fine pixel has no observation of theirs for itself.

    Args:
        run: a fitted run, at least one of whose modalities has a residual.
        cube: a valid cube; observations marked ``withheld`` are not used.
        pixels: how many are sampled.
        permutations: of the test of independence.
        seed: of everything random.

    Returns:
        Dataset over ``modality``, with: ``hsic`` and ``p_value`` of the residual's latents with all physical ones
        (independent: about 0, and uniform); ``linear`` and ``nonlinear (modality, variable)``, the share R² of the
        variance of a physical latent that regression on the residual's predicts in blocks of pixels it was not fitted
        to (independent: 0 or below); ``swap (modality, variable)``, root mean square shift, over pixels and dates, of
        the posterior mean of a physical latent after pixels have exchanged their residuals, in standard deviations of
        the prior, and ``swap_sd``, in those of the posterior; ``energy``, the share of the variance of the observations
        that is residual, mean over channels; and ``rmse (modality, residual)`` of the reconstruction, mean over
        channels in units of the noise scale, with the residual ``"found"``, ``"drawn"`` from the prior, and ``"none"``.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: no modality that is in the cube, with the finest pixels, has a residual; or the cube has fewer than
            20 pixels.
    """
    validate(cube)
    model = run.model
    data = CubeTensors.read(cube, present(model, cube), partial=True)
    names = [n for n, m in data.modalities.items() if m.factor == 1 and model.modalities[n].residual is not None]
    if not names:
        raise ValueError(
            "No modality in the cube, with its finest pixels, has a residual: build the model with one, such as "
            "Radar(residual=2)."
        )
    if data.pixels < 20:
        raise ValueError(f"The cube has {data.pixels} pixels: tests of independence take 20 at least.")
    rows, columns = choose_pixels(pixels, data, seed)
    groups = (rows // BLOCK * (data.shape[1] // BLOCK + 1) + columns // BLOCK).numpy()
    if data.points or len(np.unique(groups)) < FOLDS:
        groups = np.arange(len(rows))
    variables = [*model.dynamic, *model.static]
    table: dict[str, list] = {}
    with seeded(seed):
        shared = model.median_globals()
        samples = _samples(model, data, rows, columns, names, shared)
        generator = torch.Generator().manual_seed(seed)
        moved = _swapped(model, data, names, shared, generator)
    for name in names:
        residual, physical = samples[name]["residual"], samples[name]["physical"]
        found, p_value = hsic_test(residual[:, 0], physical[:, 0], permutations, seed)
        row = {"hsic": found, "p_value": p_value, "energy": samples[name]["energy"], "rmse": samples[name]["rmse"]}
        row |= {"swap": moved[name][0], "swap_sd": moved[name][1]}
        for label, regressor in (
            ("linear", RidgeCV(np.logspace(-3, 3, 13))),
            ("nonlinear", HistGradientBoostingRegressor(max_iter=60, max_depth=4, random_state=seed)),
        ):
            row[label] = _explained(regressor, residual.numpy(), physical.numpy(), groups)
        for key, value in row.items():
            table.setdefault(key, []).append(value)
    dims = {key: ("modality", "variable") for key in ("linear", "nonlinear", "swap", "swap_sd")}
    dims["rmse"] = ("modality", "residual")
    arrays = {key: (dims.get(key, ("modality",)), np.asarray(values)) for key, values in table.items()}
    coords = {"modality": names, "variable": variables, "residual": ["found", "drawn", "none"]}
    return xr.Dataset(arrays, coords, {"pixels": len(rows), "permutations": permutations})


def independence_figure(table: xr.Dataset) -> Figure:
    """What regression finds of every physical variable in the residuals, and how far each moves in the swap.

    Args:
        table: what `independence` returns.
    """
    figure = Figure(figsize=(7.2, 2.4 * table.sizes["modality"] + 0.6), layout="constrained")
    panels = figure.subplots(table.sizes["modality"], 2, squeeze=False, sharex="col")
    where = np.arange(table.sizes["variable"])
    for (left, right), name in zip(panels, table.modality.values, strict=True):
        row = table.sel(modality=name)
        for shift, kind, colour in ((-0.2, "linear", COLOURS[0]), (0.2, "nonlinear", COLOURS[3])):
            left.barh(where + shift, row[kind].clip(min=0), 0.38, color=colour, label=f"{kind} regression")
        left.axvline(0.05, color="0.45", linewidth=0.8, linestyle="--")
        left.set(title=f"{name}: HSIC p = {float(row['p_value']):.3f}", xlabel="R² of the variable in the residual")
        right.barh(where, row["swap"], 0.6, color=COLOURS[2])
        right.set(title=f"energy {100 * float(row['energy']):.1f} %", xlabel="shift by swap [prior sd]")
        left.set_yticks(where, table.variable.values)
        right.set_yticks(where, [])
    panels[0, 0].set_xlim(left=0)
    panels[0, 0].legend(frameon=False, fontsize=7)
    return figure


def _physical(latents: Latents, date: Tensor) -> Tensor:
    """`[draw, pixel, V + S]` physical latents at one date of every pixel."""
    return torch.cat([_at(latents.dynamic, date), latents.static], -1)


def _at(process: Tensor, date: Tensor) -> Tensor:
    """`[draw, pixel, V, T]` -> `[draw, pixel, V]` at a date of every pixel."""
    return process[:, torch.arange(len(date)), :, date].movedim(0, 1)


def _samples(model, data: CubeTensors, rows, columns, names, shared) -> dict[str, dict]:
    """Draws at a random date that the modality saw, energy and reconstruction, by modality."""
    parts: dict[str, dict[str, list]] = {name: {} for name in names}
    for chunk in torch.arange(len(rows)).split(TOGETHER):
        batch = data.at(rows[chunk], columns[chunk], model.encoder.radius)
        posterior = model.posterior(model.encode(batch), batch.dates, shared, DRAWS)
        latents = model.latents(posterior.rsample((DRAWS,)), batch.dates, shared)
        priors, common = model.priors(batch.dates, shared), model.common(batch.dates, shared)
        for name in names:
            observed = batch.modalities[name]
            mask = observed.mask(batch.pixels)
            # Where nothing was seen a date is as good as any other: there the posterior is the prior.
            date = observed.index[torch.multinomial(mask + 1e-9, 1).squeeze(1)]
            keep = parts[name]
            keep.setdefault("residual", []).append(_at(latents.residual[name], date).transpose(0, 1))
            keep.setdefault("physical", []).append(_physical(latents, date).transpose(0, 1))
            physics = model.expected(name, latents, batch, shared, residual=False)
            found = model.residual(name, latents, shared)[..., observed.index, :]
            fresh = priors[site := f"residual_{name}"].expand(found.shape[:2]).sample() + common.get(site, 0.0)
            other = Latents(latents.dynamic, latents.static, {name: fresh})
            drawn = model.residual(name, other, shared)[..., observed.index, :]
            values, scored = observed.series(batch.pixels), observed.scored(batch.pixels)
            keep.setdefault("values", []).append(torch.where(scored, values, torch.nan).flatten(0, 1))
            keep.setdefault("power", []).append(torch.where(scored, found.square().mean(0), torch.nan).flatten(0, 1))
            for key, residual in (("found", found), ("drawn", drawn), ("none", 0.0)):
                error = (physics + residual - values).square().mean(0)
                keep.setdefault(key, []).append(torch.where(scored, error, torch.nan).flatten(0, 1))
    return {name: _summary(keep, shared[f"{name}_noise"]) for name, keep in parts.items()}


def _summary(parts: dict[str, list], noise: Tensor) -> dict:
    joined = {key: torch.cat(values) for key, values in parts.items()}
    variance = (joined["values"] - joined["values"].nanmean(0)).square().nanmean(0)
    rmse = [float((joined[key].nanmean(0).sqrt() / noise).nanmean()) for key in ("found", "drawn", "none")]
    energy = float((joined["power"].nanmean(0) / variance.clamp_min(1e-12)).nanmean())
    return {"residual": joined["residual"], "physical": joined["physical"], "energy": energy, "rmse": rmse}


def _explained(regressor, residual: np.ndarray, physical: np.ndarray, groups: np.ndarray) -> list[float]:
    """R² of every physical latent by `[pixel, draw, K]` residual latents, in groups left out."""
    draws = residual.shape[1]
    x, each = residual.reshape(-1, residual.shape[-1]), np.repeat(groups, draws)
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))))
    y = physical.reshape(-1, physical.shape[-1])
    return [r2_score(one, cross_val_predict(regressor, x, one, groups=each, cv=folds)) for one in y.T]


def _swapped(model: PhysicsVAE, data: CubeTensors, names, shared, generator) -> dict[str, tuple[list, list]]:
    """Root mean square shifts of physical latents when pixels exchange their residuals, by modality."""
    count, side = (64, 1) if data.points else (PATCHES, PATCH)
    batch = data.patches(count, side, data.pixels, generator)
    patches, height, width = batch.shape
    # All pixels of the patches, for all of their values change.
    batch = dataclasses.replace(batch, pixels=torch.arange(patches * height * width))
    before, posterior = _means(model, batch, shared)
    latents = model.latents(posterior.rsample(), batch.dates, shared)
    order = torch.arange(len(batch.pixels)).view(batch.shape)
    # A neighbour's residual would be much the same: half a patch away on a grid, another point otherwise.
    order = order.roll((1, height // 2, width // 2), (0, 1, 2)).flatten()
    moved = {}
    for name in names:
        observed = batch.modalities[name]
        residual = model.residual(name, latents, shared)[..., observed.index, :]
        change = (residual[order] - residual).unflatten(0, batch.shape).permute(0, 3, 4, 1, 2)
        modalities = batch.modalities | {name: dataclasses.replace(observed, values=observed.values + change)}
        after, _ = _means(model, dataclasses.replace(batch, modalities=modalities), shared)
        seen, shift = observed.mask(batch.pixels).any(1), after["mean"] - before["mean"]
        own, relative = (x[seen].square().mean((0, 2)).sqrt().tolist() for x in (shift, shift / before["sd"]))
        moved[name] = own, relative
    return moved


def _means(model: PhysicsVAE, batch: Batch, shared) -> tuple[dict[str, Tensor], ChainPosterior]:
    """Posterior means and sds `[pixel, V + S, T]` of physical latents, the static ones alike at all dates."""
    posterior = model.posterior(model.encode(batch), batch.dates, shared)
    process, static = posterior.processes["dynamic"], posterior.static
    pairs = {"mean": (process.mean, static.mean), "sd": (process.variance.sqrt(), static.variance.sqrt())}
    dates = len(batch.dates)
    found = {key: torch.cat([u, s.unsqueeze(-1).expand(-1, -1, dates)], 1) for key, (u, s) in pairs.items()}
    return found, posterior
