r"""Permittivity of moist soil: what makes wet soil bright to radar.

When to use which: `mironov2009` for minerals of any clay content at 1..10 GHz (default of `pi_vae.physics.radar`
where a permittivity is needed); `hallikainen1985` where sand and clay are known, 4..6 GHz; `dobson1985` where bulk
density (and, if need be, temperature) is known too, 1.4..18 GHz; `topp1980` to go between moisture and the real part
alone, whatever the texture. Inputs outside the data of a model are reported once (`pi_vae.physics.validity`).

Complex permittivities are :math:`\varepsilon' + i \varepsilon''` with :math:`\varepsilon'' > 0` for loss; relative to
vacuum.

Example::

    >>> mironov2009(torch.tensor(0.2), torch.tensor(20.0), 5.405)
    tensor(9.4820+1.9227j)
    >>> topp1980_inverse(topp1980(torch.tensor(0.2)))
    tensor(0.1906)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .validity import report

__all__ = ["dobson1985", "hallikainen1985", "mironov2009", "topp1980", "topp1980_inverse"]

VACUUM = 8.854e-12  # F m-1, with the digits of Mironov et al. (2009)

# Hallikainen et al. (1985), table II: rows are the powers 0, 1, 2 of moisture, columns constant, sand %, clay %.
_HALLIKAINEN = {
    4.0: (
        ((2.927, -0.012, -0.001), (5.505, 0.371, 0.062), (114.826, -0.389, -0.547)),
        ((0.004, 0.001, 0.002), (0.951, 0.005, -0.010), (16.759, 0.192, 0.290)),
    ),
    6.0: (
        ((1.993, 0.002, 0.015), (38.086, -0.176, -0.633), (10.720, 1.256, 1.522)),
        ((-0.123, 0.002, 0.003), (7.502, -0.058, -0.116), (2.942, 0.452, 0.543)),
    ),
}


def mironov2009(mv: Tensor, clay: Tensor | float, frequency_ghz: float) -> Tensor:
    r"""Generalised refractive mixing of dry soil, bound water and free water (Mironov et al. 2009).

    .. math:: n = n_d + (n_b - 1) \min(m_v, m_t) + (n_u - 1) \max(m_v - m_t, 0), \qquad
        \kappa \text{ alike}, \qquad \varepsilon = (n + i \kappa)^2

    where bound water fills up to :math:`m_t` and each water has a Debye spectrum with conductivity. All constants are
    their regressions on clay content.

    Args:
        mv: volumetric moisture, ``[...]``, m3 m-3, 0..0.5.
        clay: ``[...]``, percent by mass, 0..76.
        frequency_ghz: 0.3..26.5 (their data).

    Returns:
        Complex relative permittivity, ``[...]``.
    """
    report("mironov2009", mv=mv, clay=clay, frequency_ghz=frequency_ghz)
    mv, c = torch.broadcast_tensors(mv, torch.as_tensor(clay, dtype=mv.dtype, device=mv.device))
    n_dry = 1.634 - 0.539e-2 * c + 0.2748e-4 * c**2
    k_dry = 0.03952 - 0.04038e-2 * c
    limit = 0.02863 + 0.30673e-2 * c
    n_bound, k_bound = _debye(
        frequency_ghz,
        static=79.8 - 85.4e-2 * c + 32.7e-4 * c**2,
        relaxation=1.062e-11 + 3.450e-14 * c,
        conductivity=0.3112 + 0.467e-2 * c,
    )
    n_free, k_free = _debye(
        frequency_ghz,
        static=torch.full_like(c, 100.0),
        relaxation=torch.full_like(c, 8.5e-12),
        conductivity=0.3631 + 1.217e-2 * c,
    )
    bound, free = torch.minimum(mv, limit), (mv - limit).clamp_min(0)
    n = n_dry + (n_bound - 1) * bound + (n_free - 1) * free
    k = k_dry + k_bound * bound + k_free * free
    return torch.complex(n * n - k * k, 2 * n * k)


def _debye(frequency_ghz: float, static: Tensor, relaxation: Tensor, conductivity: Tensor) -> tuple[Tensor, Tensor]:
    """Refractive index and attenuation of a water with Debye relaxation and ohmic loss."""
    omega = 2 * math.pi * frequency_ghz * 1e9
    x = omega * relaxation
    # 4.9: permittivity in the limit of high frequency
    spread = (static - 4.9) / (1 + x * x)
    real, imaginary = 4.9 + spread, spread * x + conductivity / (omega * VACUUM)
    modulus = torch.hypot(real, imaginary)
    return torch.sqrt((modulus + real) / 2), torch.sqrt((modulus - real) / 2)


def hallikainen1985(
    mv: Tensor, sand: Tensor | float, clay: Tensor | float, frequency_ghz: float, interpolate: bool = False
) -> Tensor:
    r"""Polynomial in moisture with coefficients linear in texture (Hallikainen et al. 1985, eq. 1 and table II).

    .. math:: \varepsilon = \sum_{j=0}^{2} (a_j + b_j S + c_j C)\, m_v^j \quad \text{(real and imaginary part)}

    Their table has single frequencies. Two conventions are in use for a frequency in between: the nearest row
    (``interpolate=False``) and linear interpolation; at 5.405 GHz they differ by some 3 % in the real part.

    Args:
        mv: volumetric moisture, ``[...]``, m3 m-3, 0..0.5.
        sand, clay: ``[...]``, percent by mass; data 5..52 and 9..47.
        frequency_ghz: 4..6, the rows given here.
        interpolate: between the rows instead of the nearest one.

    Returns:
        Complex relative permittivity, ``[...]``.

    Raises:
        ValueError: the frequency is outside 4..6 GHz.
    """
    report("hallikainen1985", mv=mv, sand=sand, clay=clay)
    low, high = _HALLIKAINEN
    if not low <= frequency_ghz <= high:
        raise ValueError(f"hallikainen1985 holds 4..6 GHz, found {frequency_ghz} GHz: use mironov2009.")
    weight = (frequency_ghz - low) / (high - low)
    if not interpolate:
        weight = float(weight >= 0.5)

    def part(which: int) -> Tensor:
        rows = zip(_HALLIKAINEN[low][which], _HALLIKAINEN[high][which], strict=True)
        # the coefficients are linear in texture, so mixing them equals mixing the permittivities
        mixed = [[(1 - weight) * p + weight * q for p, q in zip(*pair, strict=True)] for pair in rows]
        zeroth, first, second = (a + b * sand + c * clay for a, b, c in mixed)
        return zeroth + mv * (first + mv * second)

    return torch.complex(*torch.broadcast_tensors(part(0), part(1)))


def dobson1985(
    mv: Tensor,
    sand: Tensor | float,
    clay: Tensor | float,
    bulk_density: Tensor | float,
    frequency_ghz: float,
    temperature: Tensor | float | None = None,
) -> Tensor:
    r"""Semi-empirical mixing of soil solids, air and water (Dobson et al. 1985; Ulaby & Long 2014, eqs. 4.67-4.69).

    .. math::
        \varepsilon' &= [1 + 0.66 \rho_b + m_v^{\beta_1} {\varepsilon_w'}^{\alpha} - m_v]^{1/\alpha}, \qquad
        \varepsilon'' = m_v^{\beta_2} \varepsilon_w'', \qquad \alpha = 0.65 \\
        \beta_1 &= 1.27 - 0.519 S - 0.152 C, \qquad \beta_2 = 2.06 - 0.928 S - 0.255 C \\
        \sigma &= -1.645 + 1.939 \rho_b - 2.256 S + 1.594 C

    with :math:`S, C` as fractions. The water is, without a ``temperature``, that of 23 °C and 1.7 g cm-3 with
    relaxation at 18.64 GHz; with one, a Debye water of that temperature (Klein & Swift 1977; Stogryn 1971) whose loss
    by the effective conductivity :math:`\sigma` grows with the solids, :math:`(2.65 - \rho_b) / (2.65\, m_v)`.

    Args:
        mv: volumetric moisture, ``[...]``, m3 m-3, > 0, data up to 0.5.
        sand, clay: ``[...]``, percent by mass; data 5..52 and 9..47.
        bulk_density: ``[...]``, g cm-3, below 2.65.
        frequency_ghz: data 1.4..18.
        temperature: ``[...]``, degrees Celsius, 0..40, or None.

    Returns:
        Complex relative permittivity, ``[...]``.
    """
    report("dobson1985", mv=mv, sand=sand, clay=clay, frequency_ghz=frequency_ghz)
    s, c = sand / 100, clay / 100
    conductivity = -1.645 + 1.939 * bulk_density - 2.256 * s + 1.594 * c
    if temperature is None:
        x: Tensor | float = frequency_ghz / 18.64
        spread: Tensor | float = 74.1 / (1 + x * x)
        ohmic = 6.46 * conductivity / frequency_ghz
    else:
        t = temperature
        x = frequency_ghz * (0.11109 + t * (-3.824e-3 + t * (6.938e-5 - t * 5.096e-7)))
        spread = (88.045 - 4.9 + t * (-0.4147 + t * (6.295e-4 + t * 1.075e-5))) / (1 + x * x)
        ohmic = conductivity * (2.65 - bulk_density) / (2.65 * mv) / (2 * math.pi * frequency_ghz * 1e9 * VACUUM)
    water = (4.9 + spread) ** 0.65
    real = 1 + 0.66 * bulk_density + mv ** (1.27 - 0.519 * s - 0.152 * c) * water - mv
    imaginary = mv ** (2.06 - 0.928 * s - 0.255 * c) * (x * spread + ohmic)
    return torch.complex(*torch.broadcast_tensors(real ** (1 / 0.65), imaginary))


def topp1980_inverse(eps: Tensor) -> Tensor:
    r"""Moisture from the real permittivity (Topp et al. 1980, eq. 7).

    .. math:: m_v = -5.3 \cdot 10^{-2} + 2.92 \cdot 10^{-2} \varepsilon' - 5.5 \cdot 10^{-4} \varepsilon'^2 + 4.3
    \cdot 10^{-6} \varepsilon'^3

    Args:
        eps: real permittivity, ``[...]``, 3..40.

    Returns:
        Volumetric moisture, ``[...]``, m3 m-3.
    """
    report("topp1980_inverse", eps=eps)
    return -5.3e-2 + eps * (2.92e-2 + eps * (-5.5e-4 + eps * 4.3e-6))


def topp1980(mv: Tensor) -> Tensor:
    r"""Real permittivity from moisture (Topp et al. 1980, eq. 6).

    .. math:: \varepsilon' = 3.03 + 9.3 m_v + 146 m_v^2 - 76.7 m_v^3

    A fit of its own, not the exact inverse of `topp1980_inverse`: a round trip is good to 0.024 m3 m-3 on 0.03..0.5.

    Args:
        mv: volumetric moisture, ``[...]``, m3 m-3, 0..0.5.

    Returns:
        Real relative permittivity, ``[...]``.
    """
    report("topp1980", mv=mv)
    return 3.03 + mv * (9.3 + mv * (146.0 - mv * 76.7))
