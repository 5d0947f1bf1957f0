"""How many whole series a second: the encoder with draws of the posterior, and a step of training, part by part.

    python benchmarks/encoder_speed.py [--quick] [--pixels 256 1024 4096] [--json encoder_speed.json]

A series is a pixel with 40 optical and 40 radar dates, none in common: 80 union dates. Values are random, three tenths
of the optical ones are missing; the model is the default one as it is built, in float32.

**Inference.** A cube is read in tiles, on a grid with the halo that the encoder asks for, or as points, where every
pixel stands alone. Timed are `encode` (the tile is cut and encoded), `posterior` (the chain of processes given the
sites), `draws` (50 joint draws of all latents), and, apart, `variables`: the map of these draws to physical values.
Series a second are of the first three; the last column is by the clock. `groups` is the same as maps are made
(`inference.draws.groups`): the draws in eight groups, each with a draw of the global latents and so a posterior of its
own. Every case runs in a process of its own; its peak of resident memory, `variables` included, is over that of a
process which has built the model and done nothing. Exponents are those of the time in the pixels, between the two
largest cubes and fitted to all. Tiles do not need each other, so that cores are used best by processes of one thread:
the largest cube is also given to as many as there are cores, one each. Threads of one process have too little to share
in operations as small as these, and where others want the cores too they mostly wait (``--threads 1 2`` shows it).

**Training.** A step as `inference.fit` takes it: patches are cut, some of their observations hidden, then the ELBO of
Pyro, its derivatives and Adam. Beside it the same ELBO written in torch (`elbo_by_hand.py`), without a program's sites
and traces. Both steps are taken in turns from the same seed, and have to agree in the loss and in every derivative, or
the benchmark fails. The overhead is what Pyro's step, with optimiser, takes longer than the other. For the parts of a
step (`prior`: global latents, the chain, its draws and divergences; `physics`: marginals, operators and residuals) the
graph of the latter is cut where one hands over to the next, so that each one's derivatives are timed alone; they have
to come out the same too. Where Pyro finds no closed divergence of the processes, it takes that of the one draw, and so
does the ELBO by hand; the table then says so, and what a step with closed ones takes.

Processor time, best of the repeats. ``--keep`` tells glibc's allocator to keep what it has
(`benchmarks/temporal.py` says why). Compare numbers of one run only.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from elbo_by_hand import Cut, Uncut, Watch, by_hand, check, closes
from lightning_fabric import Fabric
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from inference.draws import groups, seeded
from inference.objective import ChainRuleELBO
from inference.optimisation import Phase, deterministic, guarded
from pi_vae import PhysicsVAE
from pi_vae.data.batches import Batch, ModalityBatch
from pi_vae.data.occlusion import occlude
from pi_vae.data.tensors import CubeTensors

DATES, DAYS = 40, 9  # of each sensor, and between its dates
DRAWS, HIDDEN_DRAWS = 50, 3
PATCHES, PATCH, SERIES = 6, 24, 384  # of a step: what `fit` takes
STAGES = ("encode", "posterior", "draws")  # whose times make a series
PARTS = ("batch", "encoder", "prior", "physics", "likelihood", "optimiser")
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**36), "MALLOC_TRIM_THRESHOLD_": str(2**36)}  # bytes


def random_cube(model: PhysicsVAE, height: int, width: int, points: bool) -> CubeTensors:
    """A cube of random values as tensors; the radar has its dates between those of the optical sensor."""
    start = np.datetime64("2021-01-01", "s")
    modalities, union = {}, 2 * DATES
    for i, (name, modality) in enumerate(model.modalities.items()):
        shape = (1, DATES, height, width)
        valid = torch.rand(shape) > (0.3 if name == "s2" else 0.0)
        low, high = (0.02, 0.4) if name == "s2" else (-20.0, -6.0)
        values = low + (high - low) * torch.rand(1, DATES, len(modality.channels), height, width)
        angles = {angle: torch.full((DATES,), 35.0) for angle in modality.angles}
        index = torch.arange(i, union, 2)
        modalities[name] = ModalityBatch(torch.where(valid.unsqueeze(2), values, 0.0), valid, valid, index, angles)
    days = np.arange(union) // 2 * DAYS + np.arange(union) % 2 * (DAYS // 2)
    times = start + days * np.timedelta64(1, "D")
    dates = torch.from_numpy(times.astype("datetime64[D]").astype(np.float64))
    channels = {name: modality.channels for name, modality in model.modalities.items()}
    return CubeTensors(dates, times, modalities, channels, points)


def least(found: list[dict[str, float]]) -> dict[str, float]:
    """The least of each."""
    return {name: min(one[name] for one in found) for name in found[0]}


def infer(model: PhysicsVAE, data: CubeTensors, options: argparse.Namespace) -> Watch:
    """Once over the cube, stage by stage; draws of a tile are let go with it."""
    watch = Watch()
    for _, _, batch in data.tiles(options.tile, model.encoder.radius):
        sites = model.encode(batch)
        watch("encode")
        shared = model.draw_globals()
        posterior = model.posterior(sites, batch.dates, shared, options.draws)
        watch("posterior")
        drawn = posterior.rsample((options.draws,))
        watch("draws")
        model.variables(model.latents(drawn, batch.dates, shared))
        watch("variables")
        del sites, posterior, drawn
    return watch


def in_groups(model: PhysicsVAE, data: CubeTensors, options: argparse.Namespace) -> Watch:
    """The same by `inference.draws.groups`, as maps are made."""
    watch = Watch()
    for _, _, batch in data.tiles(options.tile, model.encoder.radius):
        for _ in groups(model, batch, options.draws):
            pass
    watch("groups")
    return watch


def peak_memory() -> float:
    """Largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(layout: str, pixels: int, options: argparse.Namespace) -> dict:
    """Seconds and memory of a case of inference, in this process."""
    model = PhysicsVAE().eval()
    side = math.isqrt(pixels)
    shape = (pixels, 1) if layout == "points" else (side, side)
    if not pixels:
        return {"peak_mb": peak_memory()}
    with seeded(0):
        small = random_cube(model, *((9, 1) if layout == "points" else (3, 3)), layout == "points")
        infer(model, small, options)  # what is done once
        data = random_cube(model, *shape, layout == "points")
        watches = [infer(model, data, options) for _ in range(options.repeats)]
        found = {"pixels": data.pixels, "peak_mb": peak_memory()}
        together = [in_groups(model, data, options) for _ in range(options.repeats)]
    seconds, wall = (least([getattr(w, key) for w in watches]) for key in ("seconds", "wall"))
    for totals, key in ((seconds, "seconds"), (wall, "wall")):
        found[key] = totals | least([getattr(w, key) for w in together])
    # The best whole pass, not the sum of the best stages.
    times = [sum(getattr(w, key)[s] for s in STAGES) for w in watches for key in ("seconds", "wall")]
    found["per_core_second"], found["per_second"] = data.pixels / min(times[::2]), data.pixels / min(times[1::2])
    found["groups_per_core_second"] = data.pixels / found["seconds"]["groups"]
    return found


