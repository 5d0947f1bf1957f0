"""`fit`: stochastic variational inference on Lightning Fabric, with checkpoints and progress."""

from __future__ import annotations

import logging
import math
import os
import pickle
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import xarray as xr

from inference.diagnosis import not_finite
from inference.holdout import LOOKS, Holdout
from inference.objective import ChainRuleELBO
from inference.optimisation import Phase, deterministic, guarded, progress_bar, restored
from inference.processes import Processes
from inference.sleep import DREAM_PATCHES, DREAM_SIZE, FEW_GAPS, calibration_loss
from inference.terms import Restraint
from inference.waking import hold, wake
from pi_vae import PhysicsVAE, __version__
from pi_vae.data import validate
from pi_vae.data.batches import Batch
from pi_vae.data.occlusion import occlude
from pi_vae.data.scene import Cubes, Scene, open_tensors
from pi_vae.data.tensors import CubeTensors

__all__ = ["Run", "fit", "keep_weights", "load"]

CHECKPOINT = "checkpoint.pt"
FORMAT = 4  # of a checkpoint; a change of the model's parameters makes it another
PHASE_IN = 0.2  # share of the steps in which the divergence from the prior is phased in
RESIDUALS_BEGIN = 100  # steps after which they do, or after that share in short fits
CALIBRATION = 0.12  # share of the steps, at the end, that set the spread of the guide
SAVE_EVERY = 200  # steps
log = logging.getLogger(__name__)


@dataclass
class Run:
    """A fitted model.

    Attributes:
        model: the model, in evaluation mode.
        history: loss per observation (negative ELBO, in nats) and seconds, one entry per logged step of learning.
        seed: seed of the fit.
        folder: where the checkpoint lies, if one was asked for.
    """

    model: PhysicsVAE
    history: dict[str, list[float]] = field(default_factory=lambda: {"step": [], "loss": [], "seconds": []})
    seed: int = 0
    folder: Path | None = None


