"""Attention over irregular dates: every date of a pixel reads all others, at whatever spacing they come.

Dates enter as Fourier features of the day (the harmonics of the year, and longer periods that tell years apart), so
neither the number of dates nor their spacing is fixed. Dates where nothing was seen can ask but are never asked.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DateEmbedding", "TemporalEncoder"]

PERIODS = (365.25, 365.25 / 2, 365.25 / 3, 365.25 / 4, 365.25 / 6, 365.25 / 8, 3 * 365.25)


class DateEmbedding(nn.Module):
    """Fourier features of dates, mapped to `D` features.

    Args:
        width: `D`.
    """

    frequency: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequency", 2 * math.pi / torch.tensor(PERIODS, dtype=torch.float64), persistent=False)
        self.project = nn.Linear(2 * len(PERIODS), width)

    def forward(self, dates: Tensor) -> Tensor:
        """`[T]` dates in days since 1970-01-01 (float64) -> `[T, D]`."""
        # In float64: a phase from days since 1970 would lose the hours in float32.
        phase = dates.double()[:, None] * self.frequency
        return self.project(torch.cat([phase.sin(), phase.cos()], -1).to(self.project.weight.dtype))


class TemporalEncoder(nn.Module):
    """Pre-norm transformer over the union dates of a pixel.

    Args:
        width: `D` features.
        layers: number of layers.
        heads: attention heads.
    """

    def __init__(self, width: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Mix the dates of each pixel.

        Args:
            tokens: `[pixel, T, D]`.
            present: `[pixel, T]` bool; a date that is false is read by itself only.

        Returns:
            `[pixel, T, D]`.
        """
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        allowed = (present.unsqueeze(1) | itself).unsqueeze(1)
        # As numbers once: attention would convert a mask of truth values in every layer.
        mask = torch.zeros(allowed.shape, dtype=tokens.dtype, device=tokens.device).masked_fill_(~allowed, -math.inf)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return self.norm(tokens)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        split = self.project(self.first(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.feedforward(self.second(tokens))
