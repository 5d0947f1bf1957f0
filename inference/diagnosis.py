"""What is not finite when a loss is not: a table of parameters, observations and sites."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pi_vae import PhysicsVAE
from pi_vae.data.batches import Batch

__all__ = ["not_finite"]

MOST = 12  # rows
RUN_AWAY = 1e3  # no parameter of a model that learns comes to that
HEAD = ("kind", "name", "not finite", "of", "largest", "first at")


def not_finite(model: PhysicsVAE, batch: Batch) -> str:
    """Table of what is not finite in a model and in one draw of its sites for a batch, observations in any case.

    Sites and their log densities are drawn anew: what was finite then may not be now, and the reverse.

    Args:
        model: the model, as it was when the loss was not finite.
        batch: the batch of that loss.

    Returns:
        Lines of text; indices are those of the tensor named: a site's begin with the pixel of the batch.
    """
    rows = []
    for name, p in model.named_parameters():
        if not p.isfinite().all() or p.abs().max() > RUN_AWAY:
            rows.append(_row("parameter", name, p.detach()))
    rows += [_row("observation", name, m.series(batch.pixels)) for name, m in batch.modalities.items()]
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            guide = poutine.trace(model.guide).get_trace(batch)
            rows += _sites(guide, "latent", lambda site: site["value"])
            rows += _sites(guide, "density, guide", lambda site: site["fn"].log_prob(site["value"]))
            trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch)
            rows += _sites(trace, "density, model", lambda site: site["fn"].log_prob(site["value"]))
    except (RuntimeError, ValueError) as error:  # a factorisation that fails
        rows.append(("site", "?", "", "", "", str(error).splitlines()[0][:60]))
    table = [HEAD, *rows[:MOST]]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    if len(rows) > MOST:
        lines.append(f"and {len(rows) - MOST} more")
    return "\n".join(lines)


def _sites(trace, kind: str, pick) -> list[tuple[str, ...]]:
    """Rows of the sites of a trace where what is picked is not finite."""
    sites = {n: site for n, site in trace.nodes.items() if site["type"] == "sample"}
    found = {n: pick(site) for n, site in sites.items() if type(site["fn"]).__name__ != "_Subsample"}
    return [_row(kind, name, value) for name, value in found.items() if not value.isfinite().all()]


def _row(kind: str, name: str, value: Tensor) -> tuple[str, ...]:
    bad = (~value.isfinite()).nonzero()
    largest = value[value.isfinite()].abs().max().item() if value.isfinite().any() else float("nan")
    first = str(tuple(bad[0].tolist())) if len(bad) else ""
    return kind, name, str(len(bad)), str(value.numel()), f"{largest:.3g}", first
