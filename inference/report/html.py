"""The page's style and the pieces of HTML that its sections are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["STYLE", "number", "pairs", "percent", "table"]

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
th:first-child, .text { text-align: left; }
th[scope=row] { font-weight: 400; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
@media (max-width: 40rem) {
  th.text[scope=row] { white-space: normal; overflow-wrap: anywhere; }
  td.wrap { min-width: 8rem; }
}
code { font-size: .9em; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
figcaption, .none, footer { color: var(--soft); font-size: .9rem; }
.lead { background: var(--panel); border-left: 4px solid #0072b2; padding: .6rem 1rem; }
"""


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table that scrolls in itself where the screen is narrow; text columns to the left."""
    mark = "" if numbers else " class='text'"
    columns = "".join(f"<th scope='col'{mark}>{escape(title)}</th>" for title in head)
    text = "text" if numbers else "text wrap"
    body = ""
    for first, *others in rows:
        cells = "".join(
            f"<td>{escape(cell)}</td>" if numbers and title != "Law" else f"<td class='{text}'>{escape(cell)}</td>"
            for title, cell in zip(head[1:], others, strict=True)
        )
        body += f"<tr><th scope='row'{mark}>{escape(first)}</th>{cells}</tr>\n"
    label = escape(caption or " and ".join(head))
    return (
        f"<div class='scroll' role='region' aria-label='{label}' tabindex='0'><table>\n"
        f"{f'<caption>{escape(caption)}</caption>' if caption else ''}<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def pairs(content: Mapping | None, name: str, value: str) -> str:
    """A table of two columns; nested content by dotted names, nothing where there is none."""
    rows = [[key, text] for key, text in _flat(content or {})]
    return table("", [name, value], rows, numbers=False) if rows else ""


def _flat(content: Mapping, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(_plain, value)) or "none"
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> str:
    return number(value, 6) if isinstance(value, float) else "none" if value is None else str(value)


def number(value: float | None, digits: int = 4) -> str:
    """To some significant digits; a dash where it is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share in 0-1 as per cent; a dash where it is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"
