r"""Global latents: positive numbers shared by all pixels (lengthscales, noise scales, water-cloud coefficients).

Prior and posterior are log-normal, :math:`\log g \sim N(\mu, \sigma^2)`, so a coefficient keeps its sign and its
relative uncertainty reads directly as :math:`\sigma`. The posterior starts at the prior's median with a small spread.

Example:
    >>> from pi_vae.priors import GlobalLatents
    >>> noise = GlobalLatents(median=[0.01, 0.02], spread=0.5)
    >>> noise.median
    tensor([0.0100, 0.0200], grad_fn=<ExpBackward0>)
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["GlobalLatents", "NormalLatents"]


class GlobalLatents(nn.Module):
    """A vector of `G` positive global latents with log-normal prior and mean-field log-normal posterior.

    Args:
        median: `G` prior medians, in the unit of the quantity.
        spread: prior sd of the logarithm (0.5: a factor of 1.6 either way), one or `G`.
        start: posterior sd of the logarithm before training.

    Raises:
        ValueError: a median or spread is not positive.
    """

    prior_loc: Tensor
    prior_scale: Tensor

    def __init__(self, median: Sequence[float], spread: float | Sequence[float], start: float = 0.05) -> None:
        super().__init__()
        median_ = torch.as_tensor(median, dtype=torch.get_default_dtype())
        spread_ = torch.as_tensor(spread, dtype=median_.dtype).expand_as(median_).clone()
        if (median_ <= 0).any() or (spread_ <= 0).any():
            raise ValueError(f"Medians {median} and spreads {spread} of global latents must be positive.")
        self.register_buffer("prior_loc", median_.log())
        self.register_buffer("prior_scale", spread_)
        self.loc = nn.Parameter(median_.log())
        self.log_scale = nn.Parameter(torch.full_like(median_, start).log())

    @property
    def median(self) -> Tensor:
        """`[G]` posterior median."""
        return self.loc.exp()

    @torch.no_grad()
    def forget(self) -> None:
        """Let the posterior be the prior."""
        self.loc.copy_(self.prior_loc)
        self.log_scale.copy_(self.prior_scale.log())

    def prior(self) -> dist.TorchDistribution:
        """Prior of the vector, event shape `[G]`."""
        return dist.LogNormal(self.prior_loc, self.prior_scale).to_event(1)

    def posterior(self) -> dist.TorchDistribution:
        """Variational posterior of the vector, event shape `[G]`."""
        return dist.LogNormal(self.loc, self.log_scale.exp()).to_event(1)


class NormalLatents(nn.Module):
    """Global latents of either sign with standard normal prior and mean-field normal posterior.

    Args:
        loc: posterior means before training, of any shape.
        scale: prior standard deviations, of a shape that goes with it.
        start: posterior sd before training.
    """

    prior_scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor | float = 1.0, start: float = 0.05) -> None:
        super().__init__()
        scale = torch.as_tensor(scale, dtype=loc.dtype).expand_as(loc).clone()
        self.register_buffer("prior_scale", scale, persistent=False)
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, start).log())

    @torch.no_grad()
    def forget(self) -> None:
        """Let the posterior be the prior."""
        self.loc.zero_()
        self.log_scale.copy_(self.prior_scale.log())

    def prior(self) -> dist.TorchDistribution:
        """Prior of the whole, which is its event shape."""
        return dist.Normal(torch.zeros_like(self.loc), self.prior_scale).to_event(self.loc.dim())

    def posterior(self) -> dist.TorchDistribution:
        """Variational posterior of the whole, which is its event shape."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(self.loc.dim())
