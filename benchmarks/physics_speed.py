"""How fast the optical operator is, beside two public implementations, measured in one run.

    python benchmarks/physics_speed.py [--quick] [--batch 1000 10000] [--json physics_speed.json]

Every case runs in a process of its own, float32, on one thread and on all: forward, then forward + backward of the sum
of the output by every leaf and canopy variable. Ours gives ten Sentinel-2 bands; `torchrtm` gives 2,101 wavelengths,
which its user still has to weigh into bands (not counted), in pieces of 250 samples, since 10,000 at once do not fit in
memory; `prosail` is a test oracle in NumPy, one sample a call, without derivatives. Samples per core-second divide by
the processor time of all threads, so that other load on the machine counts little; compare numbers of one run only.
Memory is the peak of resident memory over the start of the measurement.

Then, forward + backward on one thread: how the time of a call grows with the batch and with the nodes of the rule, as
the exponent of a power law; and where `prosail` is installed, the largest difference between its leaf and ours in
float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fit_quadrature import TABLES, draw

from pi_vae.physics import Prosail
from pi_vae.physics.fused import compile_kernels
from pi_vae.physics.leaf import Prospect

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
CASES = {
    "exact": "ours, every wavelength",
    "exact-kernels": "ours, every wavelength, compiled kernels",
    "K=3": "ours, 3 nodes a band",
    "K=3-kernels": "ours, 3 nodes a band, compiled kernels",
    "5e-4-kernels": "ours, band errors below 5e-4, compiled kernels",
    "K=3-compile": "ours, 3 nodes a band, torch.compile of the operator",
    "torchrtm": "torchrtm 1.5.8",
    "prosail": "prosail 2.0.5",
}
PEERS = ("torchrtm", "prosail")
AT_ONCE = {"torchrtm": 250, "prosail": 1}
PRO = {"ab": "cab", "car": "car", "brown": "cbrown", "w": "cw", "ant": "cant"}  # their names of absorption, ours
GROWTH = {"batch": (1000, 2000, 4000, 8000, 16000), "nodes": (1, 2, 3, 4, 5, 6)}


def operator(case: str) -> Callable:
    """``run(variables, geometry, gradient) -> output`` of a case."""
    if case == "torchrtm":
        from torchrtm.models.models import prosail as peer

        def run(v: dict, g: dict, gradient: bool) -> torch.Tensor:
            traits = torch.stack([v[name] for name in ("cab", "car", "cant", "cbrown", "cw", "cm")], -1)
            n = len(traits)
            a, b = torch.full((n,), -0.35), torch.full((n,), -0.15)
            return peer(
                traits, v["n"], a, b, v["lai"], v["hspot"], g["sza"], g["vza"], g["raa"], torch.full((n,), 40.0),
                v["soil_wetness"], batch_size=n, prospect_type="prospect5d", differentiable=gradient,
            )[0]  # fmt: skip

        return run
    if case == "prosail":
        import prosail as peer

        def run(v: dict, g: dict, gradient: bool) -> None:
            x = {name: float(value[0]) for name, value in (*v.items(), *g.items())}
            peer.run_prosail(
                x["n"], x["cab"], x["car"], x["cbrown"], x["cw"], x["cm"], x["lai"], x["ala"], x["hspot"], x["sza"],
                x["vza"], x["raa"], ant=x["cant"], prospect_version="D", typelidf=2, rsoil=x["soil_brightness"],
                psoil=1 - x["soil_wetness"],
            )  # fmt: skip

        return run
    nodes = {"exact": None, "K=3": 3, "5e-4": 5e-4}[case.removesuffix("-kernels").removesuffix("-compile")]
    op = Prosail(bands=BANDS, nodes=nodes)
    if case.endswith("kernels") and not compile_kernels():
        raise RuntimeError("no working compiler")
    if case.endswith("compile"):
        op = torch.compile(op, dynamic=False)
    return lambda v, g, gradient: op(v, g)


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1000
    return float("nan")


def measure(case: str, batch: int, repeats: int) -> dict:
    """Times and memory of a case, best of ``repeats`` after a first run that is not counted."""
    warnings.simplefilter("ignore")
    run = operator(case)
    if case == "prosail":
        batch = min(batch, 30)
    variables, geometry = draw(Prosail(bands=BANDS, nodes=3).variables, batch, seed=0)
    variables = {name: value.float() for name, value in variables.items()}
    geometry = {name: value.float() for name, value in geometry.items()}
    size = AT_ONCE.get(case, batch)
    found: dict = {"batch": batch, "threads": torch.get_num_threads()}
    for gradient in (False, True):
        if gradient and case == "prosail":
            continue
        named = {name: value.requires_grad_(gradient) for name, value in variables.items()}

        def once(gradient: bool = gradient, named: dict = named) -> None:
            for start in range(0, batch, size):
                part = slice(start, start + size)
                with torch.set_grad_enabled(gradient):
                    cut = named if size == batch else {name: value[part] for name, value in named.items()}
                    out = run(cut, {name: value[part] for name, value in geometry.items()}, gradient)
                    if gradient:
                        out.sum().backward()
                        for value in named.values():
                            value.grad = None

        once()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, best, best_wall = resident("VmRSS"), float("inf"), float("inf")
        for _ in range(repeats):
            wall, processor = time.perf_counter(), time.process_time()
            once()
            best = min(best, time.process_time() - processor)
            best_wall = min(best_wall, time.perf_counter() - wall)
        key = "backward" if gradient else "forward"
        found[key] = {"per_core_second": batch / best, "per_second": batch / best_wall}
        found[key]["peak_mb"] = resident("VmHWM") - before
    return found


def growth(repeats: int) -> dict:
    """Seconds of processor time of a call against batch (K = 3) and nodes a band (batch 4000), and their exponents.

    A call also does what needs no wavelength, so time against nodes is that much above a line through zero; its
    exponent is of the part that grows, by a straight line through the points.
    """
    found: dict = {}
    for axis, sizes in GROWTH.items():
        seconds = []
        for size in sizes:
            op = Prosail(bands=BANDS, nodes=size if axis == "nodes" else 3)
            variables, geometry = draw(op.variables, size if axis == "batch" else 4000, seed=0)
            variables = {name: value.float().requires_grad_() for name, value in variables.items()}
            geometry = {name: value.float() for name, value in geometry.items()}
            best = float("inf")
            for _ in range(repeats + 1):
                start = time.process_time()
                torch.autograd.grad(op(variables, geometry).sum(), list(variables.values()), allow_unused=True)
                best = min(best, time.process_time() - start)
            seconds.append(best)
        x, y = np.array(sizes, dtype=float), np.array(seconds)
        fixed = max(0.0, float(np.polyfit(x, y, 1)[1])) if axis == "nodes" else 0.0
        exponent = float(np.polyfit(np.log(x), np.log(np.maximum(y - fixed, 1e-9)), 1)[0])
        found[axis] = {"sizes": sizes, "seconds": seconds, "fixed": fixed, "exponent": exponent}
    return found


def agreement(samples: int = 200) -> dict[str, float]:
    """Largest difference of reflectance and transmittance between `prosail`'s leaf and ours, float64.

    It has no PROSPECT-PRO; that is its PROSPECT-D given the absorption of proteins and carbon-based constituents.
    """
    import prosail as peer

    found = {}
    for version, name in (("prospect-5", "5"), ("prospect-d", "D"), ("prospect-pro", "D")):
        leaf = Prospect(version)
        variables, _ = draw(leaf.variables, samples, seed=0)
        ours = torch.stack(leaf({key: variables[key] for key in leaf.variables})).numpy()
        worst = 0.0
        for i in range(samples):
            x = {key: float(variables[key][i]) for key in leaf.variables}
            own = {"ant": x.get("cant", 0.0), "prospect_version": name}
            if version == "prospect-pro":
                table = np.load(TABLES / "prospect-pro.npz")
                own |= {f"k{peers}": table[key] for peers, key in PRO.items()} | {"nr": table["refractive_index"]}
                own["km"] = x["prot"] * table["prot"] + x["cbc"] * table["cbc"]
            _, *theirs = peer.run_prospect(x["n"], x["cab"], x["car"], x["cbrown"], x["cw"], x.get("cm", 1.0), **own)
            worst = max(worst, float(np.abs(ours[:, i] - np.stack(theirs)).max()))
        found[version] = worst
    return found


def child(case: str, batch: int, threads: int, repeats: int) -> dict:
    """`measure` in a fresh process."""
    missing = case in PEERS and importlib.util.find_spec(case) is None
    if missing:
        return {
            "absent": f"{case} is not installed: pip install '{CASES[case].replace(' ', '==')}' to compare with it."
        }
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--case", case, "--batch", str(batch), "--repeats", str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"absent": f"{case} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, help="measure one case in this process and print JSON")
    parser.add_argument("--batch", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one thread, the smallest batch, nothing compiled")
    parser.add_argument("--json", type=Path, default=Path("physics_speed.json"))
    args = parser.parse_args()
    if args.case:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        print(json.dumps(measure(args.case, args.batch[0], args.repeats)))
        return
    threads = [1] if args.quick else sorted({1, os.cpu_count() or 1})
    batches = [min(args.batch)] if args.quick else args.batch
    cases = [case for case in CASES if not (args.quick and case.endswith(("kernels", "compile")))]
    results: dict[str, dict] = {}
    header = f"{'case':52}{'batch':>7}{'forward':>11}{'+backward':>11}{'ratio':>8}{'peak MB':>9}"
    header += f"{'wall fwd':>11}{'wall +b':>11}"
    print(f"load on the machine at the start: {os.getloadavg()[0]:.1f}; samples per core-second, ratio to torchrtm")
    for count in threads:
        for batch in batches:
            print(f"\n{count} thread{'s' * (count > 1)}\n{header}", flush=True)
            rows = {case: child(case, batch, count, args.repeats) for case in reversed(cases)}
            base = rows["torchrtm"].get("backward", {}).get("per_core_second")
            for case in cases:
                row = rows[case]
                results[f"{case}/threads={count}/batch={batch}"] = row
                if "absent" in row:
                    print(row["absent"], flush=True)
                    continue
                forward, backward = row["forward"], row.get("backward")
                line = f"{CASES[case]:52}{row['batch']:7d}{forward['per_core_second']:11.0f}"
                if backward:
                    row["ratio"] = backward["per_core_second"] / base if base else None
                    ratio = f"{row['ratio']:8.1f}" if base else f"{'':8}"
                    line += f"{backward['per_core_second']:11.0f}{ratio}{backward['peak_mb']:9.0f}"
                    line += f"{forward['per_second']:11.0f}{backward['per_second']:11.0f}"
                print(line, flush=True)
    torch.set_num_threads(1)
    if not args.quick:
        results["growth"] = growth(args.repeats)
        for axis, row in results["growth"].items():
            times = "".join(f"{n:>8}: {1e3 * t:6.1f}" for n, t in zip(row["sizes"], row["seconds"], strict=True))
            print(f"\nms a call against {axis}{times}; exponent {row['exponent']:.2f}")
    if importlib.util.find_spec("prosail"):
        results["agreement"] = agreement(20 if args.quick else 200)
        print("\nlargest difference from the leaf of prosail:", results["agreement"])
    args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