def fit(
    model: PhysicsVAE,
    cube: xr.DataTree | Sequence[xr.DataTree],
    steps: int = 1500,
    seed: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    patches: int = 6,
    patch_size: int = 24,
    pixels: int = 384,
    learning_rate: float = 5e-3,
    hide_modality: float = 0.05,
    holdout: float = 0.0,
    terms: Collection[str] = (),
    parts: int | None = None,
    progress: bool = True,
) -> Run:
    """Fit a model to a cube by stochastic variational inference.

    Random patches; Adam with warm-up and cosine decay; the divergence from the prior is phased in over the first fifth
    of the steps; when that is over, or after a hundred steps, residuals begin (`inference.waking`). Parts of each
    patch are hidden from the encoder, see `inference.objective`. The last steps set the spread of the guide, see
    `inference.sleep`. Observations that the cube marks as ``withheld`` are not used at all. The same seed gives the
    same numbers on the same machine. Processes that ``torchrun`` has started share the fit, where all call it alike
    (`inference.processes`); the first writes the checkpoint, in a folder that all can read.

    Args:
        model: model to train; changed in place.
        cube: a cube that `pi_vae.data.validate` accepts, or several with dates of their own, such as tiles; a large one
            stays on disk, where its chunks should not be much larger than patches (`pi_vae.data.scene`).
        steps: optimisation steps.
        seed: of everything random.
        device: to train on, ``"auto"``, ``"cpu"``, ``"cuda"``, ...; afterwards the model is on the processor.
        checkpoint: folder for checkpoints; a fit found there is resumed.
        patches: patches per step.
        patch_size: side of a patch in pixels.
        pixels: pixels (or points) per step whose series are modelled, drawn from the patches.
        learning_rate: peak step size of Adam.
        hide_modality: probability that one modality is hidden from the encoder in a patch; more of it where
            the run is to translate between modalities (`inference.translate`).
        holdout: share of the pixels to hold out; the fit keeps the weights that predict them best
            and lets them set the spread of the guide (`inference.holdout`). For cubes of some hundred series, which
            the encoder would learn by heart.
        terms: names of terms that hold the residuals back where physics could say the same (`inference.terms`).
        parts: batches whose gradients are averaged in a step, each of so many patches and pixels, worked through one
            after another by each process; default one for each.
        progress: show a progress bar.

    Returns:
        The fitted run.

    Raises:
        CubeError: the cube breaks the data contract, or cannot be read.
        OSError: a checkpoint cannot be written; the last one is kept.
        ValueError: the cube lacks a modality or channel of the model, or has no usable observation; or nothing can be
            held out as asked; or a term is unknown; or parts cannot be shared evenly by the processes.
        FloatingPointError: the loss is not finite, with a table of what else is not; the last good checkpoint is kept.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: give a positive number of optimisation steps.")
    restraint = Restraint(model, terms)
    data = _opened(model, cube if isinstance(cube, Sequence) else [cube])
    held = Holdout(data, holdout, model, hide_modality, seed) if holdout else None
    data = held.data if held else data
    folder = _prepare(checkpoint)
    crew = Processes(device, parts)
    fabric = crew.fabric
    observations = _set_statistics(model, data)
    crew.share_weights(model)
    run = Run(model, seed=seed, folder=folder)
    learning = steps - int(CALIBRATION * steps)
    begins = min(RESIDUALS_BEGIN, max(1, int(PHASE_IN * learning)))
    phases = [Phase(_learning_groups(model, learning_rate), learning)]
    phases.append(Phase([{"params": _spread(model), "lr": 1.6 * learning_rate}], steps - learning))
    first = _resume(folder, run, phases, crew.parts, steps, held, restraint.terms) if folder else 0
    evidence = ChainRuleELBO(model, restraint=restraint if restraint.terms else None)
    elbo = evidence(model.model, model.guide)  # type: ignore[arg-type]  # programs that are no modules
    few_gaps = FEW_GAPS | {"modality": hide_modality}
    count = pixels if data.points else patches
    dreams = (pixels, 1) if data.points else (DREAM_PATCHES, min(DREAM_SIZE, patch_size))

    def loss_of(generator: torch.Generator, learns: bool) -> tuple[torch.Tensor, Batch]:
        """Of a part of a step, per observation, and its batch."""
        if learns:
            batch = data.patches(count, patch_size, pixels, generator)
            batch = occlude(batch, generator, modality=hide_modality).to(fabric.device)
            if "recovery" in restraint.terms:
                imagined = data.patches(*dreams, data.pixels, generator)
                restraint.imagined = occlude(imagined, generator, **few_gaps).to(fabric.device)
            return guarded(elbo, batch) / observations, batch
        few = max(1, pixels // 4)
        batch = held.sample(few, generator) if held else data.patches(count, patch_size, few, generator)
        both = batch, data.patches(*dreams, data.pixels, generator)
        batch, imagined = (occlude(b, generator, **few_gaps).to(fabric.device) for b in both)
        return guarded(calibration_loss, model, batch, imagined) / observations, batch

    start = time.monotonic() - (run.history["seconds"][-1] if run.history["seconds"] else 0.0)
    with progress_bar(progress and crew.first, "nat per observation") as bar, deterministic(), restored(model):
        model.to(fabric.device).train()
        for phase in phases:
            phase.load_state_dict(phase.state_dict())  # what was resumed goes where the model is
        task = bar.add_task("fit", total=steps, completed=first, value=math.nan, rate=0.0)
        for step in range(first, steps):
            learns = step < learning
            phase = phases[not learns]
            phase.enter(model)
            if step == begins:
                if crew.first:
                    generator = crew.own(seed, step)[0]
                    torch.manual_seed(generator.initial_seed())
                    guarded(wake, model, data.patches(count, patch_size, pixels, generator).to(fabric.device))
                crew.share_weights(model)
            model.kl_weight = min(1.0, (step + 1) / (PHASE_IN * learning))
            restraint.share = min(1.0, max(0.0, (step + 1) / (PHASE_IN * learning) - 1.0))  # by and by, once data fit
            losses, series = [], 0
            for generator in crew.own(seed, step):
                torch.manual_seed(generator.initial_seed())
                loss, batch = loss_of(generator, learns)
                losses.append(loss.item())
                series += len(batch.pixels)
                if not math.isfinite(losses[-1]):
                    break
                fabric.backward(loss / crew.parts)
            value = crew.mean_loss(losses)
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss is {value} at step {step}: lower learning_rate (now {learning_rate:g})"
                    + (f"; the last good state is in {folder}.\n" if folder else ".\n")
                    + not_finite(model, batch)
                )
            crew.sum_gradients(phase.parameters)
            if step < 2 * begins:
                hold(model, silent=step < begins)
            phase.step()
            if held and learns and ((step + 1) % max(1, learning // LOOKS) == 0 or step == learning - 1):
                held.look(model.eval())
                model.train()
                if step == learning - 1:
                    model.load_state_dict(held.weights)
            if learns and (step % 10 == 0 or step == learning - 1):
                seconds = time.monotonic() - start
                for key, entry in (("step", step), ("loss", value), ("seconds", seconds)):
                    run.history[key].append(entry)
                rate = (step + 1) * series * fabric.world_size / max(seconds, 1e-9)
                bar.update(task, value=-value, rate=rate)
            bar.update(task, completed=step + 1)
            if folder and crew.first and (step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1):
                _save(folder, run, phases, crew.parts, step + 1, steps, held, restraint.terms)
    fabric.barrier()  # none goes on before the checkpoint is there
    model.kl_weight = 1.0
    model.eval()
    return run


def load(folder: str | Path, model: PhysicsVAE | None = None) -> Run:
    """Load a fitted run.

    Args:
        folder: folder given to `fit` as ``checkpoint``.
        model: a model of the same structure; needed only for modalities of your own, else it is rebuilt.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        ValueError: the checkpoint is damaged, of another version of the package, or belongs to a model of another
            structure.
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint in {folder}: fit with checkpoint={str(folder)!r} first.")
    state = _read(path)
    model = model if model is not None else PhysicsVAE.from_settings(state["settings"])
    _load_weights(model, state["model"], path)
    model.eval()
    return Run(model, state["history"], state["seed"], Path(folder))


