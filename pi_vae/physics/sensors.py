r"""Spectral responses of sensors: from a spectrum at 1 nm to bands.

A band value is the response-weighted mean of the spectrum on the 1 nm grid of 400..2500 nm,
:math:`\sum_\lambda S_b(\lambda) R(\lambda) / \sum_\lambda S_b(\lambda)`.

``"S2A"`` and ``"S2B"`` are built in (ESA, Sentinel-2 spectral response functions 3.0; bands B01 ... B08 B8A B09 ...
B12 in that order). Any other sensor is a mapping from band name to ``(wavelength, response)``.

Example::

    >>> bands = {"red": ([640, 660, 680], [0, 1, 0]), "nir": ([830, 850, 870], [0, 1, 0])}
    >>> red_nir = Sensor.from_bands("camera", bands)
    >>> red_nir.bands
    ('red', 'nir')
    >>> load_sensor("S2A").select(["B04", "B08"]).response.shape
    (2, 2101)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

__all__ = ["Sensor", "load_sensor"]

GRID = np.arange(400, 2501)
BUILT_IN = ("S2A", "S2B")


@dataclass(frozen=True)
class Sensor:
    """Bands of a sensor.

    Attributes:
        name: for messages and to find the stored quadrature.
        bands: band names.
        response: ``[band, 2101]``, every row sums to 1.
    """

    name: str
    bands: tuple[str, ...]
    response: np.ndarray

    @classmethod
    def from_bands(cls, name: str, bands: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Sensor:
        """Sensor from measured responses, interpolated linearly to whole nanometres and 0 outside their range.

        Args:
            name: of the sensor.
            bands: band name -> (wavelength in nm, ascending; response, any scale, >= 0).

        Raises:
            ValueError: a band has no response within 400..2500 nm, a negative one, or wavelengths that do not ascend.
        """
        rows = []
        for band, (nm, measured) in bands.items():
            wavelength, response = np.asarray(nm, float), np.asarray(measured, float)
            if wavelength.shape != response.shape or (np.diff(wavelength) <= 0).any():
                raise ValueError(f"Band {band!r} of {name}: give ascending wavelengths and as many responses.")
            row = np.interp(GRID, wavelength, response, left=0.0, right=0.0)
            if (response < 0).any() or not row.sum() > 0:
                raise ValueError(
                    f"Band {band!r} of {name}: give a response that is not negative, with a part inside 400..2500 nm."
                )
            rows.append(row / row.sum())
        return cls(name, tuple(bands), np.stack(rows))

    def select(self, bands: Sequence[str] | None) -> Sensor:
        """The sensor with some of its bands, in the order given; all of them for None.

        Raises:
            ValueError: a band is unknown; the message lists those of the sensor.
        """
        if bands is None:
            return self
        unknown = [band for band in bands if band not in self.bands]
        if unknown or not bands:
            found = ", ".join(map(repr, unknown)) or "no band at all"
            raise ValueError(f"{self.name} does not have {found}: choose from {', '.join(self.bands)}.")
        rows = [self.bands.index(band) for band in bands]
        return Sensor(self.name, tuple(bands), self.response[rows])


def load_sensor(sensor: str | Sensor | Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Sensor:
    """A built-in sensor by name, one given as a mapping (named ``"custom"``), or a `Sensor` as it is.

    Raises:
        ValueError: the name is not built in.
    """
    if isinstance(sensor, Sensor):
        return sensor
    if isinstance(sensor, Mapping):
        return Sensor.from_bands("custom", sensor)
    if sensor not in BUILT_IN:
        raise ValueError(
            f"Unknown sensor {sensor!r}: use {' or '.join(BUILT_IN)}, or a mapping band -> (wavelength, response)."
        )
    with (files(__package__) / "tables" / f"{sensor.lower()}.npz").open("rb") as stream:
        table = dict(np.load(stream))
    response = table["response"]
    return Sensor(sensor, tuple(map(str, table["band"])), response / response.sum(1, keepdims=True))
