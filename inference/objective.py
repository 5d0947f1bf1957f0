r"""The training objective: evidence of what the encoder saw, prediction of what it did not.

With some observations hidden from the encoder, :math:`y = y_{seen} \cup y_{hidden}`, the chain rule splits the
evidence,

.. math:: \log p(y) = \log p(y_{seen}) + \log p(y_{hidden} \mid y_{seen})
          \ge ELBO(y_{seen}) + \log E_{q(u \mid y_{seen})}[p(y_{hidden} \mid u)] .

The first term makes the guide the posterior given what was seen; the second, estimated with a few draws per channel,
lets neighbouring pixels and dates inform gaps and keeps the spread in gaps honest (scoring hidden data inside the ELBO
would reward a spread that is too narrow, because the ELBO averages the log and not the probability).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pi_vae import Latents, PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data.batches import Batch

__all__ = ["ChainRuleELBO", "expected_at", "hidden_means", "predictive_density"]


class ChainRuleELBO(TraceMeanField_ELBO):
    """ELBO, plus the predictive term of hidden observations.

    Divergences are in closed form where Pyro finds one: for global latents. That of local ones is that of the draw:
    unbiased, and hardly noisier.

    Args:
        vae: the model whose `model` and `guide` are trained.
        draws: draws of the guide per hidden observation.
        restraint: what is added to the loss, see `inference.terms`.
    """

    def __init__(self, vae: PhysicsVAE, draws: int = 3, restraint: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.vae, self.draws, self.restraint = vae, draws, restraint

    def _differentiable_loss_particle(self, model_trace, guide_trace) -> tuple[float, Tensor]:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        batch = model_trace.nodes["_INPUT"]["args"][0]
        shared = {name: node["value"] for name, node in guide_trace.nodes.items() if node["type"] == "sample"}
        posterior = guide_trace.nodes["_RETURN"]["value"]
        extra = -predictive_density(self.vae, batch, posterior, shared, self.draws)
        if self.restraint is not None:
            means = {name: model_trace.nodes[f"{name}_mean"]["value"] for name in batch.modalities}
            extra = extra + self.restraint(batch, posterior, shared, means)
        return loss + extra.item(), surrogate + extra


def predictive_density(
    vae: PhysicsVAE, batch: Batch, posterior: ChainPosterior, shared: Mapping[str, Tensor], draws: int
) -> Tensor:
    """Log predictive density of the hidden observations of a batch, scaled to the cube, in nats.

    Args:
        vae: the model.
        batch: a batch with hidden observations among its pixels.
        posterior: of its latents.
        shared: global latents by site name.
        draws: draws of the posterior.
    """
    latents = vae.latents(posterior.rsample((draws,)), batch.dates, shared)
    total = torch.zeros((), device=batch.dates.device)
    for name in batch.modalities:
        mean, values = hidden_means(vae, name, batch, latents, shared)
        density = vae.modalities[name].likelihood(mean, shared[f"{name}_noise"]).log_prob(values)
        given = batch.modalities[name].given
        total = total + ((torch.logsumexp(density, 0) - math.log(draws)) * given).sum()
    return batch.scale * total


def hidden_means(
    vae: PhysicsVAE,
    name: str,
    batch: Batch,
    latents: Latents,
    shared: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Draws of a modality's mean at its hidden observations (valid, not seen), one by one.

    Args:
        vae: the model.
        name: modality.
        batch: a batch with `H` hidden observations among its pixels.
        latents: `D` draws of all its pixels and dates.
        shared: global latents by site name.

    Returns:
        `[D, H, C]` means and `[H, C]` observations, in the units of the likelihood.
    """
    observed = batch.modalities[name]
    hidden = observed.mask(batch.pixels, "valid") & ~observed.mask(batch.pixels)
    footprints = batch.footprints(name)
    footprint, date = hidden[footprints[:, 0]].nonzero(as_tuple=True)
    members = footprints[footprint]  # [H, F] fine pixels
    values, size = observed.series(batch.pixels)[members[:, 0], date], members.shape[1]
    pixel, date = members.flatten(), date.repeat_interleave(size)
    union = observed.index[date]
    # One fine pixel of a hidden observation is one "date" of one "pixel": everything is [draw, H * F, 1] here.
    process = {k: r[:, pixel, :, union].movedim(0, 1).unsqueeze(-1) for k, r in latents.residual.items() if k == name}
    dynamic = latents.dynamic[:, pixel, :, union].movedim(0, 1).unsqueeze(-1)
    here = Latents(dynamic, latents.static[:, pixel], process)
    mean = expected_at(vae, name, batch, here, shared, pixel, date)
    if name in here.residual:
        mean = mean + vae.residual(name, here, shared)
    return mean.squeeze(-2).unflatten(1, (-1, size)).mean(2), values


def expected_at(
    vae: PhysicsVAE,
    name: str,
    batch: Batch,
    here: Latents,
    shared: Mapping[str, Tensor],
    pixel: Tensor,
    date: Tensor,
) -> Tensor:
    """What a modality's physics says at single dates of pixels, `[D, H, 1, C]`.

    Args:
        vae: the model.
        name: modality.
        batch: a batch.
        here: `D` draws of the physical latents there, `[D, H, V, 1]` and `[D, H, S]`.
        shared: global latents by site name.
        pixel: `[H]` positions among the batch's pixels.
        date: `[H]` positions among the dates of the modality.
    """
    observed = batch.modalities[name]
    angles = {
        k: (angle[date] if angle.dim() == 1 else angle[pixel, date]).unsqueeze(-1)
        for k, angle in observed.angles(batch.pixels).items()
    }
    drivers = {k: driver[observed.index[date]].unsqueeze(-1) for k, driver in batch.drivers.items()}
    return vae.physics(name, vae.variables(here), angles, drivers, shared)
