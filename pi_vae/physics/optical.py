r"""Prosail: what an optical sensor sees of a vegetated pixel. Leaf (PROSPECT) + canopy (4SAIL) + soil + sensor.

When to use which:

- ``nodes=None``: every nanometre under the responses of the bands. Exact; for reference, simulation and tests.
- ``nodes=K``: K wavelengths per band with fitted weights (`pi_vae.physics.quadrature`). For training: some twenty
  times less work, with an error far below sensor noise.

Variables and geometry broadcast together; each part of the model is computed on the shape that its own inputs need, so
``[pixel, 1]`` for what is static and ``[time]`` for geometry cost less than the full ``[pixel, time]``.

Example::

    >>> op = Prosail(bands=["B04", "B08"])
    >>> leaf = dict(n=1.5, cab=40.0, car=8.0, cant=1.0, cbrown=0.0, cw=0.01, cm=0.005)
    >>> canopy = dict(lai=3.0, ala=57.0, hspot=0.1, soil_brightness=1.0, soil_wetness=0.3)
    >>> variables = {name: torch.tensor(value) for name, value in {**leaf, **canopy}.items()}
    >>> geometry = {"sza": torch.tensor([30.0, 50.0]), "vza": torch.tensor(5.0), "raa": torch.tensor(90.0)}
    >>> op(variables, geometry).shape  # [time, band]
    torch.Size([2, 2])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .canopy import four_stream, hot_spot, layer_geometry
from .leaf import Prospect
from .leaf_angle import campbell, verhoef
from .quadrature import Quadrature, load_quadrature
from .sensors import GRID, Sensor, load_sensor
from .soil import Soil

__all__ = ["Prosail"]

GEOMETRY = ("sza", "vza", "raa")
LEAF_ANGLES = {"campbell": ("ala",), "verhoef": ("lidf_a", "lidf_b")}


class Prosail(nn.Module):
    """Observation operator of optical reflectance.

    Args:
        leaf: ``"prospect-5"``, ``"prospect-d"`` or ``"prospect-pro"``.
        sensor: ``"S2A"``, ``"S2B"``, a `Sensor`, or a mapping band -> (wavelength, response).
        bands: names in the order of the output; all bands of the sensor by default.
        nodes: wavelengths per band of the reduced mode (1..6), or a `Quadrature` of your own; None is exact.
        soil: ``"wetness"`` reads ``soil_wetness``; ``"moisture"`` derives it from ``soil_moisture``, shared with radar.
        lidf: leaf angles by ``"campbell"`` (``ala``) or ``"verhoef"`` (``lidf_a``, ``lidf_b``).
        classes: leaf angle classes, 18 or 13.

    Attributes:
        bands: band names, the last axis of the output.
        variables: names that `forward` reads.
        wavelength: nanometres that `forward` evaluates.

    Raises:
        ValueError: an unknown leaf model, sensor, band, soil or leaf angle model, or no stored quadrature for
        ``nodes``.
    """

    def __init__(
        self,
        leaf: str = "prospect-d",
        sensor: str | Sensor | Mapping[str, tuple[Sequence[float], Sequence[float]]] = "S2A",
        bands: Sequence[str] | None = None,
        nodes: int | Quadrature | None = None,
        soil: str = "wetness",
        lidf: str = "campbell",
        classes: int = 18,
    ) -> None:
        super().__init__()
        if lidf not in LEAF_ANGLES:
            raise ValueError(f"Unknown leaf angle model {lidf!r}: use {' or '.join(LEAF_ANGLES)}.")
        full = load_sensor(sensor)
        chosen = full.select(bands)
        rule = load_quadrature(full.name, leaf, nodes) if isinstance(nodes, int) else nodes
        weights = chosen.response if rule is None else rule.response(chosen.bands)
        used = np.flatnonzero(weights.any(0))
        self.bands, self.nodes, self.lidf, self.classes = chosen.bands, nodes, lidf, classes
        self.wavelength = tuple(int(nm) for nm in GRID[used])
        self.leaf = Prospect(leaf, self.wavelength)
        self.soil = Soil(soil, self.wavelength)
        self.variables = (*self.leaf.variables, "lai", *LEAF_ANGLES[lidf], "hspot", *self.soil.variables)
        self.register_buffer("weights", torch.from_numpy(weights[:, used].T.copy()), persistent=False)

    def forward(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Reflectance factor of each band.

        Args:
            variables: each name of ``self.variables`` -> ``[...]``, units as in `Prospect`, `hot_spot`, `Soil`.
            geometry: ``sza``, ``vza``, ``raa`` in degrees -> ``[...]``, broadcast with the variables.

        Returns:
            ``[..., band]``, unitless, in the dtype of the variables.

        Raises:
            ValueError: a variable or an angle is missing.
        """
        rsot = self._reflectance(variables, geometry, self.leaf, self.soil)
        return rsot @ self.weights.to(rsot)

    def spectrum(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Reflectance factor at 400..2500 nm in steps of 1 nm, ``[..., 2101]``; arguments as for `forward`."""
        device = self.weights.device
        leaf = Prospect(self.leaf.version).to(device)
        soil = Soil(self.soil.mode, darkening=self.soil.darkening).to(device)
        return self._reflectance(variables, geometry, leaf, soil)

    def _reflectance(
        self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor], leaf: Prospect, soil: Soil
    ) -> Tensor:
        _require(variables, self.variables, "variable")
        _require(geometry, GEOMETRY, "angle")
        lai, hspot = variables["lai"], variables["hspot"]
        angles = (geometry[name].to(lai) for name in GEOMETRY)
        if self.lidf == "campbell":
            share = campbell(variables["ala"], self.classes)
        else:
            share = verhoef(variables["lidf_a"], variables["lidf_b"], self.classes)
        layer = layer_geometry(share, *angles)
        spot = hot_spot(lai, hspot, layer)
        return four_stream(*leaf(variables), soil(variables), lai, layer, spot)


def _require(given: Mapping[str, Tensor], names: Sequence[str], kind: str) -> None:
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"Prosail lacks the {kind} {', '.join(map(repr, missing))}: give all of {', '.join(names)}.")
