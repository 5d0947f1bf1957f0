"""From radar to optical series, gaps of optical series, leaf area by either sensor, and crop type from the latents.

    python benchmarks/translation.py [--data ../shared/data] [--sets france flanders global patch]
        [--splits pixel region] [--tasks translate gaps coherence probe] [--steps 300] [--distilled 1000]
        [--moves 150] [--course 4] [--holdout 0.15] [--points 500] [--pixels 128] [--modality 0.3] [--draws 200]
        [--seed 0] [--json translation.json]

Needs ``pyarrow``; the sets, and what is split how, are those of ``translation_data.py``. One model is fitted for every
set and split, to the training pixels; nothing of a scored pixel is in that fit. All rows of a table are scored on the
same observations. RMSE, R², CRPS and coverage of central 90 % intervals are given for NDVI and as means over the bands;
RMSE as a ratio, ours over the row's, with the mean of the ratios for the bands; below 1 ours is better. "best" is the
lowest RMSE of any peer, chosen for every channel by itself and in hindsight.

``translate``: bands and NDVI of the scored pixels from radar. Ours is given a cube without optical node.

pi_vae
    `PhysicsVAE` with a common course and effects of single dates, fitted with one of the sensors hidden from the
    encoder in a share of the series (``--modality``) and some of the training pixels held out to judge it
    (``--holdout``), then `inference.distil`, and `inference.translate`;
climatology
    the training pixels' mean of the date;
ridge, forest
    ridge regression and random forest on backscatter at the date, and the date;
forest series
    a random forest for every date on backscatter of all dates of the pixel;
gp
    Gaussian process of bands, NDVI and backscatter together (`translation_gp.CoregionalisedGP`);
… + weather
    the same with the month's temperature and precipitation, which ours does not read; not among the best.

On the grid of the patch peers also read the mean backscatter of two windows around the pixel, those of the encoder of
ours, and learn from a lattice of pixels.

``gaps``: optical dates of the scored pixels are withheld, a fifth at random (``random``) or two to six successive
months (``block``), twice each; what is left of the series may be used. By the number of successive months without data.

pi_vae, pi_vae optical
    ours from both sensors and from the optical series alone;
pi_vae modes, pi_vae modes optical
    the same with ``refine="laplace"``, after `inference.learn_globals` (``--moves``; with 0 without these rows);
linear, whittaker, hants
    interpolation, penalised least squares, damped harmonics, each pixel by itself;
gp, gp radar
    Gaussian process of one channel of a pixel, and that of all channels and backscatter together; both know the mean of
    the date in the training pixels.

``coherence``: leaf area of the scored pixels from radar alone, optical data alone and both, at dates with both. Width
and standard deviation of 90 % intervals; share of pixel-dates with an interval wider than that of both; correlation and
root mean square difference of the medians with those of both; and "holds": the share of draws given both that lie in
the interval. A posterior given less is the mean of those given more, over what might be seen; hence this share is 0.9
for intervals that keep their promise. The row ``date`` pools both's draws of all scored pixels by date.

``probe``: crop code of the points by logistic regression, classes balanced, on the same folds of cells of 2 km, with
10, 50 and all labels of the training folds (all together, not of each class; one of each at least, as far as they
suffice); macro-F1, mean over repeated choices of labels. Rare codes (below a dozen points) are left out. What is
standardised or rotated is so by all points of the training folds, labelled or not; ours is fitted without labels, in
the split by pixel.

pi_vae, pi_vae physical
    features of `inference.embed`, all of them and the means of the physical variables;
series
    bands, NDVI and backscatter of all dates, gaps interpolated;
pca
    their leading principal components, as many as cross-validation on the labelled points asks for;
seasonal
    of every channel mean, standard deviation, extremes, quartiles, and sine and cosine of the first harmonic.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import translation_peers as peers
import xarray as xr
from forecast_data import folder
from scipy.stats import norm
from translation_data import SETS, Split, gap_lengths, gaps, split, with_ndvi
from translation_gp import gaussian
from translation_peers import Prediction
from translation_probe import probe_rows

from inference import distil, fit, learn_globals, translate
from inference.calibration import crps
from inference.training import Run
from pi_vae import Optical, PhysicsVAE, Radar

LENGTHS = {"1 month": (1, 1), "2 months": (2, 2), "3 months": (3, 3), "4 to 5": (4, 5), "6 and more": (6, np.inf)}
REPEATS = 2  # of the gaps
OURS = "pi_vae"
TASKS = ("translate", "gaps", "coherence", "probe")
HEAD = f"{'':24}{'NDVI: RMSE':>11}{'R²':>7}{'CRPS':>8}{'cover':>7}{'bands: RMSE':>13}{'R²':>7}{'CRPS':>8}{'cover':>7}"


class Record:
    """Results as a tree that is written to a file whenever a row is added."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path, {}

    def add(self, where: tuple[str, ...], row: dict) -> None:
        branch = self.tree
        for name in where[:-1]:
            branch = branch.setdefault(name, {})
        branch[where[-1]] = row
        self.path.write_text(json.dumps(self.tree, indent=1))


