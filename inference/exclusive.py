r"""Exclusive residuals given the physics, without the encoder.

Once the physical variables of a draw are known, what is left of a modality is linear in its residual,

.. math:: e_t = y_t - h(z_t) = L\,r_t + \epsilon_t, \quad L = W\,\mathrm{diag}(\alpha), \quad r_k \sim N(0, S_k),
          \quad \epsilon_{tc} \sim N(0, \sigma_c^2 / \omega_{tc}), \quad
          \omega_{tc} \sim \Gamma(\tfrac\nu2, \tfrac\nu2),

for Student's noise is a scale mixture of normal ones. With :math:`q(z)` as the guide has it, the best
:math:`q(r \mid z)\,q(\omega)` is (variational Bayes; Tipping & Lawrence 2005, Neurocomputing 69, 123-141)

.. math:: E\,\omega_{tc} = \frac{\nu + 1}{\nu + E[(e_{tc} - (L r_t)_c)^2] / \sigma_c^2}, \qquad
          r \mid z \sim N(P^{-1} b,\; P^{-1}), \qquad
          P = S^{-1} + \sum_{tc} \frac{E\,\omega_{tc}}{\sigma_c^2} L_c L_c^\top, \qquad
          b = \sum_{tc} \frac{E\,\omega_{tc}}{\sigma_c^2} L_c\, e_{tc},

a few rounds of which converge. With a common course (`pi_vae.course`), `r` and `e` are less what it says. On processors
the rounds are a Kalman filter (`inference.exclusive_filter`) from 20 dates on, where processes have a Markov state, and
dense else. The encoder has to learn this map; here it is exact up to the noise's tails, for any pattern of gaps, and
what physics did not reach at a date it saw is carried over to its neighbours in time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pi_vae import Latents, PhysicsVAE
from pi_vae.data.batches import Batch
from pi_vae.priors import TemporalGP
from pi_vae.priors.noise import standard_normal
from pi_vae.priors.state_space import StateSpace

__all__ = ["redrawn"]

ROUNDS = 3
JITTER = 1e-8
LEAST_DATES = 20  # below, dense algebra is faster
AT_ONCE = 3e7  # numbers of the precisions P in memory


def redrawn(
    model: PhysicsVAE,
    batch: Batch,
    latents: Latents,
    shared: Mapping[str, Tensor],
    physics: Mapping[str, Tensor],
) -> Latents:
    """The same draws of the physical variables, with residuals drawn anew given these.

    Residuals with a network, smooth ones, and those of a modality that was observed in larger pixels than the finest
    stay as they are: the first are not linear, and the others bind pixels.

    Args:
        model: a model.
        batch: what was observed; `batch.pixels` are drawn.
        latents: `[draw, pixel, ...]` draws given one draw of the global latents.
        shared: that draw, by site name.
        physics: what every modality of the batch is expected to see without its residual, `[draw, pixel, T_m, C]`.

    Returns:
        Draws of the same shape.
    """
    priors = model.priors(batch.dates, shared)
    common = model.common(batch.dates, shared)
    residual = dict(latents.residual)
    for name, process in latents.residual.items():
        part, observed = model.modalities[name].residual, batch.modalities.get(name)
        coarse = observed is not None and observed.factor != 1
        if part is None or part.network is not None or part.reach is not None or coarse:
            continue
        mean = common.get(f"residual_{name}", process.new_zeros(()))
        if observed is None:
            factor, noise = _factor(priors[f"residual_{name}"], process), standard_normal(process.shape, -3, process)
            residual[name] = mean + torch.einsum("kts,...ks->...kt", factor, noise)
            continue
        left = observed.series(batch.pixels) - physics[name]
        seen = observed.scored(batch.pixels)
        loading = shared[f"{name}_relevance"] * shared[f"{name}_loading"]
        if mean.dim():
            left = left - (loading @ mean[:, observed.index]).mT
        noise, freedom = shared[f"{name}_noise"], model.modalities[name].degrees_of_freedom
        course = _filterable(part.temporal, batch.dates, shared[f"{name}_lengthscale"], shared[f"{name}_static_odds"])
        if course is not None:
            from inference.exclusive_filter import filtered  # imports numba

            before = course.leave(course.simulate(*process.shape[:2]), process.shape[:2])
            white = standard_normal((*left.shape[:1], *left.shape[2:], left.shape[1]), -1, left).movedim(-1, 1)
            given = left, seen.expand(left.shape[1:]), white, before, loading, noise, freedom
            residual[name] = mean + filtered(*given, course, observed.index, ROUNDS)
            continue
        factor = _factor(priors[f"residual_{name}"], process)
        white = standard_normal((process.shape[1], process.shape[0], process[0, 0].numel()), -3, process)
        size = max(1, int(AT_ONCE / (factor.shape[0] * factor.shape[-1]) ** 2))
        parts = [
            _drawn(e, s, w, loading, noise, freedom, factor, observed.index)
            for e, s, w in zip(left.split(size, 1), seen.split(size), white.split(size), strict=True)
        ]
        residual[name] = mean + torch.cat(parts, 1)
    return dataclasses.replace(latents, residual=residual)


def _filterable(temporal: TemporalGP, dates: Tensor, lengthscale: Tensor, static_odds: Tensor) -> StateSpace | None:
    """The processes with a Markov state, where they have one and the filter is compiled."""
    if temporal.kernel.filters is None or dates.device.type != "cpu" or len(dates) < LEAST_DATES:
        return None
    course = TemporalGP(temporal.name, "kalman").prior(dates, lengthscale, static_odds).gram
    return course if isinstance(course, StateSpace) and course.order is None else None


def _factor(prior: TorchDistribution, like: Tensor) -> Tensor:
    """`[K, T, T]` Cholesky factor of the covariance of the processes."""
    covariance = prior.covariance.double()
    identity = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
    return torch.linalg.cholesky(covariance + JITTER * identity).to(like.dtype)


def _drawn(
    left: Tensor,
    seen: Tensor,
    white: Tensor,
    loading: Tensor,
    noise: Tensor,
    freedom: float,
    factor: Tensor,
    index: Tensor,
) -> Tensor:
    """`[D, N, K, T]` draws given `[D, N, T_m, C]` what is left, seen where `[N, T_m, C]`.

    They are made of ``white``, `[N, D, K T]` standard normal numbers.
    """
    count, dates = factor.shape[0], factor.shape[-1]
    left = torch.where(seen, left, 0.0)
    rows = factor[:, index]  # [K, T_m, T]: whitened coordinates -> processes at the dates of the modality
    identity = torch.eye(count * dates, dtype=factor.dtype, device=factor.device)
    square = left.square().mean(0)
    for _ in range(ROUNDS):
        weight = seen * (freedom + 1) / (freedom * noise.square() + square)
        inner = torch.einsum("ck,ntc,cl->ntkl", loading, weight, loading)
        across = torch.einsum("kts,ntkl,ltu->nkslu", rows, inner, rows).flatten(3, 4).flatten(1, 2)
        cholesky = torch.linalg.cholesky(identity + across)
        pulled = torch.einsum("kts,ck,ntc,dntc->ndks", rows, loading, weight, left).flatten(2)
        mean = torch.cholesky_solve(pulled.mT, cholesky).mT.unflatten(-1, (count, dates))
        # variance of what the residual adds, from the covariance of the processes at every date
        half = torch.linalg.solve_triangular(cholesky, torch.block_diag(*rows).mT, upper=False)
        half = half.unflatten(-1, rows.shape[:2])
        spread = torch.einsum("ck,nikt,nilt,cl->ntc", loading, half, half, loading)
        added = torch.einsum("ck,kts,ndks->ndtc", loading, rows, mean).transpose(0, 1)
        square = (left - added).square().mean(0) + spread
    around = torch.linalg.solve_triangular(cholesky.mT, white.mT, upper=True).mT
    white = mean + around.unflatten(-1, (count, dates))
    return torch.einsum("kts,ndks->dnkt", factor, white)
