"""The house's style: colours, sizes, names and units on axes."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.figure

from pi_vae.variables import CATALOGUE

__all__ = ["COLOURS", "Figure", "label", "styled", "unit_text"]

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = "#000000 #E69F00 #56B4E9 #009E73 #0072B2 #D55E00 #CC79A7".split()
COLOURS = (BLUE, RED, GREEN, ORANGE, SKY, PURPLE, BLACK)  # of several lines, in this order
GREY = "0.45"
NOTEBOOK_DPI = 100
STYLE: Any = {
    "figure.dpi": 150, "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "figure.titlesize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.4,
    "legend.frameon": False, "figure.facecolor": "white", "savefig.facecolor": "white", "date.converter": "concise",
}  # fmt: skip


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, whether pyplot is at work there or not."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png", dpi=min(self.dpi, NOTEBOOK_DPI))
        return image.getvalue()


def styled[**P](draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """The house's style around a function that draws a figure."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        for axes in figure.axes:  # ticks are made when drawn, outside this context
            axes.tick_params(which="major", labelsize=8, width=0.6, length=3)
        return figure

    return in_style


def unit_text(unit: str) -> str:
    """CF unit for an axis: ``m2 m-2`` -> m² m⁻²."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    pretty = re.sub(r"(?<=[A-Za-z])-?\d+", lambda match: match[0].translate(raised), unit)
    return {"1": "–", "degree": "°"}.get(unit, re.sub(r"\bug\b", "µg", pretty))


def label(name: str, unit: str = "1") -> str:
    """Symbol and unit of a variable of the catalogue; of any other quantity its name and the unit given."""
    if name in CATALOGUE:
        return rf"$\mathrm{{{CATALOGUE[name].symbol}}}$ [{unit_text(CATALOGUE[name].unit)}]"
    return f"{name.replace('_', ' ')} [{unit_text(unit)}]"
