"""`predict`: maps of every variable with its uncertainty, over a whole cube, tile by tile."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from inference.cluster import each
from inference.draws import fair_quantile, groups, present, seeded
from inference.training import Run
from pi_vae import PhysicsVAE, __version__
from pi_vae.data import validate
from pi_vae.data.kinds import OPTICAL, kind_of
from pi_vae.data.patches import Patches
from pi_vae.data.scene import open_tensors
from pi_vae.priors.noise import by_place
from pi_vae.variables import Variable

__all__ = ["FLAGS", "STATISTICS", "predict", "prior_sd"]

log = logging.getLogger(__name__)

STATISTICS = {"mean": "posterior mean", "sd": "posterior sd", "q05": "5 % quantile", "q95": "95 % quantile"}
FLAGS = {"pixel_without_observation": 1, "date_without_observation": 2, "date_without_optical_observation": 4}
UNTOUCHED = 255
PRIOR_SAMPLES = 4096


def predict(
    run: Run,
    cube: xr.DataTree,
    store: str | Path,
    draws: int = 64,
    tile: int = 50,
    seed: int = 0,
    progress: bool = False,
    reconstructions: bool = True,
) -> xr.Dataset:
    """Write maps of every variable and residual to a zarr store.

    Tiles are read with the halo that the encoder needs, and what a pixel draws depends on its place alone, so that they
    fit together; a store that exists is continued.
    A large cube stays on disk (`pi_vae.data.scene`): memory is that of a tile. If there is a Dask client, its workers
    share the tiles (`inference.cluster`); cube and store must lie where they can reach them. The maps are the same.

    Args:
        run: a fitted run.
        cube: a valid cube; observations marked ``withheld`` are not used. A modality of the model, or
            some of its channels, may be absent.
        store: folder of the zarr store.
        draws: posterior draws per pixel that the statistics are taken over; below 19 the least and largest of them
            stand in for the 5 and 95 % quantiles.
        tile: side of a tile in pixels.
        seed: of the draws.
        progress: show a progress bar.
        reconstructions: also map what each modality is expected to see, and its residual. Without, a map takes a fifth
            (64 draws) to a half (16) of the time, for physics is not computed.

    Returns:
        The store, opened: for every variable `<name>_mean`, `_sd`, `_q05`, `_q95` with dims `(time, y, x)` or
        `(y, x)`; for every modality `residual_<modality>_mean` and `<modality>_mean` (the reconstruction) with dims
        `(<modality>_time, <modality>_channel, y, x)`, if asked for; `flags (time, y, x)`, see its attributes. On a
        cube of points `y` is the point and `x` has length 1. The attribute ``prior_sd`` of `<name>_sd` is the standard
        deviation of the variable's prior in its unit, see `prior_sd`: where the two are alike the data told nothing.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: the store belongs to a cube of another shape or dates, or to another run, seed or number of draws,
            or has reconstructions where none are asked for, or the reverse.
        RuntimeError: workers were lost again and again; the tiles that are done stay.
        OSError: the store cannot be written; the tiles that are done stay.
    """
    validate(cube)
    model, store = run.model, Path(store)
    data = open_tensors(cube, present(model, cube), partial=True)
    tile = -(-tile // data.coarsest) * data.coarsest  # chunks are whole pixels of every modality, as tiles are
    origin = _origin(model, draws, seed, reconstructions)
    if store.exists():
        _check_store(store, data, origin)
    else:
        empty = _template(model, cube, data, tile, reconstructions).assign_attrs(origin=origin)
        # Chunks that were never written read back as the fill value: it has to say that they are untouched.
        fill = {"flags": {"fill_value": UNTOUCHED}}
        unfinished = store.with_name(store.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        with _writing(store):
            empty.to_zarr(unfinished, compute=False, zarr_format=3, consolidated=False, encoding=fill)
            unfinished.rename(store)
    finished = xr.open_zarr(store, consolidated=False)["flags"]
    left = [(y, x) for y, x in data.regions(tile) if (finished.isel(y=y, x=x) == UNTOUCHED).any()]
    shown = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), disable=not progress) as bar:
        tiles = each(_write_tile, (model, data, str(store.resolve()), draws, seed, reconstructions), left)
        for _ in bar.track(tiles, total=len(left), description="tiles"):
            pass
    return xr.open_zarr(store, consolidated=False)


def prior_sd(model: PhysicsVAE, dates: torch.Tensor) -> dict[str, float | list[float]]:
    """Standard deviation of the prior of every variable of a model.

    That of the marginals of `model.catalogue`, changed priors included. The prior of leaf area that follows a season,
    and of dynamic variables with a common course, differs from date to date; global latents are at their posterior
    medians. Found by Latin hypercube of the standard-normal latents: 4096 samples, with an error below one per cent.

    Args:
        model: a model.
        dates: `[T]` days since 1970-01-01.

    Returns:
        Name -> a number in the unit of the variable, or `T` of them where the prior differs from date to date.
    """

    def normal(count: int) -> torch.Tensor:
        strata = torch.stack([torch.randperm(PRIOR_SAMPLES) for _ in range(count)], 1)
        return torch.special.ndtri((strata.double() + 0.5) / PRIOR_SAMPLES).float()

    found: dict[str, float | list[float]] = {}
    with seeded(0):
        dynamic = normal(len(model.dynamic)).unsqueeze(-1).expand(-1, -1, len(dates))
        drawn = {"static": normal(len(model.static)), "dynamic": dynamic}
        values = model.variables(model.latents(drawn, dates, model.median_globals()))
        for name, value in values.items():
            spread = value.double().std(0)
            constant = torch.allclose(spread, spread[:1], rtol=1e-4)
            rounded = [float(f"{value:.6g}") for value in spread.tolist()]
            found[name] = rounded[0] if constant else rounded
    return found


def _write_tile(
    model: PhysicsVAE,
    data: Patches,
    store: str,
    draws: int,
    seed: int,
    reconstructions: bool,
    part: tuple[slice, slice],
) -> None:
    """Map the tile of some rows and columns; a chunk of the store is a tile, so that others may write beside it."""
    rows, columns = part
    batch = data.tile(rows, columns, model.encoder.radius)
    places = torch.meshgrid(*(torch.arange(part.start, part.stop) for part in part), indexing="ij")
    with seeded(seed), by_place(*(place.flatten() for place in places)):
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        maps = _tile(model, data, batch, draws, shape, reconstructions)
    # The flags come last: they say that the tile is complete.
    with _writing(store):
        for arrays in (maps.drop_vars("flags"), maps[["flags"]]):
            arrays.to_zarr(store, region={"y": rows, "x": columns}, zarr_format=3, consolidated=False)


@contextmanager
def _writing(store: str | Path) -> Iterator[None]:
    """What goes wrong ends with a sentence."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"Maps cannot be written to {store} ({error}): make room, or give a folder that is writable, and call "
            "again; tiles that are done are kept."
        ) from error