def _opened(model: PhysicsVAE, cubes: Sequence[xr.DataTree]) -> CubeTensors | Scene | Cubes:
    """What patches are drawn from."""
    if not len(cubes):
        raise ValueError("There is no cube: give one or several.")
    channels = {name: m.channels for name, m in model.modalities.items()}
    parts = [open_tensors(validate(cube), channels).without_empty_dates() for cube in cubes]
    for part in parts:
        model.know_dates(part)
    return parts[0] if len(parts) == 1 else Cubes(parts)


def _set_statistics(model: PhysicsVAE, data: CubeTensors | Scene | Cubes) -> int:
    """Tell the encoder mean and spread of every channel; returns the number of observations, channels counted."""
    seen, found = 0.0, data.survey()
    for name in model.modalities:
        parts = [(modalities[name], share) for modalities, share in found]
        seen += sum(int(m.seen.sum()) // m.factor**2 * m.values.shape[2] / share for m, share in parts)
        values = torch.cat([m.values.movedim(2, 0)[:, m.valid] for m, _ in parts], 1)
        if values.shape[1] > 1:
            spread = values.std(1).clamp_min(1e-3)
            model.encoder.set_statistics(name, values.mean(1), spread)
    return max(1, round(seen))


def _spread(model: PhysicsVAE) -> list[torch.nn.Parameter]:
    """What says how far the truth may lie from the means: of latents, and of observations."""
    parts = (*model.encoder.spread_heads(), *(m.noise for m in model.modalities.values()))
    return [p for part in parts for p in part.parameters()]


def _learning_groups(model: PhysicsVAE, learning_rate: float) -> list[dict]:
    """Step sizes: lengthscales and static shares slow, readers of the exclusive residuals and common courses fast.

    While the encoder is still vague, a process that changes nothing is the cheapest; hyperparameters that moved as fast
    as the encoder would settle there. The residuals can only learn what the physical variables leave over, so theirs
    is the later and shorter time.
    """
    residuals = [m.residual for m in model.modalities.values() if m.residual is not None]
    times = [(model.lengthscale, model.static_odds), *((r.lengthscale, r.static_odds) for r in residuals)]
    slow = [p for pair in times for g in pair for p in g.parameters()]
    readers = [reader for name, reader in model.encoder.readers.items() if name != "dynamic"]
    heads = [head for reader in model.encoder.readers.values() for head in (reader.caution, reader.skewness)]
    later = {id(p) for head in heads for p in head.parameters()}
    fast = [p for part in (*readers, model.encoder.exclusive) for p in part.parameters() if id(p) not in later]
    parts: list[torch.nn.Module | None] = [part for r in residuals for part in (r.loading, r.relevance, r.network)]
    parts.append(model.course)
    parts += [law for m in model.modalities.values() for law in m.laws]
    loadings = [p for part in parts if part is not None for p in part.parameters()]
    effects = [p for m in model.modalities.values() if m.date_effect is not None for p in m.date_effect.parameters()]
    apart = later | {id(p) for p in (*slow, *fast, *loadings, *effects)}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    factors = ((others, 1.0), (slow, 0.05), (fast, 1.6), (loadings, 4.0), (effects, 16.0))
    return [{"params": group, "lr": factor * learning_rate} for group, factor in factors if group]


def _prepare(checkpoint: str | Path | None) -> Path | None:
    if checkpoint is None:
        return None
    folder = Path(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"Cannot write checkpoints to {folder}: give a folder that is writable.")
    return folder


def _save(
    folder: Path,
    run: Run,
    phases: list[Phase],
    parts: int,
    step: int,
    steps: int,
    held: Holdout | None,
    terms: tuple[str, ...],
) -> None:
    state = {
        "format": FORMAT,
        "version": __version__,
        "settings": run.model.settings,
        "model": run.model.state_dict(),
        "phases": [phase.state_dict() for phase in phases],
        "holdout": held.state_dict() if held else None,
        "terms": list(terms),
        "parts": parts,
        "step": step,
        "steps": steps,
        "seed": run.seed,
        "history": run.history,
    }
    _write(state, folder)


def keep_weights(run: Run) -> None:
    """Bring the checkpoint of a run up to its weights, where it has one."""
    if run.folder is not None:
        state = _read(run.folder / CHECKPOINT)
        _write(state | {"model": run.model.state_dict()}, run.folder)


def _write(state: dict, folder: Path) -> None:
    temporary = folder / (CHECKPOINT + ".part")
    try:
        torch.save(state, temporary)
        temporary.replace(folder / CHECKPOINT)  # atomic: a kill leaves the old checkpoint or the new one
    except (OSError, RuntimeError) as error:  # the latter from the writer of torch
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"The checkpoint cannot be written to {folder} ({str(error).splitlines()[0]}): is the disk full? Make room "
            "and call again; the last checkpoint is kept."
        ) from error


