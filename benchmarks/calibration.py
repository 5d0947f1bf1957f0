"""Do intervals hold what they promise? Cubes drawn from the prior with the dates and clouds of real ones.

    python benchmarks/calibration.py [--pattern swiss|treesat] [--data ../shared/data] [--pixels 100] [--steps 600]
        [--chains 2] [--draws 200] [--nuts 20] [--json calibration.json]

Points are drawn from the prior, global latents too, with the dates, masks and angles of a real series: ``swiss``,
Sentinel-2 over wheat from March to July (needs ``pyarrow``), or ``treesat``, a year of both Sentinel-2 orbits and an
ascending orbit of Sentinel-1 over a wood, with its clouds (needs ``h5py``). A model is fitted to them; then for some
points and every variable: share of the truths inside 50 and 90 % intervals (goal 0.46-0.54 and 0.87-0.93), and whether
the ranks of the truths are uniform (simulation-based calibration; smallest p after Holm's correction, goal 0.01), for

guide
    draws of the fitted guide;
importance
    the same, resampled with Pareto-smoothed importance weights, with the share of reliable points (k-hat);
chains
    ``posterior(..., refine=True)``, Hamiltonian Monte Carlo with the fitted global latents;
chains, globals known
    the same with the global latents that the cube was drawn with: what is left is the sampler's own.

``--nuts`` compares the chains with Pyro's NUTS on some points, globals known: differences of means and ratios of sds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pyro
import torch
import xarray as xr
from lai_insitu import read as read_swiss
from pyro.infer.mcmc import MCMC, NUTS

from inference import fit, posterior
from inference.calibration import at_pixels, coverage, refine, simulation_based_calibration
from inference.refinement import WhitenedPosterior
from inference.training import Run
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import complete, simulate
from pi_vae.data.batches import CubeTensors
from pi_vae.data.sentinel1 import s1_node
from pi_vae.data.sentinel2 import s2_node

TREESAT_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
CLEAR = 20  # percent: cloud and snow probability below it


def folder() -> Path:
    """Where the data are looked for without ``--data``."""
    return Path(os.environ.get("PI_VAE_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


def swiss(data: Path, points: int, rng: np.random.Generator) -> xr.DataTree:
    """Dates, masks and sun of the Swiss series, drawn with replacement."""
    _, cube = read_swiss(data / "swiss_wheat_2022")
    node = cube["s2"].to_dataset().drop_vars(["x", "y"], errors="ignore")
    return xr.DataTree.from_dict({"s2": node.isel(point=rng.integers(node.sizes["point"], size=points))})


def treesat(data: Path, points: int, rng: np.random.Generator) -> xr.DataTree:
    """Dates and masks of the TreeSat sample, pixels drawn with replacement; dates with no clear pixel left out."""
    import h5py

    with h5py.File(next((data / "treesat_abies_2020").glob("*.h5"))) as file:
        masks = file["sen-2-masks"][:, :2].max(1).reshape(-1, 36)
        optical = [_moment(name.decode().split("_")[2]) for name in file["sen-2-products"][:]]
        radar = [_moment(name.decode().split("_")[4]) for name in file["sen-1-asc-products"][:]]
    pixel = rng.integers(36, size=points)
    valid = (masks < CLEAR)[:, pixel]
    keep = valid.any(1)
    shape = (int(keep.sum()), len(TREESAT_BANDS), points)
    # 52.1 N, 10.0 E in metres of UTM 32; all points of one wood
    place = {"x": np.full(points, 565673.0), "y": np.full(points, 5771010.0), "crs": "EPSG:32632"}
    times = np.array(optical)[keep]
    nodes = {
        "s2": s2_node(np.full(shape, 0.2), times, TREESAT_BANDS, valid=valid[keep], **place),
        "s1": s1_node(np.full((len(radar), 2, points), 0.05), np.array(radar), **place),
    }
    return complete(xr.DataTree.from_dict(nodes))


def _moment(text: str) -> np.datetime64:
    """20200102T102421 -> date."""
    return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:15]}", "ns")


def build(cube: xr.DataTree) -> PhysicsVAE:
    parts = {"s2": Optical(bands=cube["s2"].band.values)} | ({"s1": Radar()} if "s1" in cube.children else {})
    return PhysicsVAE(parts)


def judge(tree: xr.DataTree, truth: xr.Dataset) -> dict:
    """Coverage of every variable and the test of its ranks."""
    drawn = tree["posterior"].to_dataset()
    known = at_pixels(truth, drawn)
    names = [n for n in drawn.data_vars if n in known and not n.startswith(("global", "residual"))]
    drawn, known = drawn[names], known[names]
    held, ranks = coverage(drawn, known, levels=(0.5, 0.9)), simulation_based_calibration(drawn, known)
    table = {}
    for name in names:
        p = float(ranks["p_holm"].sel(variable=name))
        half, most = (float(held["coverage"].sel(variable=name, level=level)) for level in (0.5, 0.9))
        table[name] = {"coverage_50": half, "coverage_90": most, "p_holm": p}
    return table


def known(model: PhysicsVAE, shared: dict[str, torch.Tensor]) -> Run:
    """A run whose global latents are known."""
    model.draw_globals = lambda which="posterior": shared
    return Run(model)


def show(label: str, table: dict, seconds: float, pixels: int) -> None:
    p = min(row["p_holm"] for row in table.values())
    most = [row["coverage_90"] for row in table.values()]
    good = sum(0.87 <= c <= 0.93 for c in most)
    print(
        f"\n{label}: {seconds / pixels:.2f} s a point; 90 % within 0.87-0.93 for {good} of {len(most)}; least p {p:.3g}"
    )
    for name, row in table.items():
        print(f"  {name:18}{row['coverage_50']:7.3f}{row['coverage_90']:7.3f}{row['p_holm']:9.3g}", flush=True)


def against_nuts(model: PhysicsVAE, data: CubeTensors, shared: dict, count: int, draws: int = 200) -> dict:
    """Chains and Pyro's NUTS on the same points, in the same coordinates."""
    pyro.set_rng_seed(0)
    rows = torch.arange(count)
    batch = data.at(rows, torch.zeros_like(rows), 0)
    with torch.no_grad():
        target = WhitenedPosterior(model, batch, shared)
        mode = target.mode()
        start = time.perf_counter()
        ours, _ = target.chain(mode, 2 * draws, 200, 2)
        ours_seconds = time.perf_counter() - start
        factor = torch.linalg.inv(torch.linalg.cholesky(target.normal_equations(mode)[0])).transpose(1, 2)

    def back(z: torch.Tensor) -> torch.Tensor:
        return mode + (factor @ z.unsqueeze(-1)).squeeze(-1)

    def potential(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return -target.log_prob(back(parameters["z"])).sum()

    kernel = NUTS(potential_fn=potential, max_tree_depth=6)
    sampler = MCMC(kernel, num_samples=draws, warmup_steps=draws, initial_params={"z": torch.zeros_like(mode)},
                   disable_progbar=True)  # fmt: skip
    start = time.perf_counter()
    sampler.run()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        theirs = back(sampler.get_samples()["z"])
        table = {}
        values = [model.variables(target.latents(w)) for w in (ours, theirs)]
        for name in (*model.dynamic, *model.static):
            mean, sd = ([f(v[name], 0) for v in values] for f in (torch.mean, torch.std))
            table[name] = {
                "mean_difference_in_sd": float(((mean[0] - mean[1]).abs() / sd[1]).mean()),
                "sd_ratio": float((sd[0] / sd[1]).mean()),
            }
    print(f"\nNUTS on {count} points: {seconds:.0f} s for {draws} draws, ours {ours_seconds:.0f} s for {2 * draws}")
    for name, row in table.items():
        print(f"  {name:18} mean differs by {row['mean_difference_in_sd']:.2f} sd, sd ratio {row['sd_ratio']:.2f}")
    return {"seconds": seconds, "ours_seconds": ours_seconds, "variables": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pattern", choices=("swiss", "treesat"), default="swiss")
    parser.add_argument("--data", type=Path, default=folder())
    parser.add_argument("--points", type=int, default=1000, help="that are simulated and fitted")
    parser.add_argument("--pixels", type=int, default=100, help="of them that are judged")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--nuts", type=int, default=0, help="points to compare with NUTS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("calibration.json"))
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    empty = {"swiss": swiss, "treesat": treesat}[args.pattern](args.data, args.points, rng)
    torch.manual_seed(args.seed)
    model = build(empty)
    cube = simulate(model, empty, args.seed)
    truth = cube["truth"].to_dataset()
    shared = {n[7:]: torch.from_numpy(v.values.astype(np.float32)) for n, v in truth.items() if n.startswith("global_")}
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    print(f"{args.pattern}: {args.points} points, {len(data.dates)} dates; {args.pixels} points judged")
    start = time.perf_counter()
    run = fit(model, cube, steps=args.steps, seed=args.seed, device="cpu", progress=False)
    results: dict[str, dict] = {"fit_seconds": time.perf_counter() - start}
    print(f"fit of {args.steps} steps: {results['fit_seconds']:.0f} s")
    common = {"pixels": args.pixels, "seed": args.seed}
    refined = {"refine": True, "chains": args.chains, "draws": args.draws}
    rows = {
        "guide": lambda: posterior(run, cube, args.draws, **common),
        "importance": lambda: refine(run, cube, args.draws, **common),
        "chains": lambda: posterior(run, cube, **refined, **common),
        "chains, globals known": lambda: posterior(known(run.model, shared), cube, **refined, **common),
    }
    for label, draw in rows.items():
        start = time.perf_counter()
        tree = draw()
        seconds = time.perf_counter() - start
        results[label] = judge(tree, truth)
        show(label, results[label], seconds, args.pixels)
        if "sample_stats" in tree.children:
            print(f"  reliable points: {float(tree['sample_stats']['reliable'].mean()):.2f}")
        results[label]["seconds_per_point"] = seconds / args.pixels
        args.json.write_text(json.dumps(results, indent=1))
    if args.nuts:
        results["nuts"] = against_nuts(model, data, shared, args.nuts)
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
