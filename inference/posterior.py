"""`posterior`: draws for some pixels as a DataTree that ArviZ reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from inference.draws import Group, groups, present, seeded
from inference.refinement import check_refinement, laplace_groups, refined_groups
from inference.training import Run
from pi_vae.data import validate, with_dates
from pi_vae.data.patches import Patches
from pi_vae.data.scene import open_tensors

__all__ = ["choose_pixels", "draw_tree", "pixel_location", "posterior"]

MAX_VALUES = 2e8
DRAWN_AT_ONCE, REFINED_AT_ONCE = 64, 256  # pixels
SHARED_DRAWS = 25  # of the global latents, at most


def posterior(
    run: Run,
    cube: xr.DataTree,
    draws: int = 200,
    pixels: int | list[tuple[int, int]] | None = None,
    seed: int = 0,
    times: Sequence | np.ndarray | None = None,
    refine: str | None = None,
    chains: int = 20,
) -> xr.DataTree:
    """Posterior draws of every variable, residual and observation.

    Args:
        run: a fitted run.
        cube: a valid cube; observations marked ``withheld`` are not used. A modality of the model,
            or some of its channels, may be absent.
        draws: number of draws.
        pixels: which pixels: a number drawn at random, a list of (row, column), or all of them.
        seed: of the draws and of the choice of pixels.
        times: dates to add, observed or not, past or future: gap filling and forecasting. Every variable and the
            predictive of every modality are given there too (`pi_vae.data.with_dates`).
        refine: do not trust the guide (`inference.refinement`): ``"laplace"`` draws from a Gaussian at the mode of each
            pixel, tenths of a second per pixel instead of milliseconds; ``"chains"`` goes on from draws of the guide by
            Hamiltonian Monte Carlo, seconds per pixel.
        chains: how many, if chains are asked for; the draws are shared out among them.

    Returns:
        DataTree with the groups of ArviZ: ``posterior`` (variables `(chain, draw, pixel, time)` or
        `(chain, draw, pixel)`, with phenology also ``season_peak`` and ``season_end``, residuals, what is expected of a
        modality without its residual as ``physics_<modality>``, global latents),
        ``posterior_predictive`` and ``observed_data`` (`(…, pixel, <modality>_time, <channel>)`), ``log_likelihood``
        (`(…, pixel, <modality>_time)`), ``constant_data`` (masks and geometry). Units are attributes; `pixel_row`,
        `pixel_column` (and `y`, `x`) locate pixels.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: the draws would not fit in memory or cannot be shared out, a pixel lies outside the cube, a date
            cannot be read, or there is no such refinement.
    """
    validate(cube)
    check_refinement(refine)
    if refine == "chains" and (chains < 1 or draws % chains):
        raise ValueError(f"{draws} draws cannot be shared out among {chains} chains: give a multiple of the chains.")
    if times is not None:
        cube = with_dates(cube, times)
    return draw_tree(run, cube, draws, pixels, seed, refine, chains)


def draw_tree(
    run: Run,
    cube: xr.DataTree,
    draws: int,
    pixels: int | list[tuple[int, int]] | None,
    seed: int,
    refine: str | None = None,
    chains: int = 1,
) -> xr.DataTree:
    """What `posterior` returns, of a cube that is ready: validated, all dates in it."""
    model = run.model
    data = open_tensors(cube, present(model, cube), partial=True)
    rows, columns = choose_pixels(pixels, data, seed)
    values = draws * len(rows) * len(data.dates) * (len(model.dynamic) + sum(map(len, data.channels.values())))
    if values > MAX_VALUES:
        raise ValueError(
            f"{draws} draws of {len(rows)} pixels are {values:.1e} numbers: give fewer draws or pixels=<a number>; "
            "inference.predict makes maps of whole cubes."
        )
    pieces: list[dict[str, xr.Dataset]] = []
    with seeded(seed):
        for chunk in torch.arange(len(rows)).split(REFINED_AT_ONCE if refine else DRAWN_AT_ONCE):
            batch = data.at(rows[chunk], columns[chunk], model.encoder.radius)
            # Every chunk sees the same draws of the global latents.
            torch.manual_seed(seed)
            if refine == "chains":
                found = refined_groups(model, batch, draws, chains)
            else:
                found = laplace_groups(model, batch, draws) if refine else groups(model, batch, draws, SHARED_DRAWS)
            pieces.append(_tree(model, data, batch, found, chains if refine == "chains" else 1))
    tree = {
        group: xr.concat(
            [piece[group] for piece in pieces],
            "pixel",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
        )
        for group in pieces[0]
    }
    location = pixel_location(cube, data, rows, columns)
    return xr.DataTree.from_dict({group: dataset.assign_coords(location) for group, dataset in tree.items()})


def _tree(model, data: Patches, batch, found: Iterable[Group], chains: int) -> dict[str, xr.Dataset]:
    """The ArviZ groups of one chunk of pixels."""
    parts: dict[str, dict[str, list]] = {"posterior": {}, "posterior_predictive": {}, "log_likelihood": {}}

    def keep(group: str, name: str, array: torch.Tensor) -> None:
        parts[group].setdefault(name, []).append(array.cpu().numpy())

    for group in found:
        size = len(group.latents.static)
        values = {
            name: value if model.catalogue[name].dynamic else value.squeeze(-1)
            for name, value in model.variables(group.latents).items()
        }
        season = model.season.dates(values) if model.season is not None else {}
        for name, value in (season | values).items():
            keep("posterior", name, value)
        for site, value in group.shared.items():
            keep("posterior", f"global_{site}", value.expand(size, *value.shape))
        for name, observed in batch.modalities.items():
            mean = group.physics[name]
            keep("posterior", f"physics_{name}", mean)
            if name in group.latents.residual:
                residual = model.residual(name, group.latents, group.shared)
                keep("posterior", f"residual_{name}", residual)
                mean = mean + residual[..., observed.index, :]
            likelihood = model.modalities[name].likelihood(mean, group.shared[f"{name}_noise"])
            keep("posterior_predictive", name, likelihood.sample())
            mask = observed.mask(batch.pixels)
            score = torch.where(observed.given, likelihood.log_prob(observed.series(batch.pixels)), 0.0).sum(-1)
            # A pixel that is a part of what was observed has no likelihood of its own.
            keep("log_likelihood", name, torch.where(mask & (observed.factor == 1), score, torch.nan))

    def chained(arrays: list[np.ndarray]) -> np.ndarray:
        joined = np.concatenate(arrays)
        return joined.reshape(chains, len(joined) // chains, *joined.shape[1:])

    joined = {g: {k: chained(v) for k, v in arrays.items()} for g, arrays in parts.items()}
    return _name_dimensions(model, data, batch, joined)


def _name_dimensions(model, data: Patches, batch, joined) -> dict[str, xr.Dataset]:
    sample = ("chain", "draw", "pixel")
    coords: dict[str, Any] = {"time": data.times}
    datasets: dict[str, dict[str, Any]] = {group: {} for group in (*joined, "observed_data", "constant_data")}
    for name, array in joined["posterior"].items():
        if name in model.catalogue:
            variable = model.catalogue[name]
            dims: tuple[str, ...] = (*sample, "time") if variable.dynamic else sample
            attrs = {"units": variable.unit, "long_name": variable.long_name}
        elif name.startswith("season_"):
            dims, attrs = sample, {"units": "day", "long_name": f"{name.replace('_', ' ')} (day of year)"}
        elif name.startswith("residual_"):
            modality = name.removeprefix("residual_")
            dims = (*sample, "time", f"{modality}_channel")
            attrs = {"units": model.modalities[modality].unit, "long_name": f"exclusive residual of {modality}"}
        elif name.startswith("physics_"):
            modality = name.removeprefix("physics_")
            dims = (*sample, f"{modality}_time", f"{modality}_channel")
            attrs = {"units": model.modalities[modality].unit, "long_name": f"{modality} without its residual"}
        else:
            labels, attrs = _global_labels(model, name.removeprefix("global_"))
            dims, coords = ("chain", "draw", *labels), coords | labels
        datasets["posterior"][name] = (dims, array, attrs)
    for name, observed in batch.modalities.items():
        time, channel = f"{name}_time", f"{name}_channel"
        coords |= {time: data.times[observed.index.numpy()], channel: list(data.channels[name])}
        attrs = {"units": model.modalities[name].unit}
        mask = observed.mask(batch.pixels).numpy()
        scored = observed.scored(batch.pixels).numpy()
        series = np.where(scored, observed.series(batch.pixels).numpy(), np.nan)
        datasets["observed_data"][name] = (("pixel", time, channel), series, attrs)
        predictive = joined["posterior_predictive"][name]
        datasets["posterior_predictive"][name] = ((*sample, time, channel), predictive, attrs)
        datasets["log_likelihood"][name] = ((*sample, time), joined["log_likelihood"][name])
        datasets["constant_data"][f"{name}_seen"] = (("pixel", time), mask)
        for angle, degrees in observed.angles(batch.pixels).items():
            series = degrees.expand(mask.shape).numpy()
            datasets["constant_data"][f"{name}_{angle}"] = (("pixel", time), series, {"units": "degree"})
    for name, series in batch.drivers.items():
        datasets["constant_data"][name] = (("time",), series.numpy(), {"units": DRIVER_UNITS.get(name, "")})
    used = {g: xr.Dataset(v) for g, v in datasets.items()}
    return {g: d.assign_coords({k: (k, c) for k, c in coords.items() if k in d.dims}) for g, d in used.items()}


def _global_labels(model, site: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Dimensions of a global latent with their labels, and its attributes."""
    attrs = {"units": "day"} if site.endswith("lengthscale") else {}
    if site in ("lengthscale", "static_odds"):
        return {"variable": list(model.dynamic)}, attrs
    if site == "course":
        residuals = {m: model.course.processes.get(f"residual_{m}", 0) for m in model.modalities}
        exclusive = [f"{m} residual {k + 1}" for m, rank in residuals.items() for k in range(rank)]
        return {"course_process": [*model.dynamic, *exclusive], "course_term": model.course.terms}, attrs
    name, _, kind = site.rpartition("_") if not site.endswith("static_odds") else site.partition("_static_odds")
    modality = model.modalities[name]
    if kind.startswith("law"):
        law = modality.laws[int(kind.removeprefix("law"))]
        return {f"{site}_coefficient": list(law.names)}, {"long_name": str(law.expression)}
    if kind == "coefficients":
        return {f"{name}_coefficient": list(modality.coefficient_names)}, attrs
    channel = {f"{name}_channel": list(modality.channels)}
    if kind in ("noise", "size"):
        return channel, {"units": modality.unit}
    if kind == "effect":
        days = (modality.date_effect.dates * 86400e9).round().long().cpu().numpy().astype("datetime64[ns]")
        return {f"{name}_date": days} | channel, attrs
    process = {f"{name}_process": list(range(modality.residual.rank))}
    if kind == "network":
        hidden = list(range(modality.residual.network.loc.shape[1]))
        return {f"{name}_layer": ["in", "out"], f"{name}_hidden": hidden} | process, attrs
    if kind == "relevance":
        return process, {"units": modality.unit}
    if kind == "reach":
        return process, {"units": "pixel"}
    return (channel | process, attrs) if kind == "loading" else (process, attrs)


