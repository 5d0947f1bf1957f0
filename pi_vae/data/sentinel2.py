"""Sentinel-2: from digital numbers to a node of the cube, sun angles, and what is refused in an optical node.

A node holds surface reflectance in 0-1. Products of processing baseline 04.00 and later store
``DN = 10000 rho + 1000``: the offset must be taken off once. `faults` recognises the two ways of getting that wrong
from the dark end of the data. Readers of the formats in which products come are in `pi_vae.data.readers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

__all__ = ["ANGLES", "BANDS", "NOMINAL_RAA", "NOMINAL_VZA", "dn_to_reflectance", "faults", "s2_node", "sun_angles"]

#: Bands of a surface-reflectance product in order of wavelength, with the nominal centre [nm] of Sentinel-2A.
BANDS: Mapping[str, float] = {
    "B01": 442.7, "B02": 492.4, "B03": 559.8, "B04": 664.6, "B05": 704.1, "B06": 740.5,
    "B07": 782.8, "B08": 832.8, "B8A": 864.7, "B09": 945.1, "B11": 1613.7, "B12": 2202.4,
}  # fmt: skip

#: The geometry that an optical node must hold, with the long name of each angle.
ANGLES: Mapping[str, str] = {
    "sza": "solar zenith angle", "vza": "sensor zenith angle", "raa": "relative azimuth of sun and sensor",
}  # fmt: skip

#: Stand-ins [degree] where a product carries no view geometry: the swath (0-12 degrees off nadir) lies across a
#: sun-synchronous morning orbit, so that half a swath off nadir and across the solar plane is the typical case.
NOMINAL_VZA, NOMINAL_RAA = 5.0, 90.0


def dn_to_reflectance(dn: np.ndarray, *, scale: float = 1e-4, offset: float = 0.0, nodata: int = 65535) -> np.ndarray:
    """Surface reflectance ``scale * (dn + offset)``, NaN where there is no data.

    Args:
        dn: digital numbers of any shape.
        scale: reflectance per digital number.
        offset: number added before scaling; -1000 for products of baseline 04.00 and later that still carry it.
        nodata: digital number that means "no data".

    Returns:
        float32 array of the same shape, unitless, about 0-1 and not clipped.
    """
    dn = np.asarray(dn)
    reflectance = (scale * (dn.astype(np.float64) + offset)).astype(np.float32)
    return np.where(dn == nodata, np.float32(np.nan), reflectance)


def sun_angles(times: np.ndarray, lon: float, lat: float) -> tuple[np.ndarray, np.ndarray]:
    """Position of the sun (geometric, without refraction) at one place, by the NREL algorithm of pvlib.

    Args:
        times: `[time]` datetime64, UTC.
        lon, lat: degrees east and north.

    Returns:
        solar zenith angle in 0-180 and azimuth in 0-360 clockwise from north, each `[time]` float32 in degrees.
    """
    from pvlib.solarposition import get_solarposition  # takes a second to import; most cubes carry their angles

    position = get_solarposition(pd.DatetimeIndex(np.asarray(times)).tz_localize("UTC"), lat, lon)
    return position["zenith"].to_numpy(np.float32), position["azimuth"].to_numpy(np.float32)


def s2_node(
    reflectance: np.ndarray,
    time: np.ndarray,
    band: Sequence[str],
    *,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    sza: np.ndarray | float | None = None,
    vza: np.ndarray | float | None = None,
    raa: np.ndarray | float | None = None,
    platform: Sequence[str] | None = None,
    crs: object | None = None,
    attrs: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """An optical node of the cube; `pi_vae.data.validate` judges it, this only lays it out.

    Args:
        reflectance: `[time, band, y, x]` on a grid or `[time, band, point]`, unitless 0-1.
        time: `[time]` datetime64, UTC, increasing.
        band: names out of `BANDS`, in order of wavelength.
        x, y: coordinates `[x]`, `[y]` of the pixel centres, or both `[point]`; left out if not given.
        valid: `[time, y, x]` or `[time, point]`, true = usable; by default where all bands are finite.
        sza, vza, raa: degrees, a number, `[time]`, or shaped as ``valid``; left out if not given.
        platform: `[time]`, such as ``"S2A"``.
        crs: anything that `rio.write_crs` reads, such as ``"EPSG:32631"``.
        attrs: attributes of the node, such as ``processing_baseline``.

    Returns:
        Dataset with float32 ``reflectance``, bool ``valid``, the angles given, and coordinates with CF attributes.
    """
    reflectance = np.asarray(reflectance, np.float32)
    pixel = ("y", "x") if reflectance.ndim == 4 else ("point",)
    if valid is None:
        valid = np.isfinite(reflectance).all(axis=1)
    dataset = xr.Dataset(
        {
            "reflectance": (
                ("time", "band", *pixel),
                reflectance,
                {"standard_name": "surface_bidirectional_reflectance", "units": "1"},
            ),
            "valid": (("time", *pixel), np.asarray(valid, bool), {"long_name": "usable observation"}),
        },
        coords={
            "time": ("time", np.asarray(time, "datetime64[ns]"), {"standard_name": "time"}),
            "band": ("band", [str(name) for name in band], {"long_name": "spectral band"}),
        },
        attrs=dict(attrs or {}),
    )
    if all(name in BANDS for name in band):
        centre = {"standard_name": "radiation_wavelength", "units": "nm", "comment": "nominal centre, Sentinel-2A"}
        dataset = dataset.assign_coords(wavelength=("band", [BANDS[name] for name in band], centre))
    for name, angle in (("sza", sza), ("vza", vza), ("raa", raa)):
        if angle is not None:
            angle = np.asarray(angle, np.float32)
            angle = np.full(len(time), angle) if angle.ndim == 0 else angle
            dims: str | tuple[str, ...] = ("time",) if angle.ndim == 1 else ("time", *pixel)
            dataset[name] = (dims, angle, {"long_name": ANGLES[name], "units": "degree"})
    if platform is not None:
        dataset["platform"] = ("time", np.asarray(platform, object), {"long_name": "satellite"})
    for name, value in (("x", x), ("y", y)):
        if value is not None:
            dims = name if reflectance.ndim == 4 else "point"
            meta = {"standard_name": f"projection_{name}_coordinate", "units": "m"}
            dataset = dataset.assign_coords({name: (dims, np.asarray(value), meta)})
    if crs is None:
        return dataset
    import rioxarray  # noqa: F401  (registers the .rio accessor; two seconds)

    return dataset.rio.write_crs(crs)


def faults(node: str, dataset: xr.Dataset, seen: np.ndarray) -> Iterator[str]:
    """Sentences that say what is wrong with an optical node and how to mend it; nothing if it is sound.

    Args:
        node: name of the node, for the sentences.
        dataset: the node, its dimensions already checked.
        seen: `[band, sample]` reflectances drawn from the usable pixels, NaN where a pixel is not usable.
    """
    names = [str(name) for name in dataset["band"].values]
    unknown = [name for name in names if name not in BANDS]
    where = f"in node '{node}', variable 'reflectance'"
    if unknown:
        yield f"Unknown band '{unknown[0]}' {where}, index {names.index(unknown[0])}: name bands {' '.join(BANDS)}."
        return
    ordered = [name for name in BANDS if name in names]
    if names != ordered:
        # a band given twice leaves `ordered` shorter than `names`
        index = next((i for i, name in enumerate(ordered) if names[i] != name), len(ordered))
        yield (
            f"Band '{names[index]}' out of order of wavelength or given twice {where}, band index {index}: "
            f"check which band is which, then reorder data and names together to {' '.join(ordered)}."
        )
        return
    yield from _scale_faults(where, seen)
    yield from _offset_faults(where, names, seen, dataset.attrs)
    yield from _angle_faults(node, dataset)


def _scale_faults(where: str, seen: np.ndarray) -> Iterator[str]:
    # Cloud and snow reach 1.6; a scene whose brightest percent stays below 0.02 does not exist on land.
    high = np.nanpercentile(seen, 99)
    if high > 200:
        yield f"Values up to {high:.0f} (scaled by 10000) {where}: divide by 10000 to get reflectance in 0-1."
    elif high > 2:
        yield f"Values up to {high:.1f} (percent) {where}: divide by 100 to get reflectance in 0-1."


def _offset_faults(where: str, names: list[str], seen: np.ndarray, attrs: Mapping[str, object]) -> Iterator[str]:
    if attrs.get("simulated"):
        return
    baseline = _baseline(attrs)
    negative = [np.mean(row[np.isfinite(row)] < -0.02) if np.isfinite(row).any() else 0.0 for row in seen]
    worst = int(np.argmax(negative))
    if negative[worst] > 0.1:
        cause = "on a product that has none" if baseline is not None and baseline < 4 else "twice"
        yield (
            f"Reflectance below -0.02 in {negative[worst]:.0%} of the usable values {where}, band {names[worst]}: "
            f"the offset of -1000 was probably applied {cause}, so add 0.1 back."
        )
        return
    if (baseline is not None and baseline < 4) or bool(attrs.get("offset_applied", False)):
        return
    # Without the offset every floor is lifted by 0.1, alike in all visible bands. Bright soil has high floors as well,
    # but they rise from blue to red; hence the bound on their spread.
    dark = [np.nanpercentile(row, 1) for row in seen if np.isfinite(row).any()]
    visible = [np.nanpercentile(seen[names.index(n)], 1) for n in ("B02", "B03", "B04") if n in names]
    enough = baseline is not None or np.isfinite(seen).sum() >= 100 * len(names)
    lifted = enough and len(visible) >= 2 and min(dark) > 0.085 and max(visible) < 0.17 and np.ptp(visible) < 0.05
    if lifted:
        yield (
            f"The darkest pixels have reflectance {min(dark):.2f} in all bands {where}: the offset of -1000 (baseline "
            "04.00 and later) is probably still in, so subtract 0.1, or set the attribute 'offset_applied' to 1 if not."
        )


def _baseline(attrs: Mapping[str, object]) -> float | None:
    """Processing baseline as a number ("04.00", "N0400" and 4.0 all give 4.0), None where it is not known."""
    text = str(attrs.get("processing_baseline", "")).lstrip("Nn")
    try:
        return float(text) if "." in text else float(text) / (100 if len(text) == 4 else 1)
    except ValueError:
        return None


def _angle_faults(node: str, dataset: xr.Dataset) -> Iterator[str]:
    for name in ANGLES:
        values = dataset[name].values
        where = f"in node '{node}', variable '{name}'"
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            yield f"Angle that is not finite {where}, index {tuple(bad[0].tolist())}: give the angle or drop the date."
            return
        largest = np.abs(values).max()
        radians = str(dataset[name].attrs.get("units", "degree")).startswith("rad")
        # The sun stands never within 1.6 degrees of the zenith on a morning orbit; relative azimuths that are many
        # and all within pi are no coincidence either. View zenith near nadir is a fair value and cannot tell.
        radians |= name == "sza" and largest <= 1.6
        radians |= name == "raa" and 0 < largest <= 3.2 and np.unique(values).size >= 3
        if radians:
            yield f"Angles up to {largest:.2f} (radians) {where}: convert to degrees and set units to 'degree'."
        elif name == "raa" and largest > 360:
            yield f"Angle of {largest:.1f} degrees {where}: give the azimuth difference within -360 to 360 degrees."
        elif name != "raa" and (values.min() < 0 or values.max() >= 90):
            index = tuple(np.argwhere((values < 0) | (values >= 90))[0].tolist())
            yield (
                f"Angle of {values[index]:.1f} degrees {where}, index {index}: give zenith angles within 0 to 90 "
                "(a sun below the horizon often means dates that are not in UTC)."
            )
