r"""Terms that keep a residual from saying what physics could say.

Data alone cannot always tell a residual from physics: a loading that mimics the Jacobian of an operator explains them
as well. To the objective of a fit may therefore be added, in its later part,

.. math:: w \sum_k T_k, \qquad w = 0.1,

where every :math:`T_k \ge 0` is counted in nats of the same observations and pixels as the evidence itself. That is
what their common weight rests on: terms are there to choose between explanations that evidence cannot tell apart, so
they must lose against evidence. With a tenth of a nat for a nat, a residual that raises the evidence by one nat may
cost ten of a term before it is given up; nothing is to be tuned for a data set. They come in once the divergence
from the prior is phased in, when residuals have begun (`inference.waking`), over as many steps again: what holds a
residual back for longer leaves its share to the physical variables, which then keep it.

``"cross_reconstruction"``
    with the residual of another: physics and a fresh draw of the residual's prior must do;
``"minimality"``
    what the residual says beyond its prior;
``"ablation"``
    what is lost without a residual (least action);
``"recovery"``
    simulate and recover: latents that the model has drawn are found again;
``"independence"``
    dependence of residual and physical latents over the pixels (HSIC);
``"tangent"``
    the part of the residual that a small step of the physical latents would explain.

Modality dropout, the other guard, is the ``hide_modality`` of `inference.fit`. None of the terms is in a fit by
default: where `neural_posterior` follows, regressions find no physics in the residual without them. Of a fit alone
(``benchmarks/residuals.py --rows ablation``) ``"recovery"`` is the one that makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.hsic import hsic
from inference.objective import expected_at
from inference.sleep import recovery_loss
from pi_vae import Latents, PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data.batches import Batch

__all__ = ["TERMS", "Explanation", "Restraint"]

WEIGHT = 0.1
STEP = 0.1  # of a latent, in standard deviations of its prior, for derivatives
TANGENTS = 64  # observations whose derivatives are taken in a step
LARGEST = 0.99  # normalised dependence, whose logarithm would not end


@dataclass
class Explanation:
    """How a draw of the guide explains a batch.

    Attributes:
        vae: the model.
        batch: what the encoder saw.
        posterior: of the local latents.
        drawn: local and global latents by site name, the draw.
        means: modality -> `[M, T_m, C]` means of the likelihood at its pixels, residual included.
        imagined: patches to simulate, for ``"recovery"``.
    """

    vae: PhysicsVAE
    batch: Batch
    posterior: ChainPosterior
    drawn: Mapping[str, Tensor]
    means: Mapping[str, Tensor]
    imagined: Batch | None = None

    @property
    def latents(self) -> Latents:
        local = {name: self.drawn[name] for name in self.posterior.names}
        return self.vae.latents(local, self.batch.dates, self.drawn)

    @property
    def exclusive(self) -> list[str]:
        """Modalities of the batch that have a residual."""
        return [m for m in self.batch.modalities if f"residual_{m}" in self.drawn]

    def residual(self, name: str, latents: Tensor) -> Tensor:
        """`[M, T_m, C]` contribution of residual latents `[pixel, K, T]` at the pixels of a modality."""
        batch = self.batch
        here = Latents(self.drawn["dynamic"], self.drawn["static"], {name: latents})
        contribution = self.vae.residual(name, here, self.drawn)[..., batch.modalities[name].index, :]
        return contribution[batch.footprints(name)].mean(1)

    def scored(self, name: str) -> tuple[Tensor, Tensor]:
        """Observations `[M, T_m, C]` at the pixels of a modality, and which of them count."""
        observed, first = self.batch.modalities[name], self.batch.pixels[self.batch.footprints(name)[:, 0]]
        return observed.series(first), observed.scored(first)


def cross_reconstruction(e: Explanation) -> Tensor:
    r"""What observations lose when the residual is another's.

    .. math:: \log p(y \mid z, r) - \log p(y \mid z, \tilde r), \qquad \tilde r \sim p(r),

    so that what is needed of a modality must pass through the physical latents (private latents drawn from a prior:
    Palumbo, Daunhawer & Vogt 2023, MMVAE+, ICLR). Where a draw of the prior explains more it counts as zero.
    """
    priors, total = e.vae.local_priors(e.batch, e.drawn), torch.zeros(())
    for name in e.exclusive:
        values, scored = e.scored(name)
        own = e.residual(name, e.drawn[f"residual_{name}"])
        fresh = priors[f"residual_{name}"].sample()
        modality, noise = e.vae.modalities[name], e.drawn[f"{name}_noise"]
        density = [
            modality.likelihood(mean, noise).log_prob(values)
            for mean in (e.means[name], e.means[name] - own + e.residual(name, fresh))
        ]
        total = total + ((density[0] - density[1]) * scored).sum((1, 2)).clamp_min(0.0).sum()
    return e.batch.scale * total


def minimality(e: Explanation) -> Tensor:
    r"""Divergence of the residual from its prior, once more than the evidence counts it.

    .. math:: \log q(r \mid u, s) - \log p(r)

    at the draw (the capacity of a latent: Higgins et al. 2017, beta-VAE, ICLR; raised late: Burgess et al. 2018,
    arXiv 1804.03599).
    """
    priors, total = e.vae.local_priors(e.batch, e.drawn), torch.zeros(())
    for name in e.exclusive:
        site = f"residual_{name}"
        posterior, drawn = e.posterior.conditional(site, e.drawn), e.drawn[site]
        total = total + (posterior.log_prob(drawn) - priors[site].log_prob(drawn)).sum()
    return e.batch.scale * total


def ablation(e: Explanation) -> Tensor:
    r"""Gap between the decoder and its physics alone, in units of the noise: least action.

    .. math:: \tfrac12 \sum_c (\Delta_c / \sigma_c)^2,

    the divergence of two normal predictions (Takeishi & Kalousis 2021, NeurIPS 34, eq. 6).
    """
    total = torch.zeros(())
    for name in e.exclusive:
        _, scored = e.scored(name)
        said = e.residual(name, e.drawn[f"residual_{name}"]) / e.drawn[f"{name}_noise"]
        total = total + 0.5 * (said.square() * scored).sum()
    return e.batch.scale * total


def recovery(e: Explanation) -> Tensor:
    """Simulate and recover: `inference.sleep.recovery_loss` on imagined patches.

    (Takeishi & Kalousis 2021, NeurIPS 34, section 3.3; the sleep of Hinton et al. 1995.)

    Raises:
        ValueError: there is nothing to imagine.
    """
    if e.imagined is None:
        raise ValueError("The term 'recovery' simulates: give patches to imagine.")
    return recovery_loss(e.vae, e.imagined)


def independence(e: Explanation) -> Tensor:
    r"""Dependence of residual and physical latents over the pixels of the batch.

    .. math:: -\tfrac12 \log(1 - \rho), \qquad \rho = HSIC(r, z) / \sqrt{HSIC(r, r)\,HSIC(z, z)},

    a draw of each at one date of every pixel, with the unbiased HSIC (Gretton et al. 2005; Song et al. 2012;
    normalised: Cortes et al. 2012, JMLR 13, 795-828). Of normal variables the mutual information has this form, with
    the squared correlation for :math:`\rho`, so that it is in nats per pixel.
    """
    latents, pixels, total = e.latents, len(e.batch.pixels), torch.zeros(())
    if pixels < 4:
        return torch.zeros((), device=e.batch.dates.device)
    each = torch.arange(pixels, device=e.batch.dates.device)
    for name in e.exclusive:
        observed = e.batch.modalities[name]
        weight = observed.mask(e.batch.pixels) + 1e-9
        date = observed.index[torch.multinomial(weight, 1).squeeze(1)]
        residual = latents.residual[name][each, :, date]
        physical = torch.cat([latents.dynamic[each, :, date], latents.static], -1)
        own = (hsic(residual, residual) * hsic(physical, physical)).clamp_min(1e-12).sqrt()
        share = (hsic(residual, physical) / own).clamp_max(LARGEST)
        total = total - 0.5 * pixels * torch.log1p(-share)
    return e.batch.scale * total


def tangent(e: Explanation) -> Tensor:
    r"""The part of the residual that the physical latents could have said.

    .. math:: \tfrac12 \Delta^T H \Delta, \qquad H = J (J^T J + 1)^{-1} J^T,

    with residual and Jacobian :math:`J` of the operator, by physical latents of unit prior variance, in units of the
    noise: :math:`H \Delta` is what the posterior mean of a linear operator makes of :math:`\Delta`. The Jacobian is
    that of some observations of the batch, by central differences, and gets no gradient.
    """
    latents, total = e.latents, torch.zeros(())
    for name in e.exclusive:
        observed = e.batch.modalities[name]
        pixel, date = observed.mask(e.batch.pixels).nonzero(as_tuple=True)
        if not len(pixel):
            continue
        some = torch.randint(len(pixel), (min(TANGENTS, len(pixel)),), device=pixel.device)
        share, pixel, date = len(pixel) / len(some), pixel[some], date[some]
        noise = e.drawn[f"{name}_noise"]
        said = e.vae.residual(name, latents, e.drawn)[pixel, observed.index[date]] / noise * observed.given
        with torch.no_grad():
            jacobian = _jacobian(e, name, latents, pixel, date) / noise.unsqueeze(-1) * observed.given.unsqueeze(-1)
            inner = jacobian.mT @ jacobian + torch.eye(jacobian.shape[-1], device=jacobian.device)
            hat = jacobian @ torch.linalg.solve(inner, jacobian.mT)
        total = total + share * 0.5 * torch.einsum("hc,hcd,hd->", said, hat, said)
    return e.batch.scale * total


TERMS: dict[str, Callable[[Explanation], Tensor]] = {
    term.__name__: term for term in (cross_reconstruction, minimality, ablation, recovery, independence, tangent)
}


class Restraint:
    """Sum of some terms, with the weight that they have at the time.

    Args:
        vae: the model.
        terms: their names.

    Attributes:
        terms: their names, in the order of `TERMS`.
        share: of the weight, from 0 to 1.
        imagined: patches to simulate, for ``"recovery"``.

    Raises:
        ValueError: a term is unknown, or no modality has a residual that it could hold back.
    """

    def __init__(self, vae: PhysicsVAE, terms: Collection[str]) -> None:
        names = (terms,) if isinstance(terms, str) else tuple(terms)
        unknown = [name for name in names if name not in TERMS]
        if unknown:
            raise ValueError(f"There is no term {unknown[0]!r}: choose among {', '.join(TERMS)}.")
        if names and all(m.residual is None for m in vae.modalities.values()):
            raise ValueError("No modality has a residual, which terms would hold back: leave terms empty.")
        self.vae, self.terms = vae, tuple(name for name in TERMS if name in names)
        self.share = 0.0
        self.imagined: Batch | None = None

    def __call__(
        self, batch: Batch, posterior: ChainPosterior, drawn: Mapping[str, Tensor], means: Mapping[str, Tensor]
    ) -> Tensor:
        """Nats, scaled to the cube, of draws by site name, global and local, and the means of the likelihood there."""
        explanation = Explanation(self.vae, batch, posterior, drawn, means, self.imagined)
        return self.share * WEIGHT * sum((TERMS[name](explanation) for name in self.terms), torch.zeros(()))


def _jacobian(e: Explanation, name: str, latents: Latents, pixel: Tensor, date: Tensor) -> Tensor:
    """`[H, C, V + S]` derivatives of an operator by the physical latents, at dates of pixels."""
    union = e.batch.modalities[name].index[date]
    dynamic, static = latents.dynamic[pixel, :, union], latents.static[pixel]
    here = torch.cat([dynamic, static], -1)
    step = STEP * torch.eye(here.shape[-1], device=here.device).unsqueeze(1)
    moved = torch.cat([here + step, here - step]).split([dynamic.shape[-1], static.shape[-1]], -1)
    around = Latents(moved[0].unsqueeze(-1), moved[1], {})
    ahead, behind = expected_at(e.vae, name, e.batch, around, e.drawn, pixel, date).squeeze(-2).chunk(2)
    return ((ahead - behind) / (2 * STEP)).movedim(0, -1)
