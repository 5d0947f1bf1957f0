r"""Gaussian processes over irregular dates: the prior of every latent that changes in time.

A dynamic latent is :math:`u(\cdot) \sim GP(0, k)` with unit variance: a part that differs between pixels but not in
time, and a part that changes,

.. math:: k(t, t') = s + (1 - s)\,\kappa(t - t'), \qquad s = \frac{odds}{1 + odds},

with a kernel :math:`\kappa` of `pi_vae.priors.kernels`. At every date a nugget of 1e-5 is added, so that equal dates
have a density. The covariance at the dates is represented in one of three ways, with the same methods and results:

========== ============================== ========================================= ==============================
backend    kernels                        cost of a series                          where
========== ============================== ========================================= ==============================
``dense``  all                            cube of the dates                         `pi_vae.priors.dense`
``eigen``  all; approximate, see there    dates times the square of the rank        `pi_vae.priors.eigen`
``kalman`` Matern and sums of them        dates times the cube of the state (2..10) `pi_vae.priors.state_space`
========== ============================== ========================================= ==============================

Precisions differ between pixels in all of them, and where they are zero the date was not seen, exactly: the mask of a
pixel changes neither the cost nor the choice.

Example:
    >>> import torch
    >>> from pi_vae.priors import TemporalGP
    >>> gp = TemporalGP("matern32")
    >>> dates = torch.tensor([0.0, 10.0, 200.0])
    >>> prior = gp.prior(dates, lengthscale=torch.tensor([50.0]), static_odds=torch.tensor([0.0]))
    >>> prior.event_shape  # one variable, three dates
    torch.Size([1, 3])
    >>> posterior = prior.condition(mean=torch.ones(1, 3), precision=torch.tensor([[4.0, 0.0, 0.0]]))
    >>> posterior.mean.round(decimals=2)
    tensor([[0.8000, 0.7600, 0.0100]])
    >>> posterior.at(torch.tensor([5.0])).variance.round(decimals=2)  # with a new date
    tensor([[0.2000, 0.2700, 1.0000, 0.2200]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pi_vae.priors.dense import Dense
from pi_vae.priors.eigen import Eigen
from pi_vae.priors.kernels import Kernel
from pi_vae.priors.separate import Separate
from pi_vae.priors.sites import Covariance, GaussianProcess
from pi_vae.priors.state_space import StateSpace

__all__ = ["TemporalGP"]

BACKENDS = ("auto", "dense", "eigen", "kalman")
NUGGET = 1e-5
# Measured by benchmarks/temporal.py, as the share below: dense is no slower up to LEAST_DATES + EVEN / series dates,
# and eigenfeatures are no faster below SHORT. Draws share the factors of dense matrices: with more of them, up to
# LEAST_DATES times the root of their number.
LEAST_DATES, EVEN, SHORT = 14, 512, 16
# On an accelerator the filter waits for one small operation after another: dense is faster by far while it fits.
ENTRY, MEMORY = 40, 2**34  # bytes of an entry of dense matrices with derivatives, and of a device that does not tell
EIGEN_SHARE = 0.75


class TemporalGP(nn.Module):
    """Prior of dynamic latents: independent unit-variance processes that differ in lengthscale.

    Args:
        kernel: ``"matern32"`` (default: rough enough for mowing, smooth enough for growth), another factor, or sums and
            products of them such as ``"0.7 * matern32 + 0.3 * periodic"``, see `pi_vae.priors.kernels`.
        backend: ``"dense"``, ``"eigen"``, ``"kalman"``, or ``"auto"``: for Matern kernels and their sums Kalman from
            14 sqrt(draws) + 512 / series dates, 16 where `prior` is not told how many of both there are (on an
            accelerator where the matrices of all series would take half of its memory); for other kernels
            eigenfeatures from 16 dates if there are at most three quarters as many as dates; else dense.
        loss: variance that eigenfeatures may lose on average over the dates, by default no more than the nugget.

    Raises:
        ValueError: unknown kernel or backend, or the Kalman filter for a kernel that has none.
    """

    def __init__(self, kernel: str = "matern32", backend: str = "auto", loss: float = NUGGET) -> None:
        super().__init__()
        self.name, self.kernel = kernel, Kernel(kernel)
        self.backend, self.loss = backend, loss
        if backend not in BACKENDS:
            raise ValueError(f"Unknown backend {backend!r} of a temporal process: use one of {', '.join(BACKENDS)}.")
        if backend == "kalman" and self.kernel.filters is None:
            raise ValueError(
                f"Kernel {kernel!r} has no finite Markov state, which backend 'kalman' needs: use 'eigen' or 'dense', "
                "or a sum of Matern kernels."
            )

    def covariance(self, first: Tensor, second: Tensor, lengthscale: Tensor, static_odds: Tensor) -> Tensor:
        """Prior covariance between two sets of dates, without the nugget.

        Args:
            first, second: `[S]` and `[T]` dates in days, at any spacing; equal dates are allowed.
            lengthscale: `[V]` in days, of all factors but the periodic one.
            static_odds: `[V]` variance of the part that does not change in time over that of the part that does.

        Returns:
            `[V, S, T]` in float64.
        """
        changing = self.kernel(first.double(), second.double(), lengthscale.double())
        static = _share(static_odds)[:, None, None]
        return static + (1 - static) * changing

    def joint_covariance(self, dates: Tensor, other: Tensor, lengthscale: Tensor, static_odds: Tensor) -> Tensor:
        """Prior covariance of the process and its time derivative [1/day] at `[S]` dates with both at `[T]` others.

        Returns:
            `[V, 2 S, 2 T]` in float64: values first, then derivatives; see `covariance` for the arguments.

        Raises:
            ValueError: the kernel has no derivative.
        """
        slope, curvature = self.kernel.slopes(dates.double(), other.double(), lengthscale.double())
        changing = (1 - _share(static_odds))[:, None, None]
        value = self.covariance(dates, other, lengthscale, static_odds)
        above = torch.cat([value, -changing * slope], -1)
        return torch.cat([above, torch.cat([changing * slope, -changing * curvature], -1)], -2)

    def prior(
        self,
        dates: Tensor,
        lengthscale: Tensor,
        static_odds: Tensor,
        series: int = EVEN // (SHORT - LEAST_DATES),
        draws: int = 1,
    ) -> GaussianProcess:
        """The process at the dates.

        Args:
            dates: `[T]` in days, in any order.
            lengthscale, static_odds: `[V]`, see `covariance`; `[N, V]` if they differ between series: batches of the
                process, its posteriors and draws then end with `N`, and it knows no other dates.
            series, draws: pixels times `V`, roughly, and how often each will be drawn; for the choice of the backend
                alone. Processes that are compared need the same.

        Returns:
            Distribution with event shape `[V, T]`; its ``gram`` is the covariance in the representation chosen.
        """
        backend = self.backend
        if backend == "auto" and self.kernel.filters is not None:
            if dates.device.type == "cpu":
                filtered = len(dates) >= LEAST_DATES * math.sqrt(draws) + EVEN / max(series, 1)
            else:
                filtered = ENTRY * series * len(dates) ** 2 > _memory(dates.device) / 2
            backend = "kalman" if filtered else "dense"
        return self._process(backend, dates, lengthscale, static_odds)

    def _process(self, backend: str, dates: Tensor, lengthscale: Tensor, static_odds: Tensor) -> GaussianProcess:
        if lengthscale.dim() > 1:
            joint = self._gram(backend, dates, lengthscale.flatten(), static_odds.flatten())
            return GaussianProcess(Separate(joint, len(lengthscale)))
        gram = self._gram(backend, dates, lengthscale, static_odds)
        return GaussianProcess(gram, _Course(self, gram, dates, lengthscale, static_odds))

    def _gram(self, backend: str, dates: Tensor, lengthscale: Tensor, static_odds: Tensor) -> Covariance:
        dtype, filters = lengthscale.dtype, self.kernel.filters
        auto = backend == "auto" and len(dates) >= SHORT
        if backend == "kalman" and filters is not None:
            weights = [weight for weight, _ in self.kernel.terms]
            return StateSpace(filters, weights, dates, lengthscale, _share(static_odds), NUGGET, dtype)
        covariance = self.covariance(dates, dates, lengthscale, static_odds)
        if backend == "eigen" or auto:
            gram = Eigen(covariance, NUGGET, self.loss, dtype)
            if backend == "eigen" or gram.rank <= EIGEN_SHARE * len(dates):
                return gram
        # Factorised in float64: T x T per variable is small beside everything that is done per pixel.
        return Dense(torch.linalg.cholesky(covariance + NUGGET * _identity(covariance)).to(dtype))


def _memory(device: torch.device) -> int:
    """Bytes of an accelerator."""
    known = device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_properties(device).total_memory if known else MEMORY


@dataclass
class _Course:
    """A process beyond its own dates."""

    temporal: TemporalGP
    gram: Covariance
    dates: Tensor
    lengthscale: Tensor
    static_odds: Tensor

    def process(self, dates: Tensor) -> GaussianProcess:
        """The process at its own dates and, after them, at others, represented as before."""
        backend = {Dense: "dense", Eigen: "eigen", StateSpace: "kalman"}[type(self.gram)]
        dates = torch.cat([self.dates, dates.to(self.dates)])
        return self.temporal._process(backend, dates, self.lengthscale, self.static_odds)

    def gain(self, dates: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
        """`[V, S, T]` from values at its own dates to expected ones at others, `[V, S, S]` covariance around them."""
        temporal, own, latents = self.temporal, self.dates.double(), (self.lengthscale, self.static_odds)
        dates = dates.to(own)
        within = temporal.covariance(own, own, *latents)
        factor = torch.linalg.cholesky(within + NUGGET * _identity(within))
        if slopes:
            across = temporal.joint_covariance(dates, own, *latents)[..., : len(own)]
            there = temporal.joint_covariance(dates, dates, *latents)
        else:
            across = temporal.covariance(dates, own, *latents)
            there = temporal.covariance(dates, dates, *latents)
        # In proportion to the variance: derivatives have units of their own.
        there = there + NUGGET * torch.diag_embed(there.diagonal(dim1=-2, dim2=-1))
        gain = torch.cholesky_solve(across.mT, factor).mT
        return gain, there - gain @ across.mT


def _share(odds: Tensor) -> Tensor:
    """Share of the variance that does not change in time."""
    return (odds / (1 + odds)).double()


def _identity(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
