r"""Prosail: what an optical sensor sees of a vegetated pixel. Leaf (PROSPECT) + canopy (4SAIL) + soil + sensor.

When to use which:

- ``nodes=None``: every nanometre under the responses of the bands. Exact; for reference, simulation and tests.
- ``nodes=K``: K wavelengths per band with fitted weights (`pi_vae.physics.quadrature`). For training: some twenty
  times less work, with an error far below sensor noise.

`Prosail.factors` adds the hemispherical reflectance factors (albedo, diffuse light), `Prosail.fapar` and
`Prosail.fcover` what vegetation products report.

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
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .canopy import Factors, HotSpot, Layer, absorbed, four_stream, hemispherical, hot_spot, layer_geometry
from .layout import combine
from .leaf import Prospect
from .leaf_angle import campbell, verhoef
from .precision import Tabulated
from .quadrature import Quadrature, load_quadrature
from .sensors import GRID, Sensor, load_sensor
from .soil import Soil

__all__ = ["Prosail"]

GEOMETRY = ("sza", "vza", "raa")
PAR = tuple(range(400, 701, 5))  # photosynthetically active radiation, nm
LEAF_ANGLES = {"campbell": ("ala",), "verhoef": ("lidf_a", "lidf_b")}


class Prosail(Tabulated):
    """Observation operator of optical reflectance.

    Args:
        leaf: ``"prospect-5"``, ``"prospect-d"`` or ``"prospect-pro"``.
        sensor: ``"S2A"``, ``"S2B"``, a `Sensor`, or a mapping band -> (wavelength, response).
        bands: names in the order of the output; all bands of the sensor by default.
        nodes: wavelengths per band of the reduced mode (1..6), or as a float the largest error allowed (5e-4), or a
            `Quadrature` of your own; None is exact.
        soil: ``"wetness"`` reads ``soil_wetness``; ``"moisture"`` derives it from ``soil_moisture``, shared with radar.
        lidf: leaf angles by ``"campbell"`` (``ala``) or ``"verhoef"`` (``lidf_a``, ``lidf_b``).
        classes: leaf angle classes, 18 or 13.
        hot_spot_cap: convention of the hot spot for tiny leaves, see `hot_spot`: None or, as in some codes, 200.

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
        nodes: int | float | Quadrature | None = None,
        soil: str = "wetness",
        lidf: str = "campbell",
        classes: int = 18,
        hot_spot_cap: float | None = None,
    ) -> None:
        super().__init__()
        if lidf not in LEAF_ANGLES:
            raise ValueError(f"Unknown leaf angle model {lidf!r}: use {' or '.join(LEAF_ANGLES)}.")
        full = load_sensor(sensor)
        chosen = full.select(bands)
        rule = load_quadrature(full.name, leaf, nodes) if isinstance(nodes, int | float) else nodes
        weights = chosen.response if rule is None else rule.response(chosen.bands)
        used = np.flatnonzero(weights.any(0))
        self.bands, self.nodes, self.lidf, self.classes = chosen.bands, nodes, lidf, classes
        self.hot_spot_cap = hot_spot_cap
        self.wavelength = tuple(int(nm) for nm in GRID[used])
        self.leaf = Prospect(leaf, self.wavelength)
        self.soil = Soil(soil, self.wavelength)
        self.variables = (*self.leaf.variables, "lai", *LEAF_ANGLES[lidf], "hspot", *self.soil.variables)
        self.hold("weights", weights[:, used].T)

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
        sdr = four_stream(*self._canopy(self.leaf, self.soil, variables, geometry))
        return combine(sdr, self.table("weights", sdr))

    def factors(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Factors:
        """Bidirectional (``sdr``), directional-hemispherical (``dhr``), hemispherical-directional (``hdr``) and
        bihemispherical (``bhr``) reflectance factors, each ``[..., band]``; arguments as for `forward`."""
        parts = hemispherical(*self._canopy(self.leaf, self.soil, variables, geometry))
        return Factors(*(combine(part, self.table("weights", part)) for part in parts))

    def fapar(
        self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor], sky: float | Tensor = 0.0
    ) -> Tensor:
        """Fraction of photosynthetically active radiation that the leaves absorb.

        The mean over 400..700 nm (every 5 nm, all weighing the same) of the light absorbed above a reflecting soil;
        green and other leaf contents together, whatever the sensor.

        Args:
            variables, geometry: as for `forward`.
            sky: share of diffuse light, 0 (black sky, that of the satellite products) to 1 (white sky), ``[...]``.

        Returns:
            ``[...]``, 0..1.
        """
        share = absorbed(*self._canopy(*self._parts(PAR), variables, geometry))
        sun, diffuse = (part.mean(-1) for part in share)
        return sun + sky * (diffuse - sun)

    def fcover(self, variables: Mapping[str, Tensor]) -> Tensor:
        """Fraction of ground hidden by leaves when seen from straight above, ``1 - exp(-ko LAI)`` with the extinction
        ``ko`` at nadir, ``[...]``, 0..1. Reads ``lai`` and the leaf angles."""
        _require(variables, ("lai", *LEAF_ANGLES[self.lidf]), "variable")
        lai = variables["lai"]
        nadir = torch.zeros((), dtype=lai.dtype, device=lai.device)
        return -torch.expm1(-lai * layer_geometry(self._leaf_angles(variables), nadir, nadir, nadir).ko)

    def spectrum(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Reflectance factor at 400..2500 nm in steps of 1 nm, ``[..., 2101]``; arguments as for `forward`."""
        return four_stream(*self._canopy(*self._parts(None), variables, geometry))

    def _canopy(
        self, leaf: Prospect, soil: Soil, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Layer, HotSpot]:
        """What `four_stream` and its kin take."""
        _require(variables, self.variables, "variable")
        _require(geometry, GEOMETRY, "angle")
        structure = self._structure(variables, geometry)
        reflectance, transmittance = leaf(variables)
        return reflectance, transmittance, soil(variables), variables["lai"], *structure

    def _structure(self, variables: Mapping[str, Tensor], geometry: Mapping[str, Tensor]) -> tuple[Layer, HotSpot]:
        """What does not depend on wavelength."""
        lai = variables["lai"]
        layer = layer_geometry(self._leaf_angles(variables), *(geometry[name].to(lai) for name in GEOMETRY))
        return layer, hot_spot(lai, variables["hspot"], layer, cap=self.hot_spot_cap)

    def _leaf_angles(self, variables: Mapping[str, Tensor]) -> Tensor:
        if self.lidf == "campbell":
            return campbell(variables["ala"], self.classes)
        return verhoef(variables["lidf_a"], variables["lidf_b"], self.classes)

    def _parts(self, wavelength: tuple[int, ...] | None) -> tuple[Prospect, Soil]:
        """Leaf and soil at other wavelengths than those of the bands."""
        soil = self.soil
        return _leaf_and_soil(self.leaf.version, soil.mode, soil.darkening, wavelength, self.weights.device)


@lru_cache(maxsize=16)
def _leaf_and_soil(
    version: str, mode: str, darkening: float, wavelength: tuple[int, ...] | None, device: torch.device
) -> tuple[Prospect, Soil]:
    return Prospect(version, wavelength).to(device), Soil(mode, wavelength, darkening).to(device)


def _require(given: Mapping[str, Tensor], names: Sequence[str], kind: str) -> None:
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"Prosail lacks the {kind} {', '.join(map(repr, missing))}: give all of {', '.join(names)}.")
