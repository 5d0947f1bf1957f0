"""What else separates what sensors share, or physics, from what one sees alone, on the cubes of ``residuals_plant.py``.

All read the whole series of both sensors, gaps interpolated, and are trained on all points with Adam; what is withheld
from ours is withheld from them. Those with physics have the operators, priors and median coefficients of `PhysicsVAE`
and say one value of every variable, without interval.

autoencoder
    one hidden layer each way, and as many latents as there are physical variables and residual processes;
bias
    encoder, operators, and a linear layer on what they say: a bias that is the same function everywhere
    (MAGIC: She et al. 2024, arXiv 2405.18953);
orthogonal
    encoder, operators, and a residual of rank two for each sensor whose product with what physics says is held at zero
    (as PILA does);
dmvae
    shared and private latents without physics (Lee & Pavlovic 2021, CVPR workshops), of the package ``multivae``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from inference.baselines import linear_interpolation
from pi_vae import Latents, PhysicsVAE
from pi_vae.data.batches import Batch
from pi_vae.data.tensors import CubeTensors

__all__ = ["PEERS", "Found", "peer"]

PEERS = ("autoencoder", "bias", "orthogonal", "dmvae")
RANK = 2
WIDTH = 256
SHRINKAGE = 1e-3  # of latents towards the middle of their prior, beside an error in units of the noise
APART = 1.0  # weight of the squared correlation of residual and physics
BATCH = 128


@dataclass
class Found:
    """What a peer says of all points.

    Attributes:
        series: modality -> `[point, T_m, C]` reconstruction.
        variables: name -> `[point, T]` or `[point, 1]`; none without physics.
        shared: `[point, D]` what stands for physics.
        private: modality -> `[point, K]` what stands for the residual, or nothing.
        residual: modality -> `[point, T_m, C]`, where there is one.
    """

    series: dict[str, np.ndarray]
    variables: dict[str, np.ndarray] | None
    shared: np.ndarray
    private: dict[str, np.ndarray]
    residual: dict[str, np.ndarray]


def peer(name: str, model: PhysicsVAE, cube: xr.DataTree, noise: dict[str, np.ndarray], steps: int, seed: int) -> Found:
    """Train a peer of a name.

    Args:
        name: one of `PEERS`.
        model: without residual, for its operators and priors.
        cube: points, with what is withheld marked.
        noise: modality -> `[C]`, the unit of errors.
        steps: of Adam.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    data = CubeTensors.read(cube, {m: o.channels for m, o in model.modalities.items()})
    series = _Series(data, noise)
    net = {"autoencoder": _Autoencoder, "dmvae": _Private}.get(name)
    net = net(series) if net else _Physics(series, model, name)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = net.loss(torch.randperm(series.points)[:BATCH])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return net.eval().found()


