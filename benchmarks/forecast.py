"""Forecasts of real Sentinel-1 and -2 series, 10 to 60 days ahead, beside persistence and climatology.

    python benchmarks/forecast.py [--data ../shared/data] [--problems france flanders swiss treesat] [--steps 240]
        [--points 80] [--draws 100] [--rows gp] [--json forecast.json]

Needs ``pyarrow`` and ``h5py``; the problems are those of ``forecast_data.py``. From every origin, each observation that
follows within the horizons is forecast. Everything after an origin is cut off the cube before anything is computed from
it. Ours are fitted once for each problem, to what lies before the first origin; from later origins the same weights
read more of the series. Rows:

gp
    `PhysicsVAE` with its defaults;
phenology
    the same with ``phenology=1``, leaf area that follows a season;
periodic
    the same with kernel ``matern32 + periodic``, of the residuals too, where more than a year is seen;
persistence
    the last clear observation of the point;
climatology
    where more than a year is seen, the observation of the point in the same month of the year before (where there was
    none, the mean of the points in that month); else the mean of all the point's observations so far;
damped
    weight times persistence plus the rest times climatology; for every horizon and channel the weight, in 0 to 1, that
    would have been best for the forecasts that could have been made and checked before the origin; 0.5 without any;
others
    in hindsight: the mean of other fields (treesat: of the other pixels of the stand) on the very day that is
    forecast, interpolated between days. No forecast: it stands for a perfect climatology, and sees the future weather.

Persistence, climatology and damped are dressed with the errors of all points that they would have made before the
origin at that horizon (climatology where there are none, with those of persistence). RMSE is that of the mean of the
draws for ours, of the plain value for the others; CRPS is of the draws. Both are given as ratios, averaged over bands
or polarisations, with all rows on the same observations; below 1 is better than what it is compared with.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from forecast_data import DATA, DAY, Problem, folder, measured

from inference import fit, posterior
from inference.calibration import crps
from inference.training import Run
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.priors import TemporalGP

MODALITIES = ("s2", "s1")
PEERS = ("persistence", "climatology", "damped")
CHECKS = 12  # earlier origins that peers learn from
YEAR = 365.2425

Forecast = dict[str, tuple[np.ndarray, np.ndarray]]  # modality -> value [D, C, point], draws [S, D, C, point]


def modalities(problem: Problem) -> list[str]:
    return [name for name in MODALITIES if name in problem.cube.children]


def build(problem: Problem, row: str) -> PhysicsVAE:
    """The model of a row."""
    torch.manual_seed(0)
    kernel = "matern32 + periodic" if row == "periodic" else "matern32"
    parts = {"s2": Optical(bands=problem.cube["s2"].band.values, kernel=kernel)}
    parts |= {"s1": Radar(kernel=kernel)} if "s1" in problem.cube.children else {}
    return PhysicsVAE(parts, TemporalGP(kernel), phenology=int(row == "phenology"))


def ours(problem: Problem, run: Run, origin: np.datetime64, draws: int) -> Forecast:
    """The predictive of a fitted model at the dates that an origin is scored at."""
    dates = {name: problem.targets(name, origin) for name in modalities(problem)}
    past = problem.past(origin)
    tree = posterior(run, past, draws=draws, times=np.unique(np.concatenate(list(dates.values()))))
    found = {}
    for name, targets in dates.items():
        drawn = tree["posterior_predictive"][name].sel({f"{name}_time": targets}).values[0]
        drawn = drawn.transpose(0, 2, 3, 1).astype(np.float64)  # [S, P, D, C] -> [S, D, C, P]
        found[name] = (drawn.mean(0), drawn)
    return found


def plain(problem: Problem, times: np.ndarray, values: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Persistence and climatology `[D, C, point]` of what is known, dates `[T]` and values `[T, C, point]`."""
    place = np.where(np.isfinite(values), np.arange(len(times))[:, None, None], -1).max(0)
    last = np.where(place >= 0, np.take_along_axis(values, place.clip(0)[None], 0)[0], np.nan)
    if problem.yearly:
        apart = np.abs((targets[:, None] - times) / DAY - YEAR)
        before = values[apart.argmin(1)]
        before = np.where(np.isfinite(before), before, _mean(before, -1)[..., None])
        usual = np.where((apart.min(1) < 10)[:, None, None], before, np.nan)
    else:
        usual = np.repeat(_mean(values, 0)[None], len(targets), 0)
    return {"persistence": np.repeat(last[None], len(targets), 0), "climatology": usual}


