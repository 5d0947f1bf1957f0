r"""WaterCloud: what a radar sees of vegetation over soil (Attema & Ulaby 1978).

The canopy is a cloud of identical scatterers that attenuates the soil below it. Per polarisation

.. math::
    T^2 = e^{-2 B V / \cos\theta}, \qquad
    \sigma^0 = A V^E \cos\theta \, (1 - T^2) + T^2 \sigma^0_{soil}.

The vegetation descriptor :math:`V` is the leaf area index or the vegetation water content. The exponent :math:`E` is 1
unless asked for: fits to fields often need a cloud that scatters less per leaf the denser it is (Prevot et al. 1993).
Soil backscatter is Oh (2004) of moisture and roughness, or Oh (1992) of the permittivity of Mironov (2009).

The incidence is the *local* one, between the beam and the normal of the ground; it may differ by pixel and by date, so
ascending and descending passes of a slope go together in one call.

Example::

    >>> op = WaterCloud()
    >>> state = {"lai": torch.tensor([0.0, 3.0]), "soil_moisture": torch.tensor(0.2), "roughness": torch.tensor(1.5)}
    >>> cloud = {"a_vv": 0.05, "b_vv": 0.1, "a_vh": 0.01, "b_vh": 0.1}
    >>> state |= {name: torch.tensor(value) for name, value in cloud.items()}
    >>> op(state, {"incidence": torch.tensor(38.0)}).shape  # [date, pol]
    torch.Size([2, 2])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .dielectric import mironov2009
from .scattering import LIGHT_CM_GHZ, oh1992, oh2004
from .validity import outside

__all__ = ["WaterCloud"]

VEGETATION = ("lai", "vwc")
POLS = ("VV", "HH", "VH")  # the order in which the soil models return them


class WaterCloud(nn.Module):
    """Observation operator of C-band backscatter.

    Args:
        soil: ``"oh2004"`` or ``"oh1992"``.
        frequency_ghz: of the radar; 5.405 is Sentinel-1.
        clay: clay content in percent, read by ``"oh1992"`` only.
        vegetation: descriptor of the cloud, ``"lai"`` (leaf area index, m2 m-2) or ``"vwc"`` (vegetation water content,
            kg m-2). The coefficients belong to the descriptor: those of one are no use for the other.
        exponent: read ``e_vv e_vh`` too instead of E = 1; then V must be > 0.
        pols: channels in the order of the output, of ``VV HH VH`` (HV equals VH).

    Attributes:
        pols: the last axis of the output.
        variables: the descriptor, ``soil_moisture``, ``roughness``.
        coefficients: ``a_vv a_vh b_vv b_vh`` (and ``e_vv e_vh``); read from the same mapping as the variables, so that
            they can be latents.

    Raises:
        ValueError: the soil model, the descriptor or a polarisation is unknown.
    """

    def __init__(
        self,
        soil: str = "oh2004",
        frequency_ghz: float = 5.405,
        clay: float = 20.0,
        vegetation: str = "lai",
        exponent: bool = False,
        pols: Sequence[str] = ("VV", "VH"),
    ) -> None:
        super().__init__()
        if soil not in ("oh2004", "oh1992"):
            raise ValueError(f"Unknown soil scattering {soil!r}: use 'oh2004' or 'oh1992' (both polarisations).")
        if vegetation not in VEGETATION:
            raise ValueError(f"Unknown vegetation descriptor {vegetation!r}: use {' or '.join(map(repr, VEGETATION))}.")
        unknown = [pol for pol in pols if pol not in POLS]
        if unknown or not pols:
            found = ", ".join(map(repr, unknown)) or "none"
            raise ValueError(f"Unknown polarisation, found {found}: choose from {', '.join(POLS)}.")
        self.soil, self.frequency_ghz, self.clay = soil, frequency_ghz, clay
        self.vegetation, self.exponent, self.pols = vegetation, exponent, tuple(pols)
        self.variables = (vegetation, "soil_moisture", "roughness")
        letters = "abe" if exponent else "ab"
        self.coefficients = tuple(f"{letter}_{pol.lower()}" for letter in letters for pol in self.pols)

    def forward(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Backscatter coefficient.

        Args:
            variables: name -> ``[...]``, broadcast together: ``lai`` or ``vwc`` (>= 0), ``soil_moisture`` in m3 m-3,
                ``roughness`` (rms height) in cm, ``a_vv a_vh`` (linear power per unit V) and ``b_vv b_vh`` (per
                unit V), >= 0, and with ``exponent`` ``e_vv e_vh``.
            geometry: ``incidence``, local, in degrees, ``[...]``.

        Returns:
            Sigma nought, linear power, ``[..., pol]`` in the order of ``self.pols``.

        Raises:
            ValueError: a variable, a coefficient or the incidence is missing.
        """
        amount, moisture, ks, incidence = self._inputs(variables, geometry)
        if self.soil == "oh2004":
            soils = oh2004(moisture, ks, incidence)
        else:
            soils = oh1992(mironov2009(moisture, self.clay, self.frequency_ghz), ks, incidence)
        cos = torch.cos(torch.deg2rad(incidence))
        sigma = []
        for pol in self.pols:
            a, b, *e = (variables[f"{letter}_{pol.lower()}"] for letter in ("abe" if self.exponent else "ab"))
            scatter = a * amount ** e[0] if e else a * amount
            depth = 2 * b * amount / cos
            sigma.append(torch.exp(-depth) * soils[POLS.index(pol)] - scatter * cos * torch.expm1(-depth))
        return torch.stack(torch.broadcast_tensors(*sigma), -1)

    def outside(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Flag of the samples beyond the data of the soil model (`pi_vae.physics.validity`), boolean ``[...]``;
        arguments as for `forward`."""
        _, moisture, ks, incidence = self._inputs(variables, geometry)
        if self.soil == "oh2004":
            return outside("oh2004", mv=moisture, ks=ks, incidence=incidence)
        return outside("oh1992", ks=ks, incidence=incidence) | outside("mironov2009", mv=moisture, clay=self.clay)

    def _inputs(
        self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Descriptor, moisture, ks and incidence, after a look whether all is there."""
        names = (*self.variables, *self.coefficients)
        missing = [name for name in names if name not in variables]
        missing += [name for name in ("incidence",) if name not in geometry]
        if missing:
            raise ValueError(
                f"WaterCloud lacks {', '.join(map(repr, missing))}: give the variables {', '.join(names)} "
                "and the geometry incidence."
            )
        amount, moisture, roughness = (variables[name] for name in self.variables)
        ks = (2 * math.pi * self.frequency_ghz / LIGHT_CM_GHZ) * roughness
        return amount, moisture, ks, geometry["incidence"].to(amount)
