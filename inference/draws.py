"""Draws from the posterior of some pixels: the one loop that posterior trees, maps and scores are made from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import xarray as xr
from torch import Tensor

from inference.exclusive import redrawn
from pi_vae import Latents, PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data.batches import Batch
from pi_vae.data.kinds import kind_of

__all__ = ["Group", "fair_quantile", "groups", "present", "seeded"]

log = logging.getLogger(__name__)


@dataclass
class Group:
    """Draws that share one draw of the global latents.

    Attributes:
        shared: global latents by site name.
        latents: `[draw, pixel, ...]` local draws.
        physics: what every modality of the batch is expected to see without its residual, `[draw, pixel, T_m, C]`; of
            none where only the physical variables were asked for.
    """

    shared: dict[str, Tensor]
    latents: Latents
    physics: dict[str, Tensor]

    @classmethod
    def of(cls, model: PhysicsVAE, batch: Batch, latents: Latents, shared: dict[str, Tensor]) -> Group:
        """Draws of the latents with what physics makes of them, which takes longest and is asked for more than once."""
        names = batch.modalities
        return cls(shared, latents, {n: model.expected(n, latents, batch, shared, residual=False) for n in names})

    def with_residuals_redrawn(self, model: PhysicsVAE, batch: Batch) -> Group:
        """The same, with exclusive residuals drawn given the physics (`inference.exclusive`)."""
        return replace(self, latents=redrawn(model, batch, self.latents, self.shared, self.physics))


def groups(model: PhysicsVAE, batch: Batch, draws: int, shared_draws: int = 8, physics: bool = True) -> Iterator[Group]:
    """Posterior draws of a batch's pixels, in groups of equal or nearly equal size.

    The encoder runs once; every group has its own draw of the global latents. Physical variables are drawn from the
    guide, exclusive residuals given these without it (`inference.exclusive`).

    Args:
        model: a fitted model.
        batch: what the encoder reads; `batch.pixels` are drawn.
        draws: draws over all groups.
        shared_draws: how many draws of the global latents.
        physics: compute what the modalities are expected to see, and draw residuals; else only physical variables are
            drawn, several times as fast.
    """
    sites = model.encode(batch)
    count = min(draws, shared_draws)
    # All global draws come first, so that with the same seed every batch of pixels sees the same ones.
    for i, shared in enumerate([model.draw_globals() for _ in range(count)]):
        size = draws // count + (i < draws % count)
        # Not told how many pixels there are: how they are computed must not depend on which are drawn together.
        priors = model.priors(batch.dates, shared, draws=size)
        if not physics:
            priors = {site: priors[site] for site in ("static", "dynamic")}
        latents = model.latents(ChainPosterior(sites, priors).rsample((size,)), batch.dates, shared)
        if physics:
            yield Group.of(model, batch, latents, shared).with_residuals_redrawn(model, batch)
        else:
            yield Group(shared, latents, {})


def fair_quantile(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles between which a value that is exchangeable with the draws lies as often as the levels say.

    The quantile of level p of S draws is the one at place p (S + 1) in order (type 6 of Hyndman & Fan 1996, The
    American Statistician 50, 361-365). At place 1 + p (S - 1), which is common, an interval of 90 % of 64 draws holds
    87 %. Beyond the first and the last draw there is nothing: 5 and 95 % take 19 draws.

    Args:
        draws: `[S, ...]`.
        levels: `L` of them, in (0, 1).

    Returns:
        `[L, ...]`.
    """
    count = len(draws)
    level = ((count + 1) * torch.as_tensor(levels, dtype=draws.dtype) - 1) / max(count - 1, 1)
    return torch.quantile(draws, level.clamp(0, 1).to(draws.device), dim=0)


def present(model: PhysicsVAE, cube: xr.DataTree) -> dict[str, tuple[str, ...]]:
    """Channels of those modalities of a fitted model of which a cube has some; the posterior rests on what is there.

    Raises:
        ValueError: it has none of them.
    """
    found, gone = {}, []
    for name, m in model.modalities.items():
        if name in cube.children:
            there = cube[name].to_dataset()[kind_of(name).channel].values
            lacking = [c for c in m.channels if c not in there]
            if len(lacking) < len(m.channels):
                found[name] = m.channels
                gone += [f"{c} of {name}" for c in lacking]
    if not found:
        known, nodes = (", ".join(map(repr, names)) or "none" for names in (model.modalities, cube.children))
        raise ValueError(f"The model reads {known}, and the nodes of the cube are {nodes}: name them alike.")
    absent = [name for name in model.modalities if name not in found] + gone
    if absent:
        log.info("The cube has no %s: what it would tell is left open.", ", ".join(absent))
    return found


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """No gradients, and random numbers that depend on the seed alone and disturb nobody else's."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield
