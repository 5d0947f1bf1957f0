"""The neural half of the guide: convolution over space, attention over dates, and their fusion into sites."""

from pi_vae.encoders.fusion import FusionEncoder, Sites
from pi_vae.encoders.spatial import SpatialEncoder
from pi_vae.encoders.temporal import DateEmbedding, TemporalEncoder

__all__ = ["DateEmbedding", "FusionEncoder", "Sites", "SpatialEncoder", "TemporalEncoder"]
