r"""Leaf area index of winter wheat against field measurements: Sentinel-2 retrievals that saw no label.

    python benchmarks/lai_insitu.py [--data ../shared/data/swiss_wheat_2022] [--hmc] [--steps 0] [--rows season]
        [--json lai_insitu.json]

Needs ``pyarrow`` to read the series, and for one row the peer ``satellitetools`` (``pip install --no-deps
satellitetools shapely``). The data (GPL-3, not shipped) are those of Graf et al. (2023): green leaf area index of seven
Swiss fields, March to June 2022, and the series of 9 bands at the same points. A label is compared with the clear
observation nearest in time, up to 3 days away; clear is what the scene classification calls vegetation or bare soil.

Rows: the published look-up table as quoted there; the neural network of the Sentinel-2 toolbox (Weiss & Baret) on the
same values; importance sampling of single dates with our Prosail; the whole season inverted jointly, with the prior and
likelihood of `PhysicsVAE` and fixed global latents (Gaussian at the mode, or with ``--hmc`` chains); and with
``--steps`` a fit with the amortised guide. What differs between the rows is said in their names:

independent
    errors of the bands are independent, of 0.015 (the prior median of the package's noise).
repeated
    their covariance between bands is what observations of the same pixel up to 3 days apart differ by, half the
    covariance of the differences, plus 0.02 a band for what the operator cannot say. No label enters.
    In series: its three leading parts as a residual that is new at every date, and white noise of 0.02.
free
    leaf structure, dry matter, leaf angle and hot spot vary in time as chlorophyll does (30 days): leaves of a cereal
    droop and age, which a single value for the season denies.
cw
    the prior of leaf water is what dry matter and relative water content of the ATBD (Weiss, Baret & Jay 2020) imply,
    0.019 +- 0.0095 cm, instead of the catalogue's 0.015 +- 0.015 cm.

Labels of 12 to 26 April contradict the chlorophyll measured with them: canopy over leaf area gives 110 to 153 ug per
cm2 of leaf, and leaves hold at most about 90. The last column leaves that month out.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
import types
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.stats import qmc

from inference import fit, posterior
from inference.calibration import coverage
from inference.draws import seeded
from inference.refinement import WhitenedPosterior
from pi_vae import Optical, PhysicsVAE
from pi_vae.data.batches import CubeTensors
from pi_vae.data.cube import complete
from pi_vae.data.sentinel2 import s2_node
from pi_vae.priors import Marginals
from pi_vae.variables import CATALOGUE

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
CLEAR = (4, 5)
CLASSES = (2.0, 4.0, 6.0)
VIEW = {"vza": 5.0, "raa": 90.0}  # the series carry no view geometry
PUBLISHED = {
    "look-up table (quoted)": {"n": 177, "rmse": 1.15, "r2": 0.77, "coverage": 0.82},
    "look-up table, stage known (quoted)": {"n": 177, "rmse": 0.87, "r2": 0.84},
}
ATBD_WATER = (0.019, 0.0095)
FREE = ("n", "cm", "ala", "hspot")


def folder() -> Path:
    """Where the data are looked for without ``--data``."""
    roots = [Path(os.environ["PI_VAE_DATA"])] if "PI_VAE_DATA" in os.environ else []
    roots.append(Path(__file__).parents[1].parent / "shared" / "data")
    return next((root / "swiss_wheat_2022" for root in roots if (root / "swiss_wheat_2022").is_dir()), roots[-1])


def read(data: Path) -> tuple[pd.DataFrame, xr.DataTree]:
    """Labels with the index of point and date that they are compared at, and the cube of distinct series."""
    bands = list(BANDS)
    try:
        series = pd.read_parquet(data / "s2_at_points_2022.parquet")
    except ImportError as error:
        raise SystemExit("The series are a parquet file: pip install pyarrow.") from error
    series = series[(series[bands] < 1).all(axis=1) & series.SCL.isin(CLEAR)].sort_values("datetime")
    labels = pd.read_csv(data / "insitu_all_2022.csv", parse_dates=["date"])
    labels = labels[labels.trait == "glai"].reset_index(drop=True)
    # Points of one pixel have one series: it is inverted once.
    same = series.groupby("pid")[bands].apply(lambda x: x.to_numpy()[:14].tobytes())
    point = pd.Series(pd.factorize(same)[0], same.index)
    series = series[series.pid.isin(point.drop_duplicates().index)]
    day = pd.to_datetime(series.datetime).dt.normalize().to_numpy()
    days, at = np.unique(day), point[series.pid].to_numpy()
    reflectance = np.full((len(days), len(bands), point.max() + 1), np.nan, np.float32)
    reflectance[np.searchsorted(days, day), :, at] = series[bands].to_numpy()
    place = series.groupby(at)[["e32632", "n32632"]].first()
    overpass = days + np.timedelta64(10 * 60 + 25, "m")
    x, y = place.e32632.to_numpy(), place.n32632.to_numpy()
    cube = complete(xr.DataTree.from_dict({"s2": s2_node(reflectance, overpass, BANDS, x=x, y=y, crs="EPSG:32632")}))
    labels["point"] = point[labels.pid].to_numpy()
    apart = np.abs(days[None] - labels.date.dt.normalize().to_numpy()[:, None]) / np.timedelta64(1, "D")
    apart[~np.isfinite(reflectance[:, 0]).T[labels.point]] = np.inf
    labels["index"] = apart.argmin(1)
    return labels[apart.min(1) <= 3].reset_index(drop=True), cube


def repeated(reflectance: np.ndarray, days: np.ndarray, within: float = 3.0) -> np.ndarray:
    """`[C, C]` half the covariance of differences between observations of a pixel up to some days apart."""
    first, second = np.triu_indices(len(days), 1)
    near = (days[second] - days[first]) <= within
    difference = (reflectance[second[near]] - reflectance[first[near]]).transpose(0, 2, 1).reshape(-1, len(BANDS))
    return np.cov(difference[np.isfinite(difference).all(1)].T) / 2


def single_dates(
    labels: pd.DataFrame, cube: xr.DataTree, covariance: np.ndarray, count: int, water: tuple[float, float] | None
) -> np.ndarray:
    """`[draw, match]` leaf area index by importance sampling of prior draws, every date on its own."""
    operator = Optical(bands=BANDS, residual=0).operator
    marginals = with_water(Marginals(operator.variables), water)
    uniform = torch.from_numpy(qmc.Sobol(len(marginals.names), seed=0).random(count)).clamp(1e-6, 1 - 1e-6)
    values = dict(zip(marginals.names, marginals(torch.special.ndtri(uniform)).float().unbind(-1), strict=True))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    node, rng = cube["s2"], np.random.default_rng(0)
    drawn = np.empty((400, len(labels)))
    for index, group in labels.groupby("index"):
        angles = {"sza": torch.tensor(float(node.sza[index])), **{k: torch.tensor(v) for k, v in VIEW.items()}}
        spectra = operator(values, angles).numpy() @ whiten
        for match, point in group.point.items():
            distance = ((spectra - node.reflectance.values[index, :, point] @ whiten) ** 2).sum(1)
            weight = np.exp(-0.5 * (distance - distance.min()))
            chosen = rng.choice(count, len(drawn), p=weight / weight.sum())
            drawn[:, match] = values["lai"].numpy()[chosen]
    return drawn


def with_water(marginals: Marginals, water: tuple[float, float] | None) -> Marginals:
    """The marginals, with another prior of leaf water."""
    if water is not None:
        place = marginals.names.index("cw")
        marginals.loc[place], marginals.scale[place] = water
    return marginals


def season(
    labels: pd.DataFrame,
    cube: xr.DataTree,
    covariance: np.ndarray | None = None,
    free: bool = False,
    water: tuple[float, float] | None = None,
    hmc: bool = False,
) -> np.ndarray:
    """`[draw, match]` leaf area index from the whole series of each point, by the model's own density."""
    torch.manual_seed(0)
    rank = 3 if covariance is not None else 0
    changed = {name: dataclasses.replace(CATALOGUE[name], dynamic=True) for name in FREE} if free else {}
    with patch.dict(CATALOGUE, changed):
        days = 30.0 if free else None
        model = PhysicsVAE({"s2": Optical(bands=BANDS, residual=rank)}, lengthscale=days).eval()
    with_water(model.dynamic_marginals, water)
    data = CubeTensors.read(cube, {"s2": BANDS})
    points = np.unique(labels.point)
    batch = data.at(torch.from_numpy(points), torch.zeros(len(points), dtype=torch.long), 0)
    shared = {site: getattr(model, site).median.detach() for site in ("lengthscale", "static_odds")}
    shared["s2_noise"] = model.modalities["s2"].noise.median.detach()
    if covariance is not None:
        size, direction = np.linalg.eigh(covariance)
        shared["s2_loading"] = torch.from_numpy((direction * np.sqrt(size))[:, -rank:]).float()
        shared["s2_lengthscale"] = torch.full((rank,), 0.5)  # half a day: new at every date
        shared["s2_static_odds"] = torch.full((rank,), 1e-3)
        shared["s2_noise"] = torch.full((len(BANDS),), 0.02)
    with seeded(0):
        target = WhitenedPosterior(model, batch, shared)
        mode = target.mode(20)
        white = target.chain(mode, 150, 100, 1)[0] if hmc else target.gaussian(mode, 400)
        lai = model.variables(target.latents(white))["lai"].numpy()
    return lai[:, np.searchsorted(points, labels.point), labels["index"]]


