"""What to be careful of, by the metrics of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from inference.report.html import percent
from inference.report.sections import ratio
from pi_vae.variables import CATALOGUE

__all__ = ["cautions", "caution_list"]

HELD = (0.85, 0.95)  # of the observations by 90 % intervals
AT_BOUND = 0.05  # of the posterior means
FEW_STEPS = 500
FEW_OBSERVATIONS = 100


def cautions(metrics: Mapping) -> list[str]:
    """Sentences that say what in a run calls for caution.

    They tell of: a fit that was not finished or had fewer than 500 steps; a simulated cube; scores that are missing or
    rest on fewer than 100 observations; 90 % intervals that hold less than 85 or more than 95 %, by modality and
    channel; channels worse than linear interpolation; variables whose posterior mean lies close to an end of the
    support more often than in 5 % of the cases.

    Args:
        metrics: as `inference.report.write_report` reads them.

    Returns:
        The sentences, none where nothing calls for caution.
    """
    scores = metrics.get("withheld") or {}
    found = [*_effort(metrics)]
    if (metrics.get("data") or {}).get("source") == "simulator":
        found.append("The cube was simulated: nothing here is about a real place.")
    if not scores:
        found.append("No observation was withheld: neither skill nor coverage is known.")
    for modality, score in scores.items():
        found += _scores(str(modality), score)
    for name, share in (metrics.get("at_bound") or {}).items():
        if share is not None and share > AT_BOUND:
            words = CATALOGUE[name].long_name if name in CATALOGUE else name
            found.append(
                f"{words[0].upper()}{words[1:]}: {percent(share)} of the posterior means lie at an end of the support. "
                "The map tells whether that is real, as bare soil is for leaf area, or the truth lies beyond."
            )
    return found


def caution_list(metrics: Mapping) -> str:
    """The sentences as HTML."""
    items = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in cautions(metrics))
    return f"<ul>\n{items}</ul>\n" if items else "<p>Nothing in the metrics calls for caution.</p>\n"


def _effort(metrics: Mapping) -> list[str]:
    fit, settings = metrics.get("fit") or {}, metrics.get("settings") or {}
    steps, done = fit.get("steps") or settings.get("steps"), fit.get("steps_done")
    if steps is not None and done is not None and done < steps:
        return [f"The fit stopped at step {done} of {steps}: call it again with the same settings to go on."]
    if steps is not None and steps < FEW_STEPS:
        return [f"The fit had {steps} steps: below {FEW_STEPS} it has seldom settled; do not trust its intervals."]
    return []


def _scores(modality: str, score: Mapping) -> list[str]:
    found = []
    count = score.get("n")
    if count is not None and count < FEW_OBSERVATIONS:
        found.append(f"{modality}: scores rest on {count} withheld observations, too few to judge by.")
    by_channel = {"all channels": score.get("coverage_90"), **(score.get("coverage_90_by_channel") or {})}
    low, high = HELD
    for words, beyond in (("narrow", lambda share: share < low), ("wide", lambda share: share > high)):
        outside = [f"{channel} {percent(share)}" for channel, share in by_channel.items()
                   if share is not None and math.isfinite(share) and beyond(share)]  # fmt: skip
        if outside:
            found.append(f"{modality}: 90 % intervals are too {words}; they hold {', '.join(outside)}.")
    worse = [channel for channel in score.get("rmse") or {} if ratio(score, "linear", channel) > 1]
    if worse:
        found.append(f"{modality}: linear interpolation in time is better at {', '.join(worse)}.")
    return found
