r"""DoubleLogistic: the course of leaf area over one growing season.

Green-up and senescence are two logistic curves (Beck et al. 2006, eq. 3, with a base level):

.. math:: L(t) = b + a \, [\, \sigma(r_u (t - t_s)) - \sigma(r_d (t - t_e)) \,], \qquad \sigma(x) = 1 / (1 + e^{-x})

Where the season is long against the rates, the maximum is :math:`b + a`. As a mean function it lets a sparse series be
filled along a season rather than towards the average.

Example::

    >>> season = dict(base=0.5, amplitude=4.0, start=120.0, end=250.0, rate_up=0.1, rate_down=0.08)
    >>> DoubleLogistic()({k: torch.tensor(v) for k, v in season.items()}, torch.tensor([120.0, 185.0]))
    tensor([2.4999, 4.4720])
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["DoubleLogistic"]


class DoubleLogistic(nn.Module):
    """Leaf area index by date.

    Attributes:
        variables: ``base amplitude start end rate_up rate_down``.
    """

    variables = ("base", "amplitude", "start", "end", "rate_up", "rate_down")

    def forward(self, variables: Mapping[str, Tensor], time: Tensor) -> Tensor:
        """Leaf area index at the dates.

        Args:
            variables: ``base``, ``amplitude`` (>= 0), ``start < end`` in days, ``rate_up``, ``rate_down`` (> 0) per
                day; each ``[...]``, broadcast with ``time``: give static values as ``[pixel, 1]`` for a time axis.
            time: days, ``[...]``.

        Returns:
            ``[...]``, not below ``base`` for equal rates.

        Raises:
            ValueError: a variable is missing.
        """
        missing = [name for name in self.variables if name not in variables]
        if missing:
            raise ValueError(f"DoubleLogistic lacks {', '.join(missing)}: give all of {', '.join(self.variables)}.")
        base, amplitude, start, end, up, down = (variables[name] for name in self.variables)
        return base + amplitude * (torch.sigmoid(up * (time - start)) - torch.sigmoid(down * (time - end)))
