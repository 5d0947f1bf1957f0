r"""Refinement of the guide for some pixels: Hamiltonian Monte Carlo in the coordinates of the guide.

The guide answers at once, for every pixel, with Gaussians. Where exact draws are wanted, the guide becomes the map: the
chain of `pi_vae.chain` turns standard normal noise :math:`\epsilon` into latents, :math:`z = T(\epsilon)`, with a
constant Jacobian, and the chain runs over

.. math:: \log \pi(\epsilon) = \log p(z, y) + const, \qquad z = T(\epsilon),

which is nearly standard normal wherever the guide is nearly right (Hoffman et al. 2019, arXiv:1903.03704). Given the
global latents pixels are independent: all of them move at once, each with its own step size and acceptance (Neal 2011,
MCMC using Hamiltonian dynamics; step sizes by dual averaging, masses from the first draws: Hoffman & Gelman 2014, JMLR
15, section 3.2). Every chain has its own draw of the global latents from their posterior, which stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inference.draws import Group
from pi_vae import PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data.batches import Batch

__all__ = ["hamiltonian", "refined_groups"]

ACCEPTANCE = 0.8
LENGTH = 1.6  # of a trajectory, a quarter turn of a standard normal
LEAPFROGS = 24  # at most
FIRST_STEP = 0.1


def refined_groups(
    model: PhysicsVAE, batch: Batch, draws: int, chains: int = 4, warmup: int = 200, thin: int = 2
) -> Iterator[Group]:
    """Draws from the posterior of the batch's pixels given the global latents, one group a chain.

    Args:
        model: a fitted model.
        batch: what the encoder reads; `batch.pixels` are refined.
        draws: draws over all chains, a multiple of their number.
        chains: number of chains, which move together.
        warmup: steps of each chain that are thrown away; they set step sizes and masses.
        thin: steps of the chain per draw that is kept.
    """
    with torch.no_grad():
        sites = model.encoder(batch)
        shared = [model.draw_globals() for _ in range(chains)]
        posteriors = [model.posterior(sites, batch.dates, one) for one in shared]
        density = _density(model, batch, posteriors, shared)
        start = torch.randn(chains, len(batch.pixels), sum(_sizes(posteriors[0]).values()), device=batch.dates.device)
        found, _ = hamiltonian(density, start, draws // chains * thin, warmup)
        for chain, (one, posterior) in enumerate(zip(shared, posteriors, strict=True)):
            yield Group(one, posterior, model.latents(_drawn(posterior, found[thin - 1 :: thin, chain]), batch.dates))


def hamiltonian(
    density: Callable[[Tensor], Tensor], start: Tensor, draws: int, warmup: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hamiltonian Monte Carlo on many independent targets of about unit scale at once.

    Args:
        density: `[..., D]` -> `[...]` log densities, up to constants.
        start: `[..., D]` where the chains begin.
        draws: steps that are kept.
        warmup: steps before, in which each target finds its step size, and its masses.

    Returns:
        draws `[draw, ..., D]`, and ``acceptance`` and ``step`` of every target, `[...]`.
    """
    where, (level, slope) = start, _with_gradient(density, start)
    mass = torch.ones_like(start)
    step = _StepSize(level)
    seen, kept, accepted = [], [], []
    for i in range(warmup + draws):
        if i < warmup and i in (warmup // 3, 2 * warmup // 3):
            mass, seen = _masses(seen), []
            step = _StepSize(level)
        size = (step.current if i < warmup else step.average).unsqueeze(-1)
        scale = mass.rsqrt()  # of a coordinate: steps in it are that much longer
        momentum = torch.randn_like(where)
        before = level - 0.5 * momentum.square().sum(-1)
        count = LENGTH * (0.3 + 1.4 * float(torch.rand(()))) / float(size.median())
        there, gradient, height = where, slope, level
        for _ in range(min(LEAPFROGS, math.ceil(count))):
            momentum = momentum + 0.5 * size * scale * gradient
            there = there + size * scale * momentum
            height, gradient = _with_gradient(density, there)
            momentum = momentum + 0.5 * size * scale * gradient
        probability = torch.exp((height - 0.5 * momentum.square().sum(-1) - before).clamp(max=0.0)).nan_to_num(0.0)
        moves = torch.rand_like(probability) < probability
        level = torch.where(moves, height, level)
        where, slope = (torch.where(moves.unsqueeze(-1), new, old) for new, old in ((there, where), (gradient, slope)))
        if i < warmup:
            step.update(probability)
            seen.append(where)
        else:
            kept.append(where)
            accepted.append(probability)
    return torch.stack(kept), {"acceptance": torch.stack(accepted).mean(0), "step": step.average}


class _StepSize:
    """Step size of every target by dual averaging."""

    def __init__(self, like: Tensor) -> None:
        self.current = self.average = torch.full_like(like, FIRST_STEP)
        self.towards, self.error, self.count = math.log(10 * FIRST_STEP), torch.zeros_like(self.current), 0

    def update(self, probability: Tensor) -> None:
        self.count += 1
        weight = 1 / (self.count + 10)
        self.error = (1 - weight) * self.error + weight * (ACCEPTANCE - probability)
        log_step = self.towards - math.sqrt(self.count) / 0.05 * self.error
        forget = self.count**-0.75
        self.average = torch.exp(forget * log_step + (1 - forget) * self.average.log())
        self.current = log_step.exp()


def _masses(seen: list[Tensor]) -> Tensor:
    """Inverse variances of the draws of the later two thirds, drawn towards 1 as long as they are few."""
    draws = torch.stack(seen[len(seen) // 3 :])
    share = len(draws) / (len(draws) + 20.0)
    return 1 / (share * draws.var(0) + 1 - share).clamp(1e-2, 1e2)


def _with_gradient(density: Callable[[Tensor], Tensor], where: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        where = where.detach().requires_grad_()
        level = density(where)
        (slope,) = torch.autograd.grad(level.sum(), where)
    return level.detach(), slope.nan_to_num(0.0)


def _density(
    model: PhysicsVAE, batch: Batch, posteriors: list[ChainPosterior], shared: list[dict[str, Tensor]]
) -> Callable[[Tensor], Tensor]:
    """Log density of the noise, `[chain, pixel, D]` -> `[chain, pixel]`, given the global latents of every chain."""
    priors = [model.priors(batch.dates, one) for one in shared]
    # The operators see all chains at once: `[chain, 1, ...]` against `[chain, pixel, date, ...]`.
    lengths = {"coefficients": 4, "noise": 4, "loading": 4}
    together = {}
    for site in shared[0]:
        stacked = torch.stack([one[site] for one in shared])
        if (size := lengths.get(site.rsplit("_", 1)[-1])) is not None:
            together[site] = stacked.view(len(shared), *(1,) * (size - stacked.dim()), *stacked.shape[1:])

    def density(noise: Tensor) -> Tensor:
        drawn = [_drawn(posterior, one) for posterior, one in zip(posteriors, noise.unbind(0), strict=True)]
        total = torch.stack(
            [
                sum(prior.log_prob(one[name]) for name, prior in own.items())
                for own, one in zip(priors, drawn, strict=True)
            ]
        )
        latents = model.latents({k: torch.stack([one[k] for one in drawn]) for k in drawn[0]}, batch.dates)
        for name, observed in batch.modalities.items():
            mean = model.expected(name, latents, batch, together)
            likelihood = model.modalities[name].likelihood(mean, together[f"{name}_noise"])
            score = likelihood.log_prob(observed.series(batch.pixels)).sum(-1)
            total = total + torch.where(observed.mask(batch.pixels), score, 0.0).sum(-1)
        return total

    return density


def _sizes(posterior: ChainPosterior) -> dict[str, int]:
    shapes = {"static": posterior.static.event_shape} | {k: p.event_shape for k, p in posterior.processes.items()}
    return {name: shape.numel() for name, shape in shapes.items()}


def _drawn(posterior: ChainPosterior, noise: Tensor) -> dict[str, Tensor]:
    """Latents by site name of noise `[..., pixel, D]`."""
    parts = noise.split(list(_sizes(posterior).values()), -1)
    shapes = {name: p.event_shape for name, p in posterior.processes.items()}
    named = dict(zip(posterior.names, parts, strict=True))
    return posterior.transport({k: v.unflatten(-1, shapes[k]) if k in shapes else v for k, v in named.items()})
