"""What the exclusive residuals of real series are.

    python benchmarks/residuals_real.py [--data ../shared/data] [--sets patch treesat france] [--steps 300]
        [--draws 64] [--seed 0] [--figures residuals_real] [--json residuals_real.json]

Two models are fitted to every set, physics alone and physics with residuals; a tenth of the observations is withheld
from both, and the gain is the difference of their log predictive densities there, nats per observation, by modality.

What the posterior mean of a residual adds, in units of the noise, has a first principal component over all seen
observations, the leading residual. Of its variance the table tells what is explained (R², adjusted for the number of
regressors) by: ``field``, a mean for every pixel; ``date``, a mean for every date; ``season``, two harmonics of the
year; ``temperature`` and ``precipitation`` of the date; ``incidence`` (where it varies); ``lai`` and ``moisture``, the
posterior means; and, on a grid, the correlation of neighbours (``near``) less what dates share. Figures: its map, mean
over the dates, and its course with the weather.

Below a row, what `inference.discovery.discover` makes of the residual of that sensor: the laws that pass, or the
greatest held-out skill of a candidate, and what 95 % of the permutations stay below.

Sets: ``patch``, 100 x 100 pixels of cropland in Belgium, 12 months; ``treesat``, 36 pixels of a fir stand at true
dates, both orbits; ``france``, points of several crops, 17 months. The latter needs ``pyarrow``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from forecast_data import folder

from inference import Run, fit, posterior
from inference.demo import OPERATORS
from inference.discovery import Template, discover
from inference.evaluation import withheld_scores
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import complete, withhold
from pi_vae.data.samples import SAMPLES
from pi_vae.physics import compile_kernels

YEAR = 365.25
SHOWN = ("field", "date", "season", "temperature", "precipitation", "incidence", "lai", "moisture", "near")


@dataclass
class Series:
    """A cube and the weather `[pixel or 1, date, 2]` (K, mm) at the union of its dates."""

    cube: xr.DataTree
    weather: np.ndarray | None

    @property
    def grid(self) -> bool:
        return "point" not in self.cube["s2"].dims


def sample(data: Path, name: str) -> Series:
    """A sample of the package; its drivers, where it has any."""
    cube = complete(SAMPLES[name].loader(data / SAMPLES[name].local))
    if "drivers" not in cube.children:
        return Series(cube, None)
    times = np.unique(np.concatenate([cube[m].time.values for m in ("s2", "s1")]))
    drivers = cube["drivers"].to_dataset().interp(time=times, kwargs={"fill_value": "extrapolate"})
    return Series(cube, np.stack([drivers[d].values for d in ("air_temperature", "precipitation")], -1)[None])


def france(data: Path) -> Series:
    """At most 400 points; both sensors share their dates."""
    from translation_data import SETS

    scene = SETS["france"](data).thinned(400)
    return Series(scene.cube, scene.weather)


READ: dict[str, Callable[[Path], Series]] = {
    "patch": lambda data: sample(data, "worldcereal_patch_belgium"),
    "treesat": lambda data: sample(data, "treesat_abies_2020"),
    "france": france,
}


def build(cube: xr.DataTree, residual: bool) -> PhysicsVAE:
    """The model, with residuals or with physics alone."""
    bands = [str(b) for b in cube["s2"].band.values]
    optical = Optical(bands, transient=1) if residual else Optical(bands, residual=0)
    return PhysicsVAE({"s2": optical, "s1": Radar() if residual else Radar(residual=0)})


def leading(run: Run, tree: xr.DataTree, name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores `[pixel, T_m]` of the leading residual (NaN where unseen), its direction `[C]`, its share of the whole."""
    added = tree["posterior"][f"residual_{name}"].mean(("chain", "draw"))
    added = added.sel(time=tree["constant_data"][f"{name}_time"].values).transpose("pixel", "time", ...).values
    noise = run.model.modalities[name].noise.median.detach().numpy()
    seen = tree["constant_data"][f"{name}_seen"].transpose("pixel", f"{name}_time").values.astype(bool)
    rows = (added / noise)[seen]
    _, size, directions = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    scores = np.full(seen.shape, np.nan)
    scores[seen] = (rows - rows.mean(0)) @ directions[0]
    sign = np.sign(directions[0].sum())
    return sign * scores, sign * directions[0], float(size[0] ** 2 / (size**2).sum())


