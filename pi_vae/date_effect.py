r"""DateEffect: what all pixels of one acquisition have in common and its neighbours in time do not.

An atmosphere that was corrected a little wrong, a calibration that drifted, a shower just before the pass: such things
concern a whole image, and one image only. Physics and exclusive residuals, pixel by pixel, cannot tell them from the
pixel's own course; the image can. So every date :math:`t` and channel `c` of a modality gets a global latent,

.. math:: \delta_{tc} = s_c\,\epsilon_{tc}, \qquad \epsilon_{tc} \sim N(0, 1), \qquad \log s_c \sim N(\log s, 0.7^2),

added to the output of the operator in the units of the likelihood (random effects of a two-way layout: Searle, Casella
& McCulloch 1992, Variance Components). The sizes :math:`s_c` are learned too: a series without such effects ends with
small ones. It has no course in time: what lasts is left to physics.

The dates are those of the cubes that the model was fitted to. At any other nothing is known of the effect, and it is
left out.

Example:
    >>> effect = DateEffect(channels=2, size=0.01)
    >>> effect.know(torch.tensor([18600.0, 18605.0]))
    >>> value = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    >>> effect(value, torch.tensor([0.01, 0.02]), torch.tensor([18605.0, 18610.0])) + 0.0
    tensor([[ 0.0200, -0.0200],
            [ 0.0000,  0.0000]])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi_vae.priors import GlobalLatents, NormalLatents

__all__ = ["DateEffect"]

SAME = 0.01  # days: a quarter of an hour
SPREAD = 0.7  # of the logarithm of the sizes


class DateEffect(nn.Module):
    """Effect of single dates on all pixels of a modality.

    Args:
        channels: number `C` of bands or polarisations.
        size: prior median `s` of its standard deviation, in the units of the likelihood.

    Attributes:
        dates: `[D]` known dates, days since 1970-01-01.
        size: global latents `[C]`.
        value: global latents `[D, C]`, in units of the size.
    """

    dates: Tensor

    def __init__(self, channels: int, size: float) -> None:
        super().__init__()
        self.size = GlobalLatents([size] * channels, SPREAD)
        self.register_buffer("dates", torch.zeros(0, dtype=torch.float64))
        self.value = NormalLatents(torch.zeros(0, channels))

    @torch.no_grad()
    def know(self, dates: Tensor) -> None:
        """Add those of `[T]` dates that are new; what is known of the others stays."""
        new = dates.to(self.dates)[self._place(dates) < 0]
        if len(new):
            before, size = self.value, len(self.size.loc)
            self.dates = torch.cat([self.dates, new])
            self.value = NormalLatents(before.loc.new_zeros(len(self.dates), size)).to(before.loc.device)
            for name in ("loc", "log_scale"):
                getattr(self.value, name)[: len(before.loc)] = getattr(before, name)

    def forward(self, value: Tensor, size: Tensor, dates: Tensor) -> Tensor:
        """`[T, C]` effects at `[T]` dates, zero at unknown ones, in the units of the likelihood.

        Args:
            value: `[D, C]` at the known dates.
            size: `[C]`.
            dates: `[T]` days since 1970-01-01.
        """
        place = self._place(dates)
        padded = torch.cat([value, value.new_zeros(1, value.shape[1])])  # the last row is -1, what is not known
        return size * padded[place]

    def median(self, dates: Tensor) -> Tensor:
        """The same at the posterior medians of value and size, without derivatives."""
        return self(self.value.loc, self.size.median, dates).detach()

    def _place(self, dates: Tensor) -> Tensor:
        """`[T]` number of the known date that each of some dates is, -1 where it is none."""
        if not len(self.dates):
            return torch.full(dates.shape, -1, device=dates.device)
        apart = (dates.to(self.dates).unsqueeze(-1) - self.dates).abs()
        least, place = apart.min(-1)
        return torch.where(least < SAME, place, -1)

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        """As of any module; where no date is known yet, they are those of the checkpoint."""
        dates = state_dict.get(f"{prefix}dates")
        if dates is not None and not len(self.dates):
            self.dates = dates.to(self.dates)
            self.value = NormalLatents(self.value.loc.new_zeros(len(dates), len(self.size.loc)))
        super()._load_from_state_dict(state_dict, prefix, *rest)
