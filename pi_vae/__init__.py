"""Physics-informed variational autoencoders for multi-modal satellite image time series."""

from importlib.metadata import PackageNotFoundError, version

from pi_vae.latents import Latents
from pi_vae.modality import Modality, Optical, Radar
from pi_vae.model import PhysicsVAE
from pi_vae.priors import TemporalGP

try:
    __version__ = version("pi_vae")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = ["Latents", "Modality", "Optical", "PhysicsVAE", "Radar", "TemporalGP", "__version__"]
