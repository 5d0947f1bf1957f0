r"""What skill would be found if there were nothing to find: the search repeated on targets torn from their inputs.

A surrogate of the residual :math:`y(p, t)` is made in two steps that leave the input of every pixel and date as it is.

*Places.* Whole series, with their masks and precisions, trade places between spatial blocks: the order of the blocks is
drawn, and pixels that are neighbours mostly stay neighbours. That breaks the tie to soil, crop and pixel.

*Dates.* All series are written in the basis of their mean and the principal modes of a smooth process less its mean at
these dates (eigenvectors of an exponential covariance, nearly cosines), and every mode is multiplied by a sign, drawn
once for all pixels:

.. math:: y'(p, \cdot) = E\, \mathrm{diag}(s)\, E^\top y(\pi(p), \cdot), \qquad s_0 = 1, \quad s_k = \pm 1 .

Means stay as they are: an offset, which every law may have a constant for, would come back as waves. That breaks the
tie to weather and season, and keeps what makes chance agreement likely: the power of every mode, hence the variance and
nearly the autocorrelation of every series, and what pixels share (all products of series). Under a Gaussian process
with these modes the surrogate has the distribution of the residual, which makes the test exact; values are recombined,
so that a skewed residual comes out less skewed. Turning the series around the record instead would keep each value, but
its seam makes surrogates of a smooth residual harder to explain than the residual itself, and laws are then reported
too often where there are none.

A residual that consists of one season alone is found again by any input with a season, as its surrogates are that
season or its mirror image: one year of such data can not show the law, and the null says so.
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
        A table with the same inputs and surrogates of the target.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([np.flatnonzero(table.block == b) for b in np.unique(table.block)])
    source = np.empty_like(order)
    source[order] = np.concatenate([np.flatnonzero(table.block == b) for b in _other_order(rng, table.block.max() + 1)])
    modes, signs = _modes(table.times), rng.choice([-1.0, 1.0], len(table.times))
    signs[0] = 1.0
    turned = (modes * signs) @ modes.T
    y = np.einsum("ts,psc->ptc", turned, table.y[source])
    known = np.isfinite(table.x).all(-1)
    return table.replace(y=y, sd=table.sd[source], seen=table.seen[source] & known)


def _modes(times: np.ndarray) -> np.ndarray:
    """`[time, mode]` orthonormal modes, the mean first; the lengthscale, a third of the record, hardly matters."""
    days = (times - times[0]) / np.timedelta64(1, "D")
    covariance = np.exp(-3 * np.abs(days[:, None] - days) / days[-1])
    without = covariance - covariance.mean(0) - covariance.mean(1, keepdims=True) + covariance.mean()
    return np.linalg.eigh(without)[1]  # the mean has no variance left, and comes first


def _other_order(rng: np.random.Generator, count: int) -> np.ndarray:
    """A permutation that leaves no block in its place."""
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order


def split(block: np.ndarray, seed: int, share: float = HELD_OUT) -> np.ndarray:
    """Which pixels, or dates, are held out: whole blocks of them.

    Args:
        block: `[pixel]` or `[time]` labels.
        seed: of the choice.
        share: share of the blocks, at least one and not all.

    Returns:
        bool, of the shape of the labels.
    """
    labels = np.unique(block)
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    return np.isin(block, np.random.default_rng(seed).choice(labels, count, replace=False))
