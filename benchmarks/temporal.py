"""What the posterior of a temporal process costs by backend: one draw and the divergence, forward and backward.

    python benchmarks/temporal.py [--quick] [--kernels matern32 rbf] [--device cuda] [--draws 1] [--json temporal.json]

Every series is a latent of a pixel with sites of its own; 40 % of the dates of each are not seen (precision zero).
Dates are irregular, one in ten days on average; four variables with lengthscales of 30 to 240 days. Derivatives are
taken by site means, precisions, lengthscales and static odds. float32, processor time, best of the repeats, each case
in a process of its own, one thread unless asked otherwise. With ``--device cuda``: time by the clock, synchronised, all
cases in one process. With more draws than one: these alone, without derivatives, as when a fit is over.

The cases run with glibc's allocator told to keep what it has (``MALLOC_MMAP_THRESHOLD_`` and
``MALLOC_TRIM_THRESHOLD_``, unless the environment sets them; ``--plain`` leaves it alone). By default every tensor
beyond 32 MB, such as 4 million doubles, is mapped when it is made and unmapped when it dies, so that each of its pages
is faulted in and cleared again at every use: a step in the cost between series that stay below and those beyond, for
all backends. The header says which it was. `dense` is batched `torch.linalg.cholesky` of the whitened
posterior: what the others are compared with. Cases that would hold more than ``--memory`` GB, or take more than
``--patience`` seconds judging by the shorter series, are skipped and named. Exponents are those of the time in the
number of dates: between the two longest series measured, and fitted to all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pi_vae.priors import TemporalGP

BACKENDS = ("dense", "eigen", "kalman")
VARIABLES = 4
DAYS = 10.0  # between dates, on average
DATES, SERIES = (16, 24, 32, 64, 128, 256, 512, 1024, 2048, 4096), (1024, 8192, 65536)
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**36), "MALLOC_TRIM_THRESHOLD_": str(2**36)}  # bytes
QUICK_DATES, QUICK_SERIES = (16, 32, 64, 128), (1024, 8192)


def process(kernel: str, backend: str, dates: int, device: str = "cpu"):
    """The prior, its latents, and its dates."""
    torch.manual_seed(0)
    days = torch.sort(torch.rand(dates, dtype=torch.float64) * DAYS * dates).values.to(device)
    lengthscale = torch.tensor([30.0, 60.0, 120.0, 240.0], device=device, requires_grad=True)
    odds = torch.full((VARIABLES,), 0.3, device=device, requires_grad=True)
    return TemporalGP(kernel, backend).to(device), days, lengthscale, odds


def rank(kernel: str, dates: int) -> int:
    """Features that the eigenfeatures of a case need."""
    gp, days, lengthscale, odds = process(kernel, "eigen", dates)
    with torch.no_grad():
        return gp.prior(days, lengthscale, odds).gram.rank


def clock(device: str) -> float:
    """Processor time, or that of the clock when the accelerator has done what it was told."""
    if device == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def measure(
    kernel: str, backend: str, dates: int, series: int, repeats: int, draws: int = 1, device: str = "cpu"
) -> float:
    """Seconds of one draw and the divergence, with derivatives, or of more draws alone."""
    gp, days, lengthscale, odds = process(kernel, backend, dates, device)
    shape = (series // VARIABLES, VARIABLES, dates)
    mean = torch.randn(shape, device=device, requires_grad=True)
    seen = torch.rand(shape, device=device) > 0.4
    log_precision = (0.5 * torch.randn(shape, device=device) + 2.0).requires_grad_()
    best = math.inf
    for repeat in range(max(repeats, 2)):  # the first touches the memory
        start = clock(device)
        posterior = gp.prior(days, lengthscale, odds).condition(mean, torch.where(seen, log_precision.exp(), 0.0))
        if draws == 1:
            (posterior.rsample().square().sum() + posterior.divergence().sum()).backward()
        else:
            with torch.no_grad():
                posterior.rsample((draws,))
        best = min(best, clock(device) - start)
        if repeat and best > 20:
            break
    return best


def gigabytes(backend: str, dates: int, series: int, features: int) -> float:
    """What a case holds at once, roughly."""
    numbers = {"dense": 10 * dates**2, "eigen": 8 * features**2 + 20 * dates, "kalman": 75 * dates}[backend]
    shared = {"dense": 4 * dates**2, "eigen": 3 * dates * features**2, "kalman": 0}[backend] * VARIABLES
    return (series * numbers + shared) * 4 / 1e9


def isolated(kernel: str, backend: str, dates: int, series: int, options: argparse.Namespace) -> float:
    """`measure` in a process of its own, in this one's environment; in this one on an accelerator."""
    case = [kernel, backend, dates, series, options.repeats, options.draws]
    if options.device != "cpu":
        return measure(*case, options.device)
    case = json.dumps([*case, options.threads])
    done = subprocess.run([sys.executable, __file__, "--case", case], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def chosen(kernel: str, dates: int, series: int, draws: int, device: str) -> str:
    """Backend of the default rule, told how many series and draws there are."""
    gp, days, lengthscale, odds = process(kernel, "auto", dates, device)
    with torch.no_grad():
        name = type(gp.prior(days, lengthscale, odds, series, draws).gram).__name__
    return {"Dense": "dense", "Eigen": "eigen", "StateSpace": "kalman"}[name]


def exponents(times: dict[int, float]) -> tuple[float, float] | None:
    """Growth of the time with the dates: at the long end, and by least squares over all."""
    if len(times) < 2:
        return None
    dates, seconds = (np.log(x) for x in zip(*sorted(times.items()), strict=True))
    return float(np.diff(seconds)[-1] / np.diff(dates)[-1]), float(np.polyfit(dates, seconds, 1)[0])


def table(kernel: str, options: argparse.Namespace) -> dict:
    """Measure one kernel and print its table."""
    backends = [b for b in BACKENDS if b != "kalman" or TemporalGP(kernel).kernel.filters]
    print(f"\n{kernel}: seconds, in brackets how many times faster than dense; * the default rule")
    rows: dict[str, dict] = {}
    skipped: list[str] = []
    for series in options.series:
        times: dict[str, dict[int, float]] = {b: {} for b in backends}
        for dates in options.dates:
            features = rank(kernel, dates) if dates <= 2048 else dates
            for backend in backends:
                need = gigabytes(backend, dates, series, features)
                last = max(times[backend], default=None)
                power = 1.0 if backend == "kalman" else 3.0
                expected = times[backend][last] * (dates / last) ** power if last else 0.0
                if need > options.memory or expected > options.patience:
                    skipped.append(f"{backend} {dates} x {series} ({need:.1f} GB, about {expected:.0f} s)")
                    continue
                times[backend][dates] = isolated(kernel, backend, dates, series, options)
            found = {b: times[b][dates] for b in backends if dates in times[b]}
            if not found:
                continue
            rule, fastest = chosen(kernel, dates, series, options.draws, options.device), min(found, key=found.get)
            slower = found[rule] / found[fastest] - 1 if rule in found else None
            ratio = {b: found["dense"] / found[b] for b in found} if "dense" in found else {}
            rows[f"{dates}/{series}"] = {
                "seconds": found, "ratio": ratio, "rank": features, "rule": rule, "fastest": fastest, "slower": slower
            }  # fmt: skip
            cells = (
                f"{b:>7}{'*' if b == rule else ' '}{found[b]:9.3f} " + (f"({ratio[b]:6.1f})" if ratio else " " * 8)
                for b in found
            )
            loss = "" if not slower else f"   the rule loses {slower:.0%}"
            print(f"T={dates:<5} series={series:<6} R={features:<4}", *cells, loss, flush=True)
        for backend in backends:
            growth = exponents(times[backend])
            if growth is not None:
                rows[f"exponent/{backend}/{series}"] = {"long": growth[0], "all": growth[1]}
                ends = " to ".join(map(str, sorted(times[backend])[-2:]))
                print(f"  {backend}, {series} series: exponent {growth[0]:.2f} (T = {ends}), {growth[1]:.2f} over all")
    if skipped:
        print("skipped:", "; ".join(skipped))
    return {"cases": rows, "skipped": skipped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short series")
    parser.add_argument("--kernels", nargs="+", default=["matern32", "rbf"])
    parser.add_argument("--dates", nargs="+", type=int)
    parser.add_argument("--series", nargs="+", type=int)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--memory", type=float, default=8.0, help="GB")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plain", action="store_true", help="leave the allocator of the cases as it is")
    parser.add_argument("--json", type=Path, default=Path("temporal.json"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        *case, threads = json.loads(options.case)
        torch.set_num_threads(threads)
        print(measure(*case))
        return
    torch.set_num_threads(options.threads)
    options.dates = options.dates or (QUICK_DATES if options.quick else DATES)
    options.series = options.series or (QUICK_SERIES if options.quick else SERIES)
    if not options.plain:
        os.environ.update({name: size for name, size in KEEP.items() if name not in os.environ})
    if options.device == "cpu":
        print(f"torch {torch.__version__}, {options.threads} thread(s), {torch.backends.cpu.get_cpu_capability()}")
    else:
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name(options.device)}")
    print("allocator:", ", ".join(f"{name}={os.environ[name]}" for name in KEEP if name in os.environ) or "as it comes")
    results = {kernel: table(kernel, options) for kernel in options.kernels}
    options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
