"""Sentinel-1: from digital numbers to a node of the cube, decibels and power, and what is refused in a radar node.

A node holds backscatter as linear power (sigma0 or gamma0). Decibels are for axes and likelihoods: averages over looks,
pixels or dates are averages of power. Readers of images and stores are in `pi_vae.data.readers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

__all__ = [
    "CALIBRATIONS", "NOMINAL_INCIDENCE", "POLARISATIONS",
    "db_to_linear", "dn_to_linear", "faults", "incidence_angles", "linear_to_db", "relative_orbit", "s1_node",
]  # fmt: skip

POLARISATIONS = ("VV", "VH")
CALIBRATIONS = ("sigma0", "gamma0")

#: Stand-in [degree] where a product carries no incidence angle: the middle of the IW swath (31-46 degrees).
NOMINAL_INCIDENCE = 38.5
SWATH = (27.0, 48.0)  # degrees, with what the orbit below may err

#: Satellite -> absolute orbits, each counted as relative orbit 1 from the absolute orbit that comes first in the pair
#: on. Sentinel-1C was moved in June 2026; 8018 was the last orbit of its images before.
FIRST_ORBITS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "S1A": ((0, 73),), "S1B": ((0, 27),), "S1C": ((0, 172), (8019, 99)), "S1D": ((0, 42),),
}  # fmt: skip
ORBITS = 175  # of a cycle

# Sun-synchronous orbit: inclination [degree], period [s], altitude above 50 degrees north [km], mean solar time of
# its ascending node [h]; Earth's radius [km] and rotation against the mean sun [rad/s].
INCLINATION, PERIOD, ALTITUDE, NODE = 98.18, 5924.6, 700.0, 18.0
EARTH, ROTATION = 6371.0, 2 * np.pi / 86400


def db_to_linear(db: np.ndarray | float) -> np.ndarray:
    """Linear power ``10^(db / 10)`` of decibels; same shape, > 0."""
    return np.power(10.0, np.asarray(db) / 10.0)


def linear_to_db(power: np.ndarray) -> np.ndarray:
    """Decibels ``10 log10(power)``; same shape, NaN where the power is not positive."""
    power = np.asarray(power)
    return 10.0 * np.log10(np.where(power > 0, power, np.nan))


def relative_orbit(platform: str, absolute: int) -> int:
    """Relative orbit of an absolute one (ESA, SentiWiki, Sentinel-1 products: naming convention).

    Args:
        platform: ``"S1A"``, ``"S1B"``, ``"S1C"`` or ``"S1D"``.
        absolute: number since launch, as in the names of products.

    Returns:
        1-175, alike for passes over the same track.

    Raises:
        ValueError: an unknown satellite.

    Example:
        >>> relative_orbit("S1A", 18302), relative_orbit("S1B", 7231)
        (30, 30)
    """
    if platform not in FIRST_ORBITS:
        raise ValueError(f"Unknown satellite '{platform}': give one of {', '.join(FIRST_ORBITS)}.")
    first = [first for since, first in FIRST_ORBITS[platform] if absolute >= since][-1]
    return (absolute - first) % ORBITS + 1


def incidence_angles(times: np.ndarray, lon: float, lat: float, ascending: np.ndarray) -> np.ndarray:
    """Incidence over a flat surface from the moment and direction of a pass.

    The satellite keeps its local solar time, so that the moment at which it comes by gives the longitude of its track,
    and the distance to the track the angle. Start times of products are up to half a minute early, and the node moves
    by some minutes: together about a degree. Circular orbit with the elements of Sentinel-1 (ESA, Sentinel-1 SAR
    technical guide: dusk-dawn, 175 revolutions in 12 days, 98.18 degrees, 693 km above the equator).

    Args:
        times: `[time]` UTC, with the time of day.
        lon, lat: of the place, in degrees.
        ascending: `[time]` bool, true where the satellite flew north.

    Returns:
        `[time]` degrees; NaN where a satellite that looks to the right cannot have seen the place at that moment.
    """
    times = np.asarray(times, "datetime64[s]")
    seconds = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "s")
    tilt, phi = np.radians(INCLINATION), np.radians(lat)
    if abs(np.sin(phi)) >= np.sin(tilt):
        return np.full(len(times), np.nan)
    along = np.arcsin(np.sin(phi) / np.sin(tilt))  # argument of latitude
    along = np.where(ascending, along, np.pi - along)
    since = along / (2 * np.pi) * PERIOD
    node = 2 * np.pi * (NODE / 24 - (seconds - since) / 86400)  # its longitude
    track = node + np.arctan2(np.cos(tilt) * np.sin(along), np.cos(along)) - ROTATION * since
    east = np.mod(np.radians(lon) - track + np.pi, 2 * np.pi) - np.pi
    heading = np.arcsin(np.cos(tilt) / np.cos(phi))
    right = east * np.cos(phi) * np.cos(np.where(ascending, heading, np.pi - heading))
    look = np.arctan2(EARTH * np.sin(right), EARTH + ALTITUDE - EARTH * np.cos(right))
    angle = np.degrees(look + right)
    return np.where((angle > SWATH[0]) & (angle < SWATH[1]), angle, np.nan).astype(np.float32)


def dn_to_linear(dn: np.ndarray, *, calibration_db: float = 83.0, nodata: int = 65535) -> np.ndarray:
    """Linear power of amplitude digital numbers, ``dB = 20 log10(dn) - calibration_db``.

    Args:
        dn: digital numbers of any shape.
        calibration_db: calibration constant [dB].
        nodata: digital number that means "no data"; 0 means it as well, as it has no decibels.

    Returns:
        float32 array of the same shape, > 0, NaN where there is no data.
    """
    dn = np.asarray(dn)
    amplitude = np.where((dn == nodata) | (dn == 0), np.nan, dn.astype(np.float64))
    return (amplitude**2 * db_to_linear(-calibration_db)).astype(np.float32)


def s1_node(
    backscatter: np.ndarray,
    time: np.ndarray,
    pol: Sequence[str] = POLARISATIONS,
    *,
    calibration: str = "sigma0",
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    incidence: np.ndarray | float | None = None,
    orbit_pass: Sequence[str] | None = None,
    relative_orbit: Sequence[int] | None = None,
    platform: Sequence[str] | None = None,
    crs: object | None = None,
    attrs: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """A radar node of the cube; `pi_vae.data.validate` judges it, this only lays it out.

    Args:
        backscatter: `[time, pol, y, x]` on a grid or `[time, pol, point]`, linear power > 0.
        time: `[time]` datetime64, UTC, increasing.
        pol: polarisations, ``VV`` before ``VH``.
        calibration: ``"sigma0"`` or ``"gamma0"``.
        x, y: coordinates `[x]`, `[y]` of the pixel centres, or both `[point]`; left out if not given.
        valid: `[time, y, x]` or `[time, point]`, true = usable; by default where all polarisations are finite.
        incidence: degrees, a number, `[time]`, or shaped as ``valid``; left out if not given.
        orbit_pass: `[time]`, ``"ascending"`` or ``"descending"``.
        relative_orbit: `[time]`, 1-175.
        platform: `[time]`, such as ``"S1A"``.
        crs: anything that `rio.write_crs` reads, such as ``"EPSG:32631"``.
        attrs: further attributes of the node.

    Returns:
        Dataset with float32 ``backscatter``, bool ``valid``, what else was given, and coordinates with CF attributes.
    """
    backscatter = np.asarray(backscatter, np.float32)
    pixel = ("y", "x") if backscatter.ndim == 4 else ("point",)
    if valid is None:
        valid = np.isfinite(backscatter).all(axis=1)
    dataset = xr.Dataset(
        {
            "backscatter": (
                ("time", "pol", *pixel),
                backscatter,
                {"long_name": f"backscatter coefficient {calibration}, linear power", "units": "1"},
            ),
            "valid": (("time", *pixel), np.asarray(valid, bool), {"long_name": "usable observation"}),
        },
        coords={
            "time": ("time", np.asarray(time, "datetime64[ns]"), {"standard_name": "time"}),
            "pol": ("pol", [str(name) for name in pol], {"long_name": "polarisation"}),
        },
        attrs={"calibration": calibration, **(attrs or {})},
    )
    if incidence is not None:
        incidence = np.asarray(incidence, np.float32)
        incidence = np.full(len(time), incidence) if incidence.ndim == 0 else incidence
        dims: str | tuple[str, ...] = ("time",) if incidence.ndim == 1 else ("time", *pixel)
        dataset["incidence"] = (dims, incidence, {"long_name": "incidence angle", "units": "degree"})
    for name, value in (("orbit_pass", orbit_pass), ("platform", platform)):
        if value is not None:
            dataset[name] = ("time", np.asarray(value, object), {"long_name": name.replace("_", " ")})
    if relative_orbit is not None:
        dataset["relative_orbit"] = ("time", np.asarray(relative_orbit, np.int16), {"long_name": "relative orbit"})
    for name, centres in (("x", x), ("y", y)):
        if centres is not None:
            dims = name if backscatter.ndim == 4 else "point"
            meta = {"standard_name": f"projection_{name}_coordinate", "units": "m"}
            dataset = dataset.assign_coords({name: (dims, np.asarray(centres), meta)})
    if crs is None:
        return dataset
    import rioxarray  # noqa: F401  (registers the .rio accessor; two seconds)

    return dataset.rio.write_crs(crs)


def faults(node: str, dataset: xr.Dataset, seen: np.ndarray) -> Iterator[str]:
    """Sentences that say what is wrong with a radar node and how to mend it; nothing if it is sound.

    Args:
        node: name of the node, for the sentences.
        dataset: the node, its dimensions already checked.
        seen: `[pol, sample]` backscatter drawn from the usable pixels, NaN where a pixel is not usable.
    """
    names = [str(name) for name in dataset["pol"].values]
    if names != [name for name in POLARISATIONS if name in names]:
        yield (
            f"Polarisations {' '.join(names)} in node '{node}', variable 'backscatter': "
            "give VV and VH (or one of them), VV first, and reorder data and names together."
        )
        return
    calibration = dataset.attrs.get("calibration")
    if calibration not in CALIBRATIONS:
        yield (
            f"Calibration {calibration!r} in node '{node}', attribute 'calibration': "
            "set it to 'sigma0' or 'gamma0', whichever the backscatter is."
        )
    yield from _power_faults(f"in node '{node}', variable 'backscatter'", names, dataset, seen)
    yield from _incidence_faults(node, dataset)
    yield from _orbit_faults(node, dataset)


def _power_faults(where: str, names: list[str], dataset: xr.Dataset, seen: np.ndarray) -> Iterator[str]:
    low, middle = np.nanpercentile(seen, [5, 50])
    declared_db = str(dataset["backscatter"].attrs.get("units", "")).lower() == "db"
    if middle < 0:
        yield f"Negative values (median {middle:.1f}, decibels) {where}: convert to linear power with db_to_linear."
    elif declared_db:
        yield (
            f"Units 'dB' declared but positive values (median {middle:.3g}) {where}: "
            "these look like linear power already, so set units to '1' and do not convert."
        )
    elif middle > 20:
        yield f"Raw digital numbers (median {middle:.0f}) {where}: calibrate to linear power, see dn_to_linear."
    elif low >= 1:
        yield (
            f"Power of at least {low:.2f} in 95 % of the values {where}: more than land scatters, "
            "probably linear power converted from decibels once too often, so leave out the conversion."
        )
    elif np.nanmin(seen) <= 0:
        pol = names[int(np.argwhere(seen <= 0)[0][0])]
        yield (
            f"Power of {np.nanmin(seen):.3g} in usable pixels {where}, pol {pol}: "
            "power is positive, so set 'valid' to false where it is not."
        )


def _incidence_faults(node: str, dataset: xr.Dataset) -> Iterator[str]:
    values = dataset["incidence"].values
    where = f"in node '{node}', variable 'incidence'"
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        yield f"Angle that is not finite {where}, index {tuple(bad[0].tolist())}: give the angle or drop the date."
    elif np.median(values) < 2 or str(dataset["incidence"].attrs.get("units", "degree")).startswith("rad"):
        yield f"Angles about {np.median(values):.2f} (radians) {where}: convert to degrees and set units to 'degree'."
    elif values.min() < 10 or values.max() > 80:
        index = tuple(np.argwhere((values < 10) | (values > 80))[0].tolist())
        yield f"Angle of {values[index]:.1f} degrees {where}, index {index}: give incidence within 10 to 80 degrees."


def _orbit_faults(node: str, dataset: xr.Dataset) -> Iterator[str]:
    for name in ("orbit_pass", "relative_orbit"):
        if name in dataset and dataset[name].dims != ("time",):
            yield f"Dimensions {dataset[name].dims} in node '{node}', variable '{name}': give one per date (time)."
            return
    if "orbit_pass" in dataset and "relative_orbit" not in dataset:
        passes = sorted({str(name).lower() for name in dataset["orbit_pass"].values})
        if len(passes) > 1:
            yield (
                f"Mixed orbit passes ({', '.join(passes)}) without 'relative_orbit' in node '{node}', variable "
                "'orbit_pass': add relative_orbit (time), as look direction changes the signal, or keep one pass."
            )