def explained(scores: np.ndarray, regressors: list[np.ndarray]) -> float:
    """Adjusted R² of seen scores on regressors `[pixel, T]`, which are centred where they are seen."""
    seen = np.isfinite(scores)
    for x in regressors:
        seen &= np.isfinite(x)
    y, x = scores[seen], np.stack([x[seen] for x in regressors], 1)
    x = np.column_stack([np.ones(len(y)), x])
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    freedom = len(y) - np.linalg.matrix_rank(x)
    return float(1 - (rest @ rest / max(freedom, 1)) / max(y.var(ddof=1), 1e-300))


def by_group(scores: np.ndarray, axis: int) -> float:
    """Adjusted R² of the means over an axis: one for every pixel (1), or for every date (0)."""
    seen = np.isfinite(scores)
    groups = (seen.sum(axis) > 0).sum()
    means = np.nansum(scores, axis, keepdims=True) / np.maximum(seen.sum(axis, keepdims=True), 1)
    rest, whole = scores - means, scores - np.nanmean(scores)
    within = np.nansum(rest**2) / max(seen.sum() - groups, 1)
    return float(1 - within / (np.nansum(whole**2) / (seen.sum() - 1)))


def neighbours(scores: np.ndarray, place: tuple[np.ndarray, np.ndarray]) -> float:
    """Correlation of scores with those of the pixel to the right, less the means of the dates."""
    image = np.full((place[0].max() + 1, place[1].max() + 1, scores.shape[1]), np.nan)
    seen = np.isfinite(scores).sum(0)
    image[place] = scores - np.nansum(scores, 0) / np.maximum(seen, 1)
    left, right = image[:, :-1].ravel(), image[:, 1:].ravel()
    both = np.isfinite(left) & np.isfinite(right)
    return float(np.corrcoef(left[both], right[both])[0, 1]) if both.sum() > 10 else np.nan


def correlates(tree: xr.DataTree, series: Series, name: str, scores: np.ndarray) -> dict[str, float]:
    """What explains the leading residual of a modality."""
    constant = tree["constant_data"]
    times = constant[f"{name}_time"].values
    union = tree["posterior"].time.values
    at = np.searchsorted(union, times)
    angle = 2 * np.pi * ((times - times[0]) / np.timedelta64(1, "D")) / YEAR
    shape = scores.shape
    seasons = [np.broadcast_to(f(k * angle), shape) for k in (1, 2) for f in (np.sin, np.cos)]
    row = {"field": by_group(scores, 1), "date": by_group(scores, 0), "season": explained(scores, seasons)}
    if series.weather is not None:
        where = constant["pixel_row"].values if len(series.weather) > 1 else np.zeros(shape[0], int)
        for i, label in enumerate(("temperature", "precipitation")):
            row[label] = explained(scores, [series.weather[where][:, at, i]])
    if name == "s1":
        incidence = constant["s1_incidence"].transpose("pixel", ...).values
        if np.ptp(incidence) > 0.1:
            row["incidence"] = explained(scores, [np.broadcast_to(incidence, shape)])
    for label, variable in (("lai", "lai"), ("moisture", "soil_moisture")):
        mean = tree["posterior"][variable].mean(("chain", "draw")).transpose("pixel", "time").values
        row[label] = explained(scores, [mean[:, at]])
    if series.grid:
        row["near"] = neighbours(scores, (constant["pixel_row"].values, constant["pixel_column"].values))
    return row


def laws(tree: xr.DataTree, name: str, seed: int) -> dict:
    """Laws of a residual, and how its candidates compare with those of permuted data."""
    found = discover(tree, name, template=Template(operators=OPERATORS), seed=seed)
    skill = max((law.heldout_skill for law in found.front), default=0.0)
    return {"laws": [str(law) for law in found.best], "skill": skill, "null95": float(np.quantile(found.null, 0.95))}


