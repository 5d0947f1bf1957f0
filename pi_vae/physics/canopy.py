r"""4SAIL: directional reflectance of a canopy from leaf optics, leaf angles, leaf area and geometry.

A horizontally uniform layer of small flat leaves over a Lambertian soil (Verhoef 1984; Verhoef et al. 2007), with the
hot-spot effect of Kuusk (1991). The work is split by what depends on wavelength:

1. `layer_geometry`: extinction and scattering coefficients of the leaf angle classes. Angles only.
2. `hot_spot`: the joint probability of seeing sunlit leaves and sunlit soil. Angles, LAI and ``hspot``.
3. `four_stream`: the radiative transfer itself, ``[..., wavelength]``.

Leaf reflectance and transmittance enter as their sum :math:`s = \rho + \tau` and difference :math:`d = \rho - \tau`.
With the leaf angle moment :math:`f = \overline{\cos^2\theta_l}`, extinction :math:`a` and backscatter :math:`\sigma` of
diffuse light obey :math:`a - \sigma = 1 - s` (the absorptance) and :math:`a + \sigma = 1 + f d`, hence
:math:`m = \sqrt{(1 - s)(1 + f d)}` without a difference of nearly equal numbers: safe in float32.

Example::

    >>> from pi_vae.physics.leaf_angle import campbell
    >>> share = campbell(torch.tensor(57.0))
    >>> layer = layer_geometry(share, sza=torch.tensor(30.0), vza=torch.tensor(0.0), raa=torch.tensor(0.0))
    >>> lai, hspot = torch.tensor(3.0), torch.tensor(0.1)
    >>> leaf_r, leaf_t, soil = torch.tensor([0.45]), torch.tensor([0.45]), torch.tensor([0.2])
    >>> four_stream(leaf_r, leaf_t, soil, lai, layer, hot_spot(lai, hspot, layer)).shape  # [wavelength]
    torch.Size([1])
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .fused import Transfer, eligible
from .integrals import mean_decay
from .layout import outer
from .leaf_angle import class_edges

__all__ = [
    "Absorption",
    "Factors",
    "HotSpot",
    "Layer",
    "absorbed",
    "four_stream",
    "hemispherical",
    "hot_spot",
    "layer_geometry",
]


class Layer(NamedTuple):
    """Coefficients per unit leaf area: ``ks ko`` extinction along sun and view, ``bf`` the moment of leaf angles,
    ``sob sof`` bidirectional scattering of leaf reflectance and transmittance, ``dso`` the distance of sun and view
    (tangents). ``[...]``."""

    ks: Tensor
    ko: Tensor
    bf: Tensor
    sob: Tensor
    sof: Tensor
    dso: Tensor


class HotSpot(NamedTuple):
    """``tss too`` transmittance along sun and view, ``tsstoo`` along both, ``leaf`` = LAI times the mean of the
    latter over depth."""

    tss: Tensor
    too: Tensor
    tsstoo: Tensor
    leaf: Tensor


class Factors(NamedTuple):
    """Reflectance factors of canopy over soil, ``[..., wavelength]``, by incoming and outgoing light: ``sdr`` sun to
    sensor (bidirectional), ``dhr`` sun to hemisphere, ``hdr`` sky to sensor, ``bhr`` sky to hemisphere (Verhoef's rsot,
    rsdt, rdot, rddt). Under a share f of diffuse light a sensor sees ``(1 - f) sdr + f hdr``."""

    sdr: Tensor
    dhr: Tensor
    hdr: Tensor
    bhr: Tensor


class Absorption(NamedTuple):
    """Share of the incoming light that the leaves absorb, ``[..., wavelength]``, for light of the ``sun`` and of an
    isotropic ``sky``."""

    sun: Tensor
    sky: Tensor


def layer_geometry(share: Tensor, sza: Tensor, vza: Tensor, raa: Tensor) -> Layer:
    """Extinction and scattering by the leaf angle classes (Verhoef 1984, 1998).

    Args:
        share: leaf area share of each class, ``[..., class]``, 18 or 13 classes.
        sza, vza, raa: sun and view zenith (0..89) and relative azimuth, degrees, ``[...]``.

    Returns:
        `Layer`; every part has the shape that its own inputs broadcast to, so static angles are not repeated over
        dates.
    """
    classes = share.shape[-1]
    edges = class_edges(classes, share)
    leaf_angle = torch.deg2rad((edges[1:] + edges[:-1]) / 2)
    cos_leaf, sin_leaf = torch.cos(leaf_angle), torch.sin(leaf_angle)
    sun, view = torch.deg2rad(sza), torch.deg2rad(vza)
    # azimuth folded into 0..180
    azimuth = torch.deg2rad(torch.abs(raa - 360 * torch.round(raa / 360)))
    cos_azimuth = torch.cos(azimuth)

    turn_s, side_s, top_s = _turning_angle(sun, cos_leaf, sin_leaf)
    turn_o, side_o, top_o = _turning_angle(view, cos_leaf, sin_leaf)
    project_s = 2 / math.pi * ((turn_s - math.pi / 2) * top_s + torch.sin(turn_s) * side_s)
    project_o = 2 / math.pi * ((turn_o - math.pi / 2) * top_o + torch.sin(turn_o) * side_o)

    # the three azimuth limits of Verhoef (1998) in ascending order
    least = torch.abs(turn_s - turn_o)
    most = math.pi - torch.abs(turn_s + turn_o - math.pi)
    psi = azimuth.unsqueeze(-1)
    first, third = torch.minimum(psi, least), torch.maximum(psi, most)
    second = torch.maximum(torch.minimum(psi, most), least)
    reach_s = torch.where(turn_s < math.pi, side_s, top_s)
    reach_o = torch.where(turn_o < math.pi, side_o, top_o)
    both_sides = side_s * side_o
    product = 2 * top_s * top_o + both_sides * cos_azimuth.unsqueeze(-1)
    wave = torch.sin(second) * (2 * reach_s * reach_o + both_sides * torch.cos(first) * torch.cos(third))
    back = (((math.pi - second) * product + wave) / (2 * math.pi**2)).clamp_min(0)
    forth = ((wave - second * product) / (2 * math.pi**2)).clamp_min(0)

    cos_sun, cos_view = torch.cos(sun), torch.cos(view)
    tan_sun, tan_view = torch.tan(sun), torch.tan(view)
    tiny = torch.finfo(share.dtype).eps ** 2  # keeps the square root differentiable in the hot spot
    dso = (tan_sun - tan_view) ** 2 + 2 * tan_sun * tan_view * (1 - cos_azimuth)
    return Layer(
        ks=_weighted(share, project_s) / cos_sun,
        ko=_weighted(share, project_o) / cos_view,
        bf=share @ (cos_leaf * cos_leaf),
        sob=_weighted(share, back) * (math.pi / (cos_sun * cos_view)),
        sof=_weighted(share, forth) * (math.pi / (cos_sun * cos_view)),
        dso=torch.sqrt(dso.clamp_min(0) + tiny),
    )


def _turning_angle(zenith: Tensor, cos_leaf: Tensor, sin_leaf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leaf azimuth beyond which the other leaf side is lit, and the products of sines and cosines, ``[..., class]``."""
    top = outer(torch.cos(zenith), cos_leaf)
    side = outer(torch.sin(zenith), sin_leaf)
    turns = side > top
    # the ratio of the classes that never turn is replaced before arccos, whose derivative is infinite at -1
    ratio = torch.where(turns, top, 0.0) / torch.where(turns, side, 1.0)
    return torch.where(turns, torch.acos(-ratio), math.pi), side, top


