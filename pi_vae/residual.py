r"""Exclusive residuals: what one sensor sees and its physics does not say.

Modality `m` has `K` latent processes of its own, :math:`r(\cdot) \sim GP(0, k)` (partly static: a roof stays a
roof), and a linear decoder,

.. math:: \Delta_m(t) = W r(t), \qquad W_{ck} \sim N(0, s^2),

added to the output of the operator in the units of the likelihood. It is low rank, starts near zero, and pays for
every nat it uses: its divergence from the prior is part of the ELBO. The loading :math:`W` is a point estimate under
its prior (the processes carry the uncertainty; rotating both changes nothing).

Some of the processes may be *transient*: their lengthscale is a fraction of a day and nothing of them is static, so
that they are new at every date, yet common to all channels of that date. Haze, adjacency, a cloud that nobody noticed
and the anisotropy of the surface are of this kind; the noise of the likelihood, independent between channels, is not.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pi_vae.priors import GlobalLatents, TemporalGP

__all__ = ["Residual"]

TRANSIENT_DAYS = 0.25  # two days apart, a correlation of 1e-5
TRANSIENT_ODDS = 1e-3
TRANSIENT_SPREAD = 0.05


class Residual(nn.Module):
    """Low-rank residual of a modality.

    Args:
        channels: number `C` of bands or polarisations.
        rank: number of processes that last.
        scale: prior sd `s` of their loading, in the units of the likelihood.
        lengthscale: prior median of their lengthscales in days.
        kernel: kernel of the processes, see `TemporalGP`; none with a period beside transient ones.
        transient: number of processes that are new at every date.
        transient_scale: prior sd of their loading.

    Attributes:
        rank: number `K` of processes, those that last and then the transient ones.
        scale: `[K]` prior sd of the loading.

    Raises:
        ValueError: there is no process at all, there are more of a kind than channels, or some are both transient and
            periodic.
    """

    def __init__(
        self,
        channels: int,
        rank: int,
        scale: float,
        lengthscale: float = 60.0,
        kernel: str = "matern32",
        transient: int = 0,
        transient_scale: float = 0.0,
    ) -> None:
        super().__init__()
        for name, count in (("rank", rank), ("transient", transient)):
            if not 0 <= count <= channels or rank + transient < 1:
                raise ValueError(
                    f"A residual over {channels} channels has {name}={count}: use up to {channels} processes of a "
                    "kind, and at least one in all."
                )
        if transient and "periodic" in kernel:
            raise ValueError(f"What is new at every date has no period: use transient=0 with the kernel {kernel!r}.")
        self.rank = rank + transient
        self.temporal = TemporalGP(kernel)
        # A transient process may not learn to last: that would be another kind of error.
        spread = [0.5] * rank + [TRANSIENT_SPREAD] * transient
        self.lengthscale = GlobalLatents([lengthscale] * rank + [TRANSIENT_DAYS] * transient, spread)
        self.static_odds = GlobalLatents([2.0] * rank + [TRANSIENT_ODDS] * transient, [2 * s for s in spread])
        scales = torch.tensor([scale] * rank + [transient_scale] * transient, dtype=torch.get_default_dtype())
        self.register_buffer("scale", scales, persistent=False)
        # In units of its prior sd, so that one step size suits reflectance and dB.
        start = [nn.init.orthogonal_(torch.empty(channels, count)) for count in (rank, transient) if count]
        self.relative_loading = nn.Parameter(0.5 * torch.cat(start, 1))

    def loading_prior(self) -> dist.TorchDistribution:
        """Prior of `W`, event shape `[C, K]`."""
        return dist.Normal(torch.zeros_like(self.relative_loading), self.scale.expand_as(self.loading)).to_event(2)

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
