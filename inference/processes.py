"""A fit shared by several processes: each works on parts of every step, and all take the same step.

Lightning Fabric starts and connects them (NCCL between GPUs, gloo between processors). What they average is the
gradient of a step (synchronous data-parallel stochastic gradient descent: Chen et al. 2016, arXiv 1604.00981). The
parameters that learn change with the phase of a fit, which the wrapper of `torch.nn.parallel` cannot follow, so
gradients are averaged here, in one message.

Random numbers of a part depend on the seed, the step and the number of the part, and on nothing that happened before.
So a fit gives the same however its parts are shared, and goes on after an interruption as if there had been none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from inference.optimisation import started

__all__ = ["Processes"]


class Processes:
    """The processes of a fit: this one alone, or those that ``torchrun`` has started.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        parts: parts of a step; default one for each process.

    Attributes:
        fabric: how they are connected.
        parts: parts of a step.
        first: whether this is the one that writes.

    Raises:
        ValueError: the parts cannot be shared evenly.
    """

    def __init__(self, device: str, parts: int | None) -> None:
        several = torch.distributed.is_torchelastic_launched()
        count, here = (int(os.environ[key]) if several else 1 for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        self.parts = count if parts is None else parts
        if self.parts < 1 or self.parts % count:
            raise ValueError(f"parts is {parts}, and there are {count} process(es): give a multiple of that.")
        strategy = "ddp" if count > 1 else "auto"
        self.fabric = started(device, devices=here, num_nodes=count // here, strategy=strategy)
        self.fabric.launch()
        self.first = self.fabric.is_global_zero

    def own(self, seed: int, step: int) -> list[torch.Generator]:
        """A generator for each part of a step that this process works on."""
        numbers = range(self.fabric.global_rank, self.parts, self.fabric.world_size)
        return [torch.Generator().manual_seed(_entropy(seed, step, number)) for number in numbers]

    def share_weights(self, module: torch.nn.Module) -> None:
        """Give all the weights of the first process."""
        if self.fabric.world_size > 1:
            module.load_state_dict(self.fabric.broadcast(module.state_dict()))

    def mean_loss(self, losses: Sequence[float]) -> float:
        """Of all parts, given those of this process: not finite in all where it is in one."""
        total = torch.tensor(sum(losses), dtype=torch.float64)
        return float(self._sum(total)) / self.parts

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of all processes; a parameter without one in any of them stays without."""
        if self.fabric.world_size == 1:
            return
        present = self._sum(torch.tensor([float(p.grad is not None) for p in parameters])).tolist()
        learning = [p for p, count in zip(parameters, present, strict=True) if count]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        total = self._sum(torch.cat([g.flatten() for g in gradients]))
        for p, part in zip(learning, total.split([p.numel() for p in learning]), strict=True):
            p.grad = part.view_as(p)

    def _sum(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value.to(self.fabric.device), reduce_op="sum")
        return cast(Tensor, total)


def _entropy(*numbers: int) -> int:
    """A seed of 63 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
