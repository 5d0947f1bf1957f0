r"""How far to trust the guide: the model simulates, the guide recovers, and its spread is set by how far it errs.

The ELBO averages over the guide alone, so it is content with a guide that is too narrow: what that leaves out costs
nothing, nor does the encoder's own error. The last steps of a fit leave the site means as they are and set the spread,
and the noise scales with it, by two scores that punish every truth held to be impossible: the predictive density of
hidden observations (`inference.objective`), and the recovery of latents that the model itself has drawn,

.. math:: E_{p(z, y)}\left[\log q(z \mid y)\right],

which is largest for the true posterior (the sleep of wake-sleep, Hinton et al. 1995, Science 268, 1158-1161; simulate
and recover, Takeishi & Kalousis 2021, NeurIPS 34). The operators are only asked forward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.objective import predictive_density
from pi_vae import PhysicsVAE
from pi_vae.data.batches import Batch, joined, parted
from pi_vae.priors import SpatialPrior

__all__ = ["calibration_loss", "dream", "marginal_loss", "recovery_loss"]

DRAWS = 16  # few would blur the predictive density, and more noise would seem to serve it
DREAM_WEIGHT = 0.03  # of a simulated pixel beside an observed one: what the data say of themselves comes first
DREAM_SIZE, DREAM_PATCHES = 16, 2
REGIONS = 8  # of a patch
MIXED = 8  # draws of the static latents
# Intervals are wanted for data as they come.
FEW_GAPS = {"dates": 0.03, "blocks": 0.3, "modality": 0.02, "channels": 0.02}
MEMORY = 0.9  # share of the variance that a dream takes over at most


def calibration_loss(vae: PhysicsVAE, seen: Batch, imagined: Batch) -> Tensor:
    """What the spread of the guide and the noise scales are set by, scaled to the cube, in nats.

    Args:
        vae: the model.
        seen: a batch with hidden observations, which are predicted.
        imagined: a batch to dream of.
    """
    shared = vae.draw_globals()
    posterior = vae.posterior(vae.encode(seen), seen.dates, shared)
    predicted = predictive_density(vae, seen, posterior, shared, DRAWS)
    return DREAM_WEIGHT * recovery_loss(vae, imagined) - predicted


def recovery_loss(vae: PhysicsVAE, batch: Batch, cubes: int = 1) -> Tensor:
    """Negative log density of simulated latents under the guide, scaled to the cube, in nats.

    Processes are scored as a whole and date by date as well, both proper scores: an encoder errs in the level of a
    series more than in its course, one direction of many that the joint density weighs alike, and the one that
    intervals at single dates are made of. For these the guide has a draw of the global latents of its own, as it has
    when it is asked: which of them a series was made with, nobody tells it. As a whole a process is scored with those
    that it was made with: under a wrong lengthscale its roughness alone would be a surprise of hundreds of nats.

    Args:
        vae: the model; only its encoder gets gradients.
        batch: patches to dream of.
        cubes: how many cubes they come from, as many patches from each: each has its own draw of the global latents.
    """
    with torch.no_grad():
        made, own, truth, simulated = _recalled(vae, batch, cubes)
    sites = vae.encode(simulated)
    asked = vae.posterior(sites, batch.dates, own)
    scores = [asked.conditional(name, truth).datewise_log_prob(truth[name]) for name in asked.names[1:]]
    told = vae.posterior(sites, batch.dates, made)
    scores += [told.conditional(name, truth).log_prob(truth[name]) for name in told.names]
    return -batch.scale * torch.stack([score.sum() for score in scores]).sum()


def marginal_loss(vae: PhysicsVAE, batch: Batch, cubes: int = 1) -> Tensor:
    """Negative log density of simulated latents at single dates, over draws of what nobody tells the guide.

    As `recovery_loss` date by date, but the static latents are drawn as well, `MIXED` times: what an interval at a
    date is made of is the mean of the densities given these. Scaled to the cube, in nats.

    Args:
        vae, batch, cubes: see `recovery_loss`.
    """
    with torch.no_grad():
        _, own, truth, simulated = _recalled(vae, batch, cubes)
    asked = vae.posterior(vae.encode(simulated), batch.dates, own)
    given = truth | {"static": asked.static.rsample(torch.Size([MIXED])).detach()}
    scores = [asked.conditional(name, given).datewise_log_prob(truth[name]) for name in asked.names[1:]]
    return -batch.scale * torch.stack([score.logsumexp(0).sum() for score in scores]).sum()


def _recalled(
    vae: PhysicsVAE, batch: Batch, cubes: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Batch]:
    """Global latents that dreams were made with, others, the latents of the batch's pixels, and what was simulated."""
    made, own, truths, simulated = [], [], [], []
    for part in parted(batch, cubes):
        made.append(vae.draw_globals())
        own.append(vae.draw_globals())
        drawn, seen = dream(vae, part, made[-1])
        truths.append({name: value[part.pixels] for name, value in drawn.items()})
        simulated.append(seen)
    sizes = [len(part.pixels) for part in simulated]
    truth = {name: torch.cat([part[name] for part in truths]) for name in truths[0]}
    return _by_pixel(made, sizes), _by_pixel(own, sizes), truth, joined(simulated)


