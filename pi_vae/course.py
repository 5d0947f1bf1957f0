r"""CommonCourse: what all pixels of a scene do together in the course of a year.

Fields green up in the same weeks, and rain wets all soils on one day. Where a pixel was not seen for months the
others still say what is likely. Nor does physics err in one pixel only: what it leaves over in all of them is there too
where a sensor was not seen. So the latent processes, exclusive ones included, get a mean that all pixels share,

.. math:: m_v(t) = a_{v0} + \sum_{k=1}^{K} [a_{vk} \cos(2\pi k t / Y) + b_{vk} \sin(2\pi k t / Y)], \qquad
          a_{vk}, b_{vk} \sim N(0, \sigma_k^2),

with :math:`\sigma_0 = \sigma_1 = 0.5` and :math:`\sigma_k = 0.5 / k`, in units of the prior's spread, and `Y` a year.

Example:
    >>> course = CommonCourse({"dynamic": 2}, harmonics=1)
    >>> coefficients = torch.tensor([[0.1, 0.0, 0.5], [0.0, 1.0, 0.0]])  # constant, cosine, sine
    >>> course(coefficients, torch.tensor([0.0, YEAR / 4])).round(decimals=2)
    tensor([[0.1000, 0.6000],
            [1.0000, 0.0000]])
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pi_vae.priors import NormalLatents
from pi_vae.season import YEAR

__all__ = ["CommonCourse"]

SPREAD = 0.5


class CommonCourse(NormalLatents):
    """Mean of the latent processes, common to all pixels, with normal prior and mean-field posterior.

    Args:
        processes: number of processes by site name, `V` in all.
        harmonics: `K` of the year; there are `1 + 2 K` coefficients of every process.

    Raises:
        ValueError: no harmonic.
    """

    def __init__(self, processes: Mapping[str, int], harmonics: int) -> None:
        if harmonics < 1:
            raise ValueError(f"The common course has {harmonics} harmonics: give 1 or more, or course=0 for none.")
        order = torch.arange(1, harmonics + 1, dtype=torch.get_default_dtype()).repeat_interleave(2)
        shape = sum(processes.values()), 1 + 2 * harmonics
        super().__init__(torch.zeros(shape), SPREAD / torch.cat([torch.ones(1), order]))
        self.processes, self.harmonics = dict(processes), harmonics

    @property
    def terms(self) -> list[str]:
        """Names of the coefficients of a process, in order."""
        orders = range(1, self.harmonics + 1)
        return ["constant", *(f"{part} {k}" for k in orders for part in ("cosine", "sine"))]

    def forward(self, coefficients: Tensor, dates: Tensor) -> Tensor:
        """`[V, T]` mean at `[T]` dates (days since 1970-01-01)."""
        orders = torch.arange(1, self.harmonics + 1, device=dates.device)
        phase = (2 * math.pi / YEAR) * dates.double() * orders.unsqueeze(-1)
        waves = torch.stack([phase.cos(), phase.sin()], 1).flatten(0, 1).to(coefficients.dtype)
        return coefficients[..., 0:1] + coefficients[..., 1:] @ waves

    def means(self, coefficients: Tensor, dates: Tensor) -> dict[str, Tensor]:
        """The mean of the processes of every site."""
        parts = self(coefficients, dates).split(list(self.processes.values()), -2)
        return dict(zip(self.processes, parts, strict=True))
