"""What the checkpoint of a fit tells, in the words of ``metrics.json``."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inference.plots import elbo
from pi_vae.versions import versions

__all__ = ["elbo_png", "metrics_of", "read_checkpoint"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; weights stay on disk.

    Raises:
        ValueError: the file is no checkpoint of a fit, or damaged.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint, or damaged ({type(error).__name__}): fit again.") from error
    if not isinstance(state, dict) or not {"settings", "history"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of a fit: give the folder that was fit's checkpoint=.")
    return state


def metrics_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, state of the fit, seconds and versions of a checkpoint.

    Args:
        state: what `read_checkpoint` returns.

    Returns:
        ``settings``, ``fit`` (``steps_done`` of ``steps``, ``seed``, ``terms``, ``holdout``, and
        ``elbo_nat_per_observation`` at the last step that was logged), ``seconds`` and ``versions``, see
        `inference.report.write_report`.
    """
    history = state["history"]
    fit = {"steps": state.get("steps"), "steps_done": state.get("step"), "seed": state.get("seed")}
    fit |= {"terms": list(state.get("terms") or []), "holdout": bool(state.get("holdout"))}
    if history["loss"]:
        fit["elbo_nat_per_observation"] = -history["loss"][-1]
    written = {"pi_vae that fitted": state.get("version"), "format of the checkpoint": state.get("format")}
    return {
        "settings": {"model": state["settings"]},
        "fit": fit,
        "seconds": {"fit": history["seconds"][-1]} if history["seconds"] else {},
        "versions": written | {f"{name}, now": number for name, number in versions().items()},
    }


def elbo_png(state: Mapping[str, Any]) -> bytes | None:
    """The figure of the evidence lower bound, where steps were logged."""
    if not state["history"]["step"]:
        return None
    file = io.BytesIO()
    elbo(state["history"]).savefig(file, format="png", dpi=110)
    return file.getvalue()
