"""`simulate`: a cube drawn from a model's own prior, with the truth beside it."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from pyro import poutine

from pi_vae.data.batches import CubeTensors
from pi_vae.variables import CATALOGUE

__all__ = ["simulate"]


def simulate(model, cube: xr.DataTree, seed: int = 0, tile: int = 50) -> xr.DataTree:
    """Replace the observations of a cube by draws from the model's prior.

    The generative program itself is run: global latents once, local latents for every pixel, then the operators, the
    residuals and the likelihood. Dates, geometry, masks, grid and weather stay those of the cube.

    Args:
        model: a `pi_vae.PhysicsVAE`.
        cube: a valid cube that serves as pattern.
        seed: of the draw.
        tile: side of the tiles worked on, in pixels.

    Returns:
        A cube of the same layout with a node ``truth``: every variable `(time, y, x)` or `(y, x)`, the contribution
        of each residual `<modality>_residual (<modality>_time, <modality>_channel, y, x)`, and the global latents.

    Raises:
        ValueError: the cube lacks a modality or channel of the model.
    """
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    height, width = data.shape
    truth: dict[str, np.ndarray] = {}
    drawn: dict[str, np.ndarray] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        shared = model.draw_globals("prior")
        program = poutine.condition(poutine.uncondition(model.model), shared)
        for rows, columns, batch in data.tiles(tile, 0):
            sites = poutine.trace(program).get_trace(batch).nodes
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            fields = _fields(model, batch, sites, shared)
            for target, values in ((truth, fields), (drawn, {m: sites[m]["value"] for m in batch.modalities})):
                for name, value in values.items():
                    image = value.movedim(0, -1).unflatten(-1, shape).numpy()
                    if name not in target:
                        target[name] = np.empty((*image.shape[:-2], height, width), np.float32)
                    target[name][..., rows, columns] = image
    nodes = {name: node.to_dataset() for name, node in cube.children.items() if name != "truth"}
    for name in data.modalities:
        nodes[name] = _replace(nodes[name], drawn[name], data.points)
    nodes["truth"] = _truth(model, data, truth, shared)
    return xr.DataTree.from_dict(nodes)


def _fields(model, batch, sites, shared) -> dict[str, torch.Tensor]:
    """Physical variables `[pixel, T]` or `[pixel]` and residual contributions `[pixel, T, C]` of a tile."""
    latents = model.latents({name: site["value"] for name, site in sites.items() if site["type"] == "sample"})
    fields = {}
    for name, value in model.variables(latents).items():
        fields[name] = value if CATALOGUE[name].dynamic else value.squeeze(-1)
    for name in latents.residual:
        residual = model.residual(name, latents, shared)
        fields[f"{name}_residual"] = residual[:, batch.modalities[name].index]
    return fields


def _replace(node: xr.Dataset, values: np.ndarray, points: bool) -> xr.Dataset:
    """The node with simulated values `[T, C, y, x]` where it was valid."""
    variable, channel = ("backscatter", "pol") if "backscatter" in node else ("reflectance", "band")
    space = ("point",) if points else ("y", "x")
    values = values[..., 0] if points else values
    if variable == "backscatter":
        values = 10 ** (values / 10)
    valid = node["valid"].transpose("time", *space)
    array = xr.DataArray(np.where(valid.values[:, None], values, np.nan).astype(np.float32),
                         dims=("time", channel, *space), attrs=node[variable].attrs)
    return node.drop_vars("withheld", errors="ignore").assign({variable: array})


def _truth(model, data: CubeTensors, fields: dict[str, np.ndarray], shared: dict[str, torch.Tensor]) -> xr.Dataset:
    truth = {}
    coords = {"time": data.times}
    for name, array in fields.items():
        if name in CATALOGUE:
            dims = ("time", "y", "x") if CATALOGUE[name].dynamic else ("y", "x")
            attrs = {"units": CATALOGUE[name].unit, "long_name": CATALOGUE[name].long_name}
        else:
            modality = name.removesuffix("_residual")
            coords[f"{modality}_time"] = data.times[data.modalities[modality].index.numpy()]
            coords[f"{modality}_channel"] = list(data.channels[modality])
            dims, attrs = (f"{modality}_time", f"{modality}_channel", "y", "x"), {"units": model.modalities[modality].unit}
        truth[name] = (dims, array, attrs)
    for site, value in shared.items():
        truth[f"global_{site}"] = (tuple(f"{site}_{i}" for i in range(value.dim())), value.numpy())
    return xr.Dataset(truth, coords)
