r"""PROSPECT: reflectance and transmittance of a leaf from its structure and its contents.

A leaf is a pile of :math:`n` absorbing plates with rough surfaces (Allen et al. 1969; Jacquemoud & Baret 1990). The
optical thickness of a plate is the sum of the contents times their specific absorption, :math:`k = \sum_i c_i a_i / n`,
and its transmission for isotropic light is :math:`\tau = 2 E_3(k)`. The first plate receives light within 40
degrees of its normal, the others isotropic light. With :math:`r, t` of one plate and :math:`m = n - 1`, Stokes'
(1862) pile is

.. math::
    T_m = \frac{1}{C + S (1 + r^2 - t^2)}, \quad R_m = 2 r S T_m, \quad
    C = \cosh m\beta, \quad S = \frac{\sinh m\beta}{D}, \quad
    D^2 = (1 + r + t)(1 + r - t)(1 - r + t)(1 - r - t),

where :math:`e^\beta` is Stokes' :math:`b`. In this form the limit without absorption needs no case of its own, and the
small quantity :math:`1 - r - t = t_{12} (1 - \tau) / (1 - r_{21} \tau)` is computed without a difference: safe in
float32.

Versions: ``"prospect-5"`` (Feret et al. 2008), ``"prospect-d"`` (anthocyanins; Feret et al. 2017) and
``"prospect-pro"`` (proteins and carbon-based constituents instead of dry matter; Feret et al. 2021).

Example::

    >>> leaf = Prospect("prospect-d")
    >>> contents = dict(n=1.5, cab=40.0, car=8.0, cant=1.0, cbrown=0.0, cw=0.01, cm=0.005)
    >>> reflectance, transmittance = leaf({name: torch.tensor([value]) for name, value in contents.items()})
    >>> reflectance.shape  # [sample, wavelength]: 400 to 2500 nm
    torch.Size([1, 2101])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from .fused import eligible
from .fused_leaf import Plates
from .integrals import plate_absorption
from .layout import combine
from .precision import Tabulated

__all__ = ["Prospect", "interface_transmittance"]

CONTENTS = {
    "prospect-5": ("cab", "car", "cbrown", "cw", "cm"),
    "prospect-d": ("cab", "car", "cant", "cbrown", "cw", "cm"),
    "prospect-pro": ("cab", "car", "cant", "cbrown", "cw", "prot", "cbc"),
}
INCIDENCE = 40.0  # degrees: half-angle of the light that reaches the first surface (Jacquemoud & Baret 1990)


class Prospect(Tabulated):
    """Leaf optical properties, PROSPECT-5, -D or -PRO.

    Args:
        version: ``"prospect-5"``, ``"prospect-d"`` or ``"prospect-pro"``.
        wavelength: whole nanometres in 400..2500 at which to evaluate; all 2101 by default.

    Attributes:
        variables: the names that `forward` reads: ``n`` and the contents of the version.

    Raises:
        ValueError: the version is unknown, or a wavelength is outside 400..2500 nm.
    """

    def __init__(self, version: str = "prospect-d", wavelength: Sequence[int] | None = None) -> None:
        super().__init__()
        if version not in CONTENTS:
            raise ValueError(f"Unknown leaf model {version!r}: use one of {', '.join(CONTENTS)}.")
        self.version = version
        self.variables = ("n", *CONTENTS[version])
        with (files(__package__) / "tables" / f"{version}.npz").open("rb") as stream:
            table = dict(np.load(stream))
        columns = wavelength_index(wavelength)
        index = table["refractive_index"][columns]
        t12 = interface_transmittance(90.0, index)
        first = interface_transmittance(INCIDENCE, index)
        t21 = t12 / index**2
        optics = np.stack([first, t12, t21, 1 - t12, 1 - t21, 1 - first, t12 / first])
        absorption = np.stack([table[name][columns] for name in CONTENTS[version]])
        self.hold("optics", optics)
        self.hold("absorption", absorption)

    def forward(self, variables: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Directional-hemispherical reflectance and transmittance.

        Args:
            variables: name -> tensor ``[...]``, broadcast together: ``n`` (>= 1), ``cab car cant`` in ug cm-2,
                ``cbrown`` unitless, ``cw`` in cm, ``cm prot cbc`` in g cm-2 (>= 0).

        Returns:
            Reflectance and transmittance, each ``[..., wavelength]`` in [0, 1], with a sum not above 1.
        """
        *contents, n = torch.broadcast_tensors(*(variables[v] for v in self.variables[1:]), variables["n"])
        k = combine((torch.stack(contents) / n).movedim(0, -1), self.table("absorption", n))
        optics = self.table("optics", n)
        if not eligible(k):
            return plates(k, (n - 1).unsqueeze(-1), *optics.unbind(0))
        rows = k.movedim(-1, 0)
        shape = rows.shape
        both = Plates.apply(rows.reshape(len(rows), -1), (n - 1).reshape(-1), optics.unsqueeze(-1))
        reflectance, transmittance = (x.reshape(shape).movedim(0, -1) for x in both)
        return reflectance, transmittance


