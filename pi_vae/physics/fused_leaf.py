"""The pile of plates of `leaf.Prospect` with its derivatives in closed form; see `fused` for why and when.

A leaf has two inputs per wavelength, the optical thickness ``k`` of a plate and the number of layers below the first,
and two outputs: four derivatives, obtained along with the values. ``k_x`` is the derivative of ``x`` by ``k``, ``m_x``
by the layers.

Example::

    >>> k, layers = torch.tensor([[0.1], [1.0]], requires_grad=True), torch.tensor([0.5])
    >>> optics = torch.tensor([[0.94], [0.89], [0.45], [0.11], [0.55], [0.06], [0.95]]).unsqueeze(-1)
    >>> reflectance, transmittance = Plates.apply(k, layers, optics)  # [wavelength, sample]
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fused import fastest
from .integrals import absorption_and_slope

__all__ = ["Plates"]


class Plates(torch.autograd.Function):
    """``(thickness [wavelength, sample], layers [sample], optics [7, wavelength, 1])`` -> reflectance and
    transmittance, ``[wavelength, sample]``."""

    @staticmethod
    def forward(ctx, k: Tensor, layers: Tensor, optics: Tensor) -> tuple[Tensor, Tensor]:
        rho, tau, *slopes = fastest(_plates)(k, layers, *optics.unbind(0))
        ctx.save_for_backward(k, layers, optics, *slopes)
        return rho, tau

    @staticmethod
    def backward(ctx, grad_rho: Tensor, grad_tau: Tensor) -> tuple[Tensor | None, ...]:
        k, layers, optics, k_rho, k_tau, m_rho, m_tau = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this derivative is wanted
            from .leaf import plates

            values = plates(k, layers.unsqueeze(0), *optics.unbind(0))
            return *torch.autograd.grad(values, (k, layers), (grad_rho, grad_tau), create_graph=True), None
        by_k = grad_rho * k_rho + grad_tau * k_tau
        return by_k, (grad_rho * m_rho + grad_tau * m_tau).sum(0), None


def _plates(
    k: Tensor, m: Tensor, first: Tensor, t12: Tensor, t21: Tensor, r12: Tensor, r21: Tensor, r_first: Tensor,
    ratio: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Reflectance and transmittance, then their derivatives by ``k``, then by ``m``."""
    alpha, k_alpha = absorption_and_slope(k)
    inside = 1 - alpha
    bounce, k_bounce = r21 * inside, -r21 * k_alpha
    per_bounces = 1 / (1 - bounce * bounce)
    t_first = (first * t21) * inside * per_bounces
    k_t_first = (2 * bounce * k_bounce * t_first - (first * t21) * k_alpha) * per_bounces
    r_top = r_first + bounce * t_first
    k_r_top = k_bounce * t_first + bounce * k_t_first
    t = (ratio * t_first).clamp_min(1e-20)
    k_t = ratio * k_t_first
    r, k_r = r12 + bounce * t, k_bounce * t + bounce * k_t
    per_bounce = 1 / (1 - bounce)
    absorbed = t12 * alpha * per_bounce
    k_absorbed = (t12 * k_alpha + absorbed * k_bounce) * per_bounce
    absorbed = absorbed + max(torch.finfo(k.dtype).eps, 1e-10)

    difference, k_difference = r - t, k_r - k_t
    loss = absorbed * (1 + difference)
    k_loss = k_absorbed * (1 + difference) + absorbed * k_difference
    rest, other = 2 - absorbed, 1 - difference
    d = torch.sqrt(loss * rest * other)
    per_d = 1 / d
    k_d = 0.5 * per_d * (k_loss * rest * other - loss * (k_absorbed * other + rest * k_difference))
    per_t = 1 / t
    u = 0.5 * (loss + d) * per_t
    beta = torch.log1p(u)
    exponent = -2 * m * beta
    k_exponent = -2 * m * (0.5 * (k_loss + k_d) - u * k_t) * per_t / (1 + u)
    one_minus_e2 = -torch.expm1(exponent)
    e2 = 1 - one_minus_e2
    k_w, m_w = -e2 * k_exponent, 2 * e2 * beta
    s = one_minus_e2 * per_d
    k_s, m_s = (k_w - s * k_d) * per_d, m_w * per_d
    mix = 1 + difference * (1 - absorbed)
    scale = 1 / (2 - one_minus_e2 + s * mix)
    k_log = -scale * (k_s * mix - k_w + s * (k_difference * (1 - absorbed) - difference * k_absorbed))
    m_log = -scale * (m_s * mix - m_w)  # derivative of log(scale)
    r_pile, t_pile = 2 * r * s * scale, 2 * torch.exp(0.5 * exponent) * scale
    k_r_pile = 2 * scale * (k_r * s + r * k_s) + r_pile * k_log
    m_r_pile = 2 * scale * r * m_s + r_pile * m_log
    k_t_pile, m_t_pile = t_pile * (0.5 * k_exponent + k_log), t_pile * (m_log - beta)

    per_pass = 1 / (1 - r_pile * r)
    through = t_first * per_pass
    k_through = (k_t_first + through * (k_r_pile * r + r_pile * k_r)) * per_pass
    m_through = through * m_r_pile * r * per_pass
    return (
        r_top + through * r_pile * t,
        through * t_pile,
        k_r_top + k_through * r_pile * t + through * (k_r_pile * t + r_pile * k_t),
        k_through * t_pile + through * k_t_pile,
        (m_through * r_pile + through * m_r_pile) * t,
        m_through * t_pile + through * m_t_pile,
    )
