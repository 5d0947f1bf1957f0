"""Is the residual apart from physics, and is it what was planted?

    python benchmarks/residuals.py [--levels 0 0.5 1 2] [--rows ours fit control physics ...] [--points 400]
        [--steps 300] [--moves 300] [--simulations 700] [--judged 400] [--draws 100] [--seed 0] [--date-effect]
        [--json residuals.json]
    python benchmarks/residuals.py --cost

Cubes drawn from the prior of the physics with effects planted in both sensors (``residuals_plant.py``), at some levels
of the noise; at 0 nothing is planted. A model with exclusive residuals is fitted to each, and judged by

bias
    largest absolute mean error of the posterior means of a physical variable, in its standard deviation over the
    points (goal 0.1; chance alone makes it about 0.08 with 400 points), and the variable;
90 %
    share of the truths in 90 % intervals of the physical variables, mean and range (goal 0.87-0.93);
rmse
    of the posterior means of the physical variables, in their standard deviations, mean;
plant
    share R² of the planted effect that the posterior mean of the residual recovers, optical and radar, at dates with
    data; both less their means over the points, which noise and coefficients may take (goal 0.8 at level 1);
probe
    largest share R² of a physical variable that a regression finds in the residuals (goal 0.05);
HSIC
    least p-value of independence of both modalities (goal 0.05);
energy
    share of the variance of the observations that is residual, optical and radar (goal 2 % at level 0).
told
    largest share R² of the yearly mean of a true variable that a regression finds in the yearly means of the residual;
    for peers too, whose latents have no posterior;
withheld
    root mean square error at observations withheld from all, in the noise's scales, optical and radar.

Rows: ``ours``, a fit followed by `learn_globals` and `neural_posterior`; ``fit``, the fit alone; ``+ term``, a fit
with one of the terms of `inference.terms`; ``all terms``, and ``- term`` without one of them; ``control``, which has
to fail: a wide residual, no term, no sensor ever hidden; ``physics``, as ``ours`` without residual; the peers of
``residuals_peers.py`` (one needs ``multivae``); and the bounds of ``residuals_bounds.py``, which are told what nobody
knows, for what there is of the plant to be found. Variables of peers without physics are what ridge regression on
their shared latents finds of the truth, in points that were left out: they are told the answer for the others.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from residuals_bounds import BOUNDS, bound, share
from residuals_peers import PEERS, peer
from residuals_plant import Planted, planted, points
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_predict

from inference import Run, fit, learn_globals, neural_posterior, posterior
from inference.calibration import at_pixels, coverage
from inference.evaluation import withheld_scores
from inference.independence import independence
from inference.objective import ChainRuleELBO
from inference.sleep import FEW_GAPS
from inference.terms import TERMS, Restraint
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import withhold
from pi_vae.data.occlusion import occlude
from pi_vae.data.tensors import CubeTensors
from pi_vae.physics import compile_kernels
from pi_vae.residual import Residual

MAIN = ("ours", "fit", "control", "physics", *PEERS, *BOUNDS)
WITHHELD = 0.1
JUDGED = 500  # points of a bound, not among those it learns from
WIDE = {"s2": 0.3, "s1": 10.0}  # loadings of the control, in the units of the likelihood
HEAD = (
    f"{'':24}{'bias':>22}{'90 %':>18}{'rmse':>7}{'plant':>14}{'probe':>7}{'told':>7}{'HSIC':>7}{'energy %':>14}"
    f"{'withheld':>12}"
)


def build(row: str, date_effect: bool = False) -> PhysicsVAE:
    """The model of a row."""
    settings = {"date_effect": date_effect}
    if row == "physics":
        return PhysicsVAE({"s2": Optical(residual=0, **settings), "s1": Radar(residual=0, **settings)})
    settings |= {"transient": 1}
    model = PhysicsVAE({"s2": Optical(residual=2, **settings), "s1": Radar(residual=1, **settings)})
    if row == "control":
        for name, scale in WIDE.items():
            modality = model.modalities[name]
            modality.residual = Residual(len(modality.channels), modality.residual.rank, scale)
            torch.nn.init.normal_(modality.residual.loading.loc)  # from the start, so that nothing holds it back
    return model


def terms_of(row: str) -> tuple[str, ...]:
    """The terms that a row is fitted with."""
    if row.startswith("+ "):
        return (row[2:],)
    return tuple(t for t in TERMS if t != row[2:]) if row.startswith("- ") or row == "all terms" else ()


def trained(row: str, case: Planted, options: argparse.Namespace) -> Run:
    """The run of a row."""
    torch.manual_seed(options.seed)
    quiet = {"seed": options.seed, "progress": False}
    hidden = {"hide_modality": 0.0} if row == "control" else {}
    run = fit(
        build(row, options.date_effect),
        case.cube,
        options.steps,
        pixels=options.pixels,
        terms=terms_of(row),
        device="cpu",
        **hidden,
        **quiet,
    )
    if row in ("ours", "physics"):
        learn_globals(run, case.cube, options.moves, options.learned, **quiet)
        neural_posterior(
            run, case.cube, options.simulations, pixels=options.pixels, learning_rate=5e-3, device="cpu", **quiet
        )
    return run


def judge(run: Run, case: Planted, options: argparse.Namespace) -> dict:
    """All numbers of a row."""
    tree = posterior(run, case.cube, options.draws, pixels=options.judged, seed=options.seed)
    drawn = tree["posterior"].to_dataset()
    truth = at_pixels(case.cube["truth"].to_dataset(), drawn)
    names = [*run.model.dynamic, *run.model.static]
    mean, known = drawn[names].mean(("chain", "draw")), truth[names]
    sd = {n: float(known[n].std()) for n in names}
    error = {n: (mean[n] - known[n]) / sd[n] for n in names}
    bias = {n: float(e.mean()) for n, e in error.items()}
    worst = max(bias, key=lambda n: abs(bias[n]))
    held = coverage(drawn[names], known, levels=(0.9,))["coverage"].sel(level=0.9)
    row = {
        "bias": bias,
        "worst": worst,
        "coverage": {n: float(held.sel(variable=n)) for n in names},
        "rmse": {n: float(np.sqrt((e**2).mean())) for n, e in error.items()},
    }
    scores = withheld_scores(run, case.cube, draws=64)
    row["withheld"] = {
        m: float(np.sqrt(np.mean((np.array(list(s["rmse"].values())) / case.noise[m]) ** 2))) for m, s in scores.items()
    }
    yearly = {n: known[n].mean("time").values if "time" in known[n].dims else known[n].values for n in names}
    if all(m.residual is not None for m in run.model.modalities.values()):
        said = {m: drawn[f"residual_{m}"].mean(("chain", "draw")) for m in case.effect}
        pixel = drawn["pixel_row"].values
        row["plant"] = {m: recovered(on_dates(said[m], case, m), pixel, case, m) for m in case.effect}
        row["told"] = told({m: s.mean("time").values for m, s in said.items()}, yearly)
        table = independence(run, case.cube, seed=options.seed)
        row["probe"] = {k: float(table[k].max()) for k in ("linear", "nonlinear")}
        row["p_value"] = {str(m): float(table["p_value"].sel(modality=m)) for m in table.modality.values}
        row["energy"] = {str(m): float(table["energy"].sel(modality=m)) for m in table.modality.values}
    return row


def on_dates(said: xr.DataArray, case: Planted, name: str) -> np.ndarray:
    """`[T_m, C, point]` a residual at the dates of its modality."""
    said = said.sel(time=case.cube[name].time.values)
    return said.transpose("time", f"{name}_channel", "pixel").values


def recovered(found: np.ndarray, pixels: np.ndarray, case: Planted, name: str) -> float | None:
    """Share of a planted effect that a residual `[T_m, C, point]` recovers; none where nothing is planted."""
    node, effect = case.cube[name].to_dataset(), case.effect[name][..., pixels]
    if not np.abs(effect).max():
        return None
    seen = (node.valid & ~node.withheld).transpose("time", "point").values[:, pixels][:, None]
    return share(found, effect, np.broadcast_to(seen, found.shape), case.noise[name])


def told(residual: dict[str, np.ndarray], yearly: dict[str, np.ndarray]) -> float:
    """Largest share of a variable's yearly mean `[point]` that a regression finds in residuals `[point, K]`."""
    found = [
        r2_score(y, cross_val_predict(HistGradientBoostingRegressor(max_iter=60, max_depth=4), x, y, cv=5))
        for x in residual.values()
        for y in yearly.values()
    ]
    return float(max(found))


