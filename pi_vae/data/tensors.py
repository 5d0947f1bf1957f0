"""From cube to tensors: the cube as arrays in the model's units, random patches to train on, tiles to predict on.

Values become what the likelihood is written in: reflectance as it is, backscatter in dB. Dates become days since
1970-01-01 on the union of all modalities; each modality keeps the index of its own dates in that union.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pi_vae.data.batches import Batch, ModalityBatch
from pi_vae.data.kinds import kind_of
from pi_vae.data.patches import Patches
from pi_vae.data.search import computed

__all__ = ["CubeTensors", "days", "factors_of", "nodes_of"]

log = logging.getLogger(__name__)

DRIVERS = ("air_temperature", "precipitation")


@dataclass
class CubeTensors(Patches):
    """A cube in memory as tensors.

    Attributes:
        dates, drivers: as in `Batch`.
        modalities: name -> `ModalityBatch` with one patch, the whole cube.
        times: `[T]` the union dates as numpy datetimes.
        channels: modality -> names of bands or polarisations.
        points: whether the cube holds points instead of a grid.
    """

    dates: Tensor
    times: np.ndarray
    modalities: dict[str, ModalityBatch]
    channels: dict[str, tuple[str, ...]]
    points: bool
    drivers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        cube: xr.DataTree,
        channels: Mapping[str, tuple[str, ...]],
        score_withheld: bool = False,
        partial: bool = False,
    ) -> CubeTensors:
        """Read the modalities and channels that a model asks for.

        Args:
            cube: a valid cube (`pi_vae.data.validate`).
            channels: modality -> bands or polarisations, in the order of the model.
            score_withheld: observations marked as withheld (`pi_vae.data.occlusion`) are never seen; with this they
                stay valid, to be scored.
            partial: channels that the cube lacks are left out (`ModalityBatch.given`) instead of refused.

        Raises:
            ValueError: the cube lacks a modality or a channel.
        """
        nodes, drivers, times = nodes_of(cube, channels)
        data = cls.of(nodes, drivers, times, channels, score_withheld, partial)
        if not any(bool(m.seen.any()) for m in data.modalities.values()):
            raise ValueError("The cube has no usable observation: check its valid and withheld masks.")
        return data

    @classmethod
    def of(
        cls,
        nodes: Mapping[str, xr.Dataset],
        drivers: xr.Dataset | None,
        times: np.ndarray,
        channels: Mapping[str, tuple[str, ...]],
        score_withheld: bool = False,
        partial: bool = False,
    ) -> CubeTensors:
        """What `nodes_of` gives, or the same part of each node, as tensors; arguments as those of `read`."""
        factors = factors_of(nodes)
        modalities = {
            name: _modality(name, node, tuple(channels[name]), times, score_withheld, factors[name], partial)
            for name, node in nodes.items()
        }
        series = _drivers(drivers, times) if drivers is not None else {}
        points = any("point" in node.dims for node in nodes.values())
        return cls(days(times), times, modalities, {k: tuple(v) for k, v in channels.items()}, points, series)

    def without_empty_dates(self) -> CubeTensors:
        """The same cube without dates of a modality at which nothing is valid; the union dates stay."""
        modalities = {}
        for name, m in self.modalities.items():
            keep = m.valid[0].flatten(1).any(1)
            modalities[name] = dataclasses.replace(
                m,
                values=m.values[:, keep],
                valid=m.valid[:, keep],
                seen=m.seen[:, keep],
                index=m.index[keep],
                geometry={k: g[keep] if g.dim() == 1 else g[:, keep] for k, g in m.geometry.items()},
            )
        return dataclasses.replace(self, modalities=modalities)

    def survey(self) -> list[tuple[dict[str, ModalityBatch], float]]:
        """The cube by modality, and the share of its pixels that these are: all."""
        return [(self.modalities, 1.0)]

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of the cube; (point, 1) for points."""
        *_, height, width = next(iter(self.modalities.values())).valid.shape
        return height, width

    @property
    def index(self) -> dict[str, Tensor]:
        """Modality -> `[T_m]` position of its dates among the union dates."""
        return {name: m.index for name, m in self.modalities.items()}

    @property
    def factors(self) -> dict[str, int]:
        """Fine pixels along each side of a pixel of every modality."""
        return {name: m.factor for name, m in self.modalities.items()}

    def cut(self, rows: Tensor, columns: Tensor) -> Batch:
        """Patches of the rows `[patch, y]` and columns `[patch, x]`; outside the cube nothing is valid."""
        height, width = self.shape
        inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        y, x = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]

        def take(array: Tensor) -> Tensor:
            """`[1, ..., Y, X]` -> `[patch, ..., y, x]`."""
            return array[0][..., y, x].movedim(-3, 0)

        modalities = {}
        for name, m in self.modalities.items():
            modalities[name] = dataclasses.replace(
                m,
                values=take(m.values),
                valid=take(m.valid) & inside[:, None],
                seen=take(m.seen) & inside[:, None],
                geometry={k: g if g.dim() == 1 else take(g) for k, g in m.geometry.items()},
            )
        pixels = inside.flatten().nonzero().squeeze(1)
        shape = (len(inside), inside.shape[1], inside.shape[2])
        return Batch(self.dates, modalities, self.drivers, shape, pixels)


