"""What maps cost: against the size of a cube, its dates, the size of tiles, and workers; what that makes of a country.

    python benchmarks/scaling.py [--quick] [--draws 64] [--sides 32 64 128] [--json scaling.json]

Cubes lie on disk as zarr in chunks of 64 pixels a side and are mapped by `inference.predict`, which reads, encodes,
draws and writes tile by tile; the model is the default one as it is built (what it has learned does not change the
cost). All processes have one thread. Every case runs in a process of its own, in processor time; memory is the peak of
that process over one that has built the model and done nothing. Workers are those of a `distributed.LocalCluster`, by
the clock, started before. Exponents are those of the time between neighbouring cases.

The projection takes the longest series measured, 70 optical and 120 radar dates, and what one core did here: a tile of
Sentinel-2 of one year, 10,980 x 10,980 pixels, and metropolitan France, 543,940 km2 or 5.44e9 pixels of 10 m, on
``--nodes`` nodes of ``--cores`` cores each. It assumes that cores of the cluster are as fast as this one, that tiles do
not wait for the file system, and that workers scale as the two measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import xarray as xr

from inference import Run, predict
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import open_cube, pattern, simulate

TILE_PIXELS, FRANCE = 10980**2, 543_940 * 10_000  # pixels of 10 m
CHUNK = 64
YEAR = (70, 120)  # dates of both sensors
BANDS = ("B03", "B04", "B05", "B08", "B11")


def build() -> PhysicsVAE:
    torch.manual_seed(0)
    return PhysicsVAE({"s2": Optical(bands=BANDS), "s1": Radar()}).eval()


def write(folder: Path, side: int, dates: tuple[int, int]) -> Path:
    """A cube on disk: one simulated block, repeated; how long its values take does not depend on what they are."""
    path = folder / f"{side}_{dates[0]}_{dates[1]}.zarr"
    if path.exists():
        return path
    empty = pattern(16, BANDS, max(1, 365 // dates[0]), max(1, 365 // dates[1]))
    empty = xr.DataTree.from_dict(
        {n: c.to_dataset().isel(time=slice(d)) for (n, c), d in zip(empty.children.items(), dates, strict=True)}
    )
    block = simulate(build(), empty, seed=0)
    nodes = {}
    for name in ("s2", "s1"):
        node = block[name].to_dataset()
        times = -(-side // 16)
        rows = xr.concat([node] * times, "y", data_vars="minimal").isel(y=slice(side))
        whole = xr.concat([rows] * times, "x", data_vars="minimal").isel(x=slice(side))
        place = {d: float(node[d][0]) + 10.0 * sign * torch.arange(side).numpy() for d, sign in (("x", 1), ("y", -1))}
        whole = whole.assign_coords(place).drop_encoding()
        nodes[name] = whole.chunk({d: CHUNK if d in ("x", "y") else -1 for d in whole.dims})
    xr.DataTree.from_dict(nodes).to_zarr(path, zarr_format=3, consolidated=False)
    return path


def measure(path: str, tile: int, draws: int, workers: int) -> dict[str, float]:
    """Seconds and gigabytes of a map, in this process or by some workers."""
    torch.set_num_threads(1)
    run = Run(build())
    with tempfile.TemporaryDirectory() as folder:
        small = open_cube(path).map_over_datasets(lambda d: d.isel({k: slice(8) for k in ("y", "x") if k in d.dims}))

        def mapped(cube: xr.DataTree, name: str, side: int) -> float:
            clock = time.perf_counter if workers else time.process_time
            start = clock()
            predict(run, cube, Path(folder) / name, draws=draws, tile=side)
            return clock() - start

        if workers:
            from distributed import Client, LocalCluster

            options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            with LocalCluster(**options) as cluster, Client(cluster):
                mapped(small, "first", 4)  # what is compiled, is
                return {"seconds": mapped(open_cube(path), "maps", tile)}
        mapped(small, "first", 8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = mapped(open_cube(path), "maps", tile)
        return {"seconds": seconds, "gigabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6}


def isolated(path: Path, tile: int, draws: int, workers: int = 0) -> dict[str, float]:
    """`measure` in a process of its own."""
    case = json.dumps([str(path), tile, draws, workers])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--case", case]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(rows: list[dict], key: str) -> list[float]:
    """Growth of the time between neighbouring rows."""
    pairs = zip(rows, rows[1:], strict=False)
    return [math.log(b["seconds"] / a["seconds"]) / math.log(b[key] / a[key]) for a, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cubes, few dates")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument(
        "--sides", type=int, nargs="+", help="of the cubes in pixels; dates and tiles take the last but one"
    )
    parser.add_argument("--nodes", type=int, default=250)
    parser.add_argument("--cores", type=int, default=40, help="of a node")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*json.loads(options.case))))
        return
    if options.sides and len(options.sides) < 2:
        parser.error("--sides: give two or more, as exponents are those between neighbours")
    sides = options.sides or ((16, 32) if options.quick else (32, 64, 128))
    series = [(6, 10), (12, 20)] if options.quick else [(18, 30), (35, 60), YEAR]
    side, dates = sides[-2], series[0]
    tiles = (16,) if options.quick else tuple(t for t in (8, 16, 32, 64) if side // 4 <= t <= side)
    found: dict = {"draws": options.draws}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def case(side: int, dates: tuple[int, int], tile: int, workers: int = 0) -> dict:
            result = isolated(write(folder, side, dates), tile, options.draws, workers)
            row = {"pixels": side**2, "dates": sum(dates), "tile": tile, "workers": workers or 1} | result
            row["pixels_per_second"] = row["pixels"] / row["seconds"]
            memory = f"{row['gigabytes']:6.2f} GB" if "gigabytes" in row else ""
            print(
                f"{row['pixels']:7d} pixels {row['dates']:4d} dates  tile {tile:3d}  workers {row['workers']}: "
                f"{row['seconds']:8.1f} s {row['pixels_per_second']:8.1f} pixels/s {memory}",
                flush=True,
            )
            return row

        print("size of the cube")
        found["size"] = [case(s, dates, tiles[-1]) for s in sides]
        found["exponent_pixels"] = exponent(found["size"], "pixels")
        print("dates")
        found["dates"] = [case(side, d, tiles[-1]) for d in series]
        found["exponent_dates"] = exponent(found["dates"], "dates")
        print("size of a tile")
        found["tile"] = [case(side, dates, t) for t in tiles]
        print("workers")
        found["workers"] = [case(sides[-1], dates, tiles[0] if options.quick else sides[-1] // 4, w) for w in (1, 2)]
    for what in ("pixels", "dates"):
        print(f"exponents in {what}: {', '.join(f'{e:.2f}' for e in found[f'exponent_{what}'])}")
    speed = found["dates"][-1]["pixels_per_second"]
    share = found["workers"][0]["seconds"] / found["workers"][1]["seconds"] / 2
    print(f"two workers have {share:.0%} of twice the speed of one")
    for name, pixels in (("a tile-year", TILE_PIXELS), ("France", FRANCE)):
        hours = pixels / speed / 3600
        cluster = hours / (options.nodes * options.cores * share)
        found[name] = {"core_hours": hours, "hours": cluster}
        print(
            f"{name}, {found['dates'][-1]['dates']} dates, {options.draws} draws: {hours:,.0f} core-hours, "
            f"{cluster:.2f} hours on {options.nodes} nodes of {options.cores} cores"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
