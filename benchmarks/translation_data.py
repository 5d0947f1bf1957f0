"""Monthly series of both sensors, split into pixels to learn from and pixels to score, and gaps to fill.

``france`` (Corsica), ``flanders`` and ``global`` (East Africa) are points with crop codes; points without radar, with
fewer than `FEWEST` optical dates, or within about 10 m of another are left out. ``patch`` is a square kilometre of
Belgium as a grid: what is split and hidden there are blocks of `BLOCK` pixels a side, and what is compared is a lattice
of its pixels. All dates are common to both sensors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from forecast_data import DAILY_BANDS, DAY, measured, monthly
from scipy.ndimage import uniform_filter

from pi_vae.data import complete
from pi_vae.data.samples import SAMPLES
from pi_vae.data.sentinel1 import dn_to_linear, linear_to_db, s1_node
from pi_vae.data.sentinel2 import s2_node

__all__ = ["SETS", "Scene", "Split", "gap_lengths", "gaps", "ndvi", "split", "with_ndvi"]

FEWEST = 6  # optical dates of a point
BLOCK = 20  # pixels
WINDOWS = (5, 13)  # pixels; the encoder's own means
SCORED = 0.25  # share of the pixels; for regions between 0.2 and 0.4
HIDDEN = 0.2  # share of the dates in random gaps
MONTHS = (2, 3, 4, 6)  # lengths of block gaps
LEFT = 3  # dates that a gap leaves at least
PATCH = "worldcereal_patch_belgium"


@dataclass
class Scene:
    """Series of one set; `P` pixels, `T` dates.

    Attributes:
        cube: nodes ``s2`` and ``s1``, points or a grid.
        bands: names of the optical bands.
        optical: `[P, T, C]` reflectance of the bands and, last, NDVI; NaN where nothing usable was measured.
        radar: `[P, T, R]` VV and VH in dB, on a grid followed by those of the mean power around the pixel; or NaN.
        weather: `[P, T, 2]` air temperature [K] and precipitation [mm] of the month.
        at: `[P, 2]` row and column of the pixels in the cube; the column of points is 0.
        unit: `[P]` number of the pixel or block that is split and hidden as one.
        region: `[P]` name of the region.
        cell: `[P]` number of the square of about 2 km.
        code: `[P]` crop code, or 0.
    """

    cube: xr.DataTree
    bands: tuple[str, ...]
    optical: np.ndarray
    radar: np.ndarray
    weather: np.ndarray
    at: np.ndarray
    unit: np.ndarray
    region: np.ndarray
    cell: np.ndarray
    code: np.ndarray

    @property
    def grid(self) -> bool:
        return "point" not in self.cube["s1"].dims

    @property
    def days(self) -> np.ndarray:
        """`[T]` days since the first date."""
        times = self.cube["s2"].time.values
        return (times - times[0]) / DAY

    @property
    def channels(self) -> tuple[str, ...]:
        return (*self.bands, "NDVI")

    def pick(self, chosen: np.ndarray) -> Scene:
        """The same with some of the pixels; the cube of a grid stays whole."""
        arrays = ("optical", "radar", "weather", "at", "unit", "region", "cell", "code")
        few = dataclasses.replace(self, **{name: getattr(self, name)[chosen] for name in arrays})
        if not self.grid:
            nodes = {n: c.to_dataset().isel(point=self.at[chosen, 0]) for n, c in self.cube.children.items()}
            at = np.stack([np.arange(len(few.at)), few.at[:, 1]], 1)
            few = dataclasses.replace(few, cube=xr.DataTree.from_dict(nodes), at=at, unit=np.arange(len(at)))
        return few

    def thinned(self, points: int) -> Scene:
        """The same with at most so many points, evenly chosen; on a grid a lattice of at most three times as many."""
        if not self.grid:
            return self.pick(np.unique(np.linspace(0, len(self.at) - 1, min(points, len(self.at))).astype(int)))
        step = int(np.ceil(np.sqrt(len(self.at) / (3 * points))))
        return self.pick(np.flatnonzero((self.at % step == step // 2).all(1)))


@dataclass
class Split:
    """Pixels to learn from and pixels to score, as indices, and the cubes that go with them.

    Attributes:
        scene: all pixels.
        train, scored: indices of pixels; no unit (or region) is on both sides.
        groups: `[P]` what stays together in cross-validation, so that it asks the same kind of question.
    """

    scene: Scene
    train: np.ndarray
    scored: np.ndarray
    groups: np.ndarray

    def pixels(self) -> list[tuple[int, int]] | None:
        """Where the scored pixels lie in the scored cubes; none given: all of them, in order."""
        return [tuple(map(int, place)) for place in self.scene.at[self.scored]] if self.scene.grid else None

    def training_cube(self) -> xr.DataTree:
        """Both sensors, without anything of the scored pixels: points are not in it, blocks hold nothing usable."""
        if not self.scene.grid:
            return self._points(self.train)
        return self._within(np.isin(self._unit_map(), self.scene.unit[self.train]), ("s2", "s1"))

    def radar_cube(self) -> xr.DataTree:
        """Radar at the scored pixels (on a grid everywhere) and no optical node."""
        cube = self.scene.cube if self.scene.grid else self._points(self.scored)
        return xr.DataTree.from_dict({"s1": cube["s1"].to_dataset()})

    def scored_cube(self, hidden: np.ndarray | None = None) -> xr.DataTree:
        """Both sensors at the scored pixels; on a grid radar everywhere, and optical data in the scored blocks alone.

        Args:
            hidden: `[scored, T]` dates at which optical data are withheld.
        """
        units = self.scene.unit[self.scored]
        if self.scene.grid:
            cube = self._within(np.isin(self._unit_map(), units), ("s2",))
            mask = np.zeros((len(self.scene.days), *self._unit_map().shape), bool)
            for unit in np.unique(units) if hidden is not None else ():
                mask[:, self._unit_map() == unit] = hidden[units == unit].any(0)[:, None]
        else:
            cube = self._points(self.scored)
            mask = np.zeros((len(self.scene.days), len(self.scored)), bool) if hidden is None else hidden.T
        nodes = {name: node.to_dataset() for name, node in cube.children.items()}
        nodes["s2"]["withheld"] = (nodes["s2"].valid.dims, mask & nodes["s2"].valid.values)
        return xr.DataTree.from_dict(nodes)

    def _points(self, chosen: np.ndarray) -> xr.DataTree:
        nodes = {n: c.to_dataset().isel(point=chosen) for n, c in self.scene.cube.children.items()}
        return xr.DataTree.from_dict(nodes)

    def _unit_map(self) -> np.ndarray:
        valid = self.scene.cube["s1"].valid
        return _blocks(valid.sizes["y"], valid.sizes["x"])

    def _within(self, inside: np.ndarray, names: tuple[str, ...]) -> xr.DataTree:
        """The grid with nothing usable outside of a mask `[y, x]` in the nodes named."""
        keep, nodes = (
            xr.DataArray(inside, dims=("y", "x")),
            {n: c.to_dataset() for n, c in self.scene.cube.children.items()},
        )
        for name in names:
            values = "reflectance" if "reflectance" in nodes[name] else "backscatter"
            node = nodes[name]
            nodes[name] = node.assign(valid=node.valid & keep, **{values: node[values].where(keep)})
        return xr.DataTree.from_dict(nodes)


def split(scene: Scene, kind: str, seed: int) -> Split | None:
    """Split by ``"pixel"`` or by ``"region"``; none where a set has one region only.

    By pixel, a quarter of the points or blocks is scored, at random. By region, whole regions are, in random order as
    long as they stay below two fifths of the pixels.
    """
    rng = np.random.default_rng(seed)
    if kind == "pixel":
        groups = scene.unit
        names = np.unique(groups)
        scored = rng.choice(names, max(1, round(SCORED * len(names))), replace=False)
    else:
        groups = scene.region
        names, counts = np.unique(groups, return_counts=True)
        scored, share = [], 0.0
        for i in rng.permutation(len(names)):
            if share < 0.2 and share + counts[i] / len(groups) <= 0.4:
                scored, share = [*scored, names[i]], share + counts[i] / len(groups)
        if not scored or len(scored) == len(names):
            return None
    asked = np.isin(groups, scored)
    left = groups[~asked]
    # A single region left: cross-validation asks for other cells of it.
    groups = groups if len(np.unique(left)) > 1 else scene.cell
    return Split(scene, np.flatnonzero(~asked), np.flatnonzero(asked), groups)


def gaps(kind: str, usable: np.ndarray, unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hide a fifth of the usable dates at random (``"random"``) or some successive dates (``"block"``).

    Args:
        kind: ``"random"``, or ``"block"``: a length of `MONTHS` dates, at random, between dates that stay.
        usable: `[P, T]` bool.
        unit: `[P]` pixels of one unit are hidden together.
        rng: source of randomness.

    Returns:
        `[P, T]` bool, a subset of the usable; nothing where fewer than `LEFT` dates would be left.
    """
    hidden = np.zeros_like(usable)
    for name in np.unique(unit):
        dates = np.flatnonzero(usable[unit == name].any(0))
        if kind == "random":
            count = max(1, round(HIDDEN * len(dates)))
            chosen = rng.choice(dates, count, replace=False) if len(dates) - count >= LEFT else []
        else:
            chosen = _successive(dates, usable.shape[1], rng)
        mask = np.isin(np.arange(usable.shape[1]), chosen)
        hidden |= (unit == name)[:, None] & mask
    return hidden & usable


def _successive(dates: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Usable dates inside a block that has usable dates before and after it."""
    for _ in range(50):
        months = rng.choice(MONTHS)
        if months > length - 2:
            continue
        start = rng.integers(1, length - months)
        inside = (dates >= start) & (dates < start + months)
        around = dates[0] < start and dates[-1] >= start + months
        if inside.any() and around and (~inside).sum() >= LEFT:
            return dates[inside]
    return dates[:0]


def gap_lengths(seen: np.ndarray) -> np.ndarray:
    """`[P, T]` number of successive unseen dates that a date is one of; 0 where it is seen."""
    lengths = np.zeros(seen.shape, int)
    for row, mask in zip(lengths, seen, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], ~mask, [False]]).astype(int)))
        for start, stop in edges.reshape(-1, 2):
            row[start:stop] = stop - start
    return lengths


def ndvi(reflectance: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """Normalised difference of B08 and B04 within -1 to 1, of `[..., C]` reflectances."""
    near, red = reflectance[..., bands.index("B08")], reflectance[..., bands.index("B04")]
    total = near + red
    return np.clip((near - red) / np.where(np.abs(total) > 1e-3, total, 1e-3), -1.0, 1.0)


def with_ndvi(reflectance: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """Bands and, last, NDVI."""
    return np.concatenate([reflectance, ndvi(reflectance, bands)[..., None]], -1)


def _blocks(height: int, width: int) -> np.ndarray:
    """`[y, x]` number of the block that a pixel of the grid lies in."""
    return (np.arange(height) // BLOCK)[:, None] * -(-width // BLOCK) + np.arange(width) // BLOCK


def _points(cube: xr.DataTree, weather: np.ndarray, places: pd.DataFrame) -> Scene:
    """Points with ``lon``, ``lat``, ``tile`` and ``ewoc_code``; weather `[P, T, 2]`, NaN where missing."""
    bands = tuple(str(band) for band in cube["s2"].band.values)
    optical = measured(cube["s2"].to_dataset()).transpose(2, 0, 1)
    lon, lat = places.lon.to_numpy(), places.lat.to_numpy()
    east, north = lon * np.cos(np.deg2rad(lat.mean())) * 111.32, lat * 111.32  # km
    cell = np.unique(np.stack([east // 2, north // 2], 1), axis=0, return_inverse=True)[1].ravel()
    number = np.arange(len(lon))
    scene = Scene(
        cube,
        bands,
        with_ndvi(optical, bands),
        measured(cube["s1"].to_dataset()).transpose(2, 0, 1),
        np.where(np.isfinite(weather), weather, np.nanmean(weather, 0)),
        np.stack([number, np.zeros_like(number)], 1),
        number,
        places.tile.to_numpy().astype(str),
        cell,
        places.ewoc_code.to_numpy(),
    )
    first = np.unique(np.round(np.stack([east, north], 1) / 0.011), axis=0, return_index=True)[1]
    seen = np.isfinite(scene.radar).all(-1).any(1) & (np.isfinite(scene.optical).all(-1).sum(1) >= FEWEST)
    return scene.pick(np.flatnonzero(np.isin(number, first) & seen))


def long_table(data: Path, name: str) -> Scene:
    """A set with a row for every point and month."""
    table = pd.read_parquet(data / name / "series.parquet")
    columns = {"AGERA5-TMEAN": 0.01, "AGERA5-PRECIP": 0.01}
    series = [table.pivot(index="sample_id", columns="timestamp", values=column) for column in columns]
    values = np.stack([s.sort_index().to_numpy(np.float64) for s in series], -1)
    missing = (values == 65535) | (values[..., :1] == 0)  # no month has a mean of 0 K
    weather = np.where(missing, np.nan, values) * np.array(list(columns.values()))
    places = table.drop_duplicates("sample_id").set_index("sample_id").sort_index()  # as `monthly` orders points
    return _points(monthly(data, name).cube, weather, places)


def wide_table(data: Path) -> Scene:
    """The global set: a row for every point, a column for every channel and month."""
    table = pd.read_parquet(data / "worldcereal_global_month" / "test_public_extractions.parquet")
    months = 1 + max(int(found[1]) for c in table.columns if (found := re.fullmatch(r"OPTICAL-B02-ts(\d+)-10m", c)))
    starts = pd.date_range(table.start_date.iloc[0], periods=months, freq="MS").to_numpy().astype("datetime64[ns]")
    time = starts + 14 * DAY + np.timedelta64(8 * 60 + 15, "m")

    def laid_out(names: list[str]) -> np.ndarray:
        """`[T, C, P]`, NaN where missing."""
        metres = {name: next(c for c in table.columns if c.startswith(f"{name}-ts0-")).split("-")[-1] for name in names}
        values = [[table[f"{n}-ts{t}-{metres[n]}"].to_numpy(np.float64) for n in names] for t in range(months)]
        return np.where(np.array(values) == 65535, np.nan, np.array(values))

    reflectance = laid_out([f"OPTICAL-{band}" for band in DAILY_BANDS]) / 1e4
    valid = np.isfinite(reflectance).all(1) & (reflectance < 1).all(1) & ((reflectance == 0).sum(1) < 2)
    power = dn_to_linear(np.nan_to_num(laid_out(["SAR-VV", "SAR-VH"])))
    place = {"x": table.lon.to_numpy(), "y": table.lat.to_numpy(), "crs": "EPSG:4326"}
    nodes = {"s2": s2_node(reflectance, time, DAILY_BANDS, valid=valid, **place), "s1": s1_node(power, time, **place)}
    weather = laid_out(["METEO-temperature_mean", "METEO-precipitation_flux"]).transpose(2, 0, 1) * 0.01
    return _points(complete(xr.DataTree.from_dict(nodes)), weather, table)


def grid(data: Path) -> Scene:
    """The Belgian patch."""
    sample = SAMPLES[PATCH]
    cube = complete(sample.loader(data / sample.local))
    nodes = {name: cube[name].to_dataset() for name in ("s2", "s1")}
    bands = tuple(str(band) for band in nodes["s2"].band.values)
    power = np.where(nodes["s1"].valid.values[:, None], nodes["s1"].backscatter.values, np.nan).astype(np.float64)
    around = [_window_mean(power, size) for size in WINDOWS]
    months, _, height, width = power.shape
    row, column = (index.ravel() for index in np.indices((height, width)))

    def series(values: np.ndarray) -> np.ndarray:
        """`[T, C, y, x]` -> `[pixel, T, C]`."""
        return values.transpose(2, 3, 0, 1).reshape(height * width, months, -1)

    drivers = [cube["drivers"][name].values for name in ("air_temperature", "precipitation")]
    weather = np.stack([d if d.ndim == 1 else d.mean((1, 2)) for d in drivers], -1)
    return Scene(
        xr.DataTree.from_dict(nodes),
        bands,
        with_ndvi(series(measured(nodes["s2"])), bands),
        series(linear_to_db(np.concatenate([power, *around], 1))),
        np.broadcast_to(weather, (height * width, *weather.shape)).copy(),
        np.stack([row, column], 1),
        _blocks(height, width).ravel(),
        np.full(height * width, "Belgium"),
        np.zeros(height * width, int),
        np.zeros(height * width, int),
    )


def _window_mean(power: np.ndarray, size: int) -> np.ndarray:
    """Mean of `[T, C, y, x]` over what is finite in a square window."""
    ok = np.isfinite(power)
    window = (1, 1, size, size)
    total = uniform_filter(np.where(ok, power, 0.0), window, mode="constant")
    share = uniform_filter(ok.astype(float), window, mode="constant")
    return np.where(share > 1e-9, total / np.maximum(share, 1e-9), np.nan)


#: name -> reader of the folder of all data
SETS: dict[str, Callable[[Path], Scene]] = {
    "france": lambda data: long_table(data, "worldcereal_fra2022_month"),
    "flanders": lambda data: long_table(data, "worldcereal_flanders2021_month"),
    "global": wide_table,
    "patch": grid,
}
