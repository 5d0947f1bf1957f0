r"""Distillation: the guide learns from itself what it would say if it saw more.

A posterior given one sensor is the mean, over what the other might have seen, of the posteriors given both,

.. math:: p(z \mid y_1) = E_{p(y_2 \mid y_1)}\left[p(z \mid y_1, y_2)\right],

so what the guide says of real series with both sensors is a teacher for what it should say with one of them hidden,

.. math:: \min_\phi\; E_{y}\, E_{q_0(z \mid y_1, y_2)}\left[-\log q_\phi(z \mid y_1)\right],

where :math:`q_0` is the guide as it was (Hinton, Vinyals & Dean 2015, arXiv 1503.02531; with hidden inputs, learning
using privileged information: Lopez-Paz et al. 2016, ICLR). No operator is asked, so that a step is cheap, and unlike
simulations (`inference.neural_posterior`) the series are real: what sensors have in common beyond the model's physics
is learned too. How far one sensor is from the other in series that it has not learned from, series held out tell: the
last steps set the spread of the guide by them, and leave its means as they are.
"""

from __future__ import annotations

import copy
import math
import time

import torch
import xarray as xr

from inference.holdout import LOOKS, Holdout
from inference.optimisation import Phase, guarded, progress_bar, restored, started
from inference.sleep import FEW_GAPS
from inference.training import CALIBRATION, Run, keep_weights
from pi_vae import PhysicsVAE
from pi_vae.chain import ChainPosterior
from pi_vae.data import validate
from pi_vae.data.batches import Batch
from pi_vae.data.occlusion import occlude
from pi_vae.data.scene import open_tensors

__all__ = ["distil"]


def distil(
    run: Run,
    cube: xr.DataTree,
    steps: int = 600,
    seed: int = 0,
    device: str = "auto",
    patches: int = 6,
    patch_size: int = 24,
    pixels: int = 384,
    learning_rate: float = 3e-3,
    hide_modality: float = 0.7,
    holdout: float = 0.15,
    progress: bool = True,
) -> Run:
    """Teach the guide of a fitted run to say with one modality what it says with all of them.

    Args:
        run: a fitted run; its model is changed in place, the encoder alone. A checkpoint of it is brought up to date.
        cube: a cube with the modalities of the model, such as the one it was fitted to; observations marked
            ``withheld`` are not used.
        steps: optimisation steps.
        seed: of everything random.
        device: to train on, ``"auto"``, ``"cpu"``, ``"cuda"``, ...; afterwards the model is on the processor.
        patches, patch_size, pixels: as for `inference.fit`.
        learning_rate: peak step size of Adam.
        hide_modality: probability that one modality is hidden in a patch.
        holdout: share of the pixels to hold out; the weights kept are those that best predict the modality hidden
            there, those from before included, and the last 12 % of the steps set the spread of the guide there.
            0 for none: the last weights are kept.
        progress: show a progress bar.

    Returns:
        The run.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: no steps; the model has one modality only; the cube lacks one, or a channel; or nothing can be held
            out as asked.
        FloatingPointError: the loss is not finite; the model is as it was.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: give a positive number of optimisation steps.")
    model = run.model
    if len(model.modalities) < 2:
        raise ValueError(f"The model reads {next(iter(model.modalities))!r} alone: there is nothing to hide from it.")
    validate(cube)
    data = open_tensors(cube, {name: m.channels for name, m in model.modalities.items()}).without_empty_dates()
    held = Holdout(data, holdout, model, hide_modality=1.0, seed=seed) if holdout else None
    data = held.data if held else data
    fabric = started(device, devices=1)
    fabric.seed_everything(seed, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = steps - int(CALIBRATION * steps) if held else steps
    phases = [Phase([{"params": list(model.encoder.parameters()), "lr": learning_rate}], learning)]
    spread = [p for head in model.encoder.spread_heads() for p in head.parameters()]
    phases.append(Phase([{"params": spread, "lr": learning_rate}], steps - learning))
    with progress_bar(progress, "nat per series") as bar, restored(model):
        model.to(fabric.device).eval()
        teacher = copy.deepcopy(model.encoder).requires_grad_(False)
        if held:
            held.look(model)
        task = bar.add_task("distillation", total=steps, value=math.nan, rate=0.0)
        start = time.monotonic()
        for step in range(steps):
            phase = phases[step >= learning]
            if step in (0, learning):
                phase.enter(model)
            if held and step >= learning:
                batch = held.sample(pixels, generator)
            else:
                batch = data.patches(pixels if data.points else patches, patch_size, pixels, generator)
            seen = occlude(batch, generator, **FEW_GAPS | {"modality": hide_modality}).to(fabric.device)
            loss = guarded(_loss, model.train(), teacher, batch.to(fabric.device), seen)
            if not torch.isfinite(loss):
                model.load_state_dict(before)
                raise FloatingPointError(f"The loss is {loss.item()}: lower learning_rate (now {learning_rate:g}).")
            phase.descend(loss, fabric)
            if held and step < learning and ((step + 1) % max(1, learning // LOOKS) == 0 or step == learning - 1):
                held.look(model.eval())
                if step == learning - 1:
                    model.load_state_dict(held.weights)
            rate = (step + 1) * len(batch.pixels) / max(time.monotonic() - start, 1e-9)
            bar.update(task, completed=step + 1, value=-loss.item(), rate=rate)
    model.eval()
    keep_weights(run)
    return run


def _loss(model: PhysicsVAE, teacher: torch.nn.Module, batch: Batch, seen: Batch) -> torch.Tensor:
    """Negative log density, per series, of the teacher's draws under the guide that sees less."""
    with torch.no_grad():
        shared = model.draw_globals()
        drawn = model.posterior(teacher(batch), batch.dates, shared).rsample()
    student: ChainPosterior = model.posterior(model.encoder(seen), batch.dates, shared)
    parts = (student.conditional(name, drawn).log_prob(drawn[name]).sum() for name in student.names)
    return -sum(parts, torch.zeros(())) / len(batch.pixels)