def fitted(part: Split, options: argparse.Namespace) -> Run:
    """Our model, fitted to the training pixels."""
    torch.manual_seed(options.seed)
    parts = {"s2": Optical(bands=part.scene.bands, date_effect=True), "s1": Radar(date_effect=True)}
    model = PhysicsVAE(parts, course=options.course)
    cube, settings = part.training_cube(), {"seed": options.seed, "holdout": options.holdout, "device": "cpu"}
    run = fit(
        model,
        cube,
        options.steps,
        pixels=options.pixels,
        hide_modality=options.modality,
        progress=False,
        **settings,
    )
    return distil(run, cube, options.distilled, progress=False, **settings) if options.distilled else run


def ours(
    run: Run, part: Split, cube: xr.DataTree, source: list[str], options: argparse.Namespace, refine: str | None = None
) -> Prediction:
    """Bands and NDVI of the scored pixels from some sensors."""
    settings = {"draws": options.draws, "pixels": part.pixels(), "seed": options.seed, "refine": refine}
    tree = translate(run, cube, source, "s2", **settings)
    drawn = with_ndvi(tree["posterior_predictive"]["s2"].values[0].astype(np.float64), part.scene.bands)
    return Prediction(drawn.mean(0), drawn)


def translations(run: Run, part: Split, options: argparse.Namespace) -> Iterator[tuple[str, Prediction]]:
    """Rows of the task ``translate``."""
    scene, train, scored = part.scene, part.train, part.scored
    yield OURS, ours(run, part, part.radar_cube(), ["s1"], options)
    optical, groups, dressing = scene.optical[train], part.groups[train], (options.draws, options.seed)
    yield "climatology", peers.climatology(optical, len(scored), *dressing)
    process = gaussian([optical, scene.radar[train]], scene.days, True, options.seed)
    nothing = np.full((len(scored), *optical.shape[1:]), np.nan)
    yield "gp", process(nothing, scene.radar[scored])
    radar = peers.interpolated(scene.radar, scene.days)
    for suffix, known in ((), radar), (("weather",), np.concatenate([radar, scene.weather], -1)):
        for method in ("ridge", "forest"):
            found = peers.datewise(method, known[train], optical, known[scored], groups, *dressing)
            yield " + ".join((method, *suffix)), found
        found = peers.seriewise(known[train], optical, known[scored], groups, *dressing)
        yield " + ".join(("forest series", *suffix)), found


