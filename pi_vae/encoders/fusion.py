"""All modalities to sites: where radar and optical meet, at the union dates of a pixel.

Each modality is encoded in space; its features and its geometry are added at the union date they belong to; attention
mixes the dates; a head reads off the sites of the physical variables and the distribution of the static latents. Each
exclusive residual has a small reader of its own: what one sensor sees alone is a weak signal, and in shared weights the
gradients of the strong ones would drown it. What comes out is plain tensors: the guide makes distributions of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_vae.encoders.spatial import SpatialEncoder
from pi_vae.encoders.temporal import DateEmbedding, TemporalEncoder
from pi_vae.modules import ModuleDict
from pi_vae.static import SHAPE

__all__ = ["FusionEncoder", "Sites"]

MAX_SITE_MEAN = 5.0


@dataclass
class Sites:
    """What the encoder says of a batch of pixels.

    Attributes:
        mean, precision: process name -> `[pixel, V, T]` Gaussian sites; precision 0 where nothing was seen.
        lean: process name -> function from static latents `[..., pixel, S]` to what they add to the site means,
            `[..., pixel, V, T]`.
        coupling: process name -> `[pixel, V, T, A + V]` how a site mean moves with the deviations of the processes
            before it: for a residual the dynamic ones, then those of its own process.
        caution: process name -> `[pixel, V, T]` share of the precision that counts for the spread.
        skewness: process name -> `[pixel, V, T]` of the marginals (`pi_vae.priors.skew`), or None for normal ones.
        static_mean, static_scale: `[pixel, S]` mean and standard deviation of the static latents,
        static_correlation: `[pixel, S, S]` Cholesky factor of the correlations of their normal scores, and
        static_shape: `[pixel, S, SHAPE]` shape of their marginals (`pi_vae.static`); those of the prior N(0, 1) where
            no date of the pixel was seen.
    """

    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    lean: dict[str, Callable[[Tensor], Tensor]]
    coupling: dict[str, Tensor]
    caution: dict[str, Tensor]
    skewness: dict[str, Tensor | None]
    static_mean: Tensor
    static_scale: Tensor
    static_correlation: Tensor
    static_shape: Tensor


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
        self.spatial = ModuleDict({m: SpatialEncoder(c, spatial_width) for m, c in channels.items()})
        self.widen = nn.ModuleDict({m: nn.Linear(spatial_width, width) for m in channels})
        self.angles = nn.ModuleDict({m: nn.Linear(2 * len(names), width) for m, names in self.geometry.items()})
        for name, count in channels.items():
            self.register_buffer(f"center_{name}", torch.zeros(count, 1, 1))
            self.register_buffer(f"spread_{name}", torch.ones(count, 1, 1))
        plain = sum(encoder.inputs for encoder in self.spatial.values())
        self.dates = DateEmbedding(width)
        self.readers = ModuleDict(
            {
                name: _Reader(
                    plain, count, static, self._before(name), width if name == "dynamic" else width // 2, layers
                )
                for name, count in processes.items()
            }
        )
        self.exclusive = nn.ModuleDict({name: nn.Linear(plain, width // 2) for name in processes if name != "dynamic"})
        self.exclusive_dates = nn.ModuleDict({name: DateEmbedding(width // 2) for name in self.exclusive})
        self.summary = nn.Sequential(nn.Linear(2 * width + plain, width), nn.GELU())
        self.static_mean, self.static_spread = nn.Linear(width, static), nn.Linear(width, (1 + static) * static)
        for head in (self.static_mean, self.static_spread):
            nn.init.normal_(head.weight, std=0.02)
        self.static_shape = nn.Linear(width, static * SHAPE)
        nn.init.zeros_(self.static_shape.weight)  # Gaussian, until the data contradict
        nn.init.zeros_(self.static_shape.bias)

    def spread_heads(self) -> list[nn.Module]:
        """The last layers that say how far latents may lie from their means; the means do not depend on them."""
        return [
            self.static_spread,
            self.static_shape,
            *(head for r in self.readers.values() for head in (r.caution, r.coupling, r.skewness)),
        ]

    def skewness_heads(self) -> list[nn.Module]:
        """The last layers that say how skewed the marginals are; their means and variances do not depend on them."""
        return [r.skewness for r in self.readers.values()]

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

    def forward(self, batch, shifts: Mapping[str, Tensor] | None = None) -> Sites:
        """Encode a `pi_vae.data.batches.Batch` (any object with its fields).

        Args:
            batch: what is read.
            shifts: modality -> `[T_m, C]` what is taken off its values, date by date.

        Returns:
            Sites of `batch.pixels`, in that order; what surrounds them is read but not asked for.
        """
        _, height, width = batch.shape
        where = (batch.pixels // (height * width), batch.pixels // width % height, batch.pixels % width)
        tokens = self.dates(batch.dates).expand(len(batch.pixels), -1, -1).contiguous()
        present = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        own = torch.zeros_like(present)
        direct = {m: tokens.new_zeros(*tokens.shape[:2], encoder.inputs) for m, encoder in self.spatial.items()}
        for name, encoder in self.spatial.items():
            if name not in batch.modalities:
                continue
            modality = batch.modalities[name]
            values = modality.values - self.center(name)
            if shifts and name in shifts:
                values = values - shifts[name].unsqueeze(-1).unsqueeze(-1)
            values = values / self.spread(name)
            patch, y, x = where
            features, plain, near = (
                maps.unflatten(0, modality.seen.shape[:2])[patch, :, y, x]
                for maps in encoder(values.flatten(0, 1), modality.seen.flatten(0, 1), modality.given)
            )
            direct[name] = direct[name].index_add(1, modality.index, torch.where(near.unsqueeze(-1), plain, 0.0))
            features = self.widen[name](features) + self.angles[name](self._angles(name, modality, batch.pixels))
            tokens = tokens.index_add(1, modality.index, torch.where(near.unsqueeze(-1), features, 0.0))
            present[:, modality.index] |= near
            own[:, modality.index] |= modality.seen[patch, :, y, x]
        # A pixel that was never seen itself keeps its prior, whatever its neighbours say.
        known = own.any(-1)
        present = present & known.unsqueeze(-1)
        plain = torch.cat(list(direct.values()), -1)
        weight = present.unsqueeze(-1).to(plain.dtype)
        count = weight.sum(1).clamp_min(1.0)
        course = (plain * weight).sum(1) / count
        mixed, *dynamic = self.readers["dynamic"](tokens, plain, course, present)
        read = {"dynamic": dynamic}
        for name, embed in self.exclusive.items():
            tokens = embed(plain) + self.exclusive_dates[name](batch.dates)
            _, *read[name] = self.readers[name](tokens, plain, course, present)
        average = (mixed * weight).sum(1) / count
        largest = mixed.masked_fill(weight == 0, -1e4).amax(1)
        known = known.unsqueeze(-1)
        summary = self.summary(torch.cat([average, largest, course], -1) * known)
        log_scale, lower = self.static_spread(summary).split([self.static, self.static**2], -1)
        # Rows of unit length times scales of at most 1, the prior's.
        rows = lower.unflatten(-1, (self.static, self.static)).tril(-1) * known.unsqueeze(-1)
        rows = F.normalize(rows + torch.eye(self.static, dtype=rows.dtype, device=rows.device), dim=-1)
        scale = torch.where(known, torch.exp(-F.softplus(-2.0 * log_scale - 2.0)), 1.0)
        kinds = ("mean", "precision", "lean", "coupling", "caution", "skewness")
        parts: Any = {kind: {name: part[i] for name, part in read.items()} for i, kind in enumerate(kinds)}
        static_mean = torch.where(known, _bounded(self.static_mean(summary)), 0.0)
        shape = self.static_shape(summary).unflatten(-1, (self.static, SHAPE)) * known.unsqueeze(-1)
        return Sites(**parts, static_mean=static_mean, static_scale=scale, static_correlation=rows, static_shape=shape)

    def _before(self, process: str) -> int:
        """Number of latent processes drawn before one."""
        return 0 if process == "dynamic" else self.processes["dynamic"]

    def _angles(self, name: str, modality, pixels: Tensor) -> Tensor:
        """Sines and cosines of the geometry, `[T_m, 2 * angles]` or `[pixel, T_m, 2 * angles]`."""
        angles = modality.angles(pixels)
        radians = torch.broadcast_tensors(*(torch.deg2rad(angles[angle]) for angle in self.geometry[name]))
        return torch.stack([f(angle) for angle in radians for f in (torch.sin, torch.cos)], -1)


class _Reader(nn.Module):
    """Attention over the dates, and sites read off it."""

    def __init__(self, plain: int, latents: int, static: int, before: int, width: int, layers: int) -> None:
        super().__init__()
        self.shape = (latents, before + latents)
        self.temporal = TemporalEncoder(width, layers)
        self.lean = _Lean(static, latents, width)
        self.coupling = nn.Linear(width, latents * (before + latents))
        self.mean, self.precision = (_Readout(width, plain, latents) for _ in range(2))
        self.caution, self.skewness = (nn.Linear(width, latents) for _ in range(2))
        # Independent, normal and as sharp as they say, until the data contradict.
        for head in (self.coupling, self.caution, self.skewness):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, tokens: Tensor, plain: Tensor, course: Tensor, present: Tensor) -> tuple[Any, ...]:
        """Tokens `[pixel, T, D]`, plain inputs `[pixel, T, P]`, their mean `[pixel, P]`, `[pixel, T]` presence.

        Returns:
            mixed tokens `[pixel, T, D]`, site means and precisions `[pixel, V, T]`, and how they lean, see `Sites`.
        """
        mixed = self.temporal(tokens, present)
        mean, log_precision = (read(mixed, plain, course) for read in (self.mean, self.precision))
        # On a log scale: from vague to far sharper than any sensor (e^9) within the reach of a few steps.
        precision = torch.exp(9.0 - F.softplus(9.0 - 2.0 * log_precision)) * present.unsqueeze(1)
        coupling = _bounded(self.coupling(mixed)).unflatten(-1, self.shape).transpose(1, 2)
        caution = torch.exp(-_bounded(self.caution(mixed))).transpose(1, 2)
        skewness = torch.tanh(self.skewness(mixed)).transpose(1, 2) if self.bent else None
        return mixed, _bounded(mean), precision, partial(self.lean, mixed), coupling, caution, skewness

    @property
    def bent(self) -> bool:
        """Whether marginals are skewed, or may become so; where not, what that costs is saved."""
        parts = tuple(self.skewness.parameters())
        return parts[0].requires_grad or any(bool(p.any()) for p in parts)


class _Readout(nn.Module):
    """One number per latent and date.

    What was measured, now and on average, also reaches it directly: linear regression learns in a few steps what
    attention has to find out first.
    """

    def __init__(self, width: int, plain: int, latents: int) -> None:
        super().__init__()
        self.mixed = nn.Linear(width, latents)
        self.now, self.level = (nn.Linear(plain, latents, bias=False) for _ in range(2))
        for part in (self.mixed, self.now, self.level):
            nn.init.normal_(part.weight, std=0.02)

    def forward(self, mixed: Tensor, plain: Tensor, course: Tensor) -> Tensor:
        """`[pixel, T, D]`, `[pixel, T, P]` and `[pixel, P]` -> `[pixel, V, T]`."""
        return (self.mixed(mixed) + self.now(plain) + self.level(course).unsqueeze(1)).transpose(1, 2)


class _Lean(nn.Module):
    """What static latents add to site means."""

    def __init__(self, static: int, latents: int, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.token, self.static = nn.Linear(width, hidden), nn.Linear(static, hidden, bias=False)
        self.out = nn.Linear(hidden, latents)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, mixed: Tensor, static: Tensor) -> Tensor:
        """Tokens `[pixel, T, D]` and static latents `[..., pixel, S]` -> `[..., pixel, V, T]`."""
        token, given = self.token(mixed), self.static(static).unsqueeze(-2)
        # Draw by draw: the hidden features of all at once would not stay in the cache.
        parts = [self.out(F.gelu(token + one)) for one in given.reshape(-1, *given.shape[-3:])]
        return _bounded(torch.stack(parts).view(*given.shape[:-3], *parts[0].shape)).transpose(-1, -2)


def _bounded(mean: Tensor) -> Tensor:
    return MAX_SITE_MEAN * torch.tanh(mean / MAX_SITE_MEAN)
