"""The main job from end to end: a real cube in; posterior, maps, figures, laws, scores and a report out."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from rich.console import Console

from inference import plots
from inference.discovery import Template, discover
from inference.discovery.figures import residual_law
from inference.evaluation import withheld_scores
from inference.export import export_geotiff
from inference.posterior import posterior
from inference.prediction import predict
from inference.report import write_report
from inference.training import Run, fit
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import open_cube, pattern, simulate, withhold
from pi_vae.data.samples import SampleError
from pi_vae.variables import CATALOGUE
from pi_vae.versions import versions

__all__ = ["demo"]

log = logging.getLogger(__name__)
SAMPLE = "worldcereal_patch_belgium"
MAPPED = ("lai", "cab", "soil_moisture")
AT_BOUND = 0.01  # of the width of the support
OPERATORS = ("add", "sub", "mul", "div", "exp", "log", "sqrt", "square")  # waves in a physical variable are no physics


@dataclass(frozen=True)
class Effort:
    """How much work each stage does."""

    steps: int
    pixels: int
    draws: int
    map_draws: int
    score_draws: int


FULL = Effort(steps=1000, pixels=250, draws=100, map_draws=48, score_draws=64)
QUICK = Effort(steps=150, pixels=60, draws=50, map_draws=16, score_draws=24)


def demo(
    output: str | Path = "demo", quick: bool = False, seed: int = 0, source: str = SAMPLE, progress: bool = True
) -> dict:
    """Fit the whole model to a cube and write what a scientist came for.

    The products are built beside the output folder and moved there when they are complete, so that a failure leaves
    what was there before.

    Args:
        output: folder of the products; an earlier one is replaced.
        quick: the small form: same stages, fewer steps and draws.
        seed: of everything random.
        source: a sample or a file of a cube. If the default sample cannot be had, the simulator stands in and says so.
        progress: say what is being done, and what was found.

    Returns:
        The content of ``metrics.json``.

    Raises:
        FileNotFoundError: there is no such cube.
        CubeError: it breaks the data contract.
    """
    output, effort, console = Path(output), QUICK if quick else FULL, Console(stderr=True, quiet=not progress)
    torch.manual_seed(seed)
    cube, origin = _cube(source, seed, console)
    cube = withhold(cube, fraction=0.1, block=10, seed=seed)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "figures").mkdir(parents=True)
    seconds: dict[str, float] = {}
    try:
        metrics = _build(cube, part, effort, seed, seconds, console)
        metrics["data"] = {"source": origin, **cube.attrs}
        metrics["settings"] |= {"quick": quick, "seed": seed, **vars(effort)}
        _write_json(part / "metrics.json", metrics)
        write_report(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(output, ignore_errors=True)
    part.rename(output)
    console.print(f"Wrote {output}/report.html, posterior.nc, maps/, figures/, laws.json and metrics.json.")
    return metrics


def _build(
    cube: xr.DataTree, folder: Path, effort: Effort, seed: int, seconds: dict[str, float], console: Console
) -> dict:
    @contextmanager
    def stage(name: str):
        start = time.monotonic()
        console.print(f"{name} …")
        yield
        seconds[name] = round(time.monotonic() - start, 1)

    model = PhysicsVAE({"s2": Optical(bands=cube["s2"].band.values), "s1": Radar()})
    with stage("fit"):
        run = fit(
            model,
            cube,
            steps=effort.steps,
            seed=seed,
            device="cpu",
            checkpoint=folder / "run",
            progress=not console.quiet,
        )
    with stage("score"):
        scores = withheld_scores(run, cube, draws=effort.score_draws, seed=seed)
    with stage("maps"):
        maps = predict(run, cube, folder / "maps.zarr", draws=effort.map_draws, seed=seed).load()
        for name in MAPPED:
            for statistic in ("mean", "sd"):
                export_geotiff(maps, name, statistic, folder / "maps" / f"{name}_{statistic}.tif")
    with stage("posterior"):
        tree = posterior(run, cube, draws=effort.draws, pixels=effort.pixels, seed=seed)
        encoding = {"zlib": True, "complevel": 1}
        tree.to_netcdf(
            folder / "posterior.nc",
            engine="h5netcdf",
            encoding={f"/{g}": {v: encoding for v in node.data_vars} for g, node in tree.children.items()},
        )
    with stage("discovery"):
        laws = discover(tree, target="s1", template=Template(operators=OPERATORS), seed=seed)
        laws.to_json(folder / "laws.json")
        console.print(str(laws))
    with stage("figures"):
        _figures(run, cube, maps, tree, laws, scores, folder / "figures")
    return {
        "settings": {"model": model.settings},
        "withheld": scores,
        "laws": len(laws.best),
        "at_bound": at_bound(maps),
        "lai_near_zero": lai_near_zero(maps),
        "lai_season": lai_season(maps),
        "seconds": seconds,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "versions": versions(),
    }


def at_bound(maps: xr.Dataset) -> dict[str, float]:
    """Share of pixel-dates whose posterior mean lies within 1 % of the support's width from a bound, by variable."""
    shares = {}
    for name, v in CATALOGUE.items():
        if f"{name}_mean" in maps:
            position = (maps[f"{name}_mean"].values - v.low) / (v.high - v.low)
            shares[name] = round(float(((position < AT_BOUND) | (position > 1 - AT_BOUND)).mean()), 5)
    return shares


