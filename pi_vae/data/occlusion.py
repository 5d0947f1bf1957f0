"""Hiding observations: from the fit, to score it, and from the encoder, to train it for gaps.

Both hide whole blocks of a date, as clouds do; single pixels among seen neighbours would be an easy question.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from pi_vae.data.batches import Batch

__all__ = ["occlude", "withhold"]


def withhold(cube: xr.DataTree, fraction: float = 0.1, block: int = 10, seed: int = 0) -> xr.DataTree:
    """Mark part of the valid observations as withheld, in blocks of space at single dates.

    Every modality gets a boolean variable ``withheld (time, y, x)``, a subset of ``valid``; `fit` does not see these
    observations and `inference.evaluation.withheld_scores` scores them. Modalities are drawn independently.

    Args:
        cube: a valid cube.
        fraction: share of the valid observations, in (0, 1).
        block: side of a block in pixels; points are drawn one by one.
        seed: of the draw.

    Returns:
        A copy of the cube with the new variables.

    Raises:
        ValueError: the fraction is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The withheld fraction is {fraction}: give a number between 0 and 1.")
    generator = np.random.default_rng(seed)
    nodes = {}
    for name, node in cube.children.items():
        dataset = node.to_dataset()
        if "valid" in dataset:
            valid = dataset["valid"]
            grid = "point" not in valid.dims
            valid = valid.transpose("time", *(("y", "x") if grid else ("point",)))
            blocks = [-(-size // (block if grid else 1)) for size in valid.shape[1:]]
            chosen = generator.random((valid.sizes["time"], *blocks)) < fraction
            for axis, size in enumerate(valid.shape[1:], start=1):
                chosen = np.repeat(chosen, block if grid else 1, axis=axis).take(np.arange(size), axis=axis)
            dataset["withheld"] = (valid.dims, chosen & valid.values)
            dataset["withheld"].attrs["long_name"] = "withheld from the fit"
        nodes[name] = dataset
    return xr.DataTree.from_dict(nodes)


def occlude(
    batch: Batch,
    generator: torch.Generator,
    dates: float = 0.08,
    blocks: float = 0.7,
    modality: float = 0.05,
    channels: float = 0.05,
) -> Batch:
    """Hide observations of a batch from the encoder; they stay valid and can be scored.

    Args:
        batch: patches to train on.
        generator: source of randomness.
        dates: probability that a modality's whole date is hidden in a patch.
        blocks: probability that a rectangle of a date is hidden in a patch; its sides are uniform from a
            quarter to three quarters of the patch.
        modality: probability that a modality is hidden from a patch altogether (one at most).
        channels: probability that a modality lacks about half of its channels in the whole batch; these are not scored.

    Returns:
        A batch that differs in `ModalityBatch.seen` and `given` only.
    """
    patches, height, width = batch.shape
    names = list(batch.modalities)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    gone = uniform(patches) < modality * (len(names) > 1)
    which = torch.randint(len(names), (patches,), generator=generator)
    occluded = {}
    for i, (name, m) in enumerate(batch.modalities.items()):
        shape = m.seen.shape[:2]
        hidden = (uniform(*shape) < dates) | (gone & (which == i))[:, None]
        box = (uniform(*shape) < blocks)[:, :, None, None]
        for size, view in ((height, (1, 1, -1, 1)), (width, (1, 1, 1, -1))):
            side = ((0.25 + 0.5 * uniform(*shape, 1, 1)) * size).ceil()
            start = ((size + side - 1) * uniform(*shape, 1, 1) - side + 1).floor()
            line = torch.arange(size).view(view)
            box = box & (line >= start) & (line < start + side)
        if m.factor > 1:  # a pixel of the modality is hidden as a whole
            box = F.max_pool2d(box.expand(*shape, height, width).float(), m.factor) > 0
            box = box.repeat_interleave(m.factor, -2).repeat_interleave(m.factor, -1)
        hide = (hidden[:, :, None, None] | box).to(m.seen.device)
        given = m.given
        if uniform(1) < channels:
            kept = uniform(len(given)) < 0.5
            kept[torch.randint(len(given), (1,), generator=generator)] = True
            given = given & kept.to(given.device)
        occluded[name] = dataclasses.replace(m, seen=m.seen & ~hide, given=given)
    return dataclasses.replace(batch, modalities=occluded)