def figure(path: Path, tree: xr.DataTree, series: Series, name: str, scores: np.ndarray) -> None:
    """Map and course of a leading residual."""
    constant, times = tree["constant_data"], tree["constant_data"][f"{name}_time"].values
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(1, 1.6))
    mean = np.nanmean(np.where(np.isfinite(scores).any(1, keepdims=True), scores, 0.0), 1)
    limit = max(np.abs(mean).max(), 1e-6)
    if series.grid:
        image = np.full((constant["pixel_row"].values.max() + 1, constant["pixel_column"].values.max() + 1), np.nan)
        image[constant["pixel_row"].values, constant["pixel_column"].values] = mean
        shown = left.imshow(image, cmap="PuOr", vmin=-limit, vmax=limit)
    else:
        place = (
            [constant[axis].values for axis in ("x", "y")]
            if "x" in constant.coords
            else [constant["pixel_row"].values] * 2
        )
        shown = left.scatter(*place, c=mean, s=12, cmap="PuOr", vmin=-limit, vmax=limit)
    fig.colorbar(shown, ax=left, label="noise scales", shrink=0.8)
    left.set_title(f"{name}: mean over the dates")
    low, middle, high = np.nanquantile(scores, (0.1, 0.5, 0.9), axis=0)
    right.fill_between(times, low, high, color="#7570b3", alpha=0.3, lw=0, label="80 % of the pixels")
    right.plot(times, middle, color="#7570b3", marker=".", label="median")
    right.axhline(0, color="0.6", lw=0.8)
    right.set_ylabel("noise scales")
    if series.weather is not None:
        other = right.twinx()
        rain = series.weather.mean(0)[np.searchsorted(tree["posterior"].time.values, times), 1]
        other.bar(times, rain, width=6, color="#1b9e77", alpha=0.3)
        other.set_ylabel("precipitation (mm)")
    right.legend(frameon=False, loc="upper left")
    fig.autofmt_xdate()
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=folder())
    parser.add_argument("--sets", nargs="+", choices=READ, default=list(READ))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=256, help="of a step")
    parser.add_argument("--judged", type=int, default=1600, help="pixels of the table; on a grid those of one square")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, default=Path("residuals_real"))
    parser.add_argument("--json", type=Path, default=Path("residuals_real.json"))
    options = parser.parse_args()
    compile_kernels()
    options.figures.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    for label in options.sets:
        series = READ[label](options.data)
        cube = withhold(series.cube, 0.1, seed=options.seed)
        runs = {}
        for kind in (False, True):
            torch.manual_seed(options.seed)
            settings = {"seed": options.seed, "pixels": options.pixels, "progress": False, "device": "cpu"}
            runs[kind] = fit(build(cube, kind), cube, options.steps, **settings)
        scores = {kind: withheld_scores(run, cube, draws=options.draws) for kind, run in runs.items()}
        height, width = (cube["s2"].sizes.get(d, 1) for d in (("y", "x") if series.grid else ("point", "none")))
        side = int(np.sqrt(options.judged))
        chosen = [(r, c) for r in range(min(height, side) if series.grid else height) for c in range(min(width, side))]
        tree = posterior(runs[True], cube, options.draws, pixels=chosen[: options.judged], seed=options.seed)
        print(
            f"\n{label}: {height * width} pixels\n{'':10}{'gain':>7}{'leading':>9}" + "".join(f"{s:>14}" for s in SHOWN)
        )
        for name in ("s2", "s1"):
            found, direction, share = leading(runs[True], tree, name)
            row = correlates(tree, series, name, found)
            gain = scores[True][name]["log_density"] - scores[False][name]["log_density"]
            channels = runs[True].model.modalities[name].channels
            direction = dict(zip(channels, direction.round(3).tolist(), strict=True))
            entry = {"gain": gain, "leading": share, "direction": direction, "explained": row}
            entry["scores"] = {("residual" if k else "physics"): s[name] for k, s in scores.items()}
            entry |= laws(tree, name, options.seed)
            results.setdefault(label, {})[name] = entry
            options.json.write_text(json.dumps(results, indent=1))
            cells = "".join(f"{row[s]:14.2f}" if s in row else f"{'-':>14}" for s in SHOWN)
            told = "; ".join(entry["laws"]) or f"no law: skill {entry['skill']:.2f}, null {entry['null95']:.2f}"
            print(f"{name:10}{gain:7.2f}{share:9.2f}{cells}\n{'':10}{direction}\n{'':10}{told}", flush=True)
            figure(options.figures / f"{label}_{name}.png", tree, series, name, found)


if __name__ == "__main__":
    main()