def lai_near_zero(maps: xr.Dataset) -> dict[str, float]:
    """Where LAI is within 1 % of the support's width from zero: how often, and what these pixel-dates look like.

    Zero is no artefact of the support but bare soil, roofs and roads: their NDVI tells.
    """
    lai = maps["lai_mean"].sel(time=maps["s2_time"].values).values
    red, infrared = (maps["s2_mean"].sel(s2_channel=band).values for band in ("B04", "B08"))
    ndvi = (infrared - red) / (infrared + red)
    near = lai < AT_BOUND * CATALOGUE["lai"].high
    found = ndvi[near] if near.any() else np.array([np.nan])
    return {
        "share": round(float(near.mean()), 5),
        "of_these_ndvi_below_0.3": round(float((found < 0.3).mean()), 5),
        "their_median_ndvi": round(float(np.median(found)), 4),
        "share_with_ndvi_above_0.3": round(float((near & (ndvi > 0.3)).mean()), 5),
    }


def lai_season(maps: xr.Dataset) -> dict[str, float]:
    """Mean LAI by date over the tenth of the pixels where July and August exceed March, April and October most.

    These are summer crops: bare in spring, full in summer, harvested by autumn.
    """
    lai = maps["lai_mean"]
    month = lai["time"].dt.month
    summer, rest = lai.where(month.isin([7, 8]), drop=True).mean("time"), lai.where(month.isin([3, 4, 10]), drop=True)
    contrast = summer - rest.mean("time")
    crops = contrast > contrast.quantile(0.9)
    series = lai.where(crops).mean(("y", "x"))
    days = np.datetime_as_string(lai.time.values, unit="D")
    return {str(day): round(float(value), 3) for day, value in zip(days, series.values, strict=True)}


def _figures(run: Run, cube: xr.DataTree, maps: xr.Dataset, tree: xr.DataTree, laws, scores, folder: Path) -> None:
    figures = {f"map_{name}": plots.variable_map(maps, name) for name in MAPPED}
    peak = tree.posterior["lai"].median(("chain", "draw"))
    amplitude = (peak.max("time") - peak.min("time")).values
    for label, pixel in (("crop", int(amplitude.argmax())), ("evergreen", int(amplitude.argmin()))):
        figures[f"series_{label}"] = plots.pixel_series(tree, pixel, withheld=_withheld_series(cube, tree, pixel))
    figures["elbo"] = plots.elbo(run.history)
    figures["reconstruction"] = plots.reconstruction(maps, cube)
    figures["withheld"] = plots.withheld_skill(scores)
    for name in ("s1", "s2"):
        figures[f"residual_{name}"] = plots.residual_map(maps, name)
    figures["residual_law"] = residual_law(tree, laws)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=110)


def _withheld_series(cube: xr.DataTree, tree: xr.DataTree, pixel: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Withheld observations of a pixel: modality -> dates and values `[date, channel]`, radar in dB."""
    place = {"y": int(tree.posterior.pixel_row[pixel]), "x": int(tree.posterior.pixel_column[pixel])}
    series = {}
    for name, variable in (("s2", "reflectance"), ("s1", "backscatter")):
        node = cube[name].to_dataset().isel(place)
        mask = node["withheld"].values
        values = node[variable].values[mask]
        series[name] = (node.time.values[mask], 10 * np.log10(values) if name == "s1" else values)
    return series


def _cube(source: str, seed: int, console: Console) -> tuple[xr.DataTree, str]:
    try:
        return open_cube(source), source
    except SampleError as error:
        if source != SAMPLE:
            raise
        console.print(f"[bold]{error} A cube drawn by the simulator stands in: nothing below is about a real place.")
        empty = pattern(size=100, optical_days=30, radar_days=30)
        model = PhysicsVAE({"s2": Optical(bands=empty["s2"].band.values), "s1": Radar()})
        return simulate(model, empty, seed), "simulator"


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