def _weighted(share: Tensor, value: Tensor) -> Tensor:
    """Sum over classes, as a matrix product where pixels and dates are separate axes."""
    if share.shape == value.shape:
        return (share * value).sum(-1)
    return torch.einsum("...k,...k->...", share, value)


def hot_spot(lai: Tensor, hspot: Tensor, layer: Layer, steps: int = 20, cap: float | None = None) -> HotSpot:
    r"""Kuusk's (1991) correlation of sun and view paths, integrated over depth as in 4SAIL.

    The joint gap probability at relative depth :math:`x` is :math:`e^{y(x)}` with
    :math:`y = -(k_s + k_o) L x + \sqrt{k_s k_o} L (1 - e^{-\alpha x}) / \alpha`,
    :math:`\alpha = 2 d_{so} / (h (k_s + k_o))`. The depths are chosen so that :math:`e^{-\alpha x}` falls in equal
    steps: each step is then one logarithm, and between two depths :math:`y` is taken as linear.

    Args:
        lai: leaf area index, ``[...]``, >= 0.
        hspot: leaf size over canopy height, ``[...]``, > 0.
        layer: from `layer_geometry`.
        steps: depths; 20 as in 4SAIL.
        cap: convention for tiny leaves. None uses :math:`\alpha` as it is; some 4SAIL codes stop it at 200, which
            changes reflectance by up to 0.01 at hspot 1e-3 and nothing from 0.05 on.

    Returns:
        `HotSpot`, each ``[...]``.
    """
    ks, ko = layer.ks, layer.ko
    total = ks + ko
    alpha = 2 * layer.dso / (hspot * total)
    if cap is not None:
        alpha = alpha.clamp_max(cap)
    fall = -torch.expm1(-alpha)
    step = torch.arange(steps, dtype=alpha.dtype, device=alpha.device)
    start = -torch.log1p(outer(fall, -step / steps)) / alpha.unsqueeze(-1)  # depth at which each step begins
    thickness = torch.diff(start, append=torch.ones_like(start[..., :1]))
    overlap = torch.sqrt(ks * ko) * fall / (alpha * steps)
    drop = (lai * total).unsqueeze(-1) * thickness - (lai * overlap).unsqueeze(-1)
    sunk = (lai * total).unsqueeze(-1) * start - outer(lai * overlap, step)
    mean = torch.exp(-sunk) * mean_decay(drop)
    return HotSpot(
        tss=torch.exp(-ks * lai),
        too=torch.exp(-ko * lai),
        tsstoo=torch.exp(lai * (overlap * steps - total)),
        leaf=lai * (mean * thickness).sum(-1),
    )


