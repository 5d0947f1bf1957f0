"""From cube to tensors: the cube as arrays in the model's units, random patches to train on, tiles to predict on.

Values become what the likelihood is written in: reflectance as it is, backscatter in dB. Dates become days since
1970-01-01 on the union of all modalities; each modality keeps the index of its own dates in that union.

Latents live on the finest grid. A node with larger pixels is repeated on it for the encoder to read, and keeps how many
fine pixels lie along each side of one of its own: `Batch.footprints` says which belong together, and the likelihood is
that of their mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

__all__ = ["Batch", "CubeTensors", "ModalityBatch"]

GEOMETRY = {"s2": ("sza", "vza", "raa"), "s1": ("incidence",)}
DRIVERS = ("air_temperature", "precipitation")


@dataclass
class ModalityBatch:
    """One modality of a batch.

    Attributes:
        values: `[patch, T_m, C, y, x]` observations in the units of the likelihood; 0 where not valid.
        valid: `[patch, T_m, y, x]` bool, usable observations.
        seen: those of them that the encoder may use and that enter the ELBO.
        index: `[T_m]` position of its dates among the union dates.
        geometry: angle -> degrees, `[T_m]` or `[patch, T_m, y, x]`.
        factor: fine pixels along each side of one of its own.
        given: `[C]` bool, the channels that are there and may be used; default all.
    """

    values: Tensor
    valid: Tensor
    seen: Tensor
    index: Tensor
    geometry: dict[str, Tensor]
    factor: int = 1
    given: Tensor | None = None

    def __post_init__(self) -> None:
        if self.given is None:
            self.given = torch.ones(self.values.shape[2], dtype=torch.bool, device=self.values.device)

    def series(self, pixels: Tensor) -> Tensor:
        """`[pixel, T_m, C]` observations of the pixels."""
        return self.values.permute(0, 3, 4, 1, 2).flatten(0, 2)[pixels]

    def mask(self, pixels: Tensor, which: str = "seen") -> Tensor:
        """`[pixel, T_m]` mask ``"seen"`` or ``"valid"`` of the pixels."""
        return getattr(self, which).permute(0, 2, 3, 1).flatten(0, 2)[pixels]

    def scored(self, pixels: Tensor) -> Tensor:
        """`[pixel, T_m, C]` mask of what enters the likelihood of the pixels."""
        return self.mask(pixels).unsqueeze(-1) & self.given

    def angles(self, pixels: Tensor) -> dict[str, Tensor]:
        """Angle -> `[T_m]` or `[pixel, T_m]`, as it comes: what a date shares is not repeated for every pixel."""
        return {
            name: angle if angle.dim() == 1 else angle.permute(0, 2, 3, 1).flatten(0, 2)[pixels]
            for name, angle in self.geometry.items()
        }


@dataclass
class Batch:
    """Patches of a cube, with the pixels of them that count.

    Attributes:
        dates: `[T]` union dates, days since 1970-01-01, float64, strictly increasing.
        modalities: name -> `ModalityBatch`.
        drivers: name -> `[T]` weather interpolated to the union dates.
        shape: (patches, y, x).
        pixels: `[N]` indices into the flattened `patch * y * x` of the pixels that are modelled.
        scale: what a sum over these pixels is multiplied by to estimate the sum over the cube.
    """

    dates: Tensor
    modalities: dict[str, ModalityBatch]
    drivers: dict[str, Tensor]
    shape: tuple[int, int, int]
    pixels: Tensor
    scale: float = 1.0

    def footprints(self, name: str) -> Tensor:
        """`[M, F]` positions in `pixels` of what each of `M` pixels of a modality consists of.

        Left out are those of which not all fine pixels are among `pixels`. Patches begin where a pixel of every
        modality does.
        """
        return _blocks(self.pixels, self.shape, self.modalities[name].factor)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return _map_tensors(self, lambda t: t.to(device))


@dataclass
class CubeTensors:
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
        missing = [name for name in channels if name not in cube.children]
        if missing:
            raise ValueError(
                f"The cube has no node {missing[0]!r}, which the model reads: add it, or build the model without it."
            )
        nodes = {name: cube[name].to_dataset() for name in channels}
        factors = _factors(nodes)
        times = np.unique(np.concatenate([node.time.values for node in nodes.values()]))
        modalities = {
            name: _modality(name, node, tuple(channels[name]), times, score_withheld, factors[name], partial)
            for name, node in nodes.items()
        }
        if not any(bool(m.seen.any()) for m in modalities.values()):
            raise ValueError("The cube has no usable observation: check its valid and withheld masks.")
        drivers = _drivers(cube["drivers"].to_dataset(), times) if "drivers" in cube.children else {}
        points = any("point" in node.dims for node in nodes.values())
        return cls(_days(times), times, modalities, {k: tuple(v) for k, v in channels.items()}, points, drivers)

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

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of the cube; (point, 1) for points."""
        return tuple(next(iter(self.modalities.values())).valid.shape[-2:])

    @property
    def pixels(self) -> int:
        """Number of pixels or points."""
        return self.shape[0] * self.shape[1]

    @property
    def coarsest(self) -> int:
        """Fine pixels along each side of the largest pixel."""
        return max(m.factor for m in self.modalities.values())

    @property
    def finest(self) -> str:
        """Name of a modality whose grid is the one that latents live on."""
        return min(self.modalities, key=lambda name: self.modalities[name].factor)

    def patches(self, count: int, size: int, pixels: int, generator: torch.Generator) -> Batch:
        """Random patches, and random pixels of them to model, in which every pixel of the cube is equally likely.

        A patch may hang over the edge of the cube; what lies outside is unseen and not counted. `Batch.scale` makes
        sums over a batch unbiased for sums over the cube.

        Args:
            count: number of patches.
            size: pixels along each side (1 for points).
            pixels: how many of their pixels are modelled, at most; the others are context.
            generator: source of randomness.
        """
        side = self.coarsest  # everything below is counted in the largest pixels
        height, width = (length // side for length in self.shape)
        size = -(-size // side)
        size_y, size_x = (1, 1) if self.points else (min(size, height), min(size, width))
        spots_y, spots_x = height + size_y - 1, width + size_x - 1
        top = torch.randint(spots_y, (count,), generator=generator) - size_y + 1
        left = torch.randint(spots_x, (count,), generator=generator) - size_x + 1
        rows = side * top[:, None] + torch.arange(side * size_y)
        columns = side * left[:, None] + torch.arange(side * size_x)
        batch = self._cut(rows, columns)
        blocks = _blocks(batch.pixels, batch.shape, side)
        chosen = torch.randperm(len(blocks), generator=generator)[: max(1, pixels // side**2)]
        batch.pixels = batch.pixels[blocks[chosen].flatten()]
        batch.scale = spots_y * spots_x / (count * size_y * size_x) * len(blocks) / max(len(chosen), 1)
        return batch

    def tiles(self, size: int, halo: int) -> Iterator[tuple[slice, slice, Batch]]:
        """Tiles that cover the cube once, each read with a halo.

        Args:
            size: pixels along each side of a tile.
            halo: pixels of context around it (`FusionEncoder.radius`); not counted.

        Yields:
            rows and columns of the tile in the cube, and its batch (`pixels` are the tile's, row by row). Where
            modalities differ in their pixels, size and halo are rounded up to whole ones of all.
        """
        height, width = self.shape
        size, halo = (-(-length // self.coarsest) * self.coarsest for length in (size, halo))
        if self.points:
            size, halo = size * size, 0
        for top in range(0, height, size):
            for left in range(0, width, size):
                rows, columns = slice(top, min(top + size, height)), slice(left, min(left + size, width))
                inner_rows = torch.arange(rows.start - halo, rows.stop + halo)
                inner_columns = torch.arange(columns.start - halo, columns.stop + halo)
                if self.points:  # points are not neighbours: every one is a patch of its own
                    yield rows, columns, self._cut(inner_rows[:, None], inner_columns.expand(len(inner_rows), 1))
                    continue
                batch = self._cut(inner_rows[None], inner_columns[None])
                core = torch.zeros(batch.shape, dtype=torch.bool)
                core[:, halo : halo + rows.stop - rows.start, halo : halo + columns.stop - columns.start] = True
                batch.pixels = core.flatten().nonzero().squeeze(1)
                yield rows, columns, batch

    def at(self, rows: Tensor, columns: Tensor, halo: int) -> Batch:
        """Single pixels `[N]`, each read with its halo."""
        reach = torch.arange(-halo, halo + 1) if not self.points else torch.zeros(1, dtype=torch.long)
        batch = self._cut(rows[:, None] + reach, columns[:, None] + reach)
        side = len(reach)
        batch.pixels = torch.arange(len(rows)) * side * side + (side * side) // 2
        return batch

    def _cut(self, rows: Tensor, columns: Tensor) -> Batch:
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
        return Batch(self.dates, modalities, self.drivers, tuple(inside.shape), pixels)


def _factors(nodes: Mapping[str, xr.Dataset]) -> dict[str, int]:
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


def _blocks(pixels: Tensor, shape: tuple[int, int, int], side: int) -> Tensor:
    """`[M, side**2]` positions in `pixels` of whole squares; `pixels` index a flattened `patch * y * x`."""
    if side == 1:
        return torch.arange(len(pixels), device=pixels.device).unsqueeze(1)
    _, height, width = shape
    patch, y, x = pixels // (height * width), pixels // width % height, pixels % width
    number = (patch * (height // side) + y // side) * (width // side) + x // side
    order = number.argsort(stable=True)
    _, counts = number[order].unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts)[counts == side**2]
    return order[first.unsqueeze(1) + torch.arange(side**2, device=pixels.device)]


def _modality(
    name: str,
    node: xr.Dataset,
    channels: tuple[str, ...],
    times: np.ndarray,
    score_withheld: bool,
    factor: int,
    partial: bool,
) -> ModalityBatch:
    variable, dim = ("backscatter", "pol") if "backscatter" in node else ("reflectance", "band")
    absent = [c for c in channels if c not in node[dim].values]
    if absent and not partial:
        raise ValueError(
            f"Node {name!r} of the cube has no {dim} {absent[0]!r}, which the model reads: give the model "
            f"the cube's own ({', '.join(map(str, node[dim].values))})."
        )
    space = ("point",) if "point" in node.dims else ("y", "x")
    # What the cube lacks is a column of ones, valid in any unit, until it is masked.
    table = node[variable].reindex({dim: list(channels)}, fill_value=1.0).transpose("time", dim, *space)
    values, given = torch.from_numpy(table.values.astype(np.float32)), torch.tensor([c not in absent for c in channels])
    if variable == "backscatter":
        values = 10 * torch.log10(values.clamp_min(1e-6))
    valid = torch.from_numpy(node["valid"].transpose("time", *space).values.astype(bool))
    valid = valid & torch.isfinite(values).all(1)
    seen = valid
    if "withheld" in node:
        seen = valid & ~torch.from_numpy(node["withheld"].transpose("time", *space).values.astype(bool))
    geometry = {}
    for angle in GEOMETRY.get(name.split("_")[0], ()):
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
    days, wanted = _days(node.time.values).numpy(), _days(times).numpy()
    drivers = {}
    for name in DRIVERS:
        if name in node:
            series = node[name].mean([d for d in node[name].dims if d != "time"]).values
            drivers[name] = torch.from_numpy(np.interp(wanted, days, series).astype(np.float32))
    return drivers


def _days(times: np.ndarray) -> Tensor:
    seconds = times.astype("datetime64[s]").astype(np.int64)
    return torch.from_numpy(seconds / 86400.0)


def _map_tensors(item, function):
    if isinstance(item, Tensor):
        return function(item)
    if isinstance(item, dict):
        return {key: _map_tensors(value, function) for key, value in item.items()}
    if dataclasses.is_dataclass(item):
        fields = {f.name: _map_tensors(getattr(item, f.name), function) for f in dataclasses.fields(item)}
        return dataclasses.replace(item, **fields)
    return item