def amortised(labels: pd.DataFrame, cube: xr.DataTree, steps: int) -> np.ndarray:
    """`[draw, match]` leaf area index by `fit` with the amortised guide on all points, with the package's defaults."""
    torch.manual_seed(0)
    with torch.enable_grad():
        run = fit(PhysicsVAE({"s2": Optical(bands=BANDS)}), cube, steps=steps, seed=0, progress=False)
    points = np.unique(labels.point)
    tree = posterior(run, cube, draws=200, pixels=[(int(p), 0) for p in points])
    lai = tree["posterior"]["lai"].values[0]
    return lai[:, np.searchsorted(points, labels.point), labels["index"]]


def toolbox(labels: pd.DataFrame, cube: xr.DataTree) -> np.ndarray | str:
    """`[match]` leaf area index of the Sentinel-2 toolbox by satellitetools, or why there is none."""
    found = PathFinder.find_spec("satellitetools")
    if found is None:
        return "satellitetools is not installed (pip install --no-deps satellitetools shapely)"
    # Its __init__ imports clients of cloud services; the network needs none of them.
    package = types.ModuleType("satellitetools")
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules.setdefault("satellitetools", package)
    try:
        biophys = importlib.import_module("satellitetools.biophys.biophys")
    except ImportError as error:
        return f"satellitetools does not import: {error}"
    node, index, point = cube["s2"], labels["index"].to_numpy(), labels.point.to_numpy()
    angles = np.stack([np.full(len(labels), VIEW["vza"]), node.sza.values[index], np.full(len(labels), VIEW["raa"])])
    inputs = np.concatenate([node.reflectance.values[index, 1:, point].T, np.cos(np.radians(angles))]).astype(float)
    lai = biophys.BiophysVariable.LAI
    layers = xr.DataArray(inputs[:, :, None], dims=("band", "y", "x"), coords={"y": range(len(labels)), "x": [0]})
    return biophys.SNAPBiophysProcessor(layers, lai).run().values.ravel()