def fillings(
    run: Run,
    sharp: Run | None,
    part: Split,
    kind: str,
    masks: list[np.ndarray],
    processes: Sequence[Callable[..., Prediction]],
    options: argparse.Namespace,
) -> Iterator[tuple[str, Prediction]]:
    """Rows of the task ``gaps``, with the scored pixels repeated for every mask `[scored, T]`.

    ``sharp`` is our run after `learn_globals`; ``processes`` are the Gaussian processes of single channels and of all.
    """
    scene, train, scored = part.scene, part.train, part.scored
    rows = [(OURS, run, None)] + ([(f"{OURS} modes", sharp, "laplace")] if sharp else [])
    sources = ("", ["s2", "s1"]), (" optical", ["s2"])
    for (row, own, refine), (suffix, source) in itertools.product(rows, sources):
        found = [ours(own, part, part.scored_cube(mask), source, options, refine) for mask in masks]
        value, draws = np.concatenate([f.value for f in found]), np.concatenate([f.draws for f in found], 1)
        yield row + suffix, Prediction(value, draws)
    optical = scene.optical[train]
    usable, rng = np.isfinite(optical).all(-1), np.random.default_rng(options.seed + 1)
    hidden = np.concatenate([gaps(kind, usable, scene.unit[train], rng) for _ in masks])
    known = np.tile(optical, (len(masks), 1, 1))
    gapped = np.concatenate([np.where(mask[..., None], np.nan, scene.optical[scored]) for mask in masks])
    for row, ways in peers.fillers(scene.days).items():
        yield row, peers.filled(ways, known, hidden, gapped, _stratum, options.draws, options.seed)
    yield "gp", processes[0](gapped)
    yield "gp radar", processes[1](gapped, np.tile(scene.radar[scored], (len(masks), 1, 1)))


def _stratum(seen: np.ndarray) -> np.ndarray:
    """`[P, T]` number of the entry of `LENGTHS` that a gap belongs to, -1 where a date is seen."""
    length = gap_lengths(seen)
    found = np.full(length.shape, -1)
    for i, (least, most) in enumerate(LENGTHS.values()):
        found[(length >= least) & (length <= most)] = i
    return found


def scores(truth: np.ndarray, found: Prediction) -> dict[str, list[float]]:
    """RMSE, R², CRPS and coverage by channel, of `[n, C]` truths."""
    error = found.value - truth
    variance = truth.var(0)
    result = {"rmse": np.sqrt((error**2).mean(0)), "r2": 1 - (error**2).mean(0) / np.where(variance > 0, variance, 1)}
    if found.draws is not None:
        low, high = np.quantile(found.draws, (0.05, 0.95), axis=0, method="weibull")
        known = xr.Dataset({"y": (("n", "channel"), truth)})
        drawn = xr.Dataset({"y": (("chain", "draw", "n", "channel"), found.draws[None])})
        result["crps"] = crps(drawn, known)["y"].values.mean(0)
    else:  # a normal distribution (Gneiting & Raftery 2007, Journal of the American Statistical Association 102, 359)
        low, high = (found.value + norm.ppf(q) * found.sd for q in (0.05, 0.95))
        z = error / found.sd
        score = found.sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
        result["crps"] = score.mean(0)
    result["coverage"] = ((low <= truth) & (truth <= high)).mean(0)
    return {key: [float(x) for x in value] for key, value in result.items()}


def ratio(own: dict, other: dict) -> dict[str, float]:
    """RMSE of ours over another row's: of NDVI, and the mean over the bands."""
    shares = np.array(own["rmse"]) / np.array(other["rmse"])
    return {"ndvi": float(shares[-1]), "bands": float(shares[:-1].mean())}


def best(table: dict[str, dict]) -> dict:
    """Lowest RMSE by channel of the peers that read what ours reads."""
    rows = [row["rmse"] for name, row in table.items() if not name.startswith(OURS) and "weather" not in name]
    return {"rmse": np.min(rows, 0).tolist()}


def show(name: str, row: dict, own: dict) -> None:
    """A row of a table of predictions."""
    cells = ""
    for width, pick in (11, lambda x: x[-1]), (13, lambda x: float(np.mean(x[:-1]))):
        cells += f"{pick(row['rmse']):{width}.4f}" if "r2" in row else f"{pick(row['rmse']):{width}.4f}{'':22}"
        cells += f"{pick(row['r2']):7.2f}{pick(row['crps']):8.4f}{pick(row['coverage']):7.2f}" if "r2" in row else ""
    over = ratio(own, row)
    print(f"{name:24}{cells}   ours/row {over['ndvi']:5.2f} {over['bands']:5.2f}", flush=True)


