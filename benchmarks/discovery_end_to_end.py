"""Is a law that sits inside the radar operator found from the posterior of a fit, and does the refit gain by it?

    python benchmarks/discovery_end_to_end.py [--cases rain canopy none] [--points 300] [--steps 800] [--rounds 2]
        [--seeds 1] [--json discovery_end_to_end.json]

Points are drawn from the prior of a model without residual, with a year of optical dates, radar dates and weather.
Its radar operator has one more term,

rain
    ``0.9*log(1 + precipitation)`` dB in VV, water on leaves;
canopy
    ``2.0*exp(-0.6*lai)`` dB in VH, rows of young plants;
none
    nothing.

A model that does not know of it is fitted and refined (`inference.refine`). For every round: the laws found, the log
density of withheld observations per modality, the energy of the residuals, error (rms, in prior sds) and 90 % coverage
of leaf area and soil moisture. Goal: the law is found in round 0, round 1 is better in all, and nothing is found where
nothing was planted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from residuals_plant import points

from inference import posterior, refine
from inference.calibration import at_pixels, coverage
from inference.discovery import Template
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import simulate, withhold
from pi_vae.law import LawTerm
from pi_vae.physics import compile_kernels

CASES = {
    "rain": ("0.9*log(1 + precipitation)", "precipitation", 0),
    "canopy": ("2.0*exp(-0.6*lai)", "lai", 1),
    "none": None,
}
JUDGED = ("lai", "soil_moisture")
OPERATORS = ("add", "sub", "mul", "div", "exp", "log", "sqrt", "square")


def plant(case: str, count: int, seed: int) -> xr.DataTree:
    """A cube of points with its truth."""
    rng = np.random.default_rng(seed)
    empty = points(count, 10, 12, 0.4, seed)
    times = np.concatenate([empty[name].time.values for name in ("s1", "s2")]).astype("datetime64[D]")
    day = np.timedelta64(1, "D")
    days = np.arange(times.min() - 2 * day, times.max() + 3 * day, day).astype("datetime64[ns]")
    turn = 2 * np.pi * (days - days[0]) / np.timedelta64(1, "D") / 365.25
    drivers = {
        "air_temperature": ("time", 283 + 8 * np.cos(turn + 2.6) + rng.normal(0, 2.5, len(days))),
        "precipitation": ("time", np.where(rng.random(len(days)) < 0.45, rng.exponential(5.0, len(days)), 0.0)),
    }
    empty["drivers"] = xr.Dataset(drivers, {"time": days})
    model = PhysicsVAE({"s2": Optical(residual=0), "s1": Radar(residual=0)})
    if CASES[case] is not None:
        text, name, channel = CASES[case]
        model.modalities["s1"].laws.append(LawTerm(text, [name], channel, 2))
    return withhold(simulate(model, empty, seed), 0.1, seed=seed + 1)


def judge(each, cube: xr.DataTree, seed: int) -> dict:
    """Scores of a round."""
    drawn = posterior(each.run, cube, 60, pixels=200, seed=seed)["posterior"].to_dataset()
    known = at_pixels(cube["truth"].to_dataset(), drawn)[list(JUDGED)]
    error = (drawn[list(JUDGED)].mean(("chain", "draw")) - known) / known.std()
    held = coverage(drawn[list(JUDGED)], known, levels=(0.9,))["coverage"].sel(level=0.9)
    return {
        "found": [str(law) for law in each.found],
        "log_density": dict(each.log_density),
        "energy": dict(each.energy),
        "rmse": {n: float(np.sqrt((error[n] ** 2).mean())) for n in JUDGED},
        "bias": {n: float(error[n].mean()) for n in JUDGED},
        "coverage": {n: float(held.sel(variable=n)) for n in JUDGED},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=128, help="series a step")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("discovery_end_to_end.json"))
    args = parser.parse_args()
    compile_kernels()
    results = []
    for case in args.cases:
        for seed in range(args.seeds):
            cube = plant(case, args.points, 10 + seed)
            torch.manual_seed(seed)
            model = PhysicsVAE({"s2": Optical(residual=1), "s1": Radar(residual=1, transient=1)})
            loop = refine(
                model,
                cube,
                args.rounds,
                template={"s1": Template(operators=OPERATORS)},
                pixels=None,
                seed=seed,
                training={"steps": args.steps, "pixels": args.pixels, "progress": False},
            )
            print(f"\n{case}, seed {seed}: {CASES[case]}\n{loop}", flush=True)
            for number, each in enumerate(loop.rounds):
                row = {"case": case, "seed": seed, "round": number} | judge(each, cube, seed)
                results.append(row)
                told = ", ".join(
                    f"{n}: rms {row['rmse'][n]:.3f}, bias {row['bias'][n]:+.3f}, coverage {row['coverage'][n]:.3f}"
                    for n in JUDGED
                )
                print(f"  round {number}: {told}", flush=True)
                args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
