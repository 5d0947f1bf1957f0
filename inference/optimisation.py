"""Optimisation that all fits share: phases, schedule, progress, reproducibility."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pi_vae import PhysicsVAE

__all__ = ["Phase", "deterministic", "guarded", "progress_bar", "restored", "started"]


class Phase:
    """Steps that train some of the parameters: Adam with warm-up and cosine decay."""

    def __init__(self, groups: list[dict], steps: int) -> None:
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _schedule(step, steps))
        self.optimizer.zero_grad(set_to_none=True)

    def enter(self, model: PhysicsVAE) -> None:
        """Let these parameters learn and no others."""
        own = {id(p) for p in self.parameters}
        for p in model.parameters():
            p.requires_grad_(id(p) in own)

    def descend(self, loss: torch.Tensor, fabric: Fabric) -> None:
        """A step down a loss."""
        fabric.backward(loss)
        self.step()

    def step(self) -> None:
        """A step down the gradients that have been collected."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 10.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def started(device: str, **options: Any) -> Fabric:
    """Lightning Fabric on a device.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        return Fabric(accelerator=device, **options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).split(". ")[0].rstrip(".!")
        raise ValueError(
            f"device is {device!r}, which does not work here ({reason}): give 'cpu', or 'auto' for the best there is."
        ) from error


def guarded(objective, *arguments) -> torch.Tensor:
    """A loss; NaN where the parameters have run away so far that there is none."""
    try:
        with pyro.validation_enabled(False):
            return objective(*arguments)
    except torch.linalg.LinAlgError:
        return torch.tensor(math.nan)


@contextmanager
def restored(model: PhysicsVAE) -> Iterator[None]:
    """Afterwards the same parameters learn as before, and the model is on the processor, where posteriors are drawn."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        model.cpu()
        for p, learns in before:
            p.requires_grad_(learns)


@contextmanager
def deterministic() -> Iterator[None]:
    """Same seed, same numbers: gradients of an indexed tensor are otherwise summed in the order that threads finish."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what the matrix products of CUDA need for it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # whose attribute its types do not know
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill


def progress_bar(enabled: bool, unit: str) -> Progress:
    """A bar whose tasks have the fields ``value``, in the unit, and ``rate``, in series per second."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[value]:.3f} " + unit),
        TextColumn("{task.fields[rate]:.0f} series/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )


def _schedule(step: int, steps: int) -> float:
    warm, steps = max(1, int(0.03 * steps)), max(1, steps)
    return min(1.0, (step + 1) / warm) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