def isolated(case: list, threads: int, options: argparse.Namespace, processes: int = 1) -> list[dict]:
    """A case in a process of its own, or in several side by side."""
    command = [sys.executable, __file__, "--case", json.dumps(case), "--threads", str(threads)]
    for name in ("tile", "draws", "repeats", "patches", "patch_size", "series"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    pipes = {"env": os.environ | {"OMP_NUM_THREADS": str(threads)}, "stdout": -1, "stderr": -1, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    done = [(process, *process.communicate()) for process in running]
    for process, _, errors in done:
        if process.returncode:
            raise RuntimeError(f"The case {case} failed: {(errors.strip().splitlines() or ['no message'])[-1]}")
    return [json.loads(text.strip().splitlines()[-1]) for _, text, _ in done]


def train(options: argparse.Namespace) -> dict:
    """Seconds of a step by Pyro, by hand, and of its parts, in this process."""
    torch.manual_seed(0)
    model = PhysicsVAE().train()
    data = random_cube(model, 2 * options.patch_size, 2 * options.patch_size, points=False)
    observations = sum(int(m.seen.sum()) * m.values.shape[2] for m in data.modalities.values())
    phase = Phase([{"params": list(model.parameters()), "lr": 1e-4}], 1000)
    fabric = Fabric(accelerator="cpu", devices=1)
    elbo = ChainRuleELBO(model, HIDDEN_DRAWS)(model.model, model.guide)

    def batch(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        return occlude(data.patches(options.patches, options.patch_size, options.series, generator), generator)

    def hand(b: Batch, closed: bool, cut: Uncut | None = None) -> Tensor:
        return guarded(by_hand, model, b, HIDDEN_DRAWS, closed, cut) / observations

    with deterministic():
        first, cut = batch(0), Cut()
        closed = closes(model, first)
        losses = {"pyro": lambda b: guarded(elbo, b) / observations, "hand": lambda b: hand(b, closed)}
        ways = {way: (functools.partial(loss, first), Tensor.backward) for way, loss in losses.items()}
        same = check(ways | {"parts": (lambda: hand(first, closed, cut), cut.backward)}, model)
        if not closed:
            losses["closed"] = lambda b: hand(b, True)
        steps: dict[str, list[Watch]] = {way: [] for way in losses}
        cuts = []
        for turn in range(options.repeats + 1):  # the first is not counted
            for way in list(losses)[:: 1 if turn % 2 else -1]:
                torch.manual_seed(turn)
                watch = Watch()
                drawn = batch(turn)
                watch("batch")
                phase.descend(losses[way](drawn), fabric)
                watch("step")
                steps[way].append(watch)
            cuts.append(cut := Cut())
            drawn = batch(turn)
            cut.forth("batch")
            loss = hand(drawn, closed, cut)
            cut.forth("likelihood")
            phase.optimizer.zero_grad(set_to_none=True)
            cut.backward(loss)
            torch.nn.utils.clip_grad_norm_(phase.parameters, 10.0)
            phase.optimizer.step()
            cut.back("optimiser")
    steps, cuts = {way: watches[1:] for way, watches in steps.items()}, cuts[1:]
    forth, back = (least([getattr(cut, way).seconds for cut in cuts]) for way in ("forth", "back"))
    parts = {part: {"forth": forth.get(part, 0.0), "back": back.get(part, 0.0)} for part in PARTS}
    seconds = {way: least([watch.seconds for watch in steps[way]]) for way in losses}
    ratios = [p.seconds["step"] / h.seconds["step"] - 1 for p, h in zip(steps["pyro"], steps["hand"], strict=True)]
    series = len(first.pixels)
    return {
        "series": series,
        "closed": closed,
        "seconds": seconds,
        "parts": parts,
        "overhead": seconds["pyro"]["step"] / seconds["hand"]["step"] - 1,
        "overhead_median": float(np.median(ratios)),
        "per_core_second": series / min(sum(watch.seconds.values()) for watch in steps["pyro"]),
        "per_second": series / min(sum(watch.wall.values()) for watch in steps["pyro"]),
        "apart": same,
        "peak_mb": peak_memory(),
    }


def largest(pixels: int, options: argparse.Namespace, count: int = 10) -> dict[str, dict[str, float]]:
    """Shares of the time that operations of torch take for themselves, of encoding points and of drawing."""
    model = PhysicsVAE().eval()
    found = {}
    with seeded(0):
        data = random_cube(model, pixels, 1, points=True)
        _, _, batch = next(data.tiles(math.isqrt(pixels - 1) + 1, 0))
        sites = []
        work = {
            "encode": lambda: sites.append(model.encode(batch)),
            "draws": lambda: model.posterior(sites[-1], batch.dates, model.draw_globals(), options.draws).rsample(
                (options.draws,)
            ),
        }
        for name, run in work.items():
            run()
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                run()
            events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
            total = sum(event.self_cpu_time_total for event in events)
            found[name] = {event.key: event.self_cpu_time_total / total for event in events[:count]}
    return found


def exponents(rows: list[dict]) -> dict[str, float]:
    """Growth of the time with the pixels: at the long end, and by least squares over all."""
    pixels = np.log([row["pixels"] for row in rows])
    seconds = np.log([row["pixels"] / row["per_core_second"] for row in rows])
    return {"long": float(np.diff(seconds)[-1] / np.diff(pixels)[-1]), "all": float(np.polyfit(pixels, seconds, 1)[0])}


def inference_table(options: argparse.Namespace) -> dict:
    """Measure all cases of inference and print them."""
    results: dict[str, dict] = {}
    names = (*STAGES, "variables", "groups")
    print(f"\n{'ms a series':20}{''.join(f'{name:>11}' for name in names)}   series a core-second, in groups, a second")
    for threads in options.threads:
        empty = isolated(["infer", "points", 0], threads, options)[0]["peak_mb"]
        for layout in options.layouts:
            rows = []
            for pixels in options.pixels:
                row = isolated(["infer", layout, pixels], threads, options)[0]
                row["peak_mb"] -= empty
                rows.append(row)
                results[f"{layout}/threads={threads}/{row['pixels']}"] = row
                cells = "".join(f"{1e3 * row['seconds'][name] / row['pixels']:11.3f}" for name in names)
                rates = (row[key] for key in ("per_core_second", "groups_per_core_second", "per_second"))
                print(
                    f"{threads} thread(s) {layout:6}{row['pixels']:6d}{cells}   ",
                    *(f"{rate:9.1f}" for rate in rates),
                    f"   peak {row['peak_mb']:.0f} MB",
                    flush=True,
                )
            if len(rows) > 1:
                growth = results[f"exponent/{layout}/threads={threads}"] = exponents(rows)
                print(f"  time grows with the pixels to the power {growth['long']:.2f}, {growth['all']:.2f} over all")
    count = options.processes
    if count > 1:
        for layout in options.layouts:
            each = isolated(["infer", layout, options.pixels[-1]], 1, options, processes=count)
            clock, core = (sum(row[key] for row in each) for key in ("per_second", "per_core_second"))
            case = f"{layout}/processes={count}/{each[0]['pixels']}"
            results[case] = {"per_second": clock, "per_core_second": core, "each": each}
            print(f"{count} processes of one thread, {layout}: {clock:.1f} series a second by the clock", end="")
            print(f", {core:.1f} if they had a core each", flush=True)
    return results


def training_table(options: argparse.Namespace) -> dict:
    """Measure a step of training and print its parts."""
    results = {}
    for threads in options.threads:
        row = results[f"threads={threads}"] = isolated(["train"], threads, options)[0]
        whole = sum(sum(part.values()) for part in row["parts"].values())
        print(f"\na step of {row['series']} series, {threads} thread(s); ms   forth    back   share")
        for name, part in row["parts"].items():
            share = sum(part.values()) / whole
            print(f"  {name:28}{1e3 * part['forth']:12.1f}{1e3 * part['back']:8.1f}{share:8.0%}")
        pyro, hand = (1e3 * row["seconds"][way]["step"] for way in ("pyro", "hand"))
        print(f"  without the batch: {pyro:.1f} by Pyro, {hand:.1f} by hand, {1e3 * whole:.1f} all parts")
        if not row["closed"]:
            other = 1e3 * row["seconds"]["closed"]["step"]
            print(f"  divergences of the processes by one draw; with closed ones, by hand: {other:.1f}")
        print(f"  overhead of Pyro {row['overhead']:.1%} (median of the turns {row['overhead_median']:.1%})")
        print(f"  {row['per_core_second']:.0f} series a core-second, {row['per_second']:.0f} a second", flush=True)
        for way, apart in row["apart"].items():
            print(f"  {way}: apart by {apart['loss']:.0e} in the loss, {apart['derivatives']:.0e} in the derivatives")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread, few pixels, short steps, one repeat")
    parser.add_argument("--pixels", nargs="+", type=int, help="of the cubes; on a grid the square below")
    parser.add_argument("--layouts", nargs="+", default=["points", "grid"], choices=["points", "grid"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="of a process")
    parser.add_argument("--processes", type=int, help="side by side; as many as there are cores, none with --quick")
    parser.add_argument("--tile", type=int, default=16, help="side of a tile")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--patches", type=int, default=PATCHES, help="of a step of training")
    parser.add_argument("--patch-size", type=int, default=PATCH)
    parser.add_argument("--series", type=int, default=SERIES, help="pixels of a step that are modelled")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="have the allocator keep its memory")
    parser.add_argument("--json", type=Path, default=Path("encoder_speed.json"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        warnings.simplefilter("ignore")
        torch.set_num_threads(options.threads[0])
        kind, *case = json.loads(options.case)
        run = {"infer": measure, "train": train, "largest": largest}[kind]
        print(json.dumps(run(*case, options)))
        return
    options.processes = options.processes or (1 if options.quick else os.cpu_count() or 1)
    if options.quick:
        options.patches, options.patch_size, options.series, options.repeats = 2, 12, 64, 1
    options.pixels = options.pixels or ([64, 256] if options.quick else [256, 1024, 4096])
    if options.keep:
        os.environ.update({name: size for name, size in KEEP.items() if name not in os.environ})
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, load {os.getloadavg()[0]:.1f}")
    print("allocator:", ", ".join(f"{name}={os.environ[name]}" for name in KEEP if name in os.environ) or "as it comes")
    results = {"inference": inference_table(options), "training": training_table(options)}
    pixels = options.pixels[min(1, len(options.pixels) - 1)]
    results["largest"] = isolated(["largest", pixels], 1, options)[0]
    for name, shares in results["largest"].items():
        print(f"\nlargest operations, {name}, {pixels} points:", ", ".join(f"{k} {v:.0%}" for k, v in shares.items()))
    options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
