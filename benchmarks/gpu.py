"""Speed of the optical operator on an accelerator, and how near it comes to the bandwidth of its memory.

    python benchmarks/gpu.py [--device cuda] [--batch 1000 10000 100000 1000000] [--json gpu.json]

Forward + backward, float32, three nodes a band, ten Sentinel-2 bands: as separate operations, with compiled kernels and
with ``torch.compile`` of the operator (``--quick`` leaves out what is compiled). Bandwidth is measured here, by copying
a large tensor. The bound is that of a perfect fusion: every input read once and the output written once in the forward
pass; the gradient of the output read, the inputs read once more and their gradients written in the backward pass. The
fraction says how much of that bound is reached; separate operations move every intermediate result through memory and
cannot come near it. Without an accelerator the same runs on the processor, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fit_quadrature import BANDS, draw

from pi_vae.physics import Prosail, compile_kernels


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds(run: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Best wall time of a run after two that are not counted."""
    for _ in range(2):
        run()
    best = float("inf")
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes per second read and written by a copy."""
    source = torch.ones(2**28 if device.type != "cpu" else 2**24, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / seconds(lambda: target.copy_(source), device, repeats)


def bytes_moved(op: Prosail) -> int:
    """Bytes per sample that a perfect fusion moves, forward + backward, float32."""
    inputs, outputs = len(op.variables) + 3, len(op.bands)
    return 4 * (inputs + outputs + outputs + inputs + len(op.variables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch", type=int, nargs="+", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="nothing compiled")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device(args.device or found or "cpu")
    if device.type == "cpu":
        print("No accelerator here: the figures below are those of the processor.")
    batches = args.batch or ([1000, 10000] if device.type == "cpu" else [1000, 10000, 100000, 1000000])
    rate = bandwidth(device, args.repeats)
    print(f"{device}: copies at {rate / 1e9:.0f} GB/s")
    print(f"{'mode':22}{'batch':>9}{'samples/s':>13}{'bound':>13}{'fraction':>10}")
    results: dict[str, dict] = {"device": {"name": str(device), "bytes_per_second": rate}}
    for mode in ("separate operations", "compiled kernels", "torch.compile"):
        if args.quick and mode != "separate operations":
            continue
        if not compile_kernels(mode == "compiled kernels", device) and mode == "compiled kernels":
            print(f"{mode:22} no working compiler")
            continue
        op = Prosail(bands=BANDS, nodes=3).to(device)
        call = torch.compile(op, dynamic=False) if mode == "torch.compile" else op
        for batch in batches:
            variables, geometry = draw(op.variables, batch, seed=0)
            variables = {name: value.float().to(device).requires_grad_() for name, value in variables.items()}
            geometry = {name: value.float().to(device) for name, value in geometry.items()}

            def run(call: Callable = call, variables: dict = variables, geometry: dict = geometry) -> None:
                torch.autograd.grad(call(variables, geometry).sum(), list(variables.values()), allow_unused=True)

            try:
                speed, bound = batch / seconds(run, device, args.repeats), rate / bytes_moved(op)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).strip().splitlines()[-1][:60]
                print(f"{mode:22}{batch:9d} does not compile here: {reason}", flush=True)
                break
            results[f"{mode}/{batch}"] = {"per_second": speed, "bound": bound, "fraction": speed / bound}
            print(f"{mode:22}{batch:9d}{speed:13.3g}{bound:13.3g}{speed / bound:10.1%}", flush=True)
    args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
