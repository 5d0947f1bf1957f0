r"""Soil reflectance: two measured spectra, mixed by wetness and scaled by brightness.

.. math:: R_s(\lambda) = B \, [\, w R_{wet}(\lambda) + (1 - w) R_{dry}(\lambda) \,]

Brightness *multiplies*, wetness *mixes*: published code passes the two in either order, and some pass the dry share
:math:`1 - w`. With ``mode="moisture"`` the wetness follows the volumetric soil moisture :math:`\theta`: reflectance
falls exponentially from dry to saturated soil (Lobell & Asner 2002), :math:`1 - w = e^{-c \theta}`, with a single
:math:`c` for all wavelengths. They fitted :math:`c` by soil and wavelength; 7 per m3 m-3 (a fall to 25 % of the range
at 0.2 m3 m-3) is a value for mineral soils, and an argument.

Example::

    >>> soil = Soil()
    >>> soil({"soil_brightness": torch.tensor(1.2), "soil_wetness": torch.tensor(0.5)}).shape
    torch.Size([2101])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from .layout import outer
from .leaf import wavelength_index
from .precision import Tabulated

__all__ = ["Soil"]


class Soil(Tabulated):
    """Mixture of a dry and a wet soil spectrum.

    Args:
        mode: ``"wetness"`` reads ``soil_wetness``, ``"moisture"`` reads ``soil_moisture``.
        wavelength: whole nanometres in 400..2500; all 2101 by default.
        darkening: c in m3 m-3 to the -1, for ``mode="moisture"``.

    Attributes:
        variables: ``("soil_brightness", "soil_wetness")`` or ``("soil_brightness", "soil_moisture")``.

    Raises:
        ValueError: the mode is unknown.
    """

    def __init__(self, mode: str = "wetness", wavelength: Sequence[int] | None = None, darkening: float = 7.0) -> None:
        super().__init__()
        if mode not in ("wetness", "moisture"):
            raise ValueError(f"Unknown soil mode {mode!r}: use 'wetness' or 'moisture'.")
        self.mode, self.darkening = mode, darkening
        self.variables = ("soil_brightness", f"soil_{mode}")
        with (files(__package__) / "tables" / "soil.npz").open("rb") as stream:
            table = dict(np.load(stream))
        columns = wavelength_index(wavelength)
        self.hold("dry", table["dry"][columns])
        self.hold("wet", table["wet"][columns])

    def forward(self, variables: Mapping[str, Tensor]) -> Tensor:
        """Lambertian reflectance ``[..., wavelength]`` from ``soil_brightness`` (>= 0) and the wetness (0..1) or
        moisture (m3 m-3), ``[...]``."""
        brightness, water = (variables[name] for name in self.variables)
        if self.mode == "wetness":
            dry_share = brightness * (1 - water)
        else:
            dry_share = brightness * torch.exp(-self.darkening * water)
        dry, wet = self.table("dry", dry_share), self.table("wet", dry_share)
        # two rank-one terms: wavelengths enter last, so brightness and water keep their own (small) shapes
        return outer(brightness, wet) + outer(dry_share, dry - wet)