def _by_pixel(draws: Sequence[dict[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Several draws of the global latents: for every pixel that of its batch; one draw is left as it is."""
    if len(draws) == 1:
        return draws[0]
    counts = torch.tensor(sizes, device=draws[0]["lengthscale"].device)
    count = sum(sizes)  # an accelerator would be waited for to learn it
    return {s: torch.stack([d[s] for d in draws]).repeat_interleave(counts, 0, output_size=count) for s in draws[0]}


def dream(vae: PhysicsVAE, batch: Batch, shared: dict[str, Tensor]) -> tuple[dict[str, Tensor], Batch]:
    """Patches that could be those of the batch, drawn from the model and observed as the batch is.

    A latent is what the guide remembers of the place, its posterior mean, and for the variance that is missing there,
    a fresh draw from the prior, in part common to a region as in a field. The variance is that of the patches, of
    draws of their posterior (the step of expectation maximisation for a prior variance), at most that of the prior. So
    the dream has the variance and the texture of the scene.

    Args:
        vae: the model.
        batch: patches; their dates, geometry and masks are taken over.
        shared: global latents by site name.

    Returns:
        Latents `[patch * y * x, ...]` by site name, and the batch with simulated values.
    """
    patches, height, width = batch.shape
    everywhere = dataclasses.replace(batch, pixels=torch.arange(patches * height * width, device=batch.dates.device))
    priors = vae.local_priors(everywhere, shared)
    if height * width == 1:
        drawn = {name: prior.sample() for name, prior in priors.items()}
    else:
        known = vae.posterior(vae.encode(everywhere), batch.dates, shared)
        region = _regions(patches, height, width, batch.dates.device)
        means = {"static": known.static.mean, **{name: process.mean for name, process in known.processes.items()}}
        believed = known.rsample()
        drawn = {n: _textured(prior, means[n], believed[n], region, batch.shape) for n, prior in priors.items()}
    latents = vae.latents(drawn, batch.dates, shared)
    modalities = {}
    for name, observed in batch.modalities.items():
        footprints = everywhere.footprints(name)
        mean = vae.expected(name, latents, everywhere, shared)[footprints].mean(1)
        drawn_here = vae.modalities[name].likelihood(mean, shared[f"{name}_noise"]).sample()
        values = drawn_here.new_empty(footprints.numel(), *drawn_here.shape[1:])
        values[footprints] = drawn_here.unsqueeze(1).expand(-1, footprints.shape[1], -1, -1)
        values = values.unflatten(0, (patches, height, width)).permute(0, 3, 4, 1, 2)
        modalities[name] = dataclasses.replace(observed, values=values)
    return drawn, dataclasses.replace(batch, modalities=modalities)


def _textured(prior, mean: Tensor, believed: Tensor, region: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`[patch * y * x, ...]` latents of a site: what is known of them, and fresh draws for the rest of the variance."""
    others = [d for d in range(mean.dim()) if d != 1]
    share, whole = (x.square().mean(others, keepdim=True).clamp(max=1.0) for x in (mean, believed))
    memory = torch.minimum(share, MEMORY * whole)
    mean = mean * (memory / share.clamp_min(1e-6)).sqrt()
    each = (shape[0], *(1 for _ in prior.event_shape))
    common = torch.rand(each, device=region.device).repeat_interleave(shape[1] * shape[2], 0)
    fresh = prior.sample()
    if not isinstance(prior, SpatialPrior):  # which has a texture of its own
        fresh = common.sqrt() * fresh[region] + (1 - common).sqrt() * prior.sample()
    return mean + (whole - memory).sqrt() * fresh


def _regions(patches: int, height: int, width: int, device: torch.device) -> Tensor:
    """`[patch * y * x]` number of the region of every pixel: the nearest of a few random points of its patch."""
    side = torch.tensor([height, width], device=device)
    points = torch.rand(patches, REGIONS, 2, device=device) * side
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    pixels = torch.stack([rows, columns], -1).flatten(0, 1).to(points.dtype)
    nearest = torch.cdist(pixels.expand(patches, -1, -1), points).argmin(-1)
    number = (nearest + REGIONS * torch.arange(patches, device=device)[:, None]).flatten()
    return number.unique(return_inverse=True)[1]
