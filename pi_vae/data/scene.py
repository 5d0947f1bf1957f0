"""Cubes larger than memory, whose patches are read from disk when they are asked for, and several cubes at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pi_vae.data.batches import Batch, ModalityBatch, joined
from pi_vae.data.patches import Patches
from pi_vae.data.tensors import CubeTensors, days, factors_of, nodes_of

__all__ = ["IN_MEMORY", "Cubes", "Scene", "open_tensors"]

IN_MEMORY = 5e8  # observations of a cube that is read as a whole, channels counted: 2 GB, and as much again to read it
SURVEYED, SURVEY_SIZE = 64, 16  # patches, and pixels along their sides, that statistics are taken from


def open_tensors(
    cube: xr.DataTree,
    channels: Mapping[str, tuple[str, ...]],
    score_withheld: bool = False,
    partial: bool = False,
) -> CubeTensors | Scene:
    """A cube as tensors, in memory if it has no more than `IN_MEMORY` numbers or consists of points, else as a `Scene`.

    Arguments and errors as those of `CubeTensors.read`.
    """
    nodes, _, _ = nodes_of(cube, channels)
    numbers = sum(math.prod(node["valid"].shape) * len(channels[name]) for name, node in nodes.items())
    kind = CubeTensors.read if numbers <= IN_MEMORY or any("point" in n.dims for n in nodes.values()) else Scene
    return kind(cube, channels, score_withheld, partial)


class Scene(Patches):
    """A cube of a grid that stays on disk; what it costs in memory does not depend on its size.

    Chunks that are not much larger than a patch (some 64 pixels along each side, all dates) are read fastest.

    Args:
        cube, channels, score_withheld, partial: as those of `CubeTensors.read`.
    """

    def __init__(
        self,
        cube: xr.DataTree,
        channels: Mapping[str, tuple[str, ...]],
        score_withheld: bool = False,
        partial: bool = False,
    ) -> None:
        self._nodes, self._drivers, self.times = nodes_of(cube, channels)
        self._factors = factors_of(self._nodes)
        self._options = (score_withheld, partial)
        self.channels = {name: tuple(names) for name, names in channels.items()}
        self.dates, self.points = days(self.times), False

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of the cube on its finest grid."""
        node = self._nodes[self.finest]
        return node.sizes["y"], node.sizes["x"]

    @property
    def index(self) -> dict[str, Tensor]:
        """Modality -> `[T_m]` position of its dates among the union dates."""
        return {
            name: torch.from_numpy(np.searchsorted(self.times, node.time.values)) for name, node in self._nodes.items()
        }

    @property
    def factors(self) -> dict[str, int]:
        """Fine pixels along each side of a pixel of every modality."""
        return self._factors

    def without_empty_dates(self) -> Scene:
        """Itself: which dates are empty could be known only by reading the whole cube."""
        return self

    def survey(self) -> list[tuple[dict[str, ModalityBatch], float]]:
        """Some of the cube, by modality, and the share of its pixels that these are."""
        batch = self.patches(SURVEYED, SURVEY_SIZE, SURVEYED * SURVEY_SIZE**2, torch.Generator().manual_seed(0))
        return [(batch.modalities, len(batch.pixels) / self.pixels)]

    def window(self, rows: slice, columns: slice) -> CubeTensors:
        """A part of the cube in memory; edges lie where a pixel of every modality begins."""
        nodes = {}
        for name, node in self._nodes.items():
            f = self._factors[name]
            spot = {"y": slice(rows.start // f, rows.stop // f), "x": slice(columns.start // f, columns.stop // f)}
            nodes[name] = node.isel(spot)
        return CubeTensors.of(nodes, self._drivers, self.times, self.channels, *self._options)

    def cut(self, rows: Tensor, columns: Tensor) -> Batch:
        """Patches of the rows `[patch, y]` and columns `[patch, x]`; outside the cube nothing is valid."""
        return joined([self._read(r, c) for r, c in zip(rows, columns, strict=True)])

    def _read(self, rows: Tensor, columns: Tensor) -> Batch:
        """One patch, of which at least one pixel lies in the cube."""
        spots = [self._within(part, length) for part, length in zip((rows, columns), self.shape, strict=True)]
        window = self.window(*spots)
        # The patch hangs over the edges of the window where it hangs over those of the cube, and nowhere else.
        return window.cut(rows[None] - spots[0].start, columns[None] - spots[1].start)

    def _within(self, part: Tensor, length: int) -> slice:
        side = self.coarsest
        start, stop = max(0, int(part[0])), min(length, int(part[-1]) + 1)
        return slice(start // side * side, -(-stop // side) * side)


class Cubes:
    """Several cubes to train on, with dates and shapes of their own: every pixel of all of them is equally likely.

    Args:
        parts: the cubes.

    Attributes:
        points: whether they hold points.
        pixels: of all of them.

    Raises:
        ValueError: some hold points and some a grid.
    """

    def __init__(self, parts: Sequence[CubeTensors | Scene]) -> None:
        self._parts, self.points = tuple(parts), parts[0].points
        if any(part.points != self.points for part in parts):
            raise ValueError("Some cubes hold points and some a grid: fit them apart.")
        self.pixels = sum(part.pixels for part in parts)

    def patches(self, count: int, size: int, pixels: int, generator: torch.Generator) -> Batch:
        """Random patches of a random cube, see `Patches.patches`; `Batch.scale` refers to all cubes."""
        shares = torch.tensor([part.pixels / self.pixels for part in self._parts])
        chosen = int(torch.multinomial(shares, 1, generator=generator))
        batch = self._parts[chosen].patches(count, size, pixels, generator)
        batch.scale = batch.scale / float(shares[chosen])
        return batch

    def survey(self) -> list[tuple[dict[str, ModalityBatch], float]]:
        """What each cube says of itself."""
        return [entry for part in self._parts for entry in part.survey()]
