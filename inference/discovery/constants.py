"""Constants of a law: derivatives, covariance, and values that no prior of the residual has drawn towards zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy
from scipy.stats import norm, t

from inference.discovery.expressions import values_of

__all__ = ["of_draws", "sandwich", "slopes_of_draws", "unshrunk"]

STEP = 1e-4  # of a constant, for derivatives
ITERATIONS, HALVINGS = 30, 8
CONVERGED = 1e-4  # length of a step over the root mean square of what is left
HUBER = 3.0  # standard deviations beyond which a row counts less: gross errors only


def of_draws(form: sympy.Expr, values: dict[str, float], names: Sequence[str], x: np.ndarray) -> np.ndarray:
    """A form at draws of the inputs `[draw, row, input]`; `[draw, row]`."""
    return values_of(form, values, names, x.reshape(-1, x.shape[-1])).reshape(x.shape[:2])


def slopes_of_draws(form: sympy.Expr, values: dict[str, float], names: Sequence[str], x: np.ndarray) -> np.ndarray:
    """Derivatives of a form by its constants, by central differences; `[draw, row, K]`."""
    slopes = np.empty((*x.shape[:2], len(values)))
    for k, (name, value) in enumerate(values.items()):
        step = STEP * max(abs(value), 1e-8)
        above, below = (of_draws(form, values | {name: value + sign * step}, names, x) for sign in (1, -1))
        with np.errstate(all="ignore"):  # where the form is not defined
            slopes[..., k] = (above - below) / (2 * step)
    return slopes


def sandwich(slopes: np.ndarray, scores: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Covariance of constants that solve estimating equations, rows of a block erring together.

    Args:
        slopes: `[row, K]` derivatives of what is fitted, times the roots of the weights.
        scores: `[row, K]` terms of the equations.
        block: `[row]` labels of the clusters.

    Returns:
        `[K, K]`; NaN where a constant changes nothing. Scaled inside so that the inverse is well behaved.
    """
    scale = np.sqrt((slopes**2).sum(0))
    if not len(scale):
        return np.zeros((0, 0))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return np.full((slopes.shape[1],) * 2, np.nan)
    bread = np.linalg.pinv((slopes / scale).T @ (slopes / scale), rcond=1e-12, hermitian=True)
    count = int(block.max()) + 1
    sums = np.stack([np.bincount(block, column, count) for column in (scores / scale).T], 1)
    meat = sums.T @ sums * count / (count - 1)
    student = t.ppf(0.95, count - 1) / norm.ppf(0.95)
    return student**2 * (bread @ meat @ bread) / np.outer(scale, scale)


def unshrunk(
    form: sympy.Expr,
    start: dict[str, float],
    names: Sequence[str],
    draws: np.ndarray,
    left: np.ndarray,
    block: np.ndarray,
) -> tuple[dict[str, float], np.ndarray] | None:
    r"""Constants by what draws of the physics leave of the observations, :math:`e_i^{(d)} = y_i - g(x_i^{(d)})`.

    .. math:: \sum_i w_i \Big[(\bar e_i - \bar f_i)\, \partial_\theta \bar f_i
              + \mathrm{cov}_d\Big(e_i + \frac{f_i}{D - 1}, \partial_\theta f_i\Big)\Big] = 0

    with means and covariance over `D` draws. The posterior mean of an input has followed the noise of the observations
    that it was inferred from, so that noise and input look related; joint draws of what is left and of inputs are as
    likely as the truth, where they are not, and their mean product is what the product of the means and the covariance
    make. The square of `f` is that of its mean: the truth differs from a draw as two draws do, and a draw would be an
    input with an error; what the means of so few draws add to it is taken out again. Weights are those of Huber (1964,
    doi:10.1214/aoms/1177703732), for what no model explains. A level is fitted beside a law without a constant of its
    own, as physics has taken its part of it. What else of the law physics has taken for its own is not seen here: a
    refit with the law gives it back.

    Args:
        form: in the inputs and the constants.
        start: name -> value to start from.
        names: of the inputs.
        draws: `[draw, row, input]`.
        left: `[draw, row]`, NaN where a row has no observation of its own.
        block: `[row]` labels of clusters.

    Returns:
        Constants and their covariance (`sandwich`); none where too little was observed or no solution is found.
    """
    seen = np.isfinite(left).all(0)
    if not start or seen.sum() < max(len(seen) / 2, 4 * len(start)):
        return None
    draws, left, block = draws[:, seen], left[:, seen], block[seen]
    slopes = slopes_of_draws(form, start, names, draws)
    level = not (np.ptp(slopes, axis=(0, 1)) <= 1e-6 * np.abs(slopes).max((0, 1))).any()  # none is a constant added
    theta = np.append(list(start.values()), [left.mean()] * level)

    def equations(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """`[row, K]` slopes times roots of weights, `[row, K]` terms, the step that would balance them, its length."""
        values = dict(zip(start, theta, strict=False))
        with np.errstate(all="ignore"):
            f, slopes = of_draws(form, values, names, draws), slopes_of_draws(form, values, names, draws)
            if level:
                f, slopes = f + theta[-1], np.concatenate([slopes, np.ones((*slopes.shape[:2], 1))], -1)
            error, mean, both = (left - f).mean(0), slopes.mean(0), left + f / (len(f) - 1)
            apart = both - both.mean(0)
            far = np.abs(error) / (HUBER * np.median(np.abs(error)) / norm.ppf(0.75))
            root = 1 / np.sqrt(np.maximum(far, 1.0))
            terms = root[:, None] ** 2 * (error[:, None] * mean + (apart[..., None] * slopes).mean(0))
            mean = root[:, None] * mean
            scale = np.sqrt((mean**2).sum(0))
        if not (np.isfinite(terms).all() and np.isfinite(scale).all() and (scale > 0).all()):
            return mean, terms, np.zeros(len(theta)), np.inf
        square = (mean / scale).T @ (mean / scale)
        step = np.linalg.lstsq(square, terms.sum(0) / scale, rcond=1e-10)[0]
        return mean, terms, step / scale, float(np.sqrt(step @ square @ step))

    slopes, terms, step, length = equations(theta)
    for _ in range(ITERATIONS):
        if not length > CONVERGED * np.sqrt((left.mean(0) ** 2).mean()):
            covariance = sandwich(slopes, terms, block)[: len(start), : len(start)]
            return dict(zip(start, map(float, theta), strict=False)), covariance
        for _ in range(HALVINGS):
            found = equations(theta + step)
            if found[-1] < length:
                break
            step = step / 2
        else:
            return None
        theta = theta + step
        slopes, terms, step, length = found
    return None
