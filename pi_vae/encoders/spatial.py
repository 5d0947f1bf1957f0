"""Convolution over space: every image of a modality becomes a map of features that know their surroundings.

The stem sees each pixel's values, the mask, and the means of what is seen around it at two scales (normalised
convolution, Knutsson & Westin 1993: under a cloud the neighbours answer, and how many of them there are is known too).
Residual blocks (depthwise convolution, then a pointwise network, after ConvNeXt, Liu et al. 2022) refine this.
A masked value has exactly no influence, whatever it holds. On points (`1 x 1` images) the kernels reduce to their
centres: the same network is a pixel encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SpatialEncoder"]


SCALES = (2, 6)  # radii in pixels of the means


class SpatialEncoder(nn.Module):
    """Features of single-date images.

    Args:
        channels: `C` bands or polarisations.
        width: `D` features.
        blocks: number of residual blocks.
        kernel: their kernel size, odd.

    Attributes:
        radius: pixels of context on each side; what a tile needs as halo.
        inputs: number of plain inputs: values, mask, and their means around the pixel.
    """

    def __init__(self, channels: int, width: int, blocks: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.inputs = (channels + 1) * (1 + len(SCALES))
        self.stem = nn.Conv2d(self.inputs, width, 1)
        self.absent = nn.Parameter(torch.zeros(channels, width))
        self.blocks = nn.ModuleList(_Block(width, kernel) for _ in range(blocks))
        self.radius = max(SCALES) + blocks * (kernel // 2)

    def forward(self, values: Tensor, seen: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a stack of images.

        Args:
            values: `[image, C, y, x]` standardised values; anything, NaN included, where unseen.
            seen: `[image, y, x]` bool, true where the value may be used.
            given: `[C]` bool, the channels that may be used.

        Returns:
            features `[image, y, x, D]`; the plain inputs they are made of, `[image, y, x, inputs]`; and
            `[image, y, x]` bool: whether anything is seen within the largest scale.
        """
        mask = seen.unsqueeze(1)
        inputs = [torch.cat([torch.where(mask & given.view(1, -1, 1, 1), values, 0.0), mask.to(values.dtype)], 1)]
        for scale in SCALES:
            # Zero padding counts as unseen: sums of value and of mask are divided, so the edge of the cube is no bias.
            sums = F.avg_pool2d(inputs[0], (2 * scale + 1, 1), 1, (scale, 0))
            sums = F.avg_pool2d(sums, (1, 2 * scale + 1), 1, (0, scale))
            inputs.append(torch.cat([sums[:, :-1] / sums[:, -1:].clamp_min(1e-6), sums[:, -1:]], 1))
        near = inputs[-1][:, -1] > 0
        plain = torch.cat(inputs, 1).contiguous(memory_format=torch.channels_last)
        features = self.stem(plain) + (~given).to(plain.dtype).matmul(self.absent).view(1, -1, 1, 1)
        for block in self.blocks:
            features = block(features)
        return features.permute(0, 2, 3, 1), plain.permute(0, 2, 3, 1), near


class _Block(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.middle = kernel // 2
        self.depthwise = nn.Conv2d(width, width, kernel, padding=self.middle, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[-2:] == (1, 1):  # a point meets the centre of the kernel alone
            centre, offset = self.depthwise.weight[:, 0, self.middle, self.middle], self.depthwise.bias
            assert offset is not None
            hidden = (features[..., 0, 0] * centre + offset)[:, None, None]
        else:
            hidden = self.depthwise(features).permute(0, 2, 3, 1)
        return features + self.pointwise(self.norm(hidden)).permute(0, 3, 1, 2)
