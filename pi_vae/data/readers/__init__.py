"""Readers of the formats in which Sentinel-1 and Sentinel-2 are delivered; one room each.

    read_safe         Sentinel-2 Level-2A of ESA, SAFE folders
    read_maja         Sentinel-2 Level-2A of THEIA / MAJA
    read_geotiffs     Sentinel-2 reflectance in folders of GeoTIFF or COG
    read_stac         Sentinel-2 Level-2A from STAC items
    read_backscatter  Sentinel-1 backscatter in folders of GeoTIFF or COG, or zarr

All keep the pixels as they are delivered: nothing is interpolated, and each resolution becomes a node of its own.
`pi_vae.data.open_cube` completes and validates what they return.
"""

from pi_vae.data.readers.geotiff import read_geotiffs
from pi_vae.data.readers.maja import read_maja
from pi_vae.data.readers.radar import read_backscatter
from pi_vae.data.readers.safe import read_safe
from pi_vae.data.readers.stac import read_stac

__all__ = ["read_backscatter", "read_geotiffs", "read_maja", "read_safe", "read_stac"]
