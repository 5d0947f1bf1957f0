r"""Backscatter of bare rough soil at C band and around: three semi-empirical models.

When to use which: `oh2004` reads soil moisture directly and gives three polarisations (the default); `oh1992` reads a
permittivity, so texture can enter through `pi_vae.physics.dielectric`; `dubois1995` for co-polarised channels over
smooth soils (its cross-polarised part does not exist).

Inputs outside the data of a model are reported once (`pi_vae.physics.validity`).
All return linear power (sigma nought), incidence in degrees, roughness as :math:`ks` = wavenumber times rms height.

Example::

    >>> vv, hh, vh = oh2004(torch.tensor(0.2), torch.tensor(1.5), torch.tensor(35.0))
    >>> 10 * torch.log10(torch.stack([vv, vh]))
    tensor([ -8.0934, -19.5259])
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .validity import report

__all__ = ["dubois1995", "oh1992", "oh2004"]

LIGHT_CM_GHZ = 29.9792458  # wavelength in cm = LIGHT_CM_GHZ / frequency in GHz


def oh2004(mv: Tensor, ks: Tensor, incidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Backscatter from moisture and roughness (Oh 2004, eqs. 1-4).

    .. math::
        \sigma_{vh} &= 0.11 \, m_v^{0.7} \cos^{2.2}\theta \, (1 - e^{-0.32 (ks)^{1.8}}) \\
        q = \sigma_{vh} / \sigma_{vv} &= 0.095 \, (0.13 + \sin 1.5\theta)^{1.4} (1 - e^{-1.3 (ks)^{0.9}}) \\
        p = \sigma_{hh} / \sigma_{vv} &= 1 - (\theta / 90°)^{0.35 m_v^{-0.65}} e^{-0.4 (ks)^{1.4}}

    Args:
        mv: volumetric moisture, ``[...]``, m3 m-3; data 0.04..0.29.
        ks: ``[...]``, > 0; data 0.13..6.98.
        incidence: ``[...]``, degrees; data 10..70.

    Returns:
        ``(vv, hh, vh)``, linear power, each ``[...]``.
    """
    report("oh2004", mv=mv, ks=ks, incidence=incidence)
    theta = torch.deg2rad(incidence)
    vh = 0.11 * mv**0.7 * torch.cos(theta) ** 2.2 * -torch.expm1(-0.32 * ks**1.8)
    q = 0.095 * (0.13 + torch.sin(1.5 * theta)) ** 1.4 * -torch.expm1(-1.3 * ks**0.9)
    p = 1 - (incidence / 90) ** (0.35 * mv**-0.65) * torch.exp(-0.4 * ks**1.4)
    vv = vh / q
    return vv, p * vv, vh


def oh1992(eps: Tensor, ks: Tensor, incidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Backscatter from permittivity and roughness (Oh, Sarabandi & Ulaby 1992).

    .. math::
        \sqrt p &= 1 - (2\theta / \pi)^{1 / (3 \Gamma_0)} e^{-ks}, \qquad q = 0.23 \sqrt{\Gamma_0} (1 - e^{-ks}) \\
        \sigma_{vv} &= 0.7 \, (1 - e^{-0.65 (ks)^{1.8}}) \frac{\cos^3\theta}{\sqrt p} (\Gamma_v + \Gamma_h)

    with the Fresnel reflectivities :math:`\Gamma_v, \Gamma_h` at :math:`\theta` and :math:`\Gamma_0` at nadir;
    :math:`\sigma_{hh} = p \sigma_{vv}`, :math:`\sigma_{vh} = q \sigma_{vv}`.

    Args:
        eps: relative permittivity, real or complex, ``[...]``.
        ks: ``[...]``, > 0; data 0.1..6.
        incidence: ``[...]``, degrees; data 10..70.

    Returns:
        ``(vv, hh, vh)``, linear power, each ``[...]``.
    """
    report("oh1992", ks=ks, incidence=incidence)
    theta = torch.deg2rad(incidence)
    cos = torch.cos(theta)
    index = torch.sqrt(eps)
    nadir = torch.abs((1 - index) / (1 + index)) ** 2
    refracted = torch.sqrt(eps - torch.sin(theta) ** 2)
    horizontal = torch.abs((cos - refracted) / (cos + refracted)) ** 2
    vertical = torch.abs((eps * cos - refracted) / (eps * cos + refracted)) ** 2

    root_p = 1 - (incidence / 90) ** (1 / (3 * nadir)) * torch.exp(-ks)
    q = 0.23 * torch.sqrt(nadir) * -torch.expm1(-ks)
    g = 0.7 * -torch.expm1(-0.65 * ks**1.8)
    vv = g * cos**3 / root_p * (vertical + horizontal)
    return vv, root_p * root_p * vv, q * vv


def dubois1995(eps: Tensor, ks: Tensor, incidence: Tensor, frequency_ghz: float) -> tuple[Tensor, Tensor]:
    r"""Co-polarised backscatter from permittivity and roughness (Dubois, van Zyl & Engman 1995, eqs. 1-2).

    .. math::
        \sigma_{hh} &= 10^{-2.75} \frac{\cos^{1.5}\theta}{\sin^5\theta} 10^{0.028 \varepsilon' \tan\theta}
            (ks \sin\theta)^{1.4} \lambda^{0.7} \\
        \sigma_{vv} &= 10^{-2.35} \frac{\cos^3\theta}{\sin^3\theta} 10^{0.046 \varepsilon' \tan\theta}
            (ks \sin\theta)^{1.1} \lambda^{0.7}, \qquad \lambda \text{ in cm}

    Args:
        eps: relative permittivity, ``[...]``; the real part is used.
        ks: ``[...]``, > 0; data up to 2.5.
        incidence: ``[...]``, degrees; data 30..65.
        frequency_ghz: data 1.5..11.

    Returns:
        ``(vv, hh)``, linear power, each ``[...]``.
    """
    report("dubois1995", ks=ks, incidence=incidence, frequency_ghz=frequency_ghz)
    theta = torch.deg2rad(incidence)
    sin, cos, tan = torch.sin(theta), torch.cos(theta), torch.tan(theta)
    real = torch.real(eps) if eps.is_complex() else eps
    rough, wave = ks * sin, (LIGHT_CM_GHZ / frequency_ghz) ** 0.7
    grow = real * tan * math.log(10)
    hh = 10**-2.75 * wave * cos**1.5 / sin**5 * torch.exp(0.028 * grow) * rough**1.4
    vv = 10**-2.35 * wave * cos**3 / sin**3 * torch.exp(0.046 * grow) * rough**1.1
    return vv, hh
