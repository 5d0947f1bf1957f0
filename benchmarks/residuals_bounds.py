"""How much of a planted effect is there to be found, by those who are told what nobody knows.

supervised
    a network that reads the series of both sensors and was taught the effects themselves, on thousands of other points
    of the same world: what physics and effects leave undecided, it cannot decide either;
oracle
    for each modality the mean of the effect given the series, the true physical variables and global latents, and
    mean and covariance of the effects over those points; under Student's noise by a few rounds of weights (Lange,
    Little & Taylor 1989, Journal of the American Statistical Association 84, 881). No method that has to find the
    physics too should come close.

Both are judged on points of their own, as rows of ``residuals.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from residuals_plant import Planted
from torch import Tensor, nn

from pi_vae import PhysicsVAE
from pi_vae.data.tensors import CubeTensors

__all__ = ["BOUNDS", "bound", "share"]

BOUNDS = ("supervised", "oracle")
WIDTH, BATCH = 1024, 256
ROUNDS = 10
FAR = 6.0  # standard deviations of the inputs


def bound(name: str, model: PhysicsVAE, case: Planted, judged: int, steps: int, seed: int) -> dict[str, float]:
    """Share of the effects found in the first points of a case, by one who learns from the others.

    Args:
        name: one of `BOUNDS`.
        model: that the case was drawn from.
        case: many points.
        judged: how many of them, the first ones, are not learned from.
        steps: of the network.
        seed: of its weights and batches, and of the noise that the oracle sees.

    Returns:
        Modality -> share R² of the effect, as `share`.
    """
    data = CubeTensors.read(case.cube, {m: o.channels for m, o in model.modalities.items()}).modalities
    values = {m: data[m].values[0, ..., 0].numpy() for m in case.effect}  # [T_m, C, point]
    seen = {m: np.broadcast_to(data[m].seen[0, :, None, :, 0].numpy(), values[m].shape) for m in case.effect}
    if name == "supervised":
        found = _supervised(values, seen, case, judged, steps, seed)
    else:
        found = {m: _oracle(seen[m], m, model, case, judged, seed) for m in case.effect}
    return {m: share(f, case.effect[m][..., :judged], seen[m][..., :judged], case.noise[m]) for m, f in found.items()}


def share(found: np.ndarray, effect: np.ndarray, seen: np.ndarray, noise: np.ndarray) -> float:
    """Share of an effect `[T_m, C, point]` that is found, both less their means over the points of a channel."""
    weight = seen / noise[None, :, None] ** 2

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (weight * values).sum((0, 2), keepdims=True) / weight.sum((0, 2), keepdims=True)

    return float(1 - (weight * centred(found - effect) ** 2).sum() / (weight * centred(effect) ** 2).sum())


def _supervised(
    values: dict[str, np.ndarray], seen: dict[str, np.ndarray], case: Planted, judged: int, steps: int, seed: int
) -> dict[str, np.ndarray]:
    inputs, targets, weights = [], [], []
    for m, series in values.items():
        known = np.where(seen[m], series, np.nan)
        center, spread = np.nanmean(known, (0, 2), keepdims=True), np.nanstd(known, (0, 2), keepdims=True)
        scaled = np.where(seen[m], np.clip((series - center) / spread, -FAR, FAR), 0.0)
        inputs += [scaled.reshape(-1, scaled.shape[2]), seen[m][:, 0].astype(float)]
        targets.append((case.effect[m] / case.noise[m][None, :, None]).reshape(-1, scaled.shape[2]))
        weights.append(seen[m].reshape(-1, scaled.shape[2]))
    x, y, w = (torch.from_numpy(np.concatenate(part).T.astype(np.float32)) for part in (inputs, targets, weights))
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Dropout(0.05), nn.Linear(x.shape[1], WIDTH), nn.GELU(), nn.Dropout(0.2),
        nn.Linear(WIDTH, WIDTH // 2), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH // 2, y.shape[1]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        some = torch.randint(judged, len(x), (BATCH,))
        loss = _error(net(x[some]), y[some], w[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        said = net.eval()(x[:judged]).numpy().T
    sizes = np.cumsum([0, *(len(part) for part in targets)])
    return {
        m: said[first:last].reshape(*values[m].shape[:2], -1) * case.noise[m][None, :, None]
        for m, first, last in zip(values, sizes[:-1], sizes[1:], strict=True)
    }


def _error(said: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    return (weight * (said - truth).square()).sum() / weight.sum()


def _oracle(seen: np.ndarray, name: str, model: PhysicsVAE, case: Planted, judged: int, seed: int) -> np.ndarray:
    """What physics leaves is effect and noise: who knows physics sees their sum. The noise is drawn anew for this."""
    scale = case.noise[name][None, :, None]
    effect, freedom = case.effect[name] / scale, model.modalities[name].degrees_of_freedom
    left = effect + np.random.default_rng(seed).standard_t(freedom, effect.shape)
    others = effect[..., judged:].reshape(-1, effect.shape[2] - judged)
    mean, covariance = others.mean(1), np.cov(others)
    left, seen = (x[..., :judged].reshape(len(mean), -1) for x in (left, seen))
    found = np.zeros_like(left)
    for p in range(judged):
        at = np.flatnonzero(seen[:, p])
        prior, rest, weight = covariance[np.ix_(at, at)], left[at, p] - mean[at], np.ones(len(at))
        for _ in range(ROUNDS):
            gain = np.linalg.solve(prior + np.diag(1 / weight), prior).T
            said = gain @ rest
            spread = (prior - gain @ prior).diagonal()
            weight = (freedom + 1) / (freedom + (rest - said) ** 2 + spread)
        found[at, p] = mean[at] + said
    return found.reshape(*effect.shape[:2], judged) * scale