def judge_peer(name: str, case: Planted, options: argparse.Namespace) -> dict:
    """Those numbers that a peer has."""
    model = build("physics")
    found = peer(name, model, case.cube, case.noise, options.peer_steps, options.seed)
    truth = case.cube["truth"].to_dataset()
    names = [*model.dynamic, *model.static]
    fields = {n: truth[n].transpose("y", "x", ...).values[:, 0].reshape(truth.sizes["y"], -1) for n in names}
    yearly = {n: f.mean(1) for n, f in fields.items()}
    if found.variables is None:
        ridge = RidgeCV(np.logspace(-3, 3, 13))
        guessed = {n: cross_val_predict(ridge, found.shared, f, cv=5) for n, f in fields.items()}
    else:
        guessed = found.variables
    error = {n: (guessed[n].reshape(fields[n].shape) - fields[n]) / fields[n].std() for n in names}
    bias = {n: float(e.mean()) for n, e in error.items()}
    row = {"bias": bias, "worst": max(bias, key=lambda n: abs(bias[n]))}
    row["rmse"] = {n: float(np.sqrt((e**2).mean())) for n, e in error.items()}
    channels = {m: o.channels for m, o in model.modalities.items()}
    data = CubeTensors.read(case.cube, channels, score_withheld=True).modalities
    row["withheld"] = {}
    for m, series in found.series.items():
        hidden = (data[m].valid & ~data[m].seen)[0, ..., 0].T.numpy()
        difference = (series - data[m].values[0, ..., 0].permute(2, 0, 1).numpy()) / case.noise[m]
        row["withheld"][m] = float(np.sqrt((difference[hidden] ** 2).mean()))
    if found.private:
        row["told"] = told(found.private, yearly)
    if found.residual:
        everywhere = np.arange(truth.sizes["y"])
        shaped = {m: r.transpose(1, 2, 0) for m, r in found.residual.items()}
        row["plant"] = {m: recovered(r, everywhere, case, m) for m, r in shaped.items()}
    return row


