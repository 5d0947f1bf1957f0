"""`canopy.four_stream` with its derivatives in closed form, for loops compiled into one.

A fit spends most of its time in the transfer of light, some hundred operations per wavelength. Automatic
differentiation keeps the result of each of them and walks back through all. But the outcome is one number per sample
and wavelength, so its derivatives by every input can be had along with it, in one pass over memory; ten numbers per
sample and wavelength are kept, and the way back is a product with each. That pays once the pass is compiled: call
`compile_kernels`. As separate operations it costs as much as automatic differentiation, which then stays in use.

The names are those of `canopy`; ``g_x`` is the derivative of the reflectance by ``x``. The formulas follow the forward
pass from its end to its beginning. `canopy` stays the definition: it is used unless kernels are compiled, without
gradients, inside ``torch.compile`` and ``torch.func`` transforms, and for derivatives of derivatives.

Example::

    >>> eligible(torch.ones(3, requires_grad=True))  # not before compile_kernels()
    False
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .integrals import mean_decay, mean_decay_slope

__all__ = ["Transfer", "compile_kernels", "eligible", "fastest"]

_compiled: dict[Callable, Callable] = {}  # kernel -> compiled kernel


def eligible(*inputs: Tensor) -> bool:
    """Whether kernels are compiled and ordinary reverse mode is asked for, nothing that must look inside."""
    if not _compiled or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return any(x.requires_grad for x in inputs)


def compile_kernels(active: bool = True, device: str | torch.device = "cpu") -> bool:
    """Have the two inner loops, leaf and canopy, compiled by ``torch.compile`` in this process.

    Each becomes one pass over memory, some ten times as fast. The first call takes some twenty seconds and needs a C++
    compiler (on an accelerator, Triton); other batch sizes do not compile again. Derivatives of derivatives and
    ``torch.func`` transforms go on as before.

    Args:
        active: False goes back to ordinary operations.
        device: where they will run; the compiler of that device is tried.

    Returns:
        Whether the loops are compiled now: where no compiler works, a warning is logged and nothing changes.
    """
    _compiled.clear()
    if active:
        from .fused_leaf import _plates

        compiled = {kernel: torch.compile(kernel, dynamic=True) for kernel in (_multiple, _plates)}
        try:
            trial = torch.full((2, 64), 0.3, device=device)
            with torch.no_grad():
                compiled[_multiple](trial, trial, trial, *(trial[0] for _ in range(7)))
                compiled[_plates](trial, trial[0], *(trial[:, :1] for _ in range(7)))
        except Exception as error:  # whatever a missing or broken compiler raises
            reason = textwrap.shorten(str(error), 160)  # a compiler lists hundreds of lines
            logging.getLogger(__name__).warning("Physics is not compiled, %s: %s", type(error).__name__, reason)
            return False
        _compiled.update(compiled)
    return bool(_compiled)


def fastest(kernel: Callable) -> Callable:
    """The compiled form of a kernel where there is one."""
    return _compiled.get(kernel, kernel)


class Transfer(torch.autograd.Function):
    """``(rho, tau, soil [wavelength, sample], seven parameters [sample])`` -> diffuse part of the reflectance: all but
    the light that leaf or soil send back at once, ``[wavelength, sample]``."""

    @staticmethod
    def forward(ctx, rho: Tensor, tau: Tensor, soil: Tensor, *parameters: Tensor) -> Tensor:
        out, *slopes = fastest(_multiple)(rho, tau, soil, *parameters)
        ctx.save_for_backward(rho, tau, soil, *parameters, *slopes)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        count = len(ctx.saved_tensors) // 2
        inputs, slopes = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # a derivative of this derivative is wanted
            from .canopy import multiple_scattering

            rho, tau, soil, *rest = inputs
            value = multiple_scattering(rho, tau, soil, *(x.unsqueeze(0) for x in rest))[0]
            return torch.autograd.grad(value, inputs, grad, create_graph=True)
        optics = [grad * slope for slope in slopes[:3]]
        return *optics, *((grad * slope).sum(0) for slope in slopes[3:])


def _multiple(
    rho: Tensor, tau: Tensor, soil: Tensor,
    lai: Tensor, ks: Tensor, ko: Tensor, bf: Tensor, tss: Tensor, too: Tensor, z: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Reflectance, then its derivatives by the arguments in their order."""
    s, d = rho + tau, rho - tau
    absorbed = (1 - s).clamp_min_(0).add_(max(4 * torch.finfo(s.dtype).eps, 1e-8))
    asymmetry = bf * d
    back = (s + asymmetry).mul_(0.5)
    m = ((absorbed + 2 * back).mul_(absorbed)).sqrt_()
    per_sink = (absorbed + back).add_(m).reciprocal_()
    r_inf = back * per_sink
    per_m = 1 / m
    per_thin = 0.5 * per_m / per_sink  # 1 / (1 - r_inf^2)
    depth = m * lai
    e1 = torch.exp(-depth)
    e2 = e1 * e1

    brighter, darker = 0.5 * (1 + r_inf), 0.5 * (1 - r_inf)
    even, odd = s * brighter, asymmetry * darker
    sun_even, view_even = ks * even, ko * even
    sun_down, sun_up, view_down, view_up = sun_even - odd, sun_even + odd, view_even - odd, view_even + odd

    x_s, x_o = ks * lai - depth, ko * lai - depth
    f_s, f_o = mean_decay(x_s), mean_decay(x_o)
    long = lai * e1
    j1_s, j1_o = long * f_s, long * f_o
    per_s, per_o = 1 / (ks + m), 1 / (ko + m)
    j2_s, j2_o = (1 - tss * e1).mul_(per_s), (1 - too * e1).mul_(per_o)
    p_s, q_s, p_o, q_o = sun_down * j1_s, sun_up * j2_s, view_down * j1_o, view_up * j2_o

    re = r_inf * e1
    scale = 1 / (1 - re * re)
    rdd = r_inf * (1 - e2) * scale
    tsd, tdo, rdo = (p_s - re * q_s) * scale, (p_o - re * q_o) * scale, (q_o - re * p_o) * scale
    g_o, g_s = (z - j1_s * too) * per_o, (z - j1_o * tss) * per_s
    up_down, down_up = view_up * sun_down, view_down * sun_up
    returned = rdo * q_s + tdo * p_s
    several = (up_down * g_o + down_up * g_s - r_inf * returned) * per_thin
    again = 1 / (1 - soil * rdd)
    bounce = soil * again
    trapped = tss * soil * rdd
    lit = tss + tsd
    over_soil = lit * tdo + (tsd + trapped) * too
    value = several + over_soil * bounce

    # soil
    to_view = bounce * too
    g_soil = over_soil * again * again + to_view * tss * rdd
    g_rdd = over_soil * bounce * bounce + to_view * tss * soil
    g_tsd = bounce * tdo + to_view
    g_tss = bounce * tdo + to_view * soil * rdd
    g_too = bounce * (tsd + trapped)
    # multiple scattering
    r_thin = r_inf * per_thin
    g_tdo = bounce * lit - r_thin * p_s
    g_rdo = -r_thin * q_s
    from_o, from_s = up_down * per_thin * per_o, down_up * per_thin * per_s
    g_z = from_o + from_s
    g_j1_s, g_j1_o = -from_o * too, -from_s * tss
    g_too -= from_o * j1_s
    g_tss -= from_s * j1_o
    # two streams
    t_sd, t_do, r_do, r_dd = g_tsd * scale, g_tdo * scale, g_rdo * scale, g_rdd * scale
    g_p_s, g_q_s = t_sd - r_thin * tdo, -re * t_sd - r_thin * rdo
    g_p_o, g_q_o = t_do - re * r_do, r_do - re * t_do
    g_re = 2 * re * (t_sd * tsd + t_do * tdo + r_do * rdo + r_dd * rdd) - q_s * t_sd - q_o * t_do - p_o * r_do
    g_r_inf = r_dd * (1 - e2) + g_re * e1 - returned * per_thin
    g_e1 = r_inf * (g_re - 2 * e1 * r_dd)
    # sources and their decay
    thin_o, thin_s = per_thin * g_o, per_thin * g_s
    g_sun_down, g_sun_up = thin_o * view_up + g_p_s * j1_s, thin_s * view_down + g_q_s * j2_s
    g_view_up, g_view_down = thin_o * sun_down + g_q_o * j2_o, thin_s * sun_up + g_p_o * j1_o
    g_j1_s += g_p_s * sun_down
    g_j1_o += g_p_o * view_down
    g_j2_s, g_j2_o = g_q_s * sun_up * per_s, g_q_o * view_up * per_o
    g_tss -= g_j2_s * e1
    g_too -= g_j2_o * e1
    g_e1 -= g_j2_s * tss + g_j2_o * too
    by_per_s, by_per_o = -(from_s * g_s + g_j2_s * j2_s), -(from_o * g_o + g_j2_o * j2_o)
    g_long = g_j1_s * f_s + g_j1_o * f_o
    g_x_s, g_x_o = g_j1_s * long * mean_decay_slope(x_s, f_s), g_j1_o * long * mean_decay_slope(x_o, f_o)
    g_e1 += g_long * lai
    g_depth = -(g_e1 * e1) - g_x_s - g_x_o
    g_lai = g_long * e1 + g_x_s * ks + g_x_o * ko + g_depth * m
    g_m = by_per_s + by_per_o + g_depth * lai
    sun, view = g_sun_down + g_sun_up, g_view_down + g_view_up
    g_ks, g_ko = by_per_s + g_x_s * lai + sun * even, by_per_o + g_x_o * lai + view * even
    g_even = ks * sun + ko * view
    g_odd = g_sun_up - g_sun_down + g_view_up - g_view_down
    g_r_inf += 0.5 * (s * g_even - asymmetry * g_odd)
    # leaf; 1 - r_inf^2 = 2 m / sink
    g_thin = -several * per_thin
    g_sink = -per_sink * (g_r_inf * r_inf + g_thin / per_thin)
    g_m += 2 * per_sink * g_thin + g_sink
    g_back = g_r_inf * per_sink + g_sink + g_m * absorbed * per_m
    g_absorbed = g_sink + g_m * (absorbed + back) * per_m
    g_s_ = brighter * g_even + 0.5 * g_back - torch.where(s <= 1, g_absorbed, 0.0)
    g_asymmetry = darker * g_odd + 0.5 * g_back
    g_d = g_asymmetry * bf
    return value, g_s_ + g_d, g_s_ - g_d, g_soil, g_lai, g_ks, g_ko, g_asymmetry * d, g_tss, g_too, g_z
