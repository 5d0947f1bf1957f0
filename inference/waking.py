r"""How an exclusive residual that contributes nothing begins to: by what physics leaves over.

At zero loadings nothing pulls at the reader of a residual, and with nothing read nothing pulls at the loadings: a
saddle of the ELBO, where short fits stay. Those that leave it while the divergence from the prior is phased in take,
cheaply, what physics would have said: on a few hundred real series an offset that all pixels share ended there, and
was missing wherever the sensor was not seen. So a residual that contributes nothing is kept silent at first (`hold`).
When physics has had its time, a hundred steps or, in short fits, until the divergence counts in full, the loadings of
a silent residual begin (`wake`) at what factor analysis finds in :math:`e_t = y_t - g(z_t)`, in units of the noise and
for one draw of the physical variables, or at half of it where it lasts and physics may be about to learn it. They rest
there for as many steps again, in which the reader learns to read; one that cannot yet only adds noise, and the
loadings would fall silent for that.

.. math:: W_{lasting} W_{lasting}^\top \approx \mathrm{cov}(e_t, e_{t+1}), \qquad
          W_{new} W_{new}^\top + \sigma^2 I \approx \mathrm{cov}(e_t) - \mathrm{cov}(e_t, e_{t+1}),

`t` counting dates, by the leading eigenvectors (probabilistic principal components: Tipping & Bishop 1999,
doi:10.1111/1467-9868.00196). It is a start and no more: what the ELBO does not pay for falls silent again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi_vae import PhysicsVAE
from pi_vae.data.batches import Batch

__all__ = ["hold", "wake"]

SILENT = 0.2  # of the noise
SHARE = 0.5  # of what lasts, as physics may be about to learn it
FAR = 4.0  # noise standard deviations; what is beyond says no more


def hold(model: PhysicsVAE, silent: bool) -> None:
    """Let loadings stay in this step as they are, without derivatives; only those that are zero if ``silent``."""
    for modality in model.modalities.values():
        if modality.residual is not None and not (silent and modality.residual.loading.loc.any()):
            for parameter in modality.residual.loading.parameters():
                parameter.grad = None


@torch.no_grad()
def wake(model: PhysicsVAE, batch: Batch) -> list[str]:
    """Give the silent residuals of a model a start.

    Args:
        model: model whose guide says something of the physical variables.
        batch: observations.

    Returns:
        Modalities whose residual was silent and has begun.
    """
    shared = model.median_globals()
    latents = model.latents(model.posterior(model.encode(batch), batch.dates, shared).rsample(), batch.dates, shared)
    woken = []
    for name, observed in batch.modalities.items():
        modality = model.modalities[name] if name in model.modalities else None
        if modality is None or modality.residual is None:
            continue
        noise = shared[f"{name}_noise"]
        if (modality.residual.strength > SILENT * noise.mean()).any():
            continue
        footprints = batch.footprints(name)
        pixels = batch.pixels[footprints[:, 0]]
        seen = observed.scored(pixels)
        if not seen.any():
            continue
        mean = model.expected(name, latents, batch, shared, residual=False)[..., footprints, :, :].mean(-3)
        left = torch.where(seen, observed.series(pixels) - mean, torch.nan)
        level = left.flatten(0, 1).cpu().nanmedian(0).values.to(left)  # there the same in every run
        left = ((left - level) / noise).clamp(-FAR, FAR)
        now, later = _together(left, left), _together(left[:, :-1], left[:, 1:])
        later = (later + later.mT) / 2
        rank, new = modality.residual.rank, modality.residual.transient
        lasting, passing = _factors(later, rank - new, noisy=False), _factors(now - later, new, noisy=True)
        loading = torch.cat([SHARE * lasting, passing], 1)
        modality.residual.loading.loc.copy_(loading * noise[:, None] / shared[f"{name}_relevance"])
        woken.append(name)
    return woken


def _together(first: Tensor, second: Tensor) -> Tensor:
    """`[C, C]` mean products of `[pixel, T, C]` where both are known."""
    seen = [torch.isfinite(part).to(part.dtype) for part in (first, second)]
    count = torch.einsum("ntc,ntd->cd", *seen)
    return torch.einsum("ntc,ntd->cd", first.nan_to_num(), second.nan_to_num()) / count.clamp_min(1.0)


def _factors(covariance: Tensor, count: int, noisy: bool) -> Tensor:
    """`[C, count]` leading factors; with noise, of what exceeds the mean of the eigenvalues that are left."""
    size, direction = torch.linalg.eigh(covariance)
    floor = size[: max(1, len(size) - count)].mean() if noisy else 0.0
    chosen = torch.arange(len(size) - 1, len(size) - 1 - count, -1)
    return direction[:, chosen] * (size[chosen] - floor).clamp_min(0.0).sqrt()
