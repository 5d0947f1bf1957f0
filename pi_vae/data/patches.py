"""Patches of a cube: random ones to train on, tiles that cover it, single pixels with what surrounds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pi_vae.data.batches import Batch, blocks

__all__ = ["Patches"]


class Patches(Protocol):
    """What patches can be cut from.

    Attributes:
        dates: `[T]` union dates, days since 1970-01-01.
        times: the same as numpy datetimes.
        channels: modality -> names of bands or polarisations.
        points: whether the cube holds points instead of a grid.
        index: modality -> `[T_m]` position of its dates among the union dates.
    """

    dates: Tensor
    times: np.ndarray
    channels: dict[str, tuple[str, ...]]
    points: bool

    @property
    def index(self) -> dict[str, Tensor]:
        """Modality -> `[T_m]` position of its dates among the union dates."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of the cube on its finest grid; (point, 1) for points."""
        ...

    @property
    def factors(self) -> dict[str, int]:
        """Fine pixels along each side of a pixel of every modality."""
        ...

    def cut(self, rows: Tensor, columns: Tensor) -> Batch:
        """Patches of the rows `[patch, y]` and columns `[patch, x]`; outside the cube nothing is valid."""
        ...

    @property
    def pixels(self) -> int:
        """Number of pixels or points."""
        return self.shape[0] * self.shape[1]

    @property
    def coarsest(self) -> int:
        """Fine pixels along each side of the largest pixel."""
        return max(self.factors.values())

    @property
    def finest(self) -> str:
        """Name of a modality whose grid is the one that latents live on."""
        return min(self.factors, key=self.factors.__getitem__)

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
        batch = self.cut(rows, columns)
        whole = blocks(batch.pixels, batch.shape, side)
        chosen = torch.randperm(len(whole), generator=generator)[: max(1, pixels // side**2)]
        batch.pixels = batch.pixels[whole[chosen].flatten()]
        batch.scale = spots_y * spots_x / (count * size_y * size_x) * len(whole) / max(len(chosen), 1)
        return batch

    def regions(self, size: int) -> list[tuple[slice, slice]]:
        """Rows and columns of tiles that cover the cube once.

        Args:
            size: pixels along each side of a tile; rounded up to whole pixels of every modality.
        """
        height, width = self.shape
        size = -(-size // self.coarsest) * self.coarsest
        size = size * size if self.points else size
        tops, lefts = range(0, height, size), range(0, width, size)
        return [(slice(y, min(y + size, height)), slice(x, min(x + size, width))) for y in tops for x in lefts]

    def tile(self, rows: slice, columns: slice, halo: int) -> Batch:
        """A tile, read with a halo; the pixels of the batch are the tile's, row by row.

        Args:
            rows, columns: of the tile in the cube.
            halo: pixels of context around it (`FusionEncoder.radius`), not counted; rounded up to whole pixels of every
                modality.
        """
        halo = 0 if self.points else -(-halo // self.coarsest) * self.coarsest
        inner_rows = torch.arange(rows.start - halo, rows.stop + halo)
        inner_columns = torch.arange(columns.start - halo, columns.stop + halo)
        if self.points:  # points are not neighbours: every one is a patch of its own
            return self.cut(inner_rows[:, None], inner_columns.expand(len(inner_rows), 1))
        batch = self.cut(inner_rows[None], inner_columns[None])
        core = torch.zeros(batch.shape, dtype=torch.bool)
        core[:, halo : halo + rows.stop - rows.start, halo : halo + columns.stop - columns.start] = True
        batch.pixels = core.flatten().nonzero().squeeze(1)
        return batch

    def tiles(self, size: int, halo: int) -> Iterator[tuple[slice, slice, Batch]]:
        """Rows, columns and batch of every tile of `regions`, see `tile`."""
        for rows, columns in self.regions(size):
            yield rows, columns, self.tile(rows, columns, halo)

    def at(self, rows: Tensor, columns: Tensor, halo: int) -> Batch:
        """Single pixels `[N]`, each read with its halo."""
        reach = torch.arange(-halo, halo + 1) if not self.points else torch.zeros(1, dtype=torch.long)
        batch = self.cut(rows[:, None] + reach, columns[:, None] + reach)
        side = len(reach)
        batch.pixels = torch.arange(len(rows)) * side * side + (side * side) // 2
        return batch