def checked(problem: Problem, times: np.ndarray, values: np.ndarray) -> list[dict[str, np.ndarray]]:
    """By horizon, forecasts that could have been made and checked by now: rows and ``"truth"``, `[C, many]` each."""
    found: list[dict[str, list]] = [{"persistence": [], "climatology": [], "truth": []} for _ in problem.horizons]
    for known in np.unique(np.linspace(1, len(times) - 1, min(CHECKS, len(times) - 1)).astype(int)):
        horizon = problem.horizon((times[known:] - times[known - 1]) / DAY)
        made = plain(problem, times[:known], values[:known], times[known:])
        for i, h in enumerate(horizon):
            if h >= 0:
                for row, value in (made | {"truth": values[known:]}).items():
                    found[h][row].append(value[i])
    channels = values.shape[1]
    return [{row: np.concatenate([np.empty((channels, 0)), *x], 1) for row, x in by.items()} for by in found]


def weights(past: Mapping[str, np.ndarray]) -> np.ndarray:
    """`[C]` share of persistence in the best mixture with climatology; 0.5 where nothing was checked."""
    step, miss = past["persistence"] - past["climatology"], past["truth"] - past["climatology"]
    ok = np.isfinite(step) & np.isfinite(miss)
    step, miss = np.where(ok, step, 0.0), np.where(ok, miss, 0.0)
    size = (step**2).sum(1)
    return np.where(size > 0, (step * miss).sum(1) / np.where(size > 0, size, 1.0), 0.5).clip(0.0, 1.0)


def peers(problem: Problem, origin: np.datetime64, draws: int) -> dict[str, Forecast]:
    """Persistence, climatology and their mixture from one origin."""
    rng = np.random.default_rng(0)
    found: dict[str, Forecast] = {row: {} for row in PEERS}
    for name, node in problem.past(origin).children.items():
        if name not in MODALITIES:
            continue
        times, values = node.time.values, measured(node.to_dataset())
        targets = problem.targets(name, origin)
        made, past = plain(problem, times, values, targets), checked(problem, times, values)
        share = np.stack([weights(by) for by in past])
        horizon = problem.horizon((targets - origin) / DAY)
        mix = share[horizon][:, :, None]
        made["damped"] = mix * made["persistence"] + (1 - mix) * made["climatology"]
        for h, by in enumerate(past):
            by["damped"] = share[h][:, None] * by["persistence"] + (1 - share[h][:, None]) * by["climatology"]
        for row in PEERS:
            errors = [_errors(past, row, h) for h in range(len(past))]
            drawn = np.empty((draws, *made[row].shape))
            for d, h in enumerate(horizon):
                for c in range(values.shape[1]):
                    drawn[:, d, c] = made[row][d, c] + rng.choice(errors[h][c], (draws, values.shape[2]))
            found[row][name] = (made[row], drawn)
    return found


def _errors(past: list[dict[str, np.ndarray]], row: str, horizon: int) -> list[np.ndarray]:
    """Past errors by channel, of the nearest horizon that has any, of the row or else of persistence."""
    for source in (row, "persistence"):
        for h in sorted(range(len(past)), key=lambda h: abs(h - horizon)):
            error = past[h]["truth"] - past[h][source]
            channels = [x[np.isfinite(x)] for x in error]
            if all(len(x) >= 20 for x in channels):
                return channels
    raise ValueError("Too little was seen before the first origin to know how persistence errs: give a later origin.")


def others(problem: Problem, origin: np.datetime64) -> dict[str, np.ndarray]:
    """`[D, C, point]` mean of the other fields on the days that are forecast, interpolated; in hindsight."""
    found = {}
    for name in modalities(problem):
        node = problem.cube[name].to_dataset()
        times, values, targets = node.time.values, measured(node), problem.targets(name, origin)
        result = np.full((len(targets), *values.shape[1:]), np.nan)
        for field in np.unique(problem.field):
            mean = _mean(values[:, :, problem.field != field], -1)
            ok = np.isfinite(mean[:, 0])
            days, asked = ((x - times[0]) / DAY for x in (times[ok], targets))
            for c in range(values.shape[1]) if ok.any() else ():
                result[:, c, problem.field == field] = np.interp(asked, days, mean[ok, c])[:, None]
        found[name] = result
    return found


def score(problem: Problem, forecasts: Mapping[np.datetime64, Mapping[str, Forecast]]) -> dict:
    """Scores of the rows by modality and horizon; ``forecasts`` by origin and row."""
    table: dict[str, dict] = {}
    for name in modalities(problem):
        node = problem.cube[name].to_dataset()
        times, values = node.time.values, measured(node)
        for h, days in enumerate(problem.horizons):
            pieces: dict[str, list] = {}
            for origin, rows in forecasts.items():
                targets = problem.targets(name, origin)
                at = np.flatnonzero(problem.horizon((targets - origin) / DAY) == h)
                truth = values[np.searchsorted(times, targets[at])]
                ok = np.isfinite(truth).all(1)
                for row in rows.values():
                    ok &= np.isfinite(row[name][0][at]).all(1)
                for row, found in rows.items():
                    value, drawn = found[name][0][at], found[name][1][:, at]
                    pieces.setdefault(row, []).append(
                        (value.transpose(0, 2, 1)[ok], drawn.transpose(0, 1, 3, 2)[:, ok])
                    )
                pieces.setdefault("truth", []).append(truth.transpose(0, 2, 1)[ok])
            truth = np.concatenate(pieces.pop("truth"))
            if len(truth):
                scores = {
                    row: _scores(truth, *(np.concatenate([p[i] for p in found], i) for i in (0, 1)))
                    for row, found in pieces.items()
                }
                table[f"{name}/{days}"] = {"n": len(truth), "rows": _compared(scores)}
    return table


