"""Linear probes: crop codes from features of points, with few and with all labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from translation_data import Scene
from translation_peers import YEAR, interpolated

from inference import embed
from inference.training import Run

__all__ = ["chosen_labels", "probe", "probe_rows", "seasonal"]

FEWEST = 12  # points of a code
FOLDS = 5
LABELS = (10, 50, None)
REPEATS = 10
PENALTY = (1.0, 10.0, 100.0, 1000.0)  # inverse, for features whose squares sum to 1 on average
FEW = 100.0  # the one of them for so few labels that none can be chosen
COMPONENTS = (5, 10, 20, 40)


def probe_rows(run: Run, scene: Scene, draws: int, seed: int) -> Iterator[tuple[str, dict]]:
    """Name and scores of every kind of features; nothing where fewer than two codes are common enough."""
    codes, counts = np.unique(scene.code, return_counts=True)
    common = np.flatnonzero(np.isin(scene.code, codes[counts >= FEWEST]))
    if len(np.unique(scene.code[common])) < 2:
        return
    few = scene.pick(common)
    table = embed(run, few.cube, draws=draws, seed=seed)
    series = interpolated(np.concatenate([few.optical, few.radar], -1), few.days)
    physical = table.features.values[:, (table.part == "physical").values]
    flat = series.reshape(len(series), -1)
    rows = {
        "pi_vae": (table.features.values, False, ()),
        "pi_vae physical": (physical, False, ()),
        "series": (flat, True, ()),
        "pca": (flat, True, COMPONENTS),
        "seasonal": (seasonal(series, few.days), True, ()),
    }
    for name, (features, scaled, components) in rows.items():
        labels = {}
        for count in LABELS:
            found = probe(features, few.code, few.cell, count, components, seed, scaled)
            labels[str(count or "all")] = {"f1": float(np.mean(found)), "sd": float(np.std(found))}
        classes = int((counts >= FEWEST).sum())
        yield name, {"labels": labels, "n": len(common), "classes": classes, "features": features.shape[1]}


def probe(
    features: np.ndarray,
    code: np.ndarray,
    cell: np.ndarray,
    count: int | None,
    components: tuple[int, ...],
    seed: int,
    scaled: bool,
) -> list[float]:
    """Macro-F1 of all points, each predicted from other cells, for repeated choices of labels.

    Args:
        features: `[P, F]`.
        code: `[P]` classes.
        cell: `[P]` groups that stay together.
        count: labels, or none for all.
        components: numbers of principal components to choose from; none: the features themselves.
        seed: of folds and labels; they do not depend on the features.
        scaled: whether every feature is brought to unit variance first, as reflectances and decibels have to be (raw
            they are worse by a third); ours have a scale of their own.
    """
    folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, code, cell))
    found = []
    for repeat in range(REPEATS if count is not None else 1):
        predicted = np.empty_like(code)
        for i, (train, test) in enumerate(folds):
            reduced = [PCA(max(components), random_state=0)] if components else []
            scaler = make_pipeline(StandardScaler(with_std=scaled), *reduced)
            x, new = scaler.fit_transform(features[train]), scaler.transform(features[test])
            scale = np.sqrt((x**2).sum(1).mean())
            rng = np.random.default_rng([seed, repeat, i])
            labelled = chosen_labels(code[train], count, rng)
            predicted[test] = _classifier(x[labelled] / scale, code[train][labelled], components).predict(new / scale)
        found.append(float(f1_score(code, predicted, average="macro")))
    return found


def chosen_labels(code: np.ndarray, count: int | None, rng: np.random.Generator) -> np.ndarray:
    """Indices of so many points, one of every class first, as far as they suffice; all of them without a number."""
    if count is None or count >= len(code):
        return np.arange(len(code))
    order = rng.permutation(len(code))
    first = order[np.sort(np.unique(code[order], return_index=True)[1])]
    return np.concatenate([first, order[~np.isin(order, first)]])[:count]


def seasonal(series: np.ndarray, days: np.ndarray) -> np.ndarray:
    """`[P, 8 C]` statistics of complete series `[P, T, C]`."""
    phase = 2 * np.pi * days / YEAR
    wave = [(series * f(phase)[:, None]).mean(1) for f in (np.cos, np.sin)]
    spread = [series.mean(1), series.std(1), *np.quantile(series, (0.0, 0.25, 0.75, 1.0), axis=1)]
    return np.concatenate([*spread, *wave], -1)


def _first(features: np.ndarray, count: int) -> np.ndarray:
    return features[:, :count]


def _classifier(features: np.ndarray, code: np.ndarray, components: tuple[int, ...]):
    """Logistic regression; its penalty and the number of components are chosen on the labelled points, if possible."""
    names, counts = np.unique(code, return_counts=True)
    logistic = LogisticRegression(C=FEW, class_weight="balanced", max_iter=2000)
    pipeline = make_pipeline(FunctionTransformer(_first, kw_args={"count": max(components, default=None)}), logistic)
    if counts.min() < 2 or len(names) < 2:
        return pipeline.fit(features, code)
    grid: dict[str, list] = {"logisticregression__C": list(PENALTY)}
    if components:
        grid["functiontransformer__kw_args"] = [{"count": count} for count in components]
    folds = StratifiedKFold(min(3, int(counts.min())))
    return GridSearchCV(pipeline, grid, scoring="f1_macro", cv=folds).fit(features, code)
