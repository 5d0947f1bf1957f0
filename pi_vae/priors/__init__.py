"""Priors: marginals of the physical variables, their course in time, and global latents."""

from pi_vae.priors.global_latents import GlobalLatents, NormalLatents
from pi_vae.priors.marginals import Marginals
from pi_vae.priors.sites import GaussianProcess, SitePosterior
from pi_vae.priors.spatial import SpatialPrior
from pi_vae.priors.temporal import TemporalGP

__all__ = [
    "GaussianProcess",
    "GlobalLatents",
    "Marginals",
    "NormalLatents",
    "SitePosterior",
    "SpatialPrior",
    "TemporalGP",
]