def _tile(model, data: Patches, batch, draws: int, shape: tuple[int, int], reconstructions: bool) -> xr.Dataset:
    """Statistics over the draws of one tile."""
    kept: dict[str, list[torch.Tensor]] = {}
    sums: dict[str, torch.Tensor] = {}
    for group in groups(model, batch, draws, physics=reconstructions):
        for name, value in model.variables(group.latents).items():
            kept.setdefault(name, []).append(value)
        for name, mean in group.physics.items():
            if name in group.latents.residual:
                residual = model.residual(name, group.latents, group.shared)[..., batch.modalities[name].index, :]
                key = f"residual_{name}_mean"
                sums[key] = sums.get(key, 0) + residual.sum(0) / draws
                mean = mean + residual
            sums[f"{name}_mean"] = sums.get(f"{name}_mean", 0) + mean.sum(0) / draws
    maps = {}
    for name, values in kept.items():
        stack = torch.cat(values)
        low, high = fair_quantile(stack, [0.05, 0.95])
        for statistic, array in zip(STATISTICS, (stack.mean(0), stack.std(0), low, high), strict=True):
            variable = model.catalogue[name]
            maps[f"{name}_{statistic}"] = (_dims(variable), _to_map(array, shape, variable.dynamic))
    for key, array in sums.items():
        name = key.removeprefix("residual_").removesuffix("_mean")
        dims = (f"{name}_time", f"{name}_channel", "y", "x")
        maps[key] = (dims, array.permute(1, 2, 0).unflatten(2, shape).numpy().astype(np.float32))
    maps["flags"] = (("time", "y", "x"), _flags(batch, len(data.dates), shape))
    return xr.Dataset(maps)


def _to_map(array: torch.Tensor, shape: tuple[int, int], dynamic: bool) -> np.ndarray:
    image = array.movedim(0, -1).unflatten(-1, shape)
    return (image if dynamic else image[0]).numpy().astype(np.float32)


