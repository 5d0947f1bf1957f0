"""`simulate`: a cube drawn from a model's own prior, with the truth beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine

from pi_vae.data.cube import complete
from pi_vae.data.kinds import NodeKind, kind_of
from pi_vae.data.sentinel1 import s1_node
from pi_vae.data.sentinel2 import s2_node
from pi_vae.data.tensors import CubeTensors

__all__ = ["pattern", "simulate"]

PATTERN_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def simulate(model, cube: xr.DataTree, seed: int = 0, tile: int = 50) -> xr.DataTree:
    """Replace the observations of a cube by draws from the model's prior.

    The generative program itself is run: global latents once, local latents for every pixel, then the operators, the
    residuals and the likelihood. Dates, geometry, masks, grid and weather stay those of the cube.

    Args:
        model: a `pi_vae.PhysicsVAE`.
        cube: a valid cube that serves as pattern.
        seed: of the draw.
        tile: side of the tiles worked on, in pixels of the finest node.

    Returns:
        A cube of the same layout with a node ``truth``: every variable `(time, y, x)` or `(y, x)`, the contribution
        of each residual `<modality>_residual (<modality>_time, <modality>_channel, y, x)`, and the global latents.

    Raises:
        ValueError: the cube lacks a modality or channel of the model.
    """
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    height, width = data.shape
    model.know_dates(data)
    truth: dict[str, np.ndarray] = {}
    drawn: dict[str, np.ndarray] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        shared = model.draw_globals("prior")
        program = poutine.condition(poutine.uncondition(model.model), shared)
        for rows, columns, batch in data.tiles(tile, 0):
            sites: Mapping[str, Any] = poutine.trace(program).get_trace(batch).nodes
            fields = _fields(model, batch, sites, shared)
            for target, values in ((truth, fields), (drawn, {m: sites[m]["value"] for m in batch.modalities})):
                for name, value in values.items():
                    factor = batch.modalities[name].factor if target is drawn else 1
                    spots = [slice(part.start // factor, part.stop // factor) for part in (rows, columns)]
                    image = value.movedim(0, -1).unflatten(-1, [s.stop - s.start for s in spots]).numpy()
                    if name not in target:
                        size = (height // factor, width // factor)
                        target[name] = np.empty((*image.shape[:-2], *size), np.float32)
                    target[name][..., spots[0], spots[1]] = image
    nodes = {name: node.to_dataset() for name, node in cube.children.items() if name != "truth"}
    for name in data.modalities:
        nodes[name] = _replace(kind_of(name), nodes[name], drawn[name], data.channels[name], data.points)
    nodes["truth"] = _truth(model, data, truth, shared)
    return xr.DataTree.from_dict(nodes)


def pattern(
    size: int = 60,
    bands: tuple[str, ...] = PATTERN_BANDS,
    optical_days: int = 20,
    radar_days: int = 12,
    cloudy: float = 0.3,
    seed: int = 0,
) -> xr.DataTree:
    """An empty cube with real geometry, to simulate into where there are no data.

    Args:
        size: pixels along each side, at 10 m.
        bands: optical bands.
        optical_days, radar_days: days between images.
        cloudy: share of the optical dates of every block of 20 pixels that clouds hide.
        seed: of the clouds.

    Returns:
        One year in central Belgium; the observations are placeholders.
    """
    generator = np.random.default_rng(seed)
    start = np.datetime64("2020-11-05T10:45", "ns")
    optical = start + np.arange(0, 365, optical_days) * np.timedelta64(1, "D")
    radar = start + np.arange(0, 365, radar_days) * np.timedelta64(1, "D")
    blocks = -(-size // 20)
    clear = generator.random((len(optical), blocks, blocks)) >= cloudy
    clear = clear.repeat(20, 1).repeat(20, 2)[:, :size, :size]
    place: dict[str, Any] = {
        "x": 664005.0 + 10 * np.arange(size),
        "y": 5612115.0 - 10 * np.arange(size),
        "crs": "EPSG:32631",
    }
    reflectance = np.full((len(optical), len(bands), size, size), 0.2, np.float32)
    backscatter = np.full((len(radar), 2, size, size), 0.05, np.float32)
    nodes = {
        "s2": s2_node(reflectance, optical, bands, valid=clear, **place),
        "s1": s1_node(backscatter, radar, **place),
    }
    return complete(xr.DataTree.from_dict(nodes))


def _fields(model, batch, sites, shared) -> dict[str, torch.Tensor]:
    """Physical variables `[pixel, T]` or `[pixel]` and residual contributions `[pixel, T, C]` of a tile."""
    drawn = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    latents = model.latents(drawn, batch.dates, shared)
    fields = {}
    for name, value in model.variables(latents).items():
        fields[name] = value if model.catalogue[name].dynamic else value.squeeze(-1)
    for name in latents.residual:
        residual = model.residual(name, latents, shared)
        fields[f"{name}_residual"] = residual[:, batch.modalities[name].index]
    return fields


def _replace(
    kind: NodeKind, node: xr.Dataset, values: np.ndarray, channels: tuple[str, ...], points: bool
) -> xr.Dataset:
    """The node with simulated values `[T, C, y, x]` of the channels where it was valid."""
    variable, channel = kind.values, kind.channel
    space = ("point",) if points else ("y", "x")
    node = node.sel({channel: list(channels)})
    values = values[..., 0] if points else values
    values = kind.from_likelihood(values)
    valid = node["valid"].transpose("time", *space)
    array = xr.DataArray(
        np.where(valid.values[:, None], values, np.nan).astype(np.float32),
        dims=("time", channel, *space),
        attrs=node[variable].attrs,
    )
    # A prior knows surfaces that no one has seen, darker than black included: guards against wrong offsets stand back.
    return node.drop_vars("withheld", errors="ignore").assign({variable: array}).assign_attrs(simulated=1)


def _truth(model, data: CubeTensors, fields: dict[str, np.ndarray], shared: dict[str, torch.Tensor]) -> xr.Dataset:
    truth: dict[str, Any] = {}
    coords: dict[str, Any] = {"time": data.times}
    for name, array in fields.items():
        if name in model.catalogue:
            variable = model.catalogue[name]
            dims: tuple[str, ...] = ("time", "y", "x") if variable.dynamic else ("y", "x")
            attrs = {"units": variable.unit, "long_name": variable.long_name}
        else:
            modality = name.removesuffix("_residual")
            coords[f"{modality}_time"] = data.times[data.modalities[modality].index.numpy()]
            coords[f"{modality}_channel"] = list(data.channels[modality])
            dims = (f"{modality}_time", f"{modality}_channel", "y", "x")
            attrs = {"units": model.modalities[modality].unit}
        truth[name] = (dims, array, attrs)
    for site, value in shared.items():
        truth[f"global_{site}"] = (tuple(f"{site}_{i}" for i in range(value.dim())), value.numpy())
    return xr.Dataset(truth, coords)
