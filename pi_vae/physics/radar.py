r"""WaterCloud: what a radar sees of vegetation over soil (Attema & Ulaby 1978).

The canopy is a cloud of identical scatterers that attenuates the soil below it. Per polarisation

.. math::
    T^2 = e^{-2 B V / \cos\theta}, \qquad
    \sigma^0 = A V \cos\theta \, (1 - T^2) + T^2 \sigma^0_{soil}, \qquad V = \mathrm{LAI}.

Soil backscatter is Oh (2004) of moisture and roughness, or Oh (1992) of the permittivity of Mironov (2009).

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
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .dielectric import mironov2009
from .scattering import LIGHT_CM_GHZ, oh1992, oh2004

__all__ = ["WaterCloud"]


class WaterCloud(nn.Module):
    """Observation operator of C-band backscatter.

    Args:
        soil: ``"oh2004"`` or ``"oh1992"``.
        frequency_ghz: of the radar; 5.405 is Sentinel-1.
        clay: clay content in percent, read by ``"oh1992"`` only.

    Attributes:
        pols: ``("VV", "VH")``, the last axis of the output.
        variables: ``("lai", "soil_moisture", "roughness")``.
        coefficients: ``a_vv a_vh b_vv b_vh``; read from the same mapping as the variables.

    Raises:
        ValueError: the soil model is unknown.
    """

    pols = ("VV", "VH")
    variables = ("lai", "soil_moisture", "roughness")
    coefficients = ("a_vv", "a_vh", "b_vv", "b_vh")

    def __init__(self, soil: str = "oh2004", frequency_ghz: float = 5.405, clay: float = 20.0) -> None:
        super().__init__()
        if soil not in ("oh2004", "oh1992"):
            raise ValueError(f"Unknown soil scattering {soil!r}: use 'oh2004' or 'oh1992' (both polarisations).")
        self.soil, self.frequency_ghz, self.clay = soil, frequency_ghz, clay

    def forward(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Backscatter coefficient.

        Args:
            variables: name -> ``[...]``, broadcast together: ``lai`` (>= 0), ``soil_moisture`` in m3 m-3,
                ``roughness`` (rms height) in cm, ``a_vv a_vh`` (linear power per unit LAI) and ``b_vv b_vh`` (per
                unit LAI), >= 0.
            geometry: ``incidence`` in degrees, ``[...]``.

        Returns:
            Sigma nought, linear power, ``[..., pol]`` in the order VV, VH.

        Raises:
            ValueError: a variable, a coefficient or the incidence is missing.
        """
        names = (*self.variables, *self.coefficients)
        missing = [name for name in names if name not in variables]
        missing += [name for name in ("incidence",) if name not in geometry]
        if missing:
            raise ValueError(
                f"WaterCloud lacks {', '.join(map(repr, missing))}: give the variables {', '.join(names)} "
                "and the geometry incidence."
            )
        lai, moisture, roughness = (variables[name] for name in self.variables)
        incidence = geometry["incidence"].to(lai)
        ks = (2 * math.pi * self.frequency_ghz / LIGHT_CM_GHZ) * roughness
        if self.soil == "oh2004":
            vv, _, vh = oh2004(moisture, ks, incidence)
        else:
            vv, _, vh = oh1992(mironov2009(moisture, self.clay, self.frequency_ghz), ks, incidence)
        cos = torch.cos(torch.deg2rad(incidence))
        sigma = [
            self._cloud(lai, cos, variables[f"a_{pol}"], variables[f"b_{pol}"], soil)
            for pol, soil in (("vv", vv), ("vh", vh))
        ]
        return torch.stack(torch.broadcast_tensors(*sigma), -1)

    @staticmethod
    def _cloud(lai: Tensor, cos: Tensor, a: Tensor, b: Tensor, soil: Tensor) -> Tensor:
        depth = 2 * b * lai / cos
        return -a * lai * cos * torch.expm1(-depth) + torch.exp(-depth) * soil