def _read(path: Path) -> dict:
    """A checkpoint; plain tensors and numbers, no code."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint, or damaged ({type(error).__name__}): fit again.") from error
    if not isinstance(state, dict) or "settings" not in state:
        raise ValueError(f"{path} is no checkpoint of a fit: give the folder that was fit's checkpoint=.")
    if state.get("format", 1) != FORMAT:
        raise ValueError(
            f"{path} was written by pi_vae {state.get('version')} in format {state.get('format', 1)}, and this version "
            f"({__version__}) reads format {FORMAT}: fit again, or install that version."
        )
    return state


def _resume(
    folder: Path, run: Run, phases: list[Phase], parts: int, steps: int, held: Holdout | None, terms: tuple[str, ...]
) -> int:
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    state = _read(path)
    if state["seed"] != run.seed or state["steps"] != steps:
        raise ValueError(
            f"{path} holds a fit with seed {state['seed']} and {state['steps']} steps, not seed {run.seed} and {steps} "
            "steps: use the same settings to resume, or another folder."
        )
    _load_weights(run.model, state["model"], path)
    same = bool(held) == bool(state["holdout"]) and list(terms) == state.get("terms", [])
    if not same or parts != state.get("parts", 1):
        raise ValueError(
            f"{path} holds a fit with other terms, parts or holdout: use the same to resume, or another folder."
        )
    if held:
        held.load_state_dict(state["holdout"])
    for phase, saved in zip(phases, state["phases"], strict=True):
        phase.load_state_dict(saved)
    run.history = state["history"]
    log.info("resumed from %s at step %d", path, state["step"])
    return state["step"]


def _load_weights(model: PhysicsVAE, weights: dict, path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} belongs to a model of another structure ({str(error).splitlines()[-1].strip()}): build the model "
            "with the settings of that fit."
        ) from error
