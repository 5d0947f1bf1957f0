"""`write_report`: one HTML page that tells what a run fitted, how well, and what it found."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from inference.discovery.law import LEVEL
from pi_vae.variables import CATALOGUE

__all__ = ["write_report"]

BASELINES = {"linear": "linear interpolation", "date_mean": "mean of the date"}
NOTHING = "<p class='none'>Not part of this run.</p>"
# The first section with a word of the file's name takes the figure, hence the order: residual maps are no maps.
WORDS = {
    "skill": ("skill", "withheld"),
    "laws": ("residual", "law"),
    "calibration": ("calibration", "coverage"),
    "reconstruction": ("reconstruction",),
    "series": ("series", "pixel"),
    "time": ("elbo", "loss", "history"),
    "maps": ("map", *CATALOGUE),
}
CAPTIONS = {
    "skill": "Error on withheld observations relative to the baselines, and coverage of 90 % intervals, by channel.",
    "calibration": "Calibration of the intervals.",
    "maps": "Maps of posterior mean and standard deviation of {subject}.",
    "series": "Series of one pixel: posterior bands of the variables, predictive bands and observations.",
    "reconstruction": "Observed against reconstructed values, by band and polarisation.",
    "laws": "Maps of the residual: what the operators do not explain.",
    "law": "Residual against its law or best candidate, by channel, and the Pareto front against the null.",
    "time": "Evidence lower bound per observation against the step of the fit.",
    "other": "{subject}.",
}
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --panel: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171c; --text: #e4e7eb; --soft: #9aa4af; --line: #333b45; --panel: #1c2128; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 2rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li, dd { overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; font-size: .9rem; }
a { color: inherit; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td.text { text-align: left; }
th[scope=row] { font-weight: 400; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
code { font-size: .9em; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
figcaption, .none, footer { color: var(--soft); font-size: .9rem; }
.lead { background: var(--panel); border-left: 4px solid #0072b2; padding: .6rem 1rem; }
"""


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` from the metrics, laws and figures of a run.

    The page holds its figures and style in itself, loads nothing and runs no script. The old page stays until the new
    one is complete.

    Args:
        folder: holds ``metrics.json``; where there are, ``laws.json`` (`inference.discovery.Laws.to_json`) and
            ``figures/*.png``. Keys of the metrics, all of them optional: ``settings``, ``data`` (with ``attribution``
            and ``licence``), ``withheld`` (as of `inference.withheld_scores`), ``at_bound`` (variable -> share in
            0-1), ``lai_season`` (date -> mean LAI), ``seconds`` (stage -> s), ``peak_memory_gb``, ``versions``. A
            figure goes to the section that its file name speaks of, such as ``map_lai.png`` or ``elbo.png``.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder has no ``metrics.json``.
        ValueError: ``metrics.json`` or ``laws.json`` is not a JSON object.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"No metrics.json in {folder}: run a fit that writes its metrics there first.")
    metrics = _read(folder / "metrics.json")
    laws = _read(folder / "laws.json") if (folder / "laws.json").is_file() else None
    page = _page(metrics, laws, _figures(folder / "figures"))
    target = folder / "report.html"
    temporary = folder / f".report.{os.getpid()}.part"
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): write it anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object: write it anew.")
    return content


def _figures(folder: Path) -> dict[str, str]:
    """Section -> its figures as HTML."""
    figures: dict[str, str] = {}
    for path in sorted(folder.glob("*.png")):
        stem = path.stem.lower()
        section = next((s for s, words in WORDS.items() if any(w in stem for w in words if len(w) > 2)), "other")
        caption = CAPTIONS["law" if section == "laws" and "law" in stem else section]
        text = escape(caption.format(subject=_subject(stem)))
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        figures[section] = figures.get(section, "") + (
            f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>\n"
        )
    return figures


def _subject(stem: str) -> str:
    """What the name of a file speaks of: ``variable_map_soil_moisture`` -> soil moisture (volumetric)."""
    rest = f"_{stem}_".replace("-", "_")
    found = [name for name in CATALOGUE if f"_{name}_" in rest]
    return CATALOGUE[max(found, key=len)].long_name if found else stem.replace("_", " ")


def _page(metrics: Mapping, laws: Mapping | None, figures: Mapping[str, str]) -> str:
    scores = metrics.get("withheld") or {}
    sections = {
        "fitted": ("What was fitted", _fitted(metrics)),
        "skill": ("Skill on withheld observations", _skill(scores)),
        "calibration": ("Calibration", _calibration(scores)),
        "bounds": ("Variables at their bounds", _bounds(metrics.get("at_bound"))),
        "maps": ("Maps", _season(metrics.get("lai_season"))),
        "series": ("Series", ""),
        "reconstruction": ("Reconstruction", ""),
        "laws": ("Residual and laws", _laws(laws)),
        "time": ("Run time and memory", _time(metrics)),
        "versions": ("Versions", _pairs(metrics.get("versions"), "Software", "Version")),
        "other": ("Other figures", ""),
    }
    if "other" not in figures:
        del sections["other"]
    links = "".join(f"<li><a href='#{key}'>{title}</a></li>" for key, (title, _) in sections.items())
    body = "\n".join(
        f"<section id='{key}' aria-labelledby='{key}-title'>\n<h2 id='{key}-title'>{title}</h2>\n"
        f"{(content + figures.get(key, '')) or NOTHING}\n</section>"
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
        ratios = [_ratio(score, "linear", channel) for channel in score.get("rmse", {})]
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


def _fitted(metrics: Mapping) -> str:
    data = dict(metrics.get("data") or {})
    credit = "".join(
        f"<p>{label}: {escape(str(data.pop(key)))}</p>\n"
        for key, label in (("attribution", "Attribution"), ("licence", "Licence")) if key in data
    )  # fmt: skip
    tables = [
        f"<h3>{title}</h3>\n{_pairs(content, 'Name', 'Value')}"
        for title, content in (("Settings", metrics.get("settings")), ("Data", data)) if content
    ]  # fmt: skip
    return "".join(tables) + credit


def _skill(scores: Mapping) -> str:
    head = ["Channel", "RMSE"] + [f"{what}{name}" for name in BASELINES.values() for what in ("RMSE of ", "Ratio to ")]
    tables = []
    for modality, score in scores.items():
        rows = []
        for channel, rmse in score.get("rmse", {}).items():
            row = [channel, _number(rmse)]
            for key in BASELINES:
                row += [_number(_baseline(score, key, channel)), _number(_ratio(score, key, channel), 3)]
            rows.append(row)
        unit = "dB" if modality.startswith("s1") else "reflectance"
        caption = f"{modality}: root-mean-square error in {unit} on {score.get('n', '?')} withheld observations"
        tables.append(_table(caption, head, rows))
    note = "<p>A ratio below 1 means that the fit is better than the baseline on the same observations.</p>\n"
    return note + "".join(tables) if tables else ""


def _calibration(scores: Mapping) -> str:
    head = ["Channel", "Inside 50 %", "Inside 90 %", "Width of 90 %"]
    tables = []
    for modality, score in scores.items():
        shares = [score.get(f"coverage_{level}_by_channel", {}) for level in (50, 90)]
        width = score.get("width_90", {})
        rows = [
            [c, *(_percent(share.get(c)) for share in shares), _number(width.get(c))] for c in score.get("rmse", {})
        ]
        rows.append(["all", _percent(score.get("coverage_50")), _percent(score.get("coverage_90")), "–"])
        unit = "dB" if modality.startswith("s1") else "reflectance"
        caption = f"{modality}: share of withheld observations inside the central intervals; mean width in {unit}"
        tables.append(_table(caption, head, rows))
    return "".join(tables)


def _bounds(shares: Mapping | None) -> str:
    rows = []
    for name, share in sorted((shares or {}).items(), key=lambda item: -(item[1] or 0)):
        variable = CATALOGUE.get(name)
        support = f"{variable.low:g} to {variable.high:g} {variable.unit.removeprefix('1')}" if variable else "–"
        rows.append([variable.long_name if variable else name, support.strip(), _percent(share)])
    caption = "Share of posterior means close to an end of the support"
    return _table(caption, ["Variable", "Support", "Share"], rows) if rows else ""


def _season(season: Mapping | None) -> str:
    rows = [[str(date)[:10], _number(value, 3)] for date, value in (season or {}).items()]
    return _table("Mean leaf area index of the summer crops", ["Date", "LAI [m² m⁻²]"], rows) if rows else ""


def _laws(laws: Mapping | None) -> str:
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
            law["channel"], _number(law["complexity"]), _number(law["train_skill"], 3),
            _number(law["heldout_skill"], 3), _number(law.get("p_value"), 3),
            "passes" if law.get("passes") else "fails", law.get("expression", law.get("form", "")),
        ]
        for law in front
    ]  # fmt: skip
    return verdict + (_table(caption, head, rows) if rows else "")


def _time(metrics: Mapping) -> str:
    seconds = metrics.get("seconds") or {}
    rows = [[stage, _number(value, 3)] for stage, value in seconds.items()]
    if metrics.get("peak_memory_gb") is not None:
        rows.append(["Peak memory [GB]", _number(metrics["peak_memory_gb"], 3)])
    return _table("Run time in seconds, by stage, and memory", ["Stage", "Value"], rows) if rows else ""


def _pairs(content: Mapping | None, name: str, value: str) -> str:
    rows = [[key, text] for key, text in _flat(content or {})]
    return _table("", [name, value], rows, numbers=False) if rows else ""


def _flat(content: Mapping, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(_plain, value))
        else:
            yield f"{prefix}{key}", _plain(value)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table that scrolls in itself where the screen is narrow; text columns to the left."""
    columns = "".join(f"<th scope='col'>{escape(title)}</th>" for title in head)
    text = "text" if numbers else "text wrap"
    body = ""
    for first, *others in rows:
        cells = "".join(
            f"<td>{escape(cell)}</td>" if numbers and title != "Law" else f"<td class='{text}'>{escape(cell)}</td>"
            for title, cell in zip(head[1:], others, strict=True)
        )
        body += f"<tr><th scope='row'>{escape(first)}</th>{cells}</tr>\n"
    label = escape(caption or " and ".join(head))
    return (
        f"<div class='scroll' role='region' aria-label='{label}' tabindex='0'><table>\n"
        f"{f'<caption>{escape(caption)}</caption>' if caption else ''}<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _baseline(score: Mapping, key: str, channel: str) -> float | None:
    return score.get("baselines", {}).get(key, {}).get(channel)


def _ratio(score: Mapping, key: str, channel: str) -> float:
    rmse, baseline = score["rmse"][channel], _baseline(score, key, channel)
    return rmse / baseline if rmse is not None and baseline else float("nan")


def _plain(value) -> str:
    return _number(value, 6) if isinstance(value, float) else "none" if value is None else str(value)


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"