def _flags(batch, dates: int, shape: tuple[int, int]) -> np.ndarray:
    seen = torch.zeros(len(batch.pixels), dates, dtype=torch.bool)
    optical = torch.zeros_like(seen)
    for name, m in batch.modalities.items():
        seen[:, m.index] |= m.mask(batch.pixels)
        if kind_of(name) is OPTICAL:
            optical[:, m.index] |= m.mask(batch.pixels)
    bits = (~seen.any(1, keepdim=True), ~seen, ~optical)
    flags = torch.zeros_like(seen, dtype=torch.uint8)
    for bit, value in zip(bits, FLAGS.values(), strict=True):
        flags |= bit.to(torch.uint8) * value
    return flags.T.unflatten(1, shape).numpy()


def _dims(variable: Variable) -> tuple[str, ...]:
    return ("time", "y", "x") if variable.dynamic else ("y", "x")


def _template(model, cube: xr.DataTree, data: Patches, tile: int, reconstructions: bool) -> xr.Dataset:
    """The empty store: every array with its dims, chunks and metadata."""
    import dask.array

    height, width = data.shape
    node = cube[data.finest].to_dataset()
    coords: dict[str, Any] = {"time": data.times}
    coords["y"] = node.y.values if not data.points and "y" in node.coords else np.arange(height)
    coords["x"] = node.x.values if not data.points and "x" in node.coords else np.arange(width)
    sizes = {"time": len(data.dates), "y": height, "x": width}
    for name, index in data.index.items():
        coords[f"{name}_time"] = data.times[index.numpy()]
        coords[f"{name}_channel"] = list(data.channels[name])
        sizes |= {f"{name}_time": len(index), f"{name}_channel": len(data.channels[name])}

    def empty(dims: tuple[str, ...], fill, dtype) -> dask.array.Array:
        side = tile * tile if data.points else tile
        chunks = tuple(side if d in ("y", "x") else sizes[d] for d in dims)
        return dask.array.full([sizes[d] for d in dims], fill, dtype=dtype, chunks=chunks)

    arrays, spread = {}, prior_sd(model, data.dates)
    for name in (*model.dynamic, *model.static):
        variable = model.catalogue[name]
        for statistic, words in STATISTICS.items():
            attrs = {"units": variable.unit, "long_name": f"{variable.long_name}, {words}"}
            attrs |= {"prior_sd": spread[name]} if statistic == "sd" else {}
            arrays[f"{name}_{statistic}"] = (_dims(variable), empty(_dims(variable), np.nan, np.float32), attrs)
    for name in data.index if reconstructions else ():
        modality = model.modalities[name]
        dims, attrs = (f"{name}_time", f"{name}_channel", "y", "x"), {"units": modality.unit}
        arrays[f"{name}_mean"] = (dims, empty(dims, np.nan, np.float32), attrs)
        if modality.residual is not None:
            arrays[f"residual_{name}_mean"] = (dims, empty(dims, np.nan, np.float32), attrs)
    attrs = {"flag_masks": list(FLAGS.values()), "flag_meanings": " ".join(FLAGS)}
    arrays["flags"] = (("time", "y", "x"), empty(("time", "y", "x"), UNTOUCHED, np.uint8), attrs)
    maps = xr.Dataset(arrays, coords, {"Conventions": "CF-1.11", "source": f"pi_vae {__version__}"})
    if "spatial_ref" in node.coords:
        maps = maps.assign_coords(spatial_ref=node["spatial_ref"])
    return maps


def _origin(model, draws: int, seed: int, reconstructions: bool) -> str:
    """A fingerprint of what makes the maps: weights, draws and seed, and what is mapped."""
    digest = hashlib.sha256(f"{draws} {seed}{'' if reconstructions else ' variables'}".encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_store(store: Path, data: Patches, origin: str) -> None:
    existing = xr.open_zarr(store, consolidated=False)
    found = {d: existing.sizes.get(d) for d in ("time", "y", "x")}
    wanted = dict(zip(("time", "y", "x"), (len(data.dates), *data.shape), strict=True))
    if found != wanted:
        raise ValueError(f"The store {store} holds maps of shape {found}, the cube is {wanted}: give another folder.")
    if existing.attrs.get("origin") != origin or not np.array_equal(existing.time.values, data.times):
        raise ValueError(
            f"The store {store} holds maps of another run, other dates, draws or seed, or with reconstructions where "
            "none are asked for (or the reverse): give another folder."
        )
    log.info("continuing the store %s", store)