def run_translate(run: Run, part: Split, where: tuple[str, ...], record: Record, options: argparse.Namespace) -> None:
    """The table of translations."""
    truth = part.scene.optical[part.scored]
    ok = np.isfinite(truth).all(-1)
    print(f"radar to optical, n = {ok.sum()}\n{HEAD}")
    table: dict[str, dict] = {}
    for name, found in translations(run, part, options):
        table[name] = scores(truth[ok], found.at(ok))
        record.add((*where, "translate", name), table[name] | {"ours/row": ratio(table[OURS], table[name])})
        show(name, table[name], table[OURS])
    record.add((*where, "translate", "best"), best(table) | {"ours/row": ratio(table[OURS], best(table))})
    show("best", best(table), table[OURS])


def run_gaps(run: Run, part: Split, where: tuple[str, ...], record: Record, options: argparse.Namespace) -> None:
    """Two tables of gaps filled."""
    full = part.scene.optical[part.scored]
    usable = np.isfinite(full).all(-1)
    optical, radar = part.scene.optical[part.train], part.scene.radar[part.train]
    processes = [gaussian([optical], part.scene.days, False, options.seed)]
    processes.append(gaussian([optical, radar], part.scene.days, True, options.seed))
    sharp = None
    if options.moves:
        settings = {"pixels": 64, "seed": options.seed, "progress": False}
        sharp = learn_globals(copy.deepcopy(run), part.training_cube(), options.moves, **settings)
    for kind in ("random", "block"):
        rng = np.random.default_rng(options.seed)
        masks = [gaps(kind, usable, part.scene.unit[part.scored], rng) for _ in range(REPEATS)]
        stratum = np.concatenate([np.where(mask, _stratum(usable & ~mask), -1) for mask in masks])
        truth = np.tile(full, (REPEATS, 1, 1))
        cases = {"all": stratum >= 0} | {name: stratum == i for i, name in enumerate(LENGTHS)}
        cases = {name: mask for name, mask in cases.items() if mask.sum() >= 5}
        print(f"{kind} gaps, n = {(stratum >= 0).sum()}\n{HEAD}")
        tables: dict[str, dict] = {name: {} for name in cases}
        for name, found in fillings(run, sharp, part, kind, masks, processes, options):
            for case, mask in cases.items():
                row = tables[case][name] = scores(truth[mask], found.at(mask))
                row = row | {"n": int(mask.sum()), "ours/row": ratio(tables[case][OURS], row)}
                record.add((*where, f"gaps {kind}", case, name), row)
            show(name, tables["all"][name], tables["all"][OURS])
        for case, table in tables.items():
            over = {name: ratio(table[OURS], table[name]) for name in table} | {"best": ratio(table[OURS], best(table))}
            record.add((*where, f"gaps {kind}", case, "best"), best(table) | {"ours/row": over["best"]})
            cells = "  ".join(f"{n} {o['ndvi']:.2f} {o['bands']:.2f}" for n, o in over.items() if n != OURS)
            print(f"  ours over, {case:>10}, n = {cases[case].sum():5}:  {cells}", flush=True)


def run_coherence(run: Run, part: Split, where: tuple[str, ...], record: Record, options: argparse.Namespace) -> None:
    """The table of leaf area by either sensor."""
    optical, radar = part.scene.optical[part.scored], part.scene.radar[part.scored]
    both_seen = np.isfinite(optical).all(-1) & np.isfinite(radar).all(-1)
    cube, drawn = part.scored_cube(), {}
    for name, source in ("both", ["s2", "s1"]), ("optical", ["s2"]), ("radar", ["s1"]):
        given = part.radar_cube() if name == "radar" else cube
        tree = translate(run, given, source, "s2", draws=options.draws, pixels=part.pixels(), seed=options.seed)
        drawn[name] = tree["posterior"]["lai"].transpose("chain", "draw", "pixel", "time").values[0]
    drawn["date"] = np.empty_like(drawn["both"])
    rng = np.random.default_rng(options.seed)
    for t in range(both_seen.shape[1]):
        if both_seen[:, t].any():
            drawn["date"][..., t] = rng.choice(drawn["both"][:, both_seen[:, t], t].ravel(), drawn["date"].shape[:2])
    print(f"leaf area, n = {both_seen.sum()}\n{'':24}   width      sd   wider   holds   corr.    rmsd")
    for name, row in coherence({key: draws[:, both_seen] for key, draws in drawn.items()}).items():
        record.add((*where, "coherence", name), row)
        print(f"{name:24}" + "".join(f"{value:8.2f}" for value in row.values()), flush=True)


