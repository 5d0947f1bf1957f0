"""Figures of a folder, each in the section that its file name speaks of."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from pi_vae.variables import CATALOGUE

__all__ = ["CAPTIONS", "figures_by_section", "image"]

# The first section with a word of the file's name takes the figure, hence the order: residual maps are no maps.
WORDS = {
    "skill": ("skill", "withheld"),
    "laws": ("residual", "law"),
    "calibration": ("calibration", "coverage"),
    "reconstruction": ("reconstruction",),
    "series": ("series", "pixel", "phenology", "spectrum", "corner"),
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
    "residual_series": "Residual of one pixel, by channel, with its bands.",
    "phenology": "Leaf area of one pixel, and start, peak and end of its season.",
    "spectrum": "Observed spectrum of one pixel against its predictive intervals.",
    "corner": "Joint posterior of variables of one pixel.",
    "time": "Evidence lower bound per observation against the step of the fit.",
    "other": "{subject}.",
}
PARTICULAR = ("residual_series", "law", "phenology", "spectrum", "corner")  # captions of some figures of a section


def figures_by_section(folder: Path) -> dict[str, str]:
    """Section -> its figures as HTML.

    Args:
        folder: of PNG files; it need not exist.
    """
    figures: dict[str, str] = {}
    for path in sorted(folder.glob("*.png")):
        stem = path.stem.lower()
        section = next((s for s, words in WORDS.items() if any(w in stem for w in words if len(w) > 2)), "other")
        caption = CAPTIONS[next((word for word in PARTICULAR if word in stem), section)]
        figures[section] = figures.get(section, "") + image(path.read_bytes(), caption.format(subject=_subject(stem)))
    return figures


def image(png: bytes, caption: str) -> str:
    """A figure that the page holds in itself."""
    text, data = escape(caption), base64.b64encode(png).decode("ascii")
    return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>\n"


def _subject(stem: str) -> str:
    """What the name of a file speaks of: ``variable_map_soil_moisture`` -> soil moisture (volumetric)."""
    rest = f"_{stem}_".replace("-", "_")
    found = [name for name in CATALOGUE if f"_{name}_" in rest]
    return CATALOGUE[max(found, key=len)].long_name if found else stem.replace("_", " ")
