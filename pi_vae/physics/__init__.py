"""Observation operators: from physical variables and geometry to what a sensor measures. Plain torch, no learning.

- `Prosail`: optical reflectance of vegetation (PROSPECT leaf, 4SAIL canopy, soil, sensor bands).
- `WaterCloud`: radar backscatter of vegetation over rough moist soil.
- `DoubleLogistic`: leaf area over a season.
- `oh1992`, `oh2004`, `dubois1995`: bare soil backscatter. `mironov2009`, `hallikainen1985`, `dobson1985`: soil
  permittivity; `topp1980`, `topp1980_inverse`: its real part from moisture and back. `pi_vae.physics.validity` tells
  which inputs are beyond their data.
- `compile_kernels`: the inner loops of `Prosail` compiled, for fits.
- `Sensor`: bands from a table of responses. `fit_quadrature`: its few wavelengths for the reduced mode.

Every operator maps ``(variables, geometry)``, two mappings from name to tensor ``[...]`` that broadcast together, to
a tensor with the channel as last axis. Constants follow the dtype of the variables: float64 in, float64 out.
"""

from .dielectric import dobson1985, hallikainen1985, mironov2009, topp1980, topp1980_inverse
from .fused import compile_kernels
from .optical import Prosail
from .phenology import DoubleLogistic
from .quadrature import fit_quadrature
from .radar import WaterCloud
from .scattering import dubois1995, oh1992, oh2004
from .sensors import Sensor

__all__ = [
    "DoubleLogistic",
    "Prosail",
    "Sensor",
    "WaterCloud",
    "compile_kernels",
    "dobson1985",
    "dubois1995",
    "fit_quadrature",
    "hallikainen1985",
    "mironov2009",
    "oh1992",
    "oh2004",
    "topp1980",
    "topp1980_inverse",
]
