"""Series held out of a fit: an encoder that has seen few series a thousand times knows them by heart.

What a guide has learned of a cube shows in pixels that it has never seen: from time to time the predictive density of
observations hidden there is estimated (`inference.objective`), and the fit goes on from the weights that had the best.
Then the spread of the guide is set by these pixels too (`inference.sleep`): those it has learned from would call for
too little.
"""

from __future__ import annotations

import dataclasses

import torch

from inference.draws import seeded
from inference.objective import predictive_density
from pi_vae import PhysicsVAE
from pi_vae.data.batches import Batch
from pi_vae.data.occlusion import occlude
from pi_vae.data.scene import Cubes, Scene
from pi_vae.data.tensors import CubeTensors

__all__ = ["Holdout"]

BLOCK = 12  # pixels along each side of what is held out as one, on a grid
MOST = 256  # pixels that are scored
LOOKS = 24
DRAWS = 16


class Holdout:
    """Pixels held out, and the best weights so far.

    Args:
        data: the cube.
        share: of its pixels, in blocks on a grid.
        model: whose halo is read.
        hide_modality: probability that one modality is hidden from a pixel that is scored.
        seed: of the choice, and of what is hidden.

    Attributes:
        data: the cube without these pixels, to learn from.

    Raises:
        ValueError: the share is not below a half, or too small to hold out anything; modalities differ in their
            pixels, so that single ones cannot be scored; or there are several cubes, or one larger than memory.
    """

    def __init__(
        self, data: CubeTensors | Scene | Cubes, share: float, model: PhysicsVAE, hide_modality: float, seed: int
    ) -> None:
        if not isinstance(data, CubeTensors):
            raise ValueError(f"holdout is {share:g}, and several cubes, or one larger than memory, need none: give 0.")
        if not 0 < share < 0.5:
            raise ValueError(f"holdout is {share}: give the share of the pixels to hold out, below 0.5, or 0 for none.")
        if data.coarsest > 1:
            raise ValueError(f"holdout is {share:g}, and the nodes of the cube differ in their pixels: give 0.")
        generator = torch.Generator().manual_seed(seed)
        out = _chosen(data, share, generator)
        seen = torch.stack([m.seen[0].any(0) for m in data.modalities.values()]).any(0)
        rows, columns = (out & seen).nonzero(as_tuple=True)
        if not len(rows):
            raise ValueError(f"holdout={share:g} holds out no observed pixel of {data.pixels}: give more, or 0.")
        self._whole, self._places, self._halo = data, torch.stack([rows, columns]), model.encoder.radius
        batch = self.sample(MOST, generator)
        self.batch = occlude(batch, generator, modality=hide_modality, channels=0.0)
        rest = {
            name: dataclasses.replace(m, valid=m.valid & ~out, seen=m.seen & ~out)
            for name, m in data.modalities.items()
        }
        self.data = dataclasses.replace(data, modalities=rest)
        self.best = -float("inf")
        self.weights: dict[str, torch.Tensor] = {}  # none before the first look

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """At most so many of the pixels held out, each read with its halo."""
        some = torch.randperm(self._places.shape[1], generator=generator)[:count]
        rows, columns = self._places[:, some]
        batch = self._whole.at(rows, columns, self._halo)
        batch.scale = self._whole.pixels / len(some)
        return batch

    def look(self, model: PhysicsVAE) -> float:
        """Predictive density of what is hidden, in nats a pixel, at the model's weights, which are kept if best."""
        device = next(model.parameters()).device
        with seeded(0):
            batch, shared = dataclasses.replace(self.batch.to(device), scale=1.0), model.median_globals()
            posterior = model.posterior(model.encode(batch), batch.dates, shared)
            score = predictive_density(model, batch, posterior, shared, DRAWS).item() / len(batch.pixels)
        if not self.weights or score > self.best:
            self.best = score
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return score

    def state_dict(self) -> dict:
        return {"best": self.best, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.weights = state["best"], state["weights"]


def _chosen(data: CubeTensors, share: float, generator: torch.Generator) -> torch.Tensor:
    """`[y, x]` which pixels are held out."""
    height, width = data.shape
    if data.points:
        return (torch.randperm(height, generator=generator) < round(share * height)).unsqueeze(1)
    side = min(BLOCK, max(1, min(height, width) // 4))
    blocks = -(-height // side), -(-width // side)
    count = blocks[0] * blocks[1]
    chosen = (torch.randperm(count, generator=generator) < round(share * count)).view(blocks)
    return chosen.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]
