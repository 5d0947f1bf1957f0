"""Convolution over space: every image of a modality becomes a map of features that know their surroundings.

A 3x3 stem sees the values, zero where unseen, and the mask itself; residual blocks (depthwise convolution, then a
pointwise network, after ConvNeXt, Liu et al. 2022) widen the view at a cost per pixel that hardly depends on it.
A masked value has exactly no influence, whatever it holds. On points (`1 x 1` images) the kernels reduce to their
centres: the same network is a pixel encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SpatialEncoder"]


class SpatialEncoder(nn.Module):
    """Features of single-date images.

    Args:
        channels: `C` bands or polarisations.
        width: `D` features.
        blocks: number of residual blocks.
        kernel: their kernel size, odd.

    Attributes:
        radius: pixels of context on each side; what a tile needs as halo.
    """

    def __init__(self, channels: int, width: int, blocks: int = 2, kernel: int = 7) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels + 1, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width, kernel) for _ in range(blocks))
        self.radius = 1 + blocks * (kernel // 2)

    def forward(self, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a stack of images.

        Args:
            values: `[image, C, y, x]` standardised values; anything, NaN included, where unseen.
            seen: `[image, y, x]` bool, true where the value may be used.

        Returns:
            features `[image, y, x, D]`, and `[image, y, x]` bool: whether any seen pixel lies within the radius.
        """
        mask = seen.unsqueeze(1)
        clean = torch.where(mask, values, torch.zeros_like(values))
        features = self.stem(torch.cat([clean, mask.to(values.dtype)], 1).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            features = block(features)
        near = F.max_pool2d(mask.float(), 2 * self.radius + 1, 1, self.radius)
        return features.permute(0, 2, 3, 1), near.squeeze(1) > 0


class _Block(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.depthwise(features).permute(0, 2, 3, 1)
        return features + self.pointwise(self.norm(hidden)).permute(0, 3, 1, 2)
