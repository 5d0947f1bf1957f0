r"""A Gaussian process of several outputs of a pixel over time: optical channels alone, or with radar beside them.

Anomalies from the training pixels' mean of the date, in their standard deviations at the date, have the covariance

.. math:: B_0 + B_1 k_\ell(t, t') + B_2 \delta_{tt'}, \qquad B_q = W_q W_q^T + diag(v_q)

(linear model of coregionalisation; Alvarez et al. 2012, Foundations and Trends in Machine Learning 4, 195): what lasts,
what changes with a Matern-3/2 kernel, and what is new at every date; the last holds the noise. With one output it is
the usual process of a series with an unknown level. Hyperparameters start from moments and then climb the marginal
likelihood in steps of `PIXELS` training pixels each, which are independent given them. All pixels share the dates, so
that predictions are exact and need no inducing points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gpytorch
import numpy as np
import torch
from translation_peers import Prediction, date_mean

__all__ = ["CoregionalisedGP", "gaussian"]

UNSEEN = 1e6  # noise variance of what is missing, in prior variances
PIXELS, STEPS = 30, 60


class CoregionalisedGP(torch.nn.Module):
    """The process, fitted to training pixels.

    Args:
        series: `[N, T, K]` training pixels, NaN where missing.
        days: `[T]`.
        rank: columns of each :math:`W_q`.
        steps: of the optimisation by Adam.
        seed: of the choice of pixels.
    """

    def __init__(self, series: np.ndarray, days: np.ndarray, rank: int = 4, steps: int = STEPS, seed: int = 0) -> None:
        super().__init__()
        outputs = series.shape[-1]
        self.mean = date_mean(series)
        count = np.isfinite(series).sum(0)
        squares = np.nansum((series - self.mean) ** 2, 0)
        overall = squares.sum(0) / np.maximum(count.sum(0), 1)
        self.spread = np.sqrt((squares + 10 * overall) / (count + 10)) + 1e-9  # ten pixels' worth of the overall one
        self.days = torch.as_tensor(days, dtype=torch.float64)
        kernels = [gpytorch.kernels.IndexKernel(outputs, min(rank, outputs)) for _ in range(3)]
        self.between = torch.nn.ModuleList(kernels)
        self.matern = gpytorch.kernels.MaternKernel(nu=1.5)
        self.double()
        self.matern.lengthscale = 60.0
        values, seen = self._anomalies(series)
        self._start(values, seen)
        optimiser, rng = torch.optim.Adam(self.parameters(), lr=0.02), np.random.default_rng(seed)
        zero = torch.zeros_like(values[0])
        for _ in range(steps):
            some = torch.from_numpy(rng.permutation(len(values))[:PIXELS])
            optimiser.zero_grad()
            prior = torch.distributions.MultivariateNormal(zero, self._with_noise(self.covariance(), seen[some]))
            loss = -prior.log_prob(values[some]).sum() / seen[some].sum()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def _start(self, values: torch.Tensor, seen: torch.Tensor) -> None:
        """The three covariances between outputs from those of anomalies at the same, the next and far dates."""
        dates = len(self.days)
        known, there = (x.double().reshape(len(values), -1, dates) for x in (values, seen))

        def lagged(lags: Sequence[int]) -> torch.Tensor:
            pairs = [(x[..., : dates - lag], x[..., lag:]) for lag in lags for x in (known, there)]
            totals = [torch.einsum("nkt,njt->kj", early, late) for early, late in pairs]
            mean = sum(totals[::2]) / sum(totals[1::2]).clamp_min(1)
            return (mean + mean.T) / 2

        lasting = lagged(range(dates // 2, dates - 1))
        share = self.matern(self.days[:1, None], self.days[1:2, None]).to_dense().item()
        changing = (lagged([1]) - lasting) / share
        for kernel, covariance in zip(self.between, (lasting, changing, lagged([0]) - lasting - changing), strict=True):
            size, direction = torch.linalg.eigh(covariance)
            rank = kernel.covar_factor.shape[1]
            kernel.covar_factor.copy_(direction[:, -rank:] * size[-rank:].clamp_min(1e-4).sqrt())
            kernel.var = (covariance.diagonal() - kernel.covar_factor.square().sum(1)).clamp_min(0.02)

    def covariance(self) -> torch.Tensor:
        """`[K T, K T]` of the anomalies, output by output."""
        over_time = [torch.ones(len(self.days), len(self.days)).double(), self.matern(self.days[:, None]).to_dense()]
        over_time.append(torch.eye(len(self.days)).double())
        return sum(torch.kron(b.covar_matrix.to_dense(), k) for b, k in zip(self.between, over_time, strict=True))

    @torch.no_grad()
    def predict(self, series: np.ndarray) -> Prediction:
        """Every output at every date, given what is not NaN; the spread is that of an observation."""
        covariance, parts = self.covariance(), []
        for values, seen in zip(*(x.split(64) for x in self._anomalies(series)), strict=True):
            root = torch.linalg.cholesky(self._with_noise(covariance, seen))
            right = covariance.expand(len(values), -1, -1)
            mean = (right @ torch.cholesky_solve(values[..., None], root)).squeeze(-1)
            explained = torch.linalg.solve_triangular(root, right, upper=False).square().sum(1)
            variance = (covariance.diagonal() - explained).clamp_min(1e-6)
            parts.append(torch.stack([mean, variance.sqrt()]))
        mean, sd = torch.cat(parts, 1).reshape(2, len(series), -1, len(self.days)).transpose(2, 3).numpy()
        return Prediction(self.mean + self.spread * mean, sd=self.spread * sd)

    def _anomalies(self, series: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, K T]` anomalies, 0 where missing, and whether they are known."""
        values = torch.from_numpy((series - self.mean) / self.spread).transpose(1, 2).flatten(1)
        seen = torch.isfinite(values)
        return torch.where(seen, values, 0.0), seen

    @staticmethod
    def _with_noise(covariance: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        noise = torch.where(seen, 1e-6, UNSEEN).to(covariance)
        return covariance + torch.diag_embed(noise)


def gaussian(train: Sequence[np.ndarray], days: np.ndarray, joint: bool, seed: int) -> Callable[..., Prediction]:
    """A function of the same arrays of other pixels that predicts the first of them.

    Args:
        train: arrays `[N, T, K]` of the training pixels; the first is what is asked for.
        days: `[T]`.
        joint: one process of all outputs of all arrays, or one of its own for every channel of the first.
        seed: of the fits.
    """
    channels = train[0].shape[-1]
    if joint:
        process = CoregionalisedGP(np.concatenate(train, -1), days, seed=seed)

        def predict(*arrays: np.ndarray) -> Prediction:
            found = process.predict(np.concatenate(arrays, -1))
            return Prediction(found.value[..., :channels], sd=found.sd[..., :channels])

        return predict
    single = [CoregionalisedGP(train[0][..., c : c + 1], days, seed=seed) for c in range(channels)]

    def separately(first: np.ndarray) -> Prediction:
        found = [process.predict(first[..., c : c + 1]) for c, process in enumerate(single)]
        value, sd = (np.concatenate([getattr(f, name) for f in found], -1) for name in ("value", "sd"))
        return Prediction(value, sd=sd)

    return separately
