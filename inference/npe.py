r"""Neural posterior estimation: the guide learns from what the model simulates, and from nothing else.

The guide of `inference.fit` is where the ELBO leaves it, too narrow, with a spread mended at the end. Here the global
latents stay as they are, and the whole encoder is trained on series drawn from the model with the dates, masks and
angles of a cube,

.. math:: \min_\phi\; E_{p(\theta)\, p(z \mid \theta)\, p(y \mid z, \theta)}\left[-\log q_\phi(z \mid y)\right],

whose minimum has the mean and spread of the true posterior wherever the family of the guide cannot follow its form
(Papamakarios & Murray 2016, NeurIPS 29; the sleep of wake-sleep, Hinton et al. 1995), and whose intervals hold what
they promise on average over series of the model. Operators are only asked forward, so that a step is cheap. What it
cannot know is how real series differ from the model's: `inference.withheld_scores` says what it costs there.

With ``forget=True`` the global latents are not known either: every step draws them from their prior,

.. math:: q_\phi(z \mid y) \approx p(z \mid y) = \int p(z \mid y, \theta)\, p(\theta \mid y)\, d\theta,

and what comes out is a guide for single series of any cube with such dates, before anything was fitted: wider than one
that knows the cube; how nearly right over all cubes, `benchmarks/calibration.py` says. Every step then draws
them several times, each for a part of its series: with one draw a step, a thousand steps would show a thousand cubes.

At last the skewness of the marginals learns from single dates alone, over draws of the static latents, which is what
intervals and ranks are made of: a process as a whole has many directions, and most are less skewed than its level.
Means and variances stay.
"""

from __future__ import annotations

import math
import time

import torch
import xarray as xr

from inference.optimisation import Phase, guarded, progress_bar, restored, started
from inference.sleep import DREAM_PATCHES, DREAM_SIZE, FEW_GAPS, marginal_loss, recovery_loss
from inference.training import Run, keep_weights
from pi_vae.data import validate
from pi_vae.data.occlusion import occlude
from pi_vae.data.scene import open_tensors
from pi_vae.law import LawTerm
from pi_vae.priors import GlobalLatents, NormalLatents

__all__ = ["neural_posterior"]

TOGETHER = 64  # series of a step that share a draw of forgotten global latents
LAST = 10  # one more step for so many, of the skewness alone


def neural_posterior(
    run: Run,
    cube: xr.DataTree,
    steps: int = 600,
    seed: int = 0,
    device: str = "auto",
    patch_size: int = DREAM_SIZE,
    pixels: int = 384,
    learning_rate: float = 3e-3,
    hide_modality: float = FEW_GAPS["modality"],
    forget: bool = False,
    cubes: int | None = None,
    progress: bool = True,
) -> Run:
    """Train the guide of a run on simulations of its model.

    Args:
        run: a fitted run; its model is changed in place, the encoder alone. A checkpoint of it is brought up to date.
            With ``forget`` a run that nobody fitted does as well: ``Run(model)``.
        cube: whose dates, masks and angles the simulated series have; its values are only read for the
            texture of patches, not at all for points.
        steps: optimisation steps; a tenth more follow, of the skewness alone.
        seed: of everything random.
        device: to train on, ``"auto"``, ``"cpu"``, ``"cuda"``, ...; afterwards the model is on the processor.
        patch_size: side of a simulated patch in pixels; points are simulated one by one.
        pixels: simulated series per step.
        learning_rate: peak step size of Adam.
        hide_modality: probability that one modality is hidden in a series; more of it to translate between them.
        forget: let the posterior of the global latents be their prior first.
        cubes: draws of forgotten global latents per step; default one for 64 series or for each patch.
        progress: show a progress bar.

    Returns:
        The run.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: no steps or no cubes, or the cube lacks a modality or channel of the model.
        FloatingPointError: the loss is not finite; the model is as it was.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: give a positive number of optimisation steps.")
    validate(cube)
    model = run.model
    data = open_tensors(cube, {name: m.channels for name, m in model.modalities.items()}).without_empty_dates()
    fabric = started(device, devices=1)
    fabric.seed_everything(seed, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    if forget:
        model.know_dates(data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for part in model.modules() if forget else ():
        if isinstance(part, GlobalLatents | NormalLatents | LawTerm):
            part.forget()
    phase = Phase([{"params": list(model.encoder.parameters()), "lr": learning_rate}], steps)
    count = pixels if data.points else DREAM_PATCHES
    if cubes is not None and not (forget and 1 <= cubes <= count):
        raise ValueError(f"cubes is {cubes}: give 1 to {count}, the points or patches of a step, with forget=True.")
    cubes = 1 if not forget else cubes or (max(1, pixels // TOGETHER) if data.points else DREAM_PATCHES)
    heads = [p for head in model.encoder.skewness_heads() for p in head.parameters()]
    last = max(1, steps // LAST)
    marginals = Phase([{"params": heads, "lr": learning_rate}], last)
    with progress_bar(progress, "nat per series") as bar, restored(model):
        model.to(fabric.device).train()
        task = bar.add_task("simulations", total=steps + last, value=math.nan, rate=0.0)
        start = time.monotonic()
        for step in range(steps + last):
            now = phase if step < steps else marginals
            if step in (0, steps):
                now.enter(model)
            batch = data.patches(count, patch_size, pixels, generator)
            batch = occlude(batch, generator, **FEW_GAPS | {"modality": hide_modality}).to(fabric.device)
            batch.scale = 1 / len(batch.pixels)
            loss = guarded(recovery_loss if now is phase else marginal_loss, model, batch, cubes)
            if not torch.isfinite(loss):
                model.load_state_dict(before)
                raise FloatingPointError(f"The loss is {loss.item()}: lower learning_rate (now {learning_rate:g}).")
            now.descend(loss, fabric)
            rate = (step + 1) * len(batch.pixels) / max(time.monotonic() - start, 1e-9)
            bar.update(task, completed=step + 1, value=-loss.item(), rate=rate)
    model.eval()
    keep_weights(run)
    return run
