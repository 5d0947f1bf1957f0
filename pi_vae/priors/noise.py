"""Standard normal numbers that draws are made of: every pixel its own, or by its place.

By its place, what a pixel draws does not depend on which pixels are drawn together, so that maps have no seams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["by_place", "standard_normal"]

SETS = 256
_CHOSEN: ContextVar[Tensor | None] = ContextVar("chosen", default=None)


def standard_normal(shape: Sequence[int], pixel: int, like: Tensor) -> Tensor:
    """Standard normal numbers of a shape, in the type and on the device of another tensor.

    Args:
        shape: of the result.
        pixel: dimension of the pixels, counted from the end.
        like: the other tensor.
    """
    chosen = _CHOSEN.get()
    if chosen is None:
        return torch.randn(list(shape), dtype=like.dtype, device=like.device)
    few = list(shape)
    few[pixel] = SETS
    return torch.randn(few, dtype=like.dtype, device=like.device).index_select(pixel, chosen.to(like.device))


@contextmanager
def by_place(rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Within, all draws are of the pixels at some rows and columns, `[N]` each: same place, same numbers.

    A pixel has one of 256 sets of numbers, chosen by a hash of its place (Teschner et al. 2003, VMV, 47-54), so that
    statistics over many pixels do not share the errors of one.
    """
    token = _CHOSEN.set(((rows * 73856093) ^ (columns * 19349663)) % SETS)
    try:
        yield
    finally:
        _CHOSEN.reset(token)