def four_stream(
    leaf_reflectance: Tensor, leaf_transmittance: Tensor, soil: Tensor, lai: Tensor, layer: Layer, spot: HotSpot
) -> Tensor:
    r"""Bidirectional reflectance factor of canopy and soil (Verhoef et al. 2007).

    Args:
        leaf_reflectance, leaf_transmittance: ``[..., wavelength]``, sum <= 1.
        soil: Lambertian soil reflectance, ``[..., wavelength]``.
        lai: leaf area index, ``[...]``, >= 0.
        layer, spot: from `layer_geometry` and `hot_spot`.

    Returns:
        Reflectance factor, ``[..., wavelength]``; the soil's where LAI is 0.
    """
    return _transfer(leaf_reflectance, leaf_transmittance, soil, lai, layer, spot, directional_only=True)[0]


def hemispherical(
    leaf_reflectance: Tensor, leaf_transmittance: Tensor, soil: Tensor, lai: Tensor, layer: Layer, spot: HotSpot
) -> Factors:
    """All four reflectance factors of canopy and soil; arguments as for `four_stream`."""
    return Factors(*_transfer(leaf_reflectance, leaf_transmittance, soil, lai, layer, spot, directional_only=False)[:4])


def absorbed(
    leaf_reflectance: Tensor, leaf_transmittance: Tensor, soil: Tensor, lai: Tensor, layer: Layer, spot: HotSpot
) -> Absorption:
    r"""What the leaves absorb: incoming light less what leaves upwards and what the soil takes,
    :math:`1 - R - (1 - r_{soil}) T`, with the light :math:`T` that reaches the soil, the one reflected back and forth
    between soil and canopy included. Arguments as for `four_stream`."""
    parts = _transfer(leaf_reflectance, leaf_transmittance, soil, lai, layer, spot, directional_only=False)
    (_, dhr, _, bhr), (ground_sun, ground_sky) = parts[:4], parts[4:]
    return Absorption(1 - dhr - (1 - soil) * ground_sun, 1 - bhr - (1 - soil) * ground_sky)


def _transfer(
    rho: Tensor, tau: Tensor, soil: Tensor, lai: Tensor, layer: Layer, spot: HotSpot, directional_only: bool
) -> tuple[Tensor, ...]:
    ks, ko, bf, sob, sof, _ = layer
    tss, too, tsstoo, spot_leaf = spot
    z = lai * mean_decay((ks + ko) * lai)
    parameters = lai, ks, ko, bf, tss, too, z
    if directional_only and eligible(rho, tau, soil, *parameters):
        parts: tuple[Tensor, ...] = (_fused(rho, tau, soil, parameters),)
    else:
        wide = (x.unsqueeze(-1) for x in parameters)
        parts = multiple_scattering(rho, tau, soil, *wide, directional_only=directional_only)
    at_once = (sob * spot_leaf).unsqueeze(-1) * rho + (sof * spot_leaf).unsqueeze(-1) * tau
    return at_once + tsstoo.unsqueeze(-1) * soil + parts[0], *parts[1:]