DRIVER_UNITS = {"air_temperature": "K", "precipitation": "mm"}


def choose_pixels(pixels, data: Patches, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of a number of pixels drawn at random, of a list of (row, column), or of all (none given)."""
    height, width = data.shape
    if pixels is None or isinstance(pixels, int):
        flat = np.arange(height * width)
        if pixels is not None and pixels < len(flat):
            flat = np.sort(np.random.default_rng(seed).choice(flat, pixels, replace=False))
        return torch.from_numpy(flat // width), torch.from_numpy(flat % width)
    rows, columns = torch.tensor(pixels).reshape(-1, 2).unbind(1)
    if ((rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)).any():
        raise ValueError(f"A pixel lies outside the cube of {height} rows and {width} columns: check pixels.")
    return rows, columns


def pixel_location(cube: xr.DataTree, data: Patches, rows: torch.Tensor, columns: torch.Tensor) -> dict:
    """Coordinates of the dimension ``pixel`` of a table: where in the cube each lies."""
    node = cube[data.finest].to_dataset()
    location: dict[str, object] = {"pixel": np.arange(len(rows))}
    location |= {f"pixel_{axis}": ("pixel", index.numpy()) for axis, index in (("row", rows), ("column", columns))}
    if not data.points and "x" in node.coords:
        location |= {"y": ("pixel", node.y.values[rows.numpy()]), "x": ("pixel", node.x.values[columns.numpy()])}
    return location
