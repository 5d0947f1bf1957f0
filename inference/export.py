"""Maps for other programs: cloud-optimised GeoTIFF, and a STAC item that describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from rasterio.warp import transform_bounds

from inference.prediction import FLAGS, STATISTICS
from pi_vae import __version__
from pi_vae.variables import CATALOGUE

__all__ = ["export_geotiff", "export_stac"]


def export_geotiff(maps: xr.Dataset, name: str, statistic: str, path: str | Path) -> Path:
    """Write one statistic of one variable as a cloud-optimised GeoTIFF (tiles, overviews), one band a date.

    Args:
        maps: what `inference.predict` returns.
        name: variable.
        statistic: ``"mean"``, ``"sd"``, ``"q05"`` or ``"q95"``.
        path: file to write.

    Returns:
        The path. Pixels without any observation are nodata (NaN); bands have unit and date.

    Raises:
        ValueError: there is no such map, or it is of points.
    """
    key = f"{name}_{statistic}"
    if key not in maps:
        raise ValueError(
            f"No map {key!r}: variables are {', '.join(v for v in CATALOGUE if f'{v}_mean' in maps)}; "
            f"statistics are {', '.join(STATISTICS)}."
        )
    if "spatial_ref" not in maps.coords or maps.sizes["x"] < 2:
        raise ValueError("These maps are of points, or have no reference system: a GeoTIFF needs a grid with one.")
    layer, flags = maps[key].load(), maps["flags"].load()
    if "time" not in layer.dims:
        flags = flags.isel(time=0)
    layer = layer.where((flags & FLAGS["pixel_without_observation"]) == 0)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    layer = layer.rio.write_crs(maps["spatial_ref"].attrs["crs_wkt"]).rio.write_nodata(np.nan)
    dates = np.datetime_as_string(np.atleast_1d(layer.time.values), unit="D") if "time" in layer.dims else ["static"]
    layer.attrs["long_name"] = tuple(f"{name} {statistic} {date}" for date in dates)
    temporary = path.with_name(f".{path.name}")
    with rasterio.MemoryFile() as memory:
        layer.rio.to_raster(memory.name, driver="GTiff", dtype="float32")
        with rasterio.open(memory.name, "r+") as file:  # per band, where GIS programs look for it
            file.units = (layer.attrs.get("units", ""),) * file.count
        rasterio.shutil.copy(memory.name, temporary, driver="COG", compress="deflate", predictor="yes")
    temporary.replace(path)
    return path


def export_stac(
    maps: xr.Dataset,
    folder: str | Path,
    names: Sequence[str] | None = None,
    statistics: Sequence[str] = ("mean", "sd"),
    identifier: str = "pi_vae",
) -> Path:
    """Write maps as GeoTIFFs with a STAC item (1.0 and later; extension ``projection``) that lists them.

    Args:
        maps: what `inference.predict` returns.
        folder: where files go: ``<name>_<statistic>.tif`` each, and the item.
        names: variables; all by default.
        statistics: see `export_geotiff`.
        identifier: of the item, and the name of its file; unique in the collection that it will be part of.

    Returns:
        The path of the item. Links in it are relative, so that the folder can be moved.

    Raises:
        ValueError: there is no such map.
        ModuleNotFoundError: pystac is not installed (extra ``stac``).
    """
    try:
        import pystac
        from pystac.extensions.projection import ProjectionExtension
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("A STAC item needs pystac: pip install 'pi_vae[stac]'.") from error
    folder = Path(folder)
    names = [name for name in CATALOGUE if f"{name}_mean" in maps] if names is None else list(names)
    files = {
        f"{name}_{statistic}": export_geotiff(maps, name, statistic, folder / f"{name}_{statistic}.tif")
        for name in names
        for statistic in statistics
    }
    with rasterio.open(next(iter(files.values()))) as file:
        crs, bounds, shape, transform = file.crs, file.bounds, list(file.shape), list(file.transform)[:6]
    west, south, east, north = transform_bounds(crs, "EPSG:4326", *bounds, densify_pts=21)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    start, end = (np.datetime64(maps.time.values[i], "s").item() for i in (0, -1))
    item = pystac.Item(
        identifier,
        geometry={"type": "Polygon", "coordinates": [ring]},
        bbox=[west, south, east, north],
        datetime=None,
        start_datetime=start,
        end_datetime=end,
        properties={"processing:software": {"pi_vae": __version__}, "pi_vae:origin": maps.attrs.get("origin", "")},
    )
    known = crs.to_epsg()
    projection = ProjectionExtension.ext(item, add_if_missing=True)
    projection.apply(
        code=f"EPSG:{known}" if known else None, wkt2=None if known else crs.to_wkt(), shape=shape, transform=transform
    )
    dates = [str(np.datetime64(time, "s")) + "Z" for time in maps.time.values]
    for key, path in files.items():
        layer = maps[key]
        extra = {"unit": layer.attrs["units"]} | ({"pi_vae:dates": dates} if "time" in layer.dims else {})
        kind, title = pystac.MediaType.COG, layer.attrs["long_name"]
        item.add_asset(key, pystac.Asset(path.name, title=title, media_type=kind, roles=["data"], extra_fields=extra))
    target = folder / f"{identifier}.json"
    temporary = target.with_name(f".{target.name}")
    item.save_object(include_self_link=False, dest_href=str(temporary))
    temporary.replace(target)
    return target