def score(labels: pd.DataFrame, drawn: np.ndarray) -> dict:
    """Scores of `[draw, match]` draws, or of `[match]` estimates without spread."""
    truth, month = labels.value.to_numpy(), labels.date.dt.month.to_numpy()
    estimate = drawn.mean(0) if drawn.ndim == 2 else drawn
    ok = np.isfinite(estimate)
    error = (estimate - truth)[ok]

    def rmse(which: np.ndarray) -> float:
        return float(np.sqrt((error[which[ok]] ** 2).mean()))

    result = {
        "n": int(ok.sum()),
        "rmse": rmse(ok),
        "bias": float(error.mean()),
        "r2": float(1 - (error**2).sum() / ((truth[ok] - truth[ok].mean()) ** 2).sum()),
    }
    if drawn.ndim == 2:
        dataset = xr.Dataset({"lai": (("chain", "draw", "match"), drawn[None])})
        known = xr.Dataset({"lai": ("match", truth)}, {"match": np.arange(len(truth))})
        table = coverage(dataset, known, [0.9], group=None).squeeze()
        result |= {"coverage": float(table["coverage"]), "width": float(table["width"])}
    kind = np.digitize(truth, CLASSES)
    edges = ("0-2", "2-4", "4-6", ">6")
    result["rmse_by_class"] = {name: rmse(kind == i) for i, name in enumerate(edges)}
    result["bias_by_class"] = {name: float(error[(kind == i)[ok]].mean()) for i, name in enumerate(edges)}
    result["rmse_by_month"] = {int(m): rmse(month == m) for m in np.unique(month)}
    result["rmse_without_april"] = rmse(month != 4)
    return result


