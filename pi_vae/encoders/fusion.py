"""All modalities to sites: where radar and optical meet, at the union dates of a pixel.

Each modality is encoded in space; its features, with its geometry and a code of the modality, are added at the union
date they belong to; attention mixes the dates; heads read off the sites of every latent process and the Gaussian of
every static latent. What comes out is plain tensors: the guide makes distributions of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vae.encoders.spatial import SpatialEncoder
from pi_vae.encoders.temporal import DateEmbedding, TemporalEncoder

__all__ = ["FusionEncoder", "Sites"]

MAX_SITE_MEAN = 5.0


@dataclass
class Sites:
    """What the encoder says of a batch of pixels.

    Attributes:
        mean, precision: process name -> `[pixel, V, T]` Gaussian sites; precision 0 where nothing was seen.
        static_mean, static_scale: `[pixel, S]` Gaussian of the static latents; the prior N(0, 1) where no date of
            the pixel was seen.
    """

    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    static_mean: Tensor
    static_scale: Tensor


class FusionEncoder(nn.Module):
    """Images of all modalities -> sites of all latents.

    Args:
        channels: modality -> number of bands or polarisations.
        geometry: modality -> names of its angles, in degrees.
        processes: latent process -> number of latents `V` (physical variables, residuals of a modality).
        static: number `S` of static latents.
        width: features of a date.
        layers: attention layers.
        spatial_width: features of an image; there are many more pixels in sight than pixels asked for.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        geometry: Mapping[str, tuple[str, ...]],
        processes: Mapping[str, int],
        static: int,
        width: int = 64,
        layers: int = 2,
        spatial_width: int = 32,
    ) -> None:
        super().__init__()
        self.geometry = {m: tuple(names) for m, names in geometry.items()}
        self.processes, self.static = dict(processes), static
        self.spatial = nn.ModuleDict({m: SpatialEncoder(c, spatial_width) for m, c in channels.items()})
        self.widen = nn.ModuleDict({m: nn.Linear(spatial_width, width) for m in channels})
        self.angles = nn.ModuleDict({m: nn.Linear(2 * len(names), width) for m, names in self.geometry.items()})
        for name, count in channels.items():
            self.register_buffer(f"center_{name}", torch.zeros(count, 1, 1))
            self.register_buffer(f"spread_{name}", torch.ones(count, 1, 1))
        self.dates = DateEmbedding(width)
        self.temporal = TemporalEncoder(width, layers)
        self.site_head = nn.Linear(width, 2 * sum(self.processes.values()))
        self.static_head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2 * static))
        nn.init.normal_(self.site_head.weight, std=0.02)
        nn.init.zeros_(self.site_head.bias)
        nn.init.normal_(self.static_head[-1].weight, std=0.02)
        nn.init.zeros_(self.static_head[-1].bias)

    def center(self, name: str) -> Tensor:
        """`[C, 1, 1]` what is subtracted from the values of a modality."""
        return getattr(self, f"center_{name}")

    def spread(self, name: str) -> Tensor:
        """`[C, 1, 1]` what they are divided by."""
        return getattr(self, f"spread_{name}")

    def set_statistics(self, name: str, center: Tensor, spread: Tensor) -> None:
        """Set both, `[C]` each, from the data that the model will be trained on."""
        self.center(name).copy_(center.view(-1, 1, 1))
        self.spread(name).copy_(spread.view(-1, 1, 1))

    @property
    def radius(self) -> int:
        """Pixels of context on each side of a pixel."""
        return max(encoder.radius for encoder in self.spatial.values())

    def forward(self, batch) -> Sites:
        """Encode a `pi_vae.data.batches.Batch` (any object with its fields).

        Returns:
            Sites of `batch.pixels`, in that order; what surrounds them is read but not asked for.
        """
        _, height, width = batch.shape
        where = (batch.pixels // (height * width), batch.pixels // width % height, batch.pixels % width)
        tokens = self.dates(batch.dates).expand(len(batch.pixels), -1, -1).contiguous()
        present = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        own = torch.zeros_like(present)
        for name, encoder in self.spatial.items():
            if name not in batch.modalities:
                continue
            modality = batch.modalities[name]
            values = (modality.values - self.center(name)) / self.spread(name)
            features, near = encoder(values.flatten(0, 1), modality.seen.flatten(0, 1))
            shape = modality.seen.shape[:2]
            features, near = features.unflatten(0, shape), near.unflatten(0, shape)
            patch, y, x = where
            features, near = features[patch, :, y, x], near[patch, :, y, x]
            features = self.widen[name](features) + self.angles[name](self._angles(name, modality, batch.pixels))
            tokens = tokens.index_add(1, modality.index, torch.where(near.unsqueeze(-1), features, 0.0))
            present[:, modality.index] |= near
            own[:, modality.index] |= modality.seen[patch, :, y, x]
        # A pixel that was never seen itself keeps its prior, whatever its neighbours say.
        known = own.any(-1)
        present = present & known.unsqueeze(-1)
        mixed = self.temporal(tokens, present)
        return self._read(mixed, present, known)

    def _angles(self, name: str, modality, pixels: Tensor) -> Tensor:
        """Sines and cosines of the geometry, `[T_m, 2 * angles]` or `[pixel, T_m, 2 * angles]`."""
        angles = modality.angles(pixels)
        radians = torch.broadcast_tensors(*(torch.deg2rad(angles[angle]) for angle in self.geometry[name]))
        return torch.stack([f(angle) for angle in radians for f in (torch.sin, torch.cos)], -1)

    def _read(self, mixed: Tensor, present: Tensor, known: Tensor) -> Sites:
        raw = self.site_head(mixed).transpose(1, 2)
        count = sum(self.processes.values())
        mean = MAX_SITE_MEAN * torch.tanh(raw[:, :count] / MAX_SITE_MEAN)
        # On a log scale: from vague (e^-6) to far sharper than any sensor (e^9) within the reach of a few steps.
        precision = torch.exp(9.0 - F.softplus(9.0 - raw[:, count:] * 2.0)) * present.unsqueeze(1)
        sizes = list(self.processes.values())
        weight = present.unsqueeze(-1).to(mixed.dtype)
        average = (mixed * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        largest = mixed.masked_fill(weight == 0, -1e4).amax(1)
        pooled = torch.cat([average, largest], -1) * known.unsqueeze(-1)
        loc, log_scale = self.static_head(pooled).chunk(2, -1)
        known = known.unsqueeze(-1)
        return Sites(
            mean=dict(zip(self.processes, mean.split(sizes, 1), strict=True)),
            precision=dict(zip(self.processes, precision.split(sizes, 1), strict=True)),
            static_mean=torch.where(known, MAX_SITE_MEAN * torch.tanh(loc / MAX_SITE_MEAN), 0.0),
            static_scale=torch.where(known, torch.exp(-F.softplus(-2.0 * log_scale - 2.0)), 1.0),
        )