def _scores(truth: np.ndarray, value: np.ndarray, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """RMSE, CRPS and coverage by channel, of `[n, C]` truths and values and `[S, n, C]` draws."""
    found = {"rmse": np.sqrt(((value - truth) ** 2).mean(0))}
    if len(drawn) > 1:
        dims = ("sample", "channel")
        known = xr.Dataset({"y": (dims, truth)}).rename(sample="n")
        scored = crps(xr.Dataset({"y": (("chain", "draw", "n", "channel"), drawn[None])}), known)["y"]
        low, high = np.quantile(drawn, (0.05, 0.95), axis=0, method="weibull")
        found |= {"crps": scored.values.mean(0), "coverage": ((low <= truth) & (truth <= high)).mean(0)}
    return found


def _compared(scores: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict]:
    """Means over the channels of the ratios to persistence and climatology."""
    table = {}
    for row, own in scores.items():
        table[row] = {key: own[key].tolist() for key in own}
        for key in ("rmse", "crps"):
            for peer in ("persistence", "climatology") if key in own else ():
                table[row][f"{key}/{peer}"] = float((own[key] / scores[peer][key]).mean())
        if "coverage" in own:
            table[row]["coverage_90"] = float(own["coverage"].mean())
    return table


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is finite, NaN where nothing is."""
    count = np.isfinite(values).sum(axis)
    return np.where(count > 0, np.nansum(values, axis) / np.maximum(count, 1), np.nan)


def run_problem(problem: Problem, options: argparse.Namespace) -> dict:
    """All rows of one problem."""
    forecasts: dict[np.datetime64, dict[str, Forecast]] = {o: peers(problem, o, options.draws) for o in problem.origins}
    if not problem.yearly:
        for origin, rows in forecasts.items():
            rows["others"] = {name: (value, value[None]) for name, value in others(problem, origin).items()}
    seconds = {}
    for row in options.rows:
        if row == "periodic" and not problem.yearly:
            continue
        start = time.perf_counter()
        before = problem.past(problem.origins[0])
        run = fit(build(problem, row), before, steps=options.steps, pixels=options.pixels, device="cpu", progress=False)
        middle = time.perf_counter()
        for origin, rows in forecasts.items():
            rows[row] = ours(problem, run, origin, options.draws)
        seconds[row] = {"fit": middle - start, "forecasts": time.perf_counter() - middle}
    return {"seconds": seconds, "scores": score(problem, forecasts)}


def show(name: str, problem: Problem, result: dict) -> None:
    spent = ", ".join(f"{row} {s['fit']:.0f} + {s['forecasts']:.0f} s" for row, s in result["seconds"].items())
    size = next(iter(problem.cube.children.values())).sizes["point"]
    print(f"\n{name}: {size} points, {len(problem.origins)} origins; fit + forecasts: {spent}")
    print(f"{'':10}{'':14}{'RMSE over':>20}{'CRPS over':>20}  cover")
    print(f"{'':10}{'':14}" + f"{'persist.':>10}{'climat.':>10}" * 2 + "   90 %")
    for case, found in result["scores"].items():
        for i, (row, own) in enumerate(found["rows"].items()):
            keys = [f"{key}/{peer}" for key in ("rmse", "crps") for peer in ("persistence", "climatology")]
            cells = "".join(f"{own[key]:10.2f}" if key in own else f"{'-':>10}" for key in (*keys, "coverage_90"))
            print(f"{case + ' d' if not i else '':10}{row:14}{cells}" + (f"   n = {found['n']}" if not i else ""))
    print(end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=folder())
    parser.add_argument("--problems", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument(
        "--rows", nargs="*", choices=("gp", "phenology", "periodic"), default=["gp", "phenology", "periodic"]
    )
    parser.add_argument("--steps", type=int, default=240, help="of every fit")
    parser.add_argument("--pixels", type=int, default=48, help="points per step of a fit")
    parser.add_argument("--points", type=int, default=80, help="at most so many of every problem")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("forecast.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.problems:
        problem = DATA[name](options.data).thinned(options.points)
        results[name] = run_problem(problem, options)
        show(name, problem, results[name])
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
