r"""What skill would be found if there were nothing to find: the search repeated on targets torn from their inputs.

A permutation moves the residual :math:`y(p, t)` to :math:`y(\pi(p), t + s)`: whole series trade places between spatial
blocks (the order of the blocks is drawn, pixels that are neighbours mostly stay neighbours), and all series are turned
around the record by the same number of dates `s`, at least an eighth of the record. Every value, its precision and its
mask are used exactly once, so the distribution of the target is the same; a series stays a series, so that its
autocorrelation is the same but for one seam; dates stay common to all pixels, so that what all pixels share is still
shared. What is lost is which pixel and which date the value belonged to. Trading places alone would leave the weather
tied to its effect, and turning alone would leave the pixel tied to its soil.

A season that repeats in the residual is found again by any input with a season, whatever the shift: such skill is in
the null too, and a law has to beat it.
"""

from __future__ import annotations

import numpy as np

from inference.discovery.dataset import Table

__all__ = ["permute", "split"]

HELD_OUT = 1 / 3


def permute(table: Table, seed: int) -> Table:
    """The table with its target torn from its inputs; see the module.

    Args:
        table: as read.
        seed: of the permutation.

    Returns:
        A table with the same inputs and the same targets, weights and masks, elsewhere.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([np.flatnonzero(table.block == b) for b in np.unique(table.block)])
    source = np.empty_like(order)
    source[order] = np.concatenate([np.flatnonzero(table.block == b) for b in _other_order(rng, table.block.max() + 1)])
    dates = len(table.times)
    least = max(1, dates // 8)
    shift = int(rng.integers(least, dates - least + 1))

    def move(values: np.ndarray) -> np.ndarray:
        return np.roll(values[source], -shift, axis=1)

    known = np.isfinite(table.x).all(-1)
    return table.replace(y=move(table.y), sd=move(table.sd), seen=move(table.seen) & known)


def _other_order(rng: np.random.Generator, count: int) -> np.ndarray:
    """A permutation that leaves no block in its place."""
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order


def split(block: np.ndarray, seed: int, share: float = HELD_OUT) -> np.ndarray:
    """`[pixel]` bool: which pixels are held out, whole blocks of them.

    Args:
        block: `[pixel]` labels.
        seed: of the choice.
        share: share of the blocks, at least one and not all.
    """
    labels = np.unique(block)
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    return np.isin(block, np.random.default_rng(seed).choice(labels, count, replace=False))
