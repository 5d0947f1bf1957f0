"""From series of dates to dates of series and back.

A recursion wants the series of a date side by side, `[T, S, V, n]`; everything else keeps the dates of a series
together, `[S, n, V, T]`. Turning one into the other a few series at a time reads every line of the cache once; all at
once it would be read anew for every date.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Enter", "Leave"]

TOGETHER = 64  # series


class Enter(torch.autograd.Function):
    """``Enter.apply(value)``: `[S, n, V, T]` -> `[T, S, V, n]` in float64."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        ctx.dtype = value.dtype
        return _by_date(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _by_series(gradient, ctx.dtype)


class Leave(torch.autograd.Function):
    """``Leave.apply(value, dtype)``: `[T, S, V, n]` -> `[S, n, V, T]` in a dtype."""

    @staticmethod
    def forward(ctx, value: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = value.dtype
        return _by_series(value, dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _by_date(gradient).to(ctx.dtype), None


def _by_date(value: Tensor) -> Tensor:
    draws, series, variables, dates = value.shape
    turned = value.new_empty(dates, draws, variables, series, dtype=torch.float64)
    for there, here in zip(turned.split(TOGETHER, -1), value.split(TOGETHER, 1), strict=True):
        there.copy_(here.permute(3, 0, 2, 1))
    return turned


def _by_series(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.permute(1, 3, 2, 0).to(dtype, memory_format=torch.contiguous_format)
