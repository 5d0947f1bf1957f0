"""What the model reads: patches of all modalities at their union dates, and which of their pixels count.

Latents live on the finest grid. A node with larger pixels is repeated on it for the encoder to read, and keeps how many
fine pixels lie along each side of one of its own: `Batch.footprints` says which belong together, and the likelihood is
that of their mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch", "ModalityBatch", "blocks", "joined", "parted"]


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
    given: Tensor = None  # type: ignore[assignment]  # made below where there is none

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
        return blocks(self.pixels, self.shape, self.modalities[name].factor)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return _map_tensors(self, lambda t: t.to(device))


def blocks(pixels: Tensor, shape: tuple[int, int, int], side: int) -> Tensor:
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


def joined(batches: Sequence[Batch]) -> Batch:
    """Patches of equal size and dates in one batch; pixels count as they did."""
    first = batches[0]
    if len(batches) == 1:
        return first
    modalities = {}
    for name, one in first.modalities.items():
        parts = [b.modalities[name] for b in batches]
        stacks: dict[str, Any] = {
            key: torch.cat([getattr(part, key) for part in parts]) for key in ("values", "valid", "seen")
        }
        geometry = {
            angle: degrees if degrees.dim() == 1 else torch.cat([part.geometry[angle] for part in parts])
            for angle, degrees in one.geometry.items()
        }
        modalities[name] = dataclasses.replace(one, **stacks, geometry=geometry)
    sizes = [math.prod(b.shape) for b in batches]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    pixels = torch.cat([b.pixels + offset for b, offset in zip(batches, offsets, strict=True)])
    shape = (sum(b.shape[0] for b in batches), *first.shape[1:])
    return dataclasses.replace(first, modalities=modalities, shape=shape, pixels=pixels)


def parted(batch: Batch, count: int) -> list[Batch]:
    """The batch in parts of equally many patches, the inverse of `joined`."""
    if count == 1:
        return [batch]
    patches, height, width = batch.shape
    parts = []
    for chosen in torch.arange(patches).chunk(count):
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        modalities = {}
        for name, one in batch.modalities.items():
            cut = {key: getattr(one, key)[first:last] for key in ("values", "valid", "seen")}
            geometry = {angle: a if a.dim() == 1 else a[first:last] for angle, a in one.geometry.items()}
            modalities[name] = dataclasses.replace(one, **cut, geometry=geometry)
        size = height * width
        own = (batch.pixels >= first * size) & (batch.pixels < last * size)
        pixels, shape = batch.pixels[own] - first * size, (last - first, height, width)
        parts.append(dataclasses.replace(batch, modalities=modalities, shape=shape, pixels=pixels))
    return parts


def _map_tensors(item, function):
    if isinstance(item, Tensor):
        return function(item)
    if isinstance(item, dict):
        return {key: _map_tensors(value, function) for key, value in item.items()}
    if dataclasses.is_dataclass(item):
        fields = {f.name: _map_tensors(getattr(item, f.name), function) for f in dataclasses.fields(item)}
        return dataclasses.replace(item, **fields)
    return item