class _Series:
    """Series of all points, in units of the noise about their mean, as one vector each."""

    def __init__(self, data: CubeTensors, noise: dict[str, np.ndarray]) -> None:
        self.batch = data.at(torch.arange(data.pixels), torch.zeros(data.pixels, dtype=torch.long), 0)
        self.data, self.points, self.shape = data, data.pixels, {}
        self.unit, self.center, self.filled, self.seen = {}, {}, {}, {}
        for name, m in data.modalities.items():
            values, seen = m.values[0].double().numpy(), m.seen[0].numpy()
            full = linear_interpolation(values, seen, data.dates[m.index].numpy())
            full = np.where(np.isfinite(full), full, np.nanmean(full, (2, 3), keepdims=True))
            self.unit[name] = torch.from_numpy(noise[name]).float()
            filled = torch.from_numpy(full[..., 0]).float().permute(2, 0, 1) / self.unit[name]
            self.center[name] = filled.mean(0)
            self.filled[name], self.seen[name] = filled - self.center[name], m.seen[0, ..., 0].T
            self.shape[name] = filled.shape[1:]
        self.everything = torch.cat([x.flatten(1) for x in self.filled.values()], 1)
        self.spread = self.everything.std(0).clamp_min(1e-3)

    def error(self, said: dict[str, Tensor], which: Tensor) -> Tensor:
        """Mean square error per point, in units of the noise, where something was seen."""
        total = 0.0
        for name, values in said.items():
            square = (values - self.filled[name][which]).square().sum(-1)
            total = total + (square * self.seen[name][which]).sum()
        return 0.5 * total / len(which)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """`[P, D]` -> modality -> `[P, T_m, C]`."""
        sizes = [int(np.prod(shape)) for shape in self.shape.values()]
        return {n: x.unflatten(1, s) for (n, s), x in zip(self.shape.items(), flat.split(sizes, 1), strict=True)}

    def natural(self, said: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Back in the units of the likelihood."""
        return {n: ((x + self.center[n]) * self.unit[n]).numpy() for n, x in said.items()}


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, outputs))


class _Autoencoder(nn.Module):
    def __init__(self, series: _Series, latents: int = 18) -> None:
        super().__init__()
        self.series, size = series, series.everything.shape[1]
        self.encoder, self.decoder = _mlp(size, latents), _mlp(latents, size)

    def _said(self, which: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        code = self.encoder(self.series.everything[which] / self.series.spread)
        return code, self.series.split(self.decoder(code) * self.series.spread)

    def loss(self, which: Tensor) -> Tensor:
        return self.series.error(self._said(which)[1], which)

    def found(self) -> Found:
        code, said = self._said(torch.arange(self.series.points))
        return Found(self.series.natural(said), None, code.numpy(), {}, {})


class _Physics(nn.Module):
    """Encoder, operators, and what is added to them."""

    def __init__(self, series: _Series, model: PhysicsVAE, kind: str) -> None:
        super().__init__()
        self.series, self.kind, self.model = series, kind, (model,)  # not a module of this one: its weights are fixed
        self.shared = {k: v.detach() for k, v in model.median_globals().items()}
        self.dates, self.dynamic, self.static = len(series.batch.dates), len(model.dynamic), len(model.static)
        self.encoder = _mlp(series.everything.shape[1], self.dynamic * self.dates + self.static)
        channels = {name: shape[1] for name, shape in series.shape.items()}
        self.bias = nn.ModuleDict({name: nn.Linear(c, c) for name, c in channels.items()})
        for layer in self.bias.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        size = series.everything.shape[1]
        self.extra = nn.ModuleDict({n: _mlp(size, RANK * s[0]) for n, s in series.shape.items()})
        self.basis = nn.ParameterDict({n: nn.Parameter(0.1 * torch.randn(RANK, c)) for n, c in channels.items()})

    def _said(self, which: Tensor) -> tuple[Latents, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        (model,), inputs = self.model, self.series.everything[which] / self.series.spread
        dynamic, static = self.encoder(inputs).split([self.dynamic * self.dates, self.static], 1)
        latents = Latents(4 * torch.tanh(dynamic.unflatten(1, (self.dynamic, -1)) / 4), 4 * torch.tanh(static / 4), {})
        batch = _some(self.series.batch, which)
        said, residual, private = {}, {}, {}
        for name in self.series.shape:
            physics = model.expected(name, latents, batch, self.shared) / self.series.unit[name]
            physics = physics - self.series.center[name]
            if self.kind == "bias":
                residual[name] = self.bias[name](physics)
                private[name] = residual[name]
            else:
                private[name] = self.extra[name](inputs).unflatten(1, (-1, RANK))
                residual[name] = private[name] @ self.basis[name]
            said[name] = physics
        return latents, said, residual, private

    def loss(self, which: Tensor) -> Tensor:
        latents, said, residual, _ = self._said(which)
        loss = self.series.error({n: said[n] + residual[n] for n in said}, which)
        loss = loss + SHRINKAGE * (latents.dynamic.square().sum() + latents.static.square().sum()) / len(which)
        if self.kind == "orthogonal":
            for n in said:
                a, b = (x - x.mean((0, 1)) for x in (said[n], residual[n]))
                power = a.square().sum() * b.square().sum()
                loss = loss + APART * len(said) * ((a * b).sum().square() / power.clamp_min(1e-6)) * self.dates
        return loss

    def found(self) -> Found:
        (model,) = self.model
        latents, said, residual, private = self._said(torch.arange(self.series.points))
        variables = {k: v.numpy() for k, v in model.variables(latents).items()}
        whole = {n: said[n] + residual[n] for n in said}
        natural = {n: (r * self.series.unit[n]).numpy() for n, r in residual.items()}
        shared = torch.cat([latents.dynamic.mean(-1), latents.static], 1).numpy()
        return Found(
            self.series.natural(whole), variables, shared, {n: p.mean(1).numpy() for n, p in private.items()}, natural
        )


def _some(batch: Batch, which: Tensor) -> Batch:
    """The batch with some of its points."""
    return dataclasses.replace(batch, pixels=batch.pixels[which])


class _Private(nn.Module):
    """Shared and private latents, by the package ``multivae``."""

    def __init__(self, series: _Series) -> None:
        super().__init__()
        from multivae.data.datasets import MultimodalBaseDataset
        from multivae.models import DMVAE, DMVAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder

        class Decoder(BaseDecoder):
            """Theirs ends between 0 and 1."""

            def __init__(self, latents: int, size: int) -> None:
                super().__init__()
                self.net = _mlp(latents, size)

            def forward(self, z: Tensor) -> ModelOutput:
                return ModelOutput(reconstruction=self.net(z))

        self.series, self.dataset = series, MultimodalBaseDataset
        sizes = {name: int(np.prod(shape)) for name, shape in series.shape.items()}
        config = DMVAEConfig(
            n_modalities=len(sizes),
            latent_dim=13,
            input_dims={n: (s,) for n, s in sizes.items()},
            modalities_specific_dim=dict.fromkeys(sizes, RANK),
        )
        self.vae = DMVAE(config, decoders={n: Decoder(13 + RANK, s) for n, s in sizes.items()})

    def _inputs(self, which: Tensor):
        flat = {n: (x[which] / x.std(0)).flatten(1) for n, x in self.series.filled.items()}
        return self.dataset(flat)[:]

    def loss(self, which: Tensor) -> Tensor:
        return self.vae(self._inputs(which)).loss

    def found(self) -> Found:
        code = self.vae.encode(self._inputs(torch.arange(self.series.points)), return_mean=True)
        shared = code.z.reshape(self.series.points, -1)
        private = {n: z.reshape(self.series.points, -1) for n, z in code.modalities_z.items()}
        said = {
            n: self.vae.decoders[n](torch.cat([shared, z], 1)).reconstruction.unflatten(1, self.series.shape[n])
            * self.series.filled[n].std(0)
            for n, z in private.items()
        }
        return Found(self.series.natural(said), None, shared.numpy(), {n: z.numpy() for n, z in private.items()}, {})
