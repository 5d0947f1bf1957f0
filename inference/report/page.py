"""`write_report`: the page as a whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from inference.report.cautions import caution_list
from inference.report.checkpoint import elbo_png, metrics_of, read_checkpoint
from inference.report.figures import CAPTIONS, figures_by_section, image
from inference.report.html import STYLE, pairs
from inference.report.sections import bounds, calibration, fitted, laws_found, ratio, season, skill, time_and_memory
from inference.training import CHECKPOINT

__all__ = ["write_report"]

NOTHING = "<p class='none'>Not part of this run.</p>"


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` from the metrics, laws and figures of a run, or from the checkpoint of a fit.

    The page holds its figures and style in itself, loads nothing and runs no script. The old page stays until the new
    one is complete.

    Args:
        folder: holds ``metrics.json`` (the folder of a demo), ``checkpoint.pt`` (that of a fit), or both; where there
            are, ``laws.json`` (`inference.discovery.Laws.to_json`) and ``figures/*.png``. Keys of the metrics, all of
            them optional: ``settings``, ``fit``, ``data`` (with ``attribution`` and ``licence``), ``withheld`` (as of
            `inference.withheld_scores`), ``at_bound`` (variable -> share in 0-1), ``lai_season`` (date -> mean LAI),
            ``seconds`` (stage -> s), ``peak_memory_gb``, ``versions``. A checkpoint adds what they leave out of
            settings, steps, seed, seconds and versions, and the figure of the bound. A figure goes to the section that
            its file name speaks of, such as ``map_lai.png`` or ``elbo.png``.

    Returns:
        Path of the page. Its section of warnings is made from the metrics (`inference.report.cautions`).

    Raises:
        FileNotFoundError: the folder has neither ``metrics.json`` nor ``checkpoint.pt``.
        ValueError: ``metrics.json`` or ``laws.json`` is not a JSON object, or ``checkpoint.pt`` is none.
    """
    folder = Path(folder)
    metrics_file, checkpoint = folder / "metrics.json", folder / CHECKPOINT
    if not metrics_file.is_file() and not checkpoint.is_file():
        raise FileNotFoundError(
            f"No metrics.json and no {CHECKPOINT} in {folder}: give the folder of a demo, or that of a fit."
        )
    metrics = _read(metrics_file) if metrics_file.is_file() else {}
    figures = figures_by_section(folder / "figures")
    if checkpoint.is_file():
        state = read_checkpoint(checkpoint)
        metrics = _joined(metrics_of(state), metrics)
        if "time" not in figures and (drawn := elbo_png(state)) is not None:
            figures["time"] = image(drawn, CAPTIONS["time"])
    laws = _read(folder / "laws.json") if (folder / "laws.json").is_file() else None
    page = _page(metrics, laws, figures)
    target = folder / "report.html"
    temporary = folder / f".report.{os.getpid()}.part"
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): write it anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object: write it anew.")
    return content


def _joined(known: dict[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint tells, completed and overruled by metrics."""
    nested = {key: {**known.get(key, {}), **value} for key, value in metrics.items() if isinstance(value, Mapping)}
    return {**known, **metrics, **nested}


def _page(metrics: Mapping, laws: Mapping | None, figures: Mapping[str, str]) -> str:
    scores = metrics.get("withheld") or {}
    sections = {
        "warnings": ("Warnings", caution_list(metrics)),
        "maps": ("Maps", season(metrics.get("lai_season"))),
        "series": ("Series", ""),
        "skill": ("Skill on withheld observations", skill(scores)),
        "calibration": ("Calibration", calibration(scores)),
        "reconstruction": ("Reconstruction", ""),
        "laws": ("Residual and laws", laws_found(laws)),
        "bounds": ("Variables at their bounds", bounds(metrics.get("at_bound"))),
        "time": ("Run time and memory", time_and_memory(metrics)),
        "fitted": ("What was fitted", fitted(metrics)),
        "versions": ("Versions", pairs(metrics.get("versions"), "Software", "Version")),
        "other": ("Other figures", ""),
    }
    if "other" not in figures:
        del sections["other"]
    links = "".join(f"<li><a href='#{key}'>{title}</a></li>" for key, (title, _) in sections.items())
    body = "\n".join(
        f"<section id='{key}' aria-labelledby='{key}-title'>\n<h2 id='{key}-title'>{title}</h2>\n"
        f"{(figures.get(key, '') + content) or NOTHING}\n</section>"
        for key, (title, content) in sections.items()
    )
    name = (metrics.get("data") or {}).get("name") or (metrics.get("data") or {}).get("sample")
    title = "Physics-informed fit" + (f" of {escape(str(name))}" if name else "")
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>\n{_lead(scores, laws)}"
        f"<nav aria-label='Sections'><ul>{links}</ul></nav></header>\n<main>\n{body}\n</main>\n"
        "<footer><p>Written by pi_vae.</p></footer>\n</body>\n</html>\n"
    )


def _lead(scores: Mapping, laws: Mapping | None) -> str:
    """The result in a few sentences."""
    sentences = []
    for modality, score in scores.items():
        ratios = [ratio(score, "linear", channel) for channel in score.get("rmse", {})]
        ratios = [r for r in ratios if math.isfinite(r)]
        if ratios:
            sentences.append(
                f"{modality}: the error on withheld observations is {np.median(ratios):.2f} times that of linear "
                f"interpolation (median of {len(ratios)} channels)"
                + (f"; 90 % intervals hold {100 * score['coverage_90']:.0f} %." if score.get("coverage_90") else ".")
            )
    if laws is not None:
        passing = sorted({law["channel"] for law in laws.get("front", []) if law.get("passes")})
        sentences.append(f"A law passes the null for {', '.join(passing)}." if passing else "No law passes the null.")
    return f"<p class='lead'>{escape(' '.join(sentences))}</p>\n" if sentences else ""
