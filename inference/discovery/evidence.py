"""What the data say of a law once its form is chosen: constants by draws, their covariance, its description length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.discovery.constants import sandwich, slopes_of_draws, unshrunk
from inference.discovery.dataset import Table
from inference.discovery.expressions import complexity
from inference.discovery.fitting import Fitted, Rows, refit, values_of_draws
from inference.discovery.template import Template

__all__ = ["Evidence", "gather", "weighed"]

DRAWS = 10


@dataclass(frozen=True)
class Evidence:
    """Constants of a law, fitted to the rows of all blocks.

    Attributes:
        coefficients: name -> value.
        covariance: `[K, K]` of them.
        errors: `[row]` what the law leaves of the residual when fitted to it, weights at one on average.
        cells: `[row]` label of the cell, a block of pixels in a stretch of dates.
    """

    coefficients: dict[str, float]
    covariance: np.ndarray
    errors: np.ndarray
    cells: np.ndarray

    def description_length(self, fitted: Fitted, symbols: int, effective: float) -> float:
        r"""Nats that it takes to write down the law, its constants and what it leaves over.

        .. math:: L = \tfrac{n}{2} \log \overline{e^2} + \tfrac{K}{2} \log n + C \log S

        with `n` effective rows, `K` constants, complexity `C` and `S` symbols to choose from (Rissanen 1978; for
        equations, Guimerà et al. 2020, doi:10.1126/sciadv.aav6971). Only differences between laws matter.
        """
        fit = 0.5 * effective * math.log(max(float((self.errors**2).mean()), 1e-300))
        return fit + 0.5 * len(self.coefficients) * math.log(effective) + complexity(fitted.form) * math.log(symbols)

    @property
    def effective(self) -> float:
        r"""Number of rows over the design effect, :math:`\sum_g (\sum_{i \in g} e_i)^2 / \sum_i e_i^2`, `g` a cell."""
        together = (np.bincount(self.cells, self.errors) ** 2).sum()
        return len(self.errors) / max(float(together / (self.errors**2).sum()), 1.0)


def gather(fitted: Fitted, table: Table, channel: int, rows: int, template: Template | None = None) -> Evidence:
    r"""Fit the constants of a law to draws of its inputs, and say how well they are known.

    .. math:: \hat\theta = \arg\min_\theta \sum_i w_i \Big(y_i - \frac{1}{D} \sum_d f(x_i^{(d)}; \theta)\Big)^2

    Posterior draws of the inputs scatter around the posterior mean as the truth does, so that the mean over draws is
    what is expected of the residual; the law of the posterior mean is not, where it bends. The covariance is the
    sandwich of least squares with the spatial blocks as clusters (Liang & Zeger 1986), by :math:`G/(G-1)` and so
    inflated that normal intervals of 90 % are those of Student's t with :math:`G-1` degrees of freedom (Cameron &
    Miller 2015), `G` the number of blocks.

    Args:
        fitted: form and constants to start from.
        table: the data.
        channel: index.
        rows: rows at most; they are picked evenly.
        template: what the law must satisfy; where constants fitted anew violate it, those to start from stay.
    """
    kept = np.flatnonzero(table.seen)
    kept = kept[np.linspace(0, len(kept) - 1, min(len(kept), rows)).astype(int)]
    some = np.linspace(0, len(table.x_draws) - 1, min(DRAWS, len(table.x_draws))).astype(int)
    draws = table.x_draws[some].reshape(len(some), -1, len(table.names))[:, kept].astype(float)
    y, weights = (array[..., channel].reshape(-1)[kept] for array in (table.y, table.weights))
    block, season = (a.reshape(-1)[kept] for a in np.broadcast_arrays(table.block[:, None], table.season))
    data = Rows(draws.mean(0), y, weights / weights.mean(), draws)
    values = refit(fitted.form, fitted.coefficients, table.names, data)
    if template is not None and template.violations(fitted.form, table, values):
        values = dict(fitted.coefficients)
    root = np.sqrt(data.weights)
    errors = root * (y - values_of_draws(fitted.form, values, table.names, draws))
    left = table.left[some][..., channel].reshape(len(some), -1)[:, kept]
    found = unshrunk(fitted.form, values, table.names, draws, left, block)
    if found is None or (template is not None and template.violations(fitted.form, table, found[0])):
        slopes = root[:, None] * slopes_of_draws(fitted.form, values, table.names, draws).mean(0)
        found = values, sandwich(slopes, errors[:, None] * slopes, block)
    return Evidence(*found, errors, block * (season.max() + 1) + season)


def weighed(
    front: Sequence[Fitted], table: Table, channel: int, rows: int, template: Template
) -> list[tuple[Evidence, float]]:
    """Evidence and description length of the laws of a front, all with the effective rows of the most accurate one.

    Args:
        front: the laws.
        table: the data.
        channel: index.
        rows: rows at most.
        template: what the laws satisfy, and the operators that they are written with.
    """
    found = [gather(fitted, table, channel, rows, template) for fitted in front]
    if not found:
        return []
    effective = min(found, key=lambda e: (e.errors**2).sum()).effective
    symbols = len(template.operators) + len(table.names) + 1
    lengths = [e.description_length(f, symbols, effective) for e, f in zip(found, front, strict=True)]
    return list(zip(found, lengths, strict=True))