def show(name: str, row: Mapping, peer: float | None) -> None:
    def cell(key: str, width: int = 6) -> str:
        return f"{row[key]:{width}.2f}" if key in row else " " * (width - 1) + "-"

    text = f"{name:44}{row['n']:5d}" + "".join(cell(key) for key in ("rmse", "bias", "r2", "coverage", "width"))
    for group in ("rmse_by_class", "rmse_by_month"):
        text += " |" + "".join(f"{value:5.2f}" for value in row.get(group, {}).values())
    ratio = f"{row['rmse'] / peer:6.2f}" if peer else "     -"
    print(text + " |" + cell("rmse_without_april", 5) + ratio + f"{row.get('seconds', 0):6.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=folder())
    parser.add_argument("--draws", type=int, default=2**14, help="prior draws of the single-date rows")
    parser.add_argument("--hmc", action="store_true", help="chains for the joint rows: minutes instead of one")
    parser.add_argument("--steps", type=int, default=0, help="steps of the amortised fit; 0: no such row")
    parser.add_argument("--rows", default="", help="only rows whose name holds this")
    parser.add_argument("--json", type=Path, default=Path("lai_insitu.json"))
    args = parser.parse_args()
    if not (args.data / "insitu_all_2022.csv").is_file():
        raise SystemExit(f"No data in {args.data}: give the folder swiss_wheat_2022 with --data.")
    torch.set_grad_enabled(False)
    labels, cube = read(args.data)
    days = cube["s2"].time.values.astype("datetime64[h]").astype(float) / 24
    errors = repeated(cube["s2"].reflectance.values, days)
    independent, measured = 0.015**2 * np.eye(len(BANDS)), errors + 0.02**2 * np.eye(len(BANDS))
    print(f"{len(labels)} labels, {labels.point.nunique()} distinct series; sd of repeated observations "
          + " ".join(f"{b} {s:.3f}" for b, s in zip(BANDS, np.sqrt(np.diag(errors)), strict=True)))  # fmt: skip
    print(f"{'':44}{'n':>5}  RMSE  bias    R2   cov width | RMSE 0-2 2-4 4-6 >6 | by month  | no Apr ratio  s")
    how = "HMC" if args.hmc else "mode"
    rows = {
        "Sentinel-2 toolbox": lambda: toolbox(labels, cube),
        "single date, independent": lambda: single_dates(labels, cube, independent, args.draws, None),
        "single date, repeated": lambda: single_dates(labels, cube, measured, args.draws, None),
        "single date, repeated, cw": lambda: single_dates(labels, cube, measured, args.draws, ATBD_WATER),
        f"season ({how}), independent": lambda: season(labels, cube, hmc=args.hmc),
        f"season ({how}), repeated": lambda: season(labels, cube, errors, hmc=args.hmc),
        f"season ({how}), repeated, free": lambda: season(labels, cube, errors, True, hmc=args.hmc),
        f"season ({how}), repeated, free, cw": lambda: season(labels, cube, errors, True, ATBD_WATER, args.hmc),
    }
    if args.steps:
        rows[f"season (amortised, {args.steps} steps)"] = lambda: amortised(labels, cube, args.steps)
    results: dict[str, dict] = dict(PUBLISHED)
    for name, row in PUBLISHED.items():
        show(name, row, None)
    for name, compute in rows.items():
        if args.rows not in name:
            continue
        start = time.perf_counter()
        drawn = compute()
        if isinstance(drawn, str):
            print(f"{name:44}absent: {drawn}")
            results[name] = {"absent": drawn}
            continue
        results[name] = score(labels, drawn) | {"seconds": time.perf_counter() - start}
        show(name, results[name], results.get("Sentinel-2 toolbox", {}).get("rmse"))
    args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
