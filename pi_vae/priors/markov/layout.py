"""From series of dates to dates of series and back.

A recursion wants the series of a date side by side, `[G, T, S, V, n]`; everything else keeps the dates of a series
together, `[S, series, V, T]`. On a processor series come in groups whose dates lie one after the other in memory, so
that a pass over the dates of a group reads and writes without a gap; an accelerator takes all series at once, as one
group. The last group is filled up with zeros: sites of precision zero, from which nothing comes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Enter", "Leave", "dates_of", "grouped", "grouping"]

LANES, LEAST = 256, 64  # numbers of a date in a group, and series if there are many variables
TOGETHER = 2**15  # numbers, where each could be done by itself


def grouping(series: int, variables: int, compiled: bool) -> tuple[int, int]:
    """Number of groups, and of series in each."""
    groups = max(1, -(-series // max(LANES // variables, LEAST))) if compiled else 1
    return groups, -(-series // groups)


def grouped(value: Tensor, shape: tuple[int, int]) -> Tensor:
    """`[..., series]` -> `[G, ..., n]`."""
    groups, together = shape
    if groups == 1:
        return value.unsqueeze(0)
    value = torch.nn.functional.pad(value, (0, groups * together - value.shape[-1]))
    return value.unflatten(-1, shape).movedim(-2, 0).contiguous()


def dates_of(*values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few dates at a time of all groups of values that are `[G, T, ...]`, `[dates, ...]` each."""
    flat = [value.flatten(0, 1) for value in values]
    together = max(1, TOGETHER // max(1, max(value[0].numel() for value in flat)))
    return zip(*(value.split(together) for value in flat), strict=True)


class Enter(torch.autograd.Function):
    """``Enter.apply(value, grouping)``: `[S, series, V, T]` -> `[G, T, S, V, n]` in float64."""

    @staticmethod
    def forward(ctx, value: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.dtype, ctx.series = value.dtype, value.shape[1]
        return _by_date(value, shape)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _by_series(gradient, ctx.series, ctx.dtype), None


class Leave(torch.autograd.Function):
    """``Leave.apply(value, series, dtype)``: `[G, T, S, V, n]` -> `[S, series, V, T]` in a dtype."""

    @staticmethod
    def forward(ctx, value: Tensor, series: int, dtype: torch.dtype) -> Tensor:
        ctx.dtype, ctx.shape = value.dtype, (value.shape[0], value.shape[-1])
        return _by_series(value, series, dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _by_date(gradient, ctx.shape).to(ctx.dtype), None, None


def _by_date(value: Tensor, shape: tuple[int, int]) -> Tensor:
    draws, series, variables, dates = value.shape
    groups, together = shape
    turned = value.new_empty(groups, dates, draws, variables, together, dtype=torch.float64)
    for there, here in zip(turned, value.split(together, 1), strict=True):
        there[..., : here.shape[1]].copy_(here.permute(3, 0, 2, 1))
        there[..., here.shape[1] :] = 0.0
    return turned


def _by_series(value: Tensor, series: int, dtype: torch.dtype) -> Tensor:
    _, dates, draws, variables, together = value.shape
    turned = value.new_empty(draws, series, variables, dates, dtype=dtype)
    for there, here in zip(turned.split(together, 1), value, strict=True):
        there.copy_(here[..., : there.shape[1]].permute(1, 3, 2, 0))
    return turned
