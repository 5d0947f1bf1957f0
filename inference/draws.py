"""Draws from the posterior of some pixels: the one loop that posterior trees, maps and scores are made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pi_vae import Latents, PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data.batches import Batch

__all__ = ["Group", "groups", "seeded"]


@dataclass
class Group:
    """Draws that share one draw of the global latents.

    Attributes:
        shared: global latents by site name.
        posterior: joint posterior of all local latents given these.
        latents: `[draw, pixel, ...]` local draws.
    """

    shared: dict[str, Tensor]
    posterior: ChainPosterior
    latents: Latents


def groups(model: PhysicsVAE, batch: Batch, draws: int, shared_draws: int = 8) -> Iterator[Group]:
    """Posterior draws of a batch's pixels, in groups of equal or nearly equal size.

    The encoder runs once; every group has its own draw of the global latents.

    Args:
        model: a fitted model.
        batch: what the encoder reads; `batch.pixels` are drawn.
        draws: draws over all groups.
        shared_draws: how many draws of the global latents.
    """
    sites = model.encoder(batch)
    count = min(draws, shared_draws)
    # All global draws come first, so that with the same seed every batch of pixels sees the same ones.
    for i, shared in enumerate([model.draw_globals() for _ in range(count)]):
        size = draws // count + (i < draws % count)
        posterior = model.posterior(sites, batch.dates, shared)
        yield Group(shared, posterior, model.latents(posterior.rsample((size,)), batch.dates))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """No gradients, and random numbers that depend on the seed alone and disturb nobody else's."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield
