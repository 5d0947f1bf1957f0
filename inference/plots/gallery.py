"""`write_gallery`: every public figure from the folder of a demo, as PNG files with an index that shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from inference.calibration import coverage, observed, simulation_based_calibration
from inference.discovery import Laws
from inference.discovery.figures import laws_figure, residual_law
from inference.plots.calibration import coverage_curves, rank_ecdf
from inference.plots.maps import residual_map, variable_map
from inference.plots.series import pixel_series, residual_series
from inference.plots.skill import elbo, reconstruction, withheld_skill
from inference.plots.spectra import spectrum
from inference.plots.variables import corner, phenology
from inference.training import load
from pi_vae.data.kinds import kind_of

__all__ = ["write_gallery"]

DPI = 110
WANTED = ("posterior.nc", "maps.zarr", "metrics.json", "laws.json", "run")


def write_gallery(folder: str | Path, output: str | Path, pixel: int = 0) -> Path:
    """Draw every public figure from the folder of a demo.

    Args:
        folder: what `inference.demo` wrote: ``posterior.nc``, ``maps.zarr``, ``metrics.json``, ``laws.json``, ``run``.
        output: folder of the PNG files and of ``README.md``, which shows them; made where it does not exist.
        pixel: position along ``pixel`` of the posterior, for figures of one pixel.

    Returns:
        Path of ``README.md``. A figure that the folder has nothing for, such as the season of a model without one, is
        listed there with the reason.

    Raises:
        FileNotFoundError: a part of the demo is missing.
        ValueError: there is no such pixel.
    """
    folder, output = Path(folder), Path(output)
    for name in WANTED:
        if not (folder / name).exists():
            raise FileNotFoundError(f"No {name} in {folder}: give the folder that pi-vae demo wrote.")
    tree = xr.open_datatree(folder / "posterior.nc", engine="h5netcdf").load()
    count = tree["posterior"].sizes["pixel"]
    if not 0 <= pixel < count:
        raise ValueError(f"The posterior holds no pixel {pixel}: give one of 0 to {count - 1}.")
    output.mkdir(parents=True, exist_ok=True)
    lines = ["# Gallery", "", f"Figures of `{folder.name}`, drawn by `python -m inference.plots`.", ""]
    for name, call, function, arguments in _figures(folder, tree, pixel):
        lines += [f"## {name}", "", (function.__doc__ or "").partition("\n")[0], "", f"    {call}", ""]
        try:
            function(*arguments()).savefig(output / f"{name}.png", dpi=DPI)
        except ValueError as reason:
            lines += [f"Not drawn: {reason}", ""]
            (output / f"{name}.png").unlink(missing_ok=True)
        else:
            lines += [f"![{name.replace('_', ' ')}]({name}.png)", ""]
    index = output / "README.md"
    index.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return index


Call = tuple[str, str, Callable[..., Figure], Callable[[], tuple[Any, ...]]]


def _figures(folder: Path, tree: xr.DataTree, pixel: int) -> Iterator[Call]:
    """Name of the file, how it is called, the function and what it is called with."""
    maps = xr.open_zarr(folder / "maps.zarr", consolidated=False).load()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    laws = Laws.from_json(folder / "laws.json")
    for name in ("lai", "cab", "soil_moisture", "ala"):
        if f"{name}_mean" in maps:
            yield f"variable_map_{name}", f'variable_map(maps, "{name}")', variable_map, partial(_same, maps, name)
    modalities = [str(d).removesuffix("_channel") for d in maps.sizes if str(d).endswith("_channel")]
    for name in modalities:
        if f"residual_{name}_mean" in maps:
            yield f"residual_map_{name}", f'residual_map(maps, "{name}")', residual_map, partial(_same, maps, name)
    yield "pixel_series", f"pixel_series(tree, {pixel})", pixel_series, lambda: (tree, pixel)
    for name in modalities:
        if f"residual_{name}" in tree["posterior"]:
            call = f'residual_series(tree, {pixel}, "{name}")'
            yield f"residual_series_{name}", call, residual_series, partial(_same, tree, pixel, name)
    yield "phenology", f"phenology(tree, {pixel})", phenology, lambda: (tree, pixel)
    yield "corner", f"corner(tree, {pixel})", corner, lambda: (tree, pixel)
    yield "spectrum", f"spectrum(tree, {pixel})", spectrum, lambda: (tree, pixel)
    yield "reconstruction", "reconstruction(maps, cube)", reconstruction, lambda: _at_pixels(maps, tree, modalities)
    yield "withheld_skill", "withheld_skill(scores)", withheld_skill, lambda: (metrics["withheld"],)
    yield "elbo", "elbo(run.history)", elbo, lambda: (load(folder / "run").history,)
    yield "coverage_curves", "coverage_curves(coverage(*observed(tree)))", coverage_curves, lambda: (
        coverage(*observed(tree)),
    )  # fmt: skip
    yield "rank_ecdf", "rank_ecdf(simulation_based_calibration(*observed(tree)))", rank_ecdf, lambda: (
        simulation_based_calibration(*observed(tree)),
    )  # fmt: skip
    yield "laws_figure", "laws_figure(laws)", laws_figure, lambda: (laws,)
    yield "residual_law", f'residual_law(tree, laws, "{laws.modality}")', residual_law, lambda: (
        tree, laws, laws.modality,
    )  # fmt: skip


def _same(*arguments: Any) -> tuple[Any, ...]:
    return arguments


def _at_pixels(maps: xr.Dataset, tree: xr.DataTree, modalities: list[str]) -> tuple[xr.Dataset, xr.DataTree]:
    """The maps and, from the posterior, the observations of its pixels, as maps and cube of points.

    The folder of a demo does not hold its cube; observations that were withheld are not in the posterior either.
    """
    place = {axis: tree["posterior"][f"pixel_{key}"].variable for axis, key in (("y", "row"), ("x", "column"))}
    points = maps.drop_vars(["y", "x"]).isel(place).rename(pixel="y").expand_dims("x", -1)
    nodes = {}
    for name in modalities:
        if f"{name}_mean" not in maps or name not in tree["observed_data"]:
            continue
        kind, values = kind_of(name), tree["observed_data"][name]
        values = values.rename({"pixel": "point", f"{name}_time": "time", f"{name}_channel": kind.channel})
        values = values.drop_vars(["x", "y", "pixel_row", "pixel_column", "point"], errors="ignore")
        values = kind.from_likelihood(values.transpose("time", kind.channel, "point"))
        valid = np.isfinite(values).all(kind.channel)
        nodes[name] = xr.Dataset({kind.values: values, "valid": valid})
    return points, xr.DataTree.from_dict(nodes)
