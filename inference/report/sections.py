"""Sections of the page: what was fitted, skill, calibration, bounds, season, laws, time."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from inference.discovery.law import LEVEL
from inference.report.html import number, pairs, percent, table
from pi_vae.variables import CATALOGUE

__all__ = ["bounds", "calibration", "fitted", "laws_found", "ratio", "season", "skill", "time_and_memory"]

BASELINES = {"linear": "linear interpolation", "date_mean": "mean of the date"}


def fitted(metrics: Mapping) -> str:
    """Settings, state of the fit, and data with their credit."""
    data = dict(metrics.get("data") or {})
    credit = "".join(
        f"<p>{label}: {escape(str(data.pop(key)))}</p>\n"
        for key, label in (("attribution", "Attribution"), ("licence", "Licence")) if key in data
    )  # fmt: skip
    tables = [
        f"<h3>{title}</h3>\n{pairs(content, 'Name', 'Value')}"
        for title, content in (
            ("Settings", metrics.get("settings")), ("Fit", metrics.get("fit")), ("Data", data),
        ) if content
    ]  # fmt: skip
    return "".join(tables) + credit


def skill(scores: Mapping) -> str:
    """Error of every channel beside that of the baselines."""
    head = ["Channel", "RMSE"] + [title for name in BASELINES.values() for title in (f"That of {name}", "Ratio")]
    tables = []
    for modality, score in scores.items():
        rows = []
        for channel, rmse in score.get("rmse", {}).items():
            row = [channel, number(rmse)]
            for key in BASELINES:
                row += [number(_baseline(score, key, channel)), number(ratio(score, key, channel), 3)]
            rows.append(row)
        unit = "dB" if modality.startswith("s1") else "reflectance"
        caption = f"{modality}: root-mean-square error in {unit} on {score.get('n', '?')} withheld observations"
        tables.append(table(caption, head, rows))
    note = "<p>A ratio below 1 means that the fit is better than the baseline on the same observations.</p>\n"
    return note + "".join(tables) if tables else ""


def calibration(scores: Mapping) -> str:
    """What central intervals hold of every channel."""
    head = ["Channel", "Inside 50 %", "Inside 90 %", "Width of 90 %"]
    tables = []
    for modality, score in scores.items():
        shares = [score.get(f"coverage_{level}_by_channel", {}) for level in (50, 90)]
        width = score.get("width_90", {})
        rows = [[c, *(percent(share.get(c)) for share in shares), number(width.get(c))] for c in score.get("rmse", {})]
        rows.append(["all", percent(score.get("coverage_50")), percent(score.get("coverage_90")), "–"])
        unit = "dB" if modality.startswith("s1") else "reflectance"
        caption = f"{modality}: share of withheld observations inside the central intervals; mean width in {unit}"
        tables.append(table(caption, head, rows))
    return "".join(tables)


def bounds(shares: Mapping | None) -> str:
    """How often a variable lies close to an end of its support, the most often first."""
    rows = []
    for name, share in sorted((shares or {}).items(), key=lambda item: -(item[1] or 0)):
        variable = CATALOGUE.get(name)
        support = f"{variable.low:g} to {variable.high:g} {variable.unit.removeprefix('1')}" if variable else "–"
        rows.append([variable.long_name if variable else name, support.strip(), percent(share)])
    caption = "Share of posterior means close to an end of the support"
    return table(caption, ["Variable", "Support", "Share"], rows) if rows else ""


def season(means: Mapping | None) -> str:
    """Leaf area of the summer crops by date."""
    rows = [[str(date)[:10], number(value, 3)] for date, value in (means or {}).items()]
    return table("Mean leaf area index of the summer crops", ["Date", "LAI [m² m⁻²]"], rows) if rows else ""


def laws_found(laws: Mapping | None) -> str:
    """The Pareto front with its evidence; nothing where no law was looked for."""
    if laws is None:
        return ""
    front = laws.get("front", [])
    best = any(law.get("passes") for law in front)
    verdict = "<p>No law passes the null.</p>\n" if not best else ""
    null = laws.get("null") or []
    caption = f"Pareto front of {laws.get('modality', 'the residual')}: skill is weighted R²"
    if null:
        caption += f"; {100 * (1 - LEVEL):.0f} % level of the null {np.quantile(null, 1 - LEVEL, method='higher'):.3f}"
    head = ["Channel", "Complexity", "Skill, training", "Skill, held out", "p", "Verdict", "Law"]
    rows = [
        [
            law["channel"], number(law["complexity"]), number(law["train_skill"], 3),
            number(law["heldout_skill"], 3), number(law.get("p_value"), 3),
            "passes" if law.get("passes") else "fails", law.get("expression", law.get("form", "")),
        ]
        for law in front
    ]  # fmt: skip
    return verdict + (table(caption, head, rows) if rows else "")


def time_and_memory(metrics: Mapping) -> str:
    """Seconds by stage, and peak memory."""
    seconds = metrics.get("seconds") or {}
    rows = [[stage, number(value, 3)] for stage, value in seconds.items()]
    if metrics.get("peak_memory_gb") is not None:
        rows.append(["Peak memory [GB]", number(metrics["peak_memory_gb"], 3)])
    return table("Run time in seconds, by stage, and memory", ["Stage", "Value"], rows) if rows else ""


def ratio(score: Mapping, key: str, channel: str) -> float:
    """Error of a channel over that of a baseline (``"linear"`` or ``"date_mean"``); NaN where one is not known."""
    rmse, baseline = score["rmse"][channel], _baseline(score, key, channel)
    return rmse / baseline if rmse is not None and baseline else float("nan")


def _baseline(score: Mapping, key: str, channel: str) -> float | None:
    return score.get("baselines", {}).get(key, {}).get(channel)