def plates(
    k: Tensor, layers: Tensor, first: Tensor, t12: Tensor, t21: Tensor, r12: Tensor, r21: Tensor, r_first: Tensor,
    ratio: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Reflectance and transmittance of one plate of thickness ``k`` on a pile of ``layers`` more; all broadcast
    together. `fused_leaf` holds the derivatives."""
    alpha = plate_absorption(k)
    tau = 1 - alpha
    bounce = r21 * tau
    t_first = (first * t21) * tau / (1 - bounce * bounce)
    r_top = r_first + bounce * t_first
    t = (ratio * t_first).clamp_min(1e-20)  # below it, 1 / t times its gradient would overflow float32
    r = r12 + bounce * t
    # the floor keeps the square root differentiable for a leaf that absorbs nothing
    absorbed = t12 * alpha / (1 - bounce) + max(torch.finfo(k.dtype).eps, 1e-10)
    r_pile, t_pile = _pile(r, t, absorbed, layers)

    through = t_first / (1 - r_pile * r)
    return r_top + through * r_pile * t, through * t_pile


def _pile(r: Tensor, t: Tensor, absorbed: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
    """Stokes' pile of ``layers`` (real, >= 0) plates, ``absorbed`` = ``1 - r - t``; scaled by ``2 exp(-m beta)``."""
    difference = r - t
    loss = absorbed * (1 + difference)
    d = torch.sqrt(loss * (2 - absorbed) * (1 - difference))
    exponent = torch.log1p((loss + d) / (2 * t)) * (-2 * layers)
    one_minus_e2 = -torch.expm1(exponent)
    s = one_minus_e2 / d
    scale = 1 / (2 - one_minus_e2 + s * (1 + difference * (1 - absorbed)))
    return 2 * r * s * scale, 2 * torch.exp(0.5 * exponent) * scale


def interface_transmittance(angle: float, index: np.ndarray) -> np.ndarray:
    r"""Mean transmittance of a flat dielectric surface for light within a cone.

    .. math:: \bar t(\alpha) = \frac{1}{\sin^2 \alpha} \int_0^{\alpha} t(\theta, n) \sin 2\theta \, d\theta

    with the Fresnel transmittance of unpolarised light. Stern (1964) gives a closed form; the integral is evaluated
    here by Gauss-Legendre quadrature in :math:`\cos\theta`, to machine precision, once, when the leaf is built.

    Args:
        angle: half-angle of the cone in degrees, (0, 90].
        index: refractive index, > 1, any shape.

    Returns:
        Transmittance in [0, 1], the shape of ``index``, float64.
    """
    node, weight = np.polynomial.legendre.leggauss(64)
    low = np.cos(np.deg2rad(angle)) if angle < 90 else 0.0
    cos_in = low + (1 - low) * (node + 1) / 2
    n = np.asarray(index, dtype=np.float64)[..., None]
    cos_out = np.sqrt(1 - (1 - cos_in**2) / n**2)
    perpendicular = ((cos_in - n * cos_out) / (cos_in + n * cos_out)) ** 2
    parallel = ((n * cos_in - cos_out) / (n * cos_in + cos_out)) ** 2
    transmitted = 1 - 0.5 * (perpendicular + parallel)
    return (transmitted * 2 * cos_in * weight).sum(-1) * (1 - low) / 2 / (1 - low**2)


def wavelength_index(wavelength: Sequence[int] | None) -> np.ndarray:
    """Rows of the 400..2500 nm tables for the wavelengths (whole nm); all rows for None.

    Raises:
        ValueError: a wavelength is not a whole nanometre in 400..2500.
    """
    if wavelength is None:
        return np.arange(2101)
    asked = np.asarray(wavelength, dtype=np.float64)
    if asked.size == 0 or (asked != asked.round()).any() or asked.min() < 400 or asked.max() > 2500:
        raise ValueError("Wavelengths must be whole nanometres in 400..2500, at least one.")
    return asked.astype(np.int64) - 400