def judge_bound(name: str, level: float, options: argparse.Namespace) -> dict[str, float]:
    """What is there to be found of effects of a level, in the same world as those of the other rows."""
    torch.manual_seed(options.seed)
    empty = points(JUDGED + options.taught, options.optical_days, options.radar_days, 0.3, options.seed + 1)
    model = build("physics")
    case = planted(model, empty, level, options.seed)
    return bound(name, model, case, JUDGED, options.peer_steps, options.seed)


def cost(case: Planted, options: argparse.Namespace, repeats: int = 5) -> dict[str, float]:
    """Processor time of a loss and its derivatives with some terms, over that without any; the best of some repeats."""
    torch.manual_seed(options.seed)
    model = build("fit").train()
    data = CubeTensors.read(case.cube, {m: o.channels for m, o in model.modalities.items()})
    generator = torch.Generator().manual_seed(options.seed)
    batch, imagined = (data.patches(options.pixels, 1, options.pixels, generator) for _ in range(2))
    batch, imagined = occlude(batch, generator), occlude(imagined, generator, **FEW_GAPS)
    seconds = {}
    for label, terms in {"none": (), **{t: (t,) for t in TERMS}, "all": tuple(TERMS)}.items():
        restraint = Restraint(model, terms)
        restraint.share, restraint.imagined = 1.0, imagined
        elbo = ChainRuleELBO(model, restraint=restraint if terms else None)
        taken = []
        for _ in range(repeats):
            start = time.process_time()
            elbo.differentiable_loss(model.model, model.guide, batch).backward()
            taken.append(time.process_time() - start)
        seconds[label] = min(taken)
    return {label: taken / seconds["none"] for label, taken in seconds.items()}


