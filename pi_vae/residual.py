r"""Exclusive residuals: what one sensor sees and its physics does not say.

Modality `m` has `K` latent processes of its own, :math:`r(\cdot) \sim GP(0, k)` (partly static: a roof stays a
roof), and a linear decoder,

.. math:: \Delta_m(t) = W r(t), \qquad W_{ck} \sim N(0, s^2),

added to the output of the operator in the units of the likelihood. It is low rank, starts near zero, and pays for
every nat it uses: its divergence from the prior is part of the ELBO. The loading :math:`W` is a point estimate under
its prior (the processes carry the uncertainty; rotating both changes nothing).
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pi_vae.priors import GlobalLatents, TemporalGP

__all__ = ["Residual"]


class Residual(nn.Module):
    """Low-rank residual of a modality.

    Args:
        channels: number `C` of bands or polarisations.
        rank: number `K` of processes.
        scale: prior sd `s` of the loading, in the units of the likelihood.
        lengthscale: prior median of the lengthscales in days.
        kernel: kernel of the processes, see `TemporalGP`.

    Raises:
        ValueError: the rank is below 1 or above the number of channels.
    """

    def __init__(
        self, channels: int, rank: int, scale: float, lengthscale: float = 60.0, kernel: str = "matern32"
    ) -> None:
        super().__init__()
        if not 1 <= rank <= channels:
            raise ValueError(f"Rank {rank} of a residual over {channels} channels: use 1 to {channels}.")
        self.rank = rank
        self.temporal = TemporalGP(kernel)
        self.lengthscale = GlobalLatents([lengthscale] * rank, 0.5)
        self.static_odds = GlobalLatents([2.0] * rank, 1.0)
        self.scale = scale
        # In units of its prior sd, so that one step size suits reflectance and dB.
        self.relative_loading = nn.Parameter(0.5 * nn.init.orthogonal_(torch.empty(channels, rank)))

    def loading_prior(self) -> dist.TorchDistribution:
        """Prior of `W`, event shape `[C, K]`."""
        return dist.Normal(torch.zeros_like(self.relative_loading), self.scale).to_event(2)

    def loading_posterior(self) -> dist.TorchDistribution:
        """Point estimate of `W`."""
        return dist.Delta(self.loading, event_dim=2)

    @property
    def loading(self) -> Tensor:
        """`[C, K]` the loading `W`, in the units of the likelihood."""
        return self.scale * self.relative_loading

    @staticmethod
    def contribution(latents: Tensor, loading: Tensor) -> Tensor:
        """`[..., K, T]` processes and `[C, K]` loading -> `[..., T, C]` contribution."""
        return latents.transpose(-1, -2) @ loading.transpose(-1, -2)
