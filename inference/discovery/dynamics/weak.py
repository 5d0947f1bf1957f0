r"""The weak form: equations in time without a derivative of anything noisy.

Multiplied by a test function :math:`\varphi_k(t) = (1 - s^2)^4`, :math:`s = (t - t_k)/h`, zero beyond
:math:`|s| = 1`, and integrated by parts, :math:`\dot x_i = \sum_j c_{ij}\theta_j` becomes

.. math:: b_{ki} = -\int \dot\varphi_k\, x_i\, dt = \sum_j c_{ij} \int \varphi_k\, \theta_j\, dt = \sum_j A_{kj} c_{ij}

(Messenger & Bortz 2021, Multiscale Modeling & Simulation 19, 1474-1497). States are known with error, as posterior
draws. A regression on every draw would flatten the law, since draws scatter in the inputs; but the expectation of both
sides given the data holds with the same coefficients,

.. math:: E[b_{ki}] = \sum_j c_{ij}\, E[A_{kj}] ,

products of states included, as :math:`E[x^2]` has the variance in it (regression calibration: Carroll et al. 2006,
Measurement Error in Nonlinear Models, chapter 4). So moments are taken of means over draws, weighted by

.. math:: w_{ki} = 1 / \big(\mathrm{var}(b_{ki} - A_k c_i) + \tau_i^2\big),

the variance over draws, which counts what errors of state and input have in common, and is large in gaps, and what a
smoothing prior that does not know the law gets wrong, :math:`\tau^2`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference.discovery.dynamics.library import Library
from inference.discovery.dynamics.samples import DynamicsSamples

__all__ = ["Moments", "WeakForm"]

WIDTHS = (1 / 16, 1 / 8)  # half-widths of test functions, in parts of the record; see benchmarks/discovery_dynamics.py
OVERLAP = 2  # test functions of a width that cover a date
BLOCKS = 6  # of dates
ROUNDS = 3
EXACT = 1e-12  # least variance of an error, in mean squares of the rate: draws may be all alike


@dataclass(frozen=True)
class Moments:
    """Weighted second moments of one equation by cluster, a pixel during a block of dates.

    Attributes:
        hessian: `[cluster, J, J]` of the terms.
        gradient: `[cluster, J]` of terms and rate.
        energy: `[cluster]` of the rate.
        independent: how many of all rows tell something of their own, see `WeakForm.moments`.
    """

    hessian: np.ndarray
    gradient: np.ndarray
    energy: np.ndarray
    independent: float

    def loss(self, coefficients: np.ndarray) -> float:
        """Weighted squared error of `[J]` coefficients."""
        c = coefficients
        return float(self.energy.sum() - 2 * c @ self.gradient.sum(0) + c @ self.hessian.sum(0) @ c)


class WeakForm:
    """Integrals of states and terms against test functions.

    Args:
        samples: draws.
        library: terms.
        widths: half-widths [day] of the test functions; by default a sixteenth and an eighth of the record.

    Attributes:
        left, right: `[draw, pixel, K, J]` and `[draw, pixel, K, S]`, normalised by the test function's norm.
        interval: `[K, 2]` days that a test function covers.
        block: `[K]` label of the block of dates it is centred in.

    Raises:
        ValueError: a width is not positive or longer than half of the record, or a term is not finite.
    """

    def __init__(self, samples: DynamicsSamples, library: Library, widths: tuple[float, ...] | None = None) -> None:
        times = samples.times
        span = times[-1] - times[0]
        widths = tuple(part * span for part in WIDTHS) if widths is None else widths
        wrong = [h for h in widths if not 2 * np.diff(times).max() < h <= span / 2]
        if wrong or not widths:
            raise ValueError(
                f"Test functions have half-widths {widths} days: give some between twice the step of the dates and "
                f"half of the record of {span:.0f} days."
            )
        value, rate, self.interval = _test_functions(times, widths)
        share = (self.interval.mean(1) - times[0]) / span
        self.block = np.minimum((BLOCKS * share).astype(int), BLOCKS - 1)
        columns = (column @ value.T for column in library.values(samples.inputs()))
        self.left = np.stack(list(columns), -1)
        self.right = -np.einsum("dpts,kt->dpks", samples.value, rate)

    def moments(
        self, coefficients: np.ndarray, draws: np.ndarray | None = None, used: np.ndarray | None = None
    ) -> list[Moments]:
        r"""Moments of every equation, weighted by what `[S, J]` coefficients leave.

        Rows overlap and share the errors of the state that they read. With their correlations :math:`R` over the draws
        within a pixel, :math:`K^2 / \sum R^2` of `K` rows are independent.

        Args:
            coefficients: from a fit before, or zeros.
            draws: indices of the draws to average; by default all.
            used: `[pixel, K]` bool, the rows that count; by default all.
        """
        every = slice(None) if draws is None else draws
        left, found = self.left[every].mean(0), []
        used = np.ones(left.shape[:2], bool) if used is None else used
        for i, c in enumerate(coefficients):
            error = self.right[..., i] - self.left @ c
            right = self.right[every, ..., i].mean(0)
            variance = np.maximum(error.var(0, ddof=1), EXACT * max((right**2).mean(), EXACT))
            root = used / np.sqrt(variance + _misfit(error.mean(0)[used], variance[used]))
            whole = np.concatenate([left, right[..., None]], -1) * root[..., None]
            parts = [whole[:, self.block == b] for b in range(BLOCKS)]
            joint = np.stack([part.swapaxes(1, 2) @ part for part in parts], 1)
            joint = joint.reshape(-1, *joint.shape[2:])
            independent = _independent(error, variance) * used.mean()
            found.append(Moments(joint[:, :-1, :-1], joint[:, :-1, -1], joint[:, -1, -1], independent))
        return found


def _test_functions(times: np.ndarray, widths: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`[K, time]` values and derivatives times the weights of a trapezoid rule, `[K, 2]` intervals."""
    weights = np.zeros(len(times))
    weights[1:] += np.diff(times) / 2
    weights[:-1] += np.diff(times) / 2
    values, rates, intervals = [], [], []
    for h in widths:
        count = max(1, int(OVERLAP * (times[-1] - times[0] - 2 * h) / h) + 1)
        for centre in np.linspace(times[0] + h, times[-1] - h, count):
            s = np.clip((times - centre) / h, -1, 1)
            bump, rate = (1 - s**2) ** 4, -8 * s * (1 - s**2) ** 3 / h
            norm = np.sqrt((weights * bump**2).sum())
            values.append(weights * bump / norm)
            rates.append(weights * rate / norm)
            intervals.append((centre - h, centre + h))
    return np.array(values), np.array(rates), np.array(intervals)


def _misfit(mean: np.ndarray, variance: np.ndarray) -> float:
    r"""Variance :math:`\tau^2` of mean errors beyond their variance over draws, by moments."""
    tau = 0.0
    for _ in range(20):
        w = 1 / (variance + tau)
        tau = max(0.0, float((w**2 * (mean**2 - variance)).sum() / (w**2).sum()))
    return tau


def _independent(error: np.ndarray, variance: np.ndarray) -> float:
    """Independent rows among errors `[draw, pixel, K]`; a correlation over draws has chance in it, taken off."""
    draws, _, rows = error.shape
    unit = ((error - error.mean(0)) / np.sqrt(np.maximum(variance, 1e-300) * (draws - 1))).swapaxes(0, 1)
    squares = ((unit.swapaxes(1, 2) @ unit) ** 2).sum((1, 2))
    return float((rows**2 / np.maximum(squares - rows * (rows - 1) / (draws - 1), rows)).sum())
