r"""Exclusive residuals: what one sensor sees and its physics does not say.

Modality `m` has `K` latent processes of its own, :math:`r(\cdot) \sim GP(0, k)` (partly static: a roof stays a
roof), and a decoder of low rank,

.. math:: \Delta_m(t) = W\,\mathrm{diag}(\alpha)\, f(r(t)), \qquad W_{ck} \sim N(0, 1), \quad
          \log\alpha_k \sim N(\log s - \sigma^2, \sigma^2),

added to the output of the operator in the units of the likelihood. It is linear, :math:`f(r) = r`, or on request a
small network beside the line, :math:`f(r) = r + B \tanh(A r) / \sqrt{H}`. It contributes nothing at the start, and pays
for every nat it uses: its divergence from the prior is part of the ELBO. Loading, relevance and network have a normal
posterior each (a rotation of the processes changes nothing).

The relevance :math:`\alpha_k`, of mean square :math:`s^2`, is the prior scale of a whole column, and is learned: a
process that explains nothing is cheapest without an amplitude, so that the rank finds itself below what was asked for
(automatic relevance determination: MacKay 1994, Models of Neural Networks III; Bishop 1999, Bayesian PCA, NeurIPS 11).
`Residual.strength` tells what is left of each.

Some of the processes may be *transient*: their lengthscale is a fraction of a day and nothing of them is static, so
that they are new at every date, yet common to all channels of that date. Haze, adjacency, a cloud that nobody noticed
and the anisotropy of the surface are of this kind; the noise of the likelihood, independent between channels, is not.

All of them may be *smooth* in space, each over a distance of its own that is learned (`pi_vae.priors.spatial`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pi_vae.priors import GlobalLatents, NormalLatents, TemporalGP

__all__ = ["Residual"]

TRANSIENT_DAYS = 0.25  # two days apart, a correlation of 1e-5
TRANSIENT_ODDS = 1e-3
TRANSIENT_SPREAD = 0.05
RELEVANCE_SPREAD = 0.7  # of the logarithm: a factor of two either way, of ten at little cost
SILENT = -20.0  # logarithm of a scale that no one sees


class Residual(nn.Module):
    """Low-rank residual of a modality.

    Args:
        channels: number `C` of bands or polarisations.
        rank: number of processes that last.
        scale: prior scale `s` of their loading, its root mean square, in the units of the likelihood.
        lengthscale: prior median of their lengthscales in days.
        kernel: kernel of the processes, see `TemporalGP`; none with a period beside transient ones.
        transient: number of processes that are new at every date.
        transient_scale: prior scale of their loading.
        network: units `H` of the network of the decoder; 0 is linear.
        smoothness: prior median of the distance, in pixels of the finest grid, over which the processes of neighbouring
            pixels go together (`pi_vae.priors.spatial`); learned for each. With 0 every pixel is on its own.

    Attributes:
        rank: number `K` of processes, those that last and then the transient ones.
        transient: how many of these are transient.

    Raises:
        ValueError: there is no process at all, there are more of a kind than channels, some are both transient and
            periodic, or the network has a negative number of units or the smoothness a negative distance.
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
        network: int = 0,
        smoothness: float = 0.0,
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
        self.rank, self.transient = rank + transient, transient
        self.temporal = TemporalGP(kernel)
        # A transient process may not learn to last: that would be another kind of error.
        spread = [0.5] * rank + [TRANSIENT_SPREAD] * transient
        self.lengthscale = GlobalLatents([lengthscale] * rank + [TRANSIENT_DAYS] * transient, spread)
        self.static_odds = GlobalLatents([2.0] * rank + [TRANSIENT_ODDS] * transient, [2 * s for s in spread])
        if network < 0:
            raise ValueError(f"A residual has network={network}: give a number of hidden units, or 0 for none.")
        if not smoothness >= 0:
            raise ValueError(f"A residual has smoothness={smoothness}: give a distance in pixels, or 0 for none.")
        self.reach = GlobalLatents([smoothness] * self.rank, 0.5) if smoothness else None
        scales = [scale] * rank + [transient_scale] * transient
        self.relevance = GlobalLatents([s * math.exp(-(RELEVANCE_SPREAD**2)) for s in scales], RELEVANCE_SPREAD)
        # In units of the relevance, so that one step size suits reflectance and dB.
        self.loading = NormalLatents(torch.zeros(channels, self.rank))
        self.network = NormalLatents(_weights(network, self.rank)) if network else None

    def contribution(self, latents: Tensor, loading: Tensor, relevance: Tensor, network: Tensor | None) -> Tensor:
        """What the residual adds.

        Args:
            latents: `[..., K, T]` processes.
            loading: `[C, K]`, in units of the relevance.
            relevance: `[K]`.
            network: `[2, H, K]`, or none.

        Returns:
            `[..., T, C]` in the units of the likelihood.
        """
        return self.features(latents, network).transpose(-1, -2) @ (relevance * loading).mT

    @staticmethod
    def features(latents: Tensor, network: Tensor | None) -> Tensor:
        """`[..., K, T]` processes -> what the columns of the loading multiply, `[..., K, T]`."""
        if network is None:
            return latents
        inner, outer = network
        return latents + outer.mT @ torch.tanh(inner @ latents) / math.sqrt(len(inner))

    @property
    def strength(self) -> Tensor:
        """`[K]` root mean square, over channels, of what a process of unit variance adds, in their units."""
        square = self.loading.loc.square() + (2 * self.loading.log_scale).exp()
        return (self.relevance.median * square.mean(0).sqrt()).detach()

    @torch.no_grad()
    def silence(self, process: int) -> None:
        """Let a process, counted from 0, contribute nothing."""
        self.loading.loc[:, process] = 0.0
        self.loading.log_scale[:, process] = SILENT


def _weights(hidden: int, rank: int) -> Tensor:
    """`[2, H, K]` weights in and out; the latter are zero at the start."""
    weights = torch.zeros(2, hidden, rank)
    nn.init.normal_(weights[0])
    return weights