def show(label: str, row: dict) -> None:
    """A line of the table."""

    def two(key: str, width: int, digits: int = 2, factor: float = 1.0) -> str:
        values = [row.get(key, {}).get(m) for m in ("s2", "s1")]
        return "".join(f"{'-' if v is None else format(factor * v, f'.{digits}f'):>{width}}" for v in values)

    def one(value: float | None, digits: int = 2) -> str:
        return f"{'-' if value is None else format(value, f'.{digits}f'):>7}"

    held = list(row.get("coverage", {}).values())
    cells = f"{label:24}" + (f"{row['worst']:>16}{row['bias'][row['worst']]:6.2f}" if "bias" in row else f"{'-':>22}")
    cells += f"{np.mean(held):7.2f} {min(held):5.2f}-{max(held):4.2f}" if held else f"{'-':>18}"
    cells += one(np.mean(list(row["rmse"].values())) if "rmse" in row else None) + two("plant", 7)
    cells += one(max(row["probe"].values()) if "probe" in row else None) + one(row.get("told"))
    cells += one(min(row["p_value"].values()) if "p_value" in row else None, 3)
    print(f"{cells}{two('energy', 7, 1, 100.0)}{two('withheld', 6)}   {row['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ablations = ["all terms", *(f"- {t}" for t in TERMS), *(f"+ {t}" for t in TERMS)]
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--rows", nargs="+", default=list(MAIN), help="or 'ablation'")
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--optical-days", type=int, default=15)
    parser.add_argument("--radar-days", type=int, default=12)
    parser.add_argument("--steps", type=int, default=300, help="of the fit")
    parser.add_argument("--moves", type=int, default=300, help="of the chains that global latents learn from")
    parser.add_argument("--learned", type=int, default=64, help="points with such a chain")
    parser.add_argument("--simulations", type=int, default=700, help="steps on simulations")
    parser.add_argument("--peer-steps", type=int, default=2000)
    parser.add_argument("--taught", type=int, default=6000, help="points that a bound learns from")
    parser.add_argument("--pixels", type=int, default=64, help="series a step")
    parser.add_argument("--judged", type=int, default=400, help="points")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--date-effect", action="store_true", help="in our models, of single dates on all points")
    parser.add_argument("--cost", action="store_true", help="only what a step of a fit costs with the terms")
    parser.add_argument("--json", type=Path, default=Path("residuals.json"))
    options = parser.parse_args()
    rows = [r for name in options.rows for r in (ablations if name == "ablation" else [name])]
    odd = [r for r in rows if r not in (*MAIN, *ablations)]
    if odd:
        parser.error(f"there is no row {odd[0]!r}")
    compile_kernels()
    results: dict[str, dict] = {}
    for level in options.levels:
        torch.manual_seed(options.seed)
        empty = points(options.points, options.optical_days, options.radar_days, 0.3, options.seed)
        case = planted(build("physics"), empty, level, options.seed)
        case.cube = withhold(case.cube, WITHHELD, seed=options.seed + 1)  # not the stream of the clouds
        if options.cost:
            row = cost(case, options)
            options.json.write_text(json.dumps(row, indent=1))
            print("step over that without terms: " + "  ".join(f"{t} {c:.2f}" for t, c in row.items()))
            return
        print(f"\nplanted at {level:g} times the noise\n{HEAD}", flush=True)
        for name in rows:
            start = time.perf_counter()
            if name in BOUNDS and not level:
                continue
            if name in BOUNDS:
                row = {"plant": judge_bound(name, level, options), "seconds": time.perf_counter() - start}
            elif name in PEERS:
                row = judge_peer(name, case, options) | {"seconds": time.perf_counter() - start}
            else:
                run = trained(name, case, options)
                seconds = time.perf_counter() - start
                row = judge(run, case, options) | {"seconds": seconds}
            results.setdefault(f"{level:g}", {})[name] = row
            options.json.write_text(json.dumps(results, indent=1))
            show(name, row)


if __name__ == "__main__":
    main()