def _fused(rho: Tensor, tau: Tensor, soil: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """Everything on one common batch, as rows of wavelengths."""
    batch = torch.broadcast_shapes(*(x.shape[:-1] for x in (rho, tau, soil)), *(x.shape for x in parameters))
    optics = (x.expand(*batch, -1).movedim(-1, 0).reshape(x.shape[-1], -1) for x in (rho, tau, soil))
    diffuse = Transfer.apply(*optics, *(x.expand(batch).reshape(-1) for x in parameters))
    return diffuse.reshape(len(diffuse), *batch).movedim(0, -1)


def multiple_scattering(
    rho: Tensor, tau: Tensor, soil: Tensor,
    lai: Tensor, ks: Tensor, ko: Tensor, bf: Tensor, tss: Tensor, too: Tensor, z: Tensor, *,
    directional_only: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    """All light but what leaf or soil send to the sensor at once. Arguments broadcast together; ``z`` is the integral
    of both beams over depth. Returns the bidirectional factor, and unless ``directional_only`` the other three and the
    light that reaches the soil for sun and sky. `fused` holds its derivatives."""
    s, d = rho + tau, rho - tau

    # for leaves that absorb nothing the terms below cancel: the floor keeps square root and derivatives finite
    absorbed = (1 - s).clamp_min(0) + max(4 * torch.finfo(s.dtype).eps, 1e-8)
    asymmetry = bf * d
    backscatter = 0.5 * (s + asymmetry)
    m = torch.sqrt(absorbed * (absorbed + 2 * backscatter))
    sink = absorbed + backscatter + m
    r_inf = backscatter / sink  # reflectance of an infinitely deep canopy
    one_minus_r2 = 2 * m / sink
    e1 = torch.exp(-m * lai)
    e2 = e1 * e1

    # sources of diffuse light from the sun's and the view's beam, forward (-) and backward (+)
    even = 0.5 * s * (1 + r_inf)
    odd = 0.5 * asymmetry * (1 - r_inf)
    sun_down, sun_up = ks * even - odd, ks * even + odd
    view_down, view_up = ko * even - odd, ko * even + odd

    depth = m * lai
    j1_s = lai * e1 * mean_decay(ks * lai - depth)
    j1_o = lai * e1 * mean_decay(ko * lai - depth)
    j2_s = (1 - tss * e1) / (ks + m)
    j2_o = (1 - too * e1) / (ko + m)
    p_s, q_s = sun_down * j1_s, sun_up * j2_s
    p_o, q_o = view_down * j1_o, view_up * j2_o

    re = r_inf * e1
    scale = 1 / (1 - re * re)
    rdd = r_inf * (1 - e2) * scale
    tsd, rsd = (p_s - re * q_s) * scale, (q_s - re * p_s) * scale
    tdo, rdo = (p_o - re * q_o) * scale, (q_o - re * p_o) * scale

    g_o = (z - j1_s * too) / (ko + m)
    g_s = (z - j1_o * tss) / (ks + m)
    multiple = (view_up * sun_down * g_o + view_down * sun_up * g_s - r_inf * (rdo * q_s + tdo * p_s)) / one_minus_r2

    bounce = soil / (1 - soil * rdd)
    rsot = multiple + ((tss + tsd) * tdo + (tsd + tss * soil * rdd) * too) * bounce
    if directional_only:
        return (rsot,)
    tdd = one_minus_r2 * e1 * scale
    again = 1 / (1 - soil * rdd)
    ground_sun, ground_sky = (tss + tsd) * again, tdd * again
    rsdt, rdot, rddt = (
        rsd + soil * ground_sun * tdd,
        rdo + soil * ground_sky * (too + tdo),
        rdd + soil * ground_sky * tdd,
    )
    return rsot, rsdt, rdot, rddt, ground_sun, ground_sky