def nodes_of(cube: xr.DataTree, names: Iterable[str]) -> tuple[dict[str, xr.Dataset], xr.Dataset | None, np.ndarray]:
    """Nodes of a cube, its drivers if it has some, and the union of the dates of the nodes.

    Raises:
        ValueError: the cube lacks a node.
    """
    missing = [name for name in names if name not in cube.children]
    if missing:
        raise ValueError(
            f"The cube has no node {missing[0]!r}, which the model reads: add it, or build the model without it."
        )
    nodes = {name: cube[name].to_dataset() for name in names}
    drivers = cube["drivers"].to_dataset() if "drivers" in cube.children else None
    return nodes, drivers, np.unique(np.concatenate([node.time.values for node in nodes.values()]))


def factors_of(nodes: Mapping[str, xr.Dataset]) -> dict[str, int]:
    """How many pixels of the finest grid lie along each side of one of a node's own."""
    if any("point" in node.dims for node in nodes.values()):
        return dict.fromkeys(nodes, 1)
    largest = max(node.sizes["y"] for node in nodes.values())
    factors = {name: largest // node.sizes["y"] for name, node in nodes.items()}
    coarsest = max(factors.values())
    odd = [f for f in factors.values() if coarsest % f]
    if odd:
        raise ValueError(f"Pixels of {odd[0]} and {coarsest} times the finest do not nest: resample one of the nodes.")
    return factors


def _modality(
    name: str,
    node: xr.Dataset,
    channels: tuple[str, ...],
    times: np.ndarray,
    score_withheld: bool,
    factor: int,
    partial: bool,
) -> ModalityBatch:
    kind = kind_of(name)
    variable, dim = kind.values, kind.channel
    absent = [c for c in channels if c not in node[dim].values]
    if absent and not partial:
        raise ValueError(
            f"Node {name!r} of the cube has no {dim} {absent[0]!r}, which the model reads: give the model "
            f"the cube's own ({', '.join(map(str, node[dim].values))})."
        )
    space = ("point",) if "point" in node.dims else ("y", "x")
    node = computed(name, node)  # before it is transposed: a lazy array would look up every number
    # What the cube lacks is a column of ones, valid in any unit, until it is masked.
    table = node[variable].reindex({dim: list(channels)}, fill_value=1.0).transpose("time", dim, *space)
    values, given = torch.from_numpy(table.values.astype(np.float32)), torch.tensor([c not in absent for c in channels])
    valid = torch.from_numpy(node["valid"].transpose("time", *space).values.astype(bool))
    low, high = kind.possible  # a single number beyond would bend a whole fit
    possible = ((values >= low) & (values <= high)).all(1)
    lost = int((valid & ~possible).sum())
    if lost:
        log.warning(
            "%d of %d observations of %r are no possible %s (%g to %g) and count as not seen.",
            lost,
            valid.numel(),
            name,
            variable,
            low,
            high,
        )
    valid = valid & possible
    values = kind.to_likelihood(values)
    seen = valid
    if "withheld" in node:
        seen = valid & ~torch.from_numpy(node["withheld"].transpose("time", *space).values.astype(bool))
    geometry = {}
    for angle in kind.angles:
        degrees = node[angle]
        over = degrees.dims == ("time",) or degrees.ndim == 0
        array = degrees.broadcast_like(node["time"]).values if over else degrees.transpose("time", *space).values
        geometry[angle] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if space == ("point",):
        values, valid, seen = values.unsqueeze(-1), valid.unsqueeze(-1), seen.unsqueeze(-1)
        geometry = {k: g if g.dim() == 1 else g.unsqueeze(-1) for k, g in geometry.items()}
    if factor > 1:
        values, valid, seen = (_repeated(x, factor) for x in (values, valid, seen))
        geometry = {k: g if g.dim() == 1 else _repeated(g, factor) for k, g in geometry.items()}
    valid = valid if score_withheld else seen
    values = torch.where(valid.unsqueeze(1) & given.view(1, -1, *[1] * (values.dim() - 2)), values, 0.0)
    index = torch.from_numpy(np.searchsorted(times, node.time.values))
    fields = {k: g if g.dim() == 1 else g.unsqueeze(0) for k, g in geometry.items()}
    return ModalityBatch(values.unsqueeze(0), valid.unsqueeze(0), seen.unsqueeze(0), index, fields, factor, given)


def _repeated(image: Tensor, factor: int) -> Tensor:
    """`[..., y, x]` on a grid that is finer by a factor."""
    return image.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def _drivers(node: xr.Dataset, times: np.ndarray) -> dict[str, Tensor]:
    known, wanted = days(node.time.values).numpy(), days(times).numpy()
    drivers = {}
    for name in DRIVERS:
        if name in node:
            series = node[name].mean([d for d in node[name].dims if d != "time"]).values
            drivers[name] = torch.from_numpy(np.interp(wanted, known, series).astype(np.float32))
    return drivers


def days(times: np.ndarray) -> Tensor:
    seconds = times.astype("datetime64[s]").astype(np.int64)
    return torch.from_numpy(seconds / 86400.0)
