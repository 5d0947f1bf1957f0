r"""SeasonalMean: leaf area follows a season, and the Gaussian process what departs from it.

A double logistic (`pi_vae.physics.DoubleLogistic`) of static latents, repeated every year, gives the expected course;
mapped to the standard-normal scale of leaf area it becomes the mean of the process,

.. math::
    u_{LAI}(t) = \Phi^{-1}(F(L(t))) + d\, g(t), \qquad
    L(t) = b + \sum_i a_i \sum_{k} [\sigma(r_u (t - s_i - kY)) - \sigma(r_d (t - e_i - kY))],

with :math:`g \sim GP`, :math:`d = 0.5` and :math:`Y` a year. Start and end are the inflection points of green-up and
senescence, so that they are posterior quantities in days with intervals, and so is the peak.

Example:
    >>> season = SeasonalMean(1)
    >>> values = dict(season_base=0.3, season_amplitude=4.0, season_start=120.0, season_length=100.0, season_rise=0.1,
    ...               season_fall=0.1)
    >>> days = torch.tensor([18262.0, 18262.0 + 170.0])  # 1 January and 19 June 2020
    >>> season.course({k: torch.tensor(v) for k, v in values.items()}, days).round(decimals=1)
    tensor([0.3000, 4.2000])
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pi_vae.physics import DoubleLogistic
from pi_vae.priors import Marginals
from pi_vae.variables import CATALOGUE, Variable

__all__ = ["SeasonalMean"]

YEAR = 365.2425
DEVIATION = 0.5  # of leaf area from its season, in units of the prior's spread
LEAST = 0.02  # leaf area: the scale has no place for none at all
FIRST = ("season_base", "season_amplitude", "season_start", "season_length", "season_rise", "season_fall")
SECOND = ("season_pause_2", "season_amplitude_2", "season_length_2")


class SeasonalMean(nn.Module):
    """Mean of the latent process of leaf area.

    Args:
        seasons: per year, 1 or 2; the second begins a pause after the end of the first and shares its rates.
        catalogue: whose prior of leaf area sets the standard-normal scale.

    Attributes:
        variables: names of the static variables that are read, of the catalogue.

    Raises:
        ValueError: another number of seasons.
    """

    def __init__(self, seasons: int = 1, catalogue: Mapping[str, Variable] = CATALOGUE) -> None:
        super().__init__()
        if seasons not in (1, 2):
            raise ValueError(f"phenology is {seasons}: give 0 for none, or 1 or 2 seasons a year.")
        self.seasons, self.variables = seasons, FIRST + SECOND * (seasons == 2)
        self.curve, self.marginal = DoubleLogistic(), Marginals(["lai"], catalogue)

    def course(self, variables: Mapping[str, Tensor], dates: Tensor) -> Tensor:
        """Leaf area of the season.

        Args:
            variables: the names of `variables`, `[...]` each; dates in days of the year, rates per day.
            dates: `[T]` days since 1970-01-01.

        Returns:
            `[..., T]`, >= 0.02.
        """
        named = {name: variables[name].unsqueeze(-1) for name in self.variables}
        base, rise, fall = named["season_base"], named["season_rise"], named["season_fall"]
        # Days of a year of mean length; its first year began on 1 January 1970.
        day = torch.remainder(dates, YEAR).to(base.dtype)
        leaf = base
        for amplitude, start, end in self._seasons(named):
            shape = dict(base=torch.zeros_like(base), amplitude=amplitude, rate_up=rise, rate_down=fall)
            for years in (-YEAR, 0.0, YEAR):
                leaf = leaf + self.curve(shape | {"start": start + years, "end": end + years}, day)
        return leaf.clamp(LEAST, 0.98 * float(self.marginal.high))

    def forward(self, variables: Mapping[str, Tensor], dates: Tensor, deviation: Tensor) -> Tensor:
        """Standard-normal scale of leaf area, `[..., T]`, of the deviations `[..., T]` from the season."""
        course = self.course(variables, dates)
        return self.marginal.inverse(course.unsqueeze(-1)).squeeze(-1) + DEVIATION * deviation

    def dates(self, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """End and peak of every season, `[...]` in days of the year (above 365 where the season ends in the next)."""
        found: dict[str, Tensor] = {}
        named = {name: variables[name] for name in self.variables}
        for i, (_, start, end) in enumerate(self._seasons(named)):
            rise, fall = named["season_rise"], named["season_fall"]
            share = torch.linspace(-0.5, 1.5, 161, dtype=start.dtype, device=start.device)
            day = start.unsqueeze(-1) + share * (end - start).unsqueeze(-1)
            up = torch.sigmoid(rise.unsqueeze(-1) * (day - start.unsqueeze(-1)))
            level = up - torch.sigmoid(fall.unsqueeze(-1) * (day - end.unsqueeze(-1)))
            peak = day.gather(-1, level.argmax(-1, keepdim=True)).squeeze(-1)
            ending = "" if i == 0 else "_2"
            found |= {f"season_start{ending}": start, f"season_peak{ending}": peak, f"season_end{ending}": end}
        return found

    def _seasons(self, named: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Amplitude, start and end of every season."""
        start, end = named["season_start"], named["season_start"] + named["season_length"]
        seasons = [(named["season_amplitude"], start, end)]
        if self.seasons == 2:
            second = end + named["season_pause_2"]
            seasons.append((named["season_amplitude_2"], second, second + named["season_length_2"]))
        return seasons