def coherence(drawn: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """How draws `[S, n]` given less relate to those given ``"both"``, by name of what is given."""
    reference = drawn["both"]
    middle = np.median(reference, 0)
    full = np.subtract(*np.quantile(reference, (0.95, 0.05), axis=0, method="weibull"))
    table = {}
    for name, draws in drawn.items():
        low, center, high = np.quantile(draws, (0.05, 0.5, 0.95), axis=0, method="weibull")
        table[name] = {
            "width": float((high - low).mean()),
            "sd": float(draws.std(0).mean()),
            "wider": float((high - low > full).mean()),
            "holds": float(((low <= reference) & (reference <= high)).mean()),
            "correlation": float(np.corrcoef(center, middle)[0, 1]),
            "rmsd": float(np.sqrt(((center - middle) ** 2).mean())),
        }
    return table


def run_probe(run: Run, part: Split, where: tuple[str, ...], record: Record, options: argparse.Namespace) -> None:
    """The table of crop types."""
    if where[1] != "pixel" or not part.scene.code.any():
        return
    for i, (name, row) in enumerate(probe_rows(run, part.scene, options.draws, options.seed)):
        if not i:
            print(f"crop type, macro-F1 by number of labels, n = {row['n']} of {row['classes']} codes")
        record.add((*where, "probe", name), row)
        cells = "".join(f"{key:>8}: {found['f1']:.3f} ± {found['sd']:.3f}" for key, found in row["labels"].items())
        print(f"{name:24}{cells}", flush=True)


RUN: dict[str, Callable[..., None]] = dict(zip(TASKS, (run_translate, run_gaps, run_coherence, run_probe), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=folder())
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--splits", nargs="+", choices=("pixel", "region"), default=["pixel", "region"])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--steps", type=int, default=300, help="of every fit")
    parser.add_argument("--distilled", type=int, default=1000, help="steps of distillation after it; 0 for none")
    parser.add_argument("--moves", type=int, default=150, help="of the chains before modes; 0 for no rows of modes")
    parser.add_argument("--course", type=int, default=4, help="harmonics of the course that all pixels share")
    parser.add_argument("--holdout", type=float, default=0.15, help="of the training pixels, for weights that keep")
    parser.add_argument("--points", type=int, default=500, help="at most so many of every set")
    parser.add_argument("--pixels", type=int, default=128, help="points or pixels per step of a fit")
    parser.add_argument("--modality", type=float, default=0.3, help="share of series with a sensor hidden, in the fit")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of splits, gaps, fits and draws")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("translation.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record = Record(options.json)
    record.add(("options",), {k: v for k, v in vars(options).items() if not isinstance(v, Path)})
    for name in options.sets:
        scene = SETS[name](options.data).thinned(options.points)
        for kind in options.splits:
            part = split(scene, kind, options.seed)
            if part is None:
                continue
            start = time.perf_counter()
            run = fitted(part, options)
            sizes = {"train": len(part.train), "scored": len(part.scored), "seconds": time.perf_counter() - start}
            record.add((name, kind, "fit"), sizes | {"channels": scene.channels})
            print(f"\n{name} by {kind}: {sizes['train']} + {sizes['scored']} pixels, fit {sizes['seconds']:.0f} s")
            for task in options.tasks:
                RUN[task](run, part, (name, kind), record, options)


if __name__ == "__main__":
    main()
