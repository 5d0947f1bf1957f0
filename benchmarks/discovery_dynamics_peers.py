"""PySINDy on the same data, for ``discovery_dynamics.py``.

PySINDy reads regular series without gaps. It gets every pixel interpolated linearly (``stlsq linear``: derivatives by
its smoothed differences), or our posterior means (``stlsq`` and ``e-sindy``, 20 bagged models and their medians, with
the means of our derivatives; ``weak``, 100 random test functions). All have the terms that we have: drivers and season
are states to it, of whose equations nobody asks. States are scaled to unit sd, and thresholds chosen from `THRESHOLDS`
by the rates of held-out pixels; ``told`` is whether any of them finds the right terms, the best that a choice could do.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pysindy as ps
from pysindy.differentiation import SmoothedFiniteDifference

from inference.discovery.dynamics import DynamicsSamples, Library

__all__ = ["PEERS", "Peer"]

PEERS = ("stlsq linear", "stlsq", "e-sindy", "weak")
THRESHOLDS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MODELS, FUNCTIONS, FOLDS = 20, 100, 4
UNIT = 36.525  # days: rates per day are small beside the state, in tenths of a year both are of order one

warnings.filterwarnings("ignore", module="pysindy")
warnings.filterwarnings("ignore", module="sklearn")
logging.getLogger("pysindy").setLevel(logging.ERROR)


class Peer:
    """One peer on one data set.

    Args:
        name: of `PEERS`.
        samples: ours, whose means and grid are used.
        library: ours.
        days: `[observed]`.
        values: `[pixel, observed, state]`, NaN in clouds.
        seed: of its random numbers.

    Attributes:
        found: threshold -> `[S, J]` coefficients per day in the order of our library.
        chosen: the threshold taken.
    """

    def __init__(
        self, name: str, samples: DynamicsSamples, library: Library, days: np.ndarray, values: np.ndarray, seed: int
    ) -> None:
        self.name, self.library, self.states, self.seed = name, library, samples.states, seed
        self.times = samples.times
        mean, slope = samples.value.mean(0), samples.slope.mean(0)
        if name == "stlsq linear":
            mean = np.array([[_filled(self.times, days, v) for v in pixel.T] for pixel in values]).transpose(0, 2, 1)
            slope = np.array([SmoothedFiniteDifference()._differentiate(x, self.times) for x in mean])
        angle = 2 * np.pi * self.times / 365.25
        known = dict(samples.drivers)
        if "sin_year" in library.names:
            known |= {"sin_year": np.sin(angle), "cos_year": np.cos(angle)}
        self.known = tuple(known)
        # Every column of unit scale: one threshold has to serve them all.
        self.scale = np.concatenate([mean.std((0, 1)), [np.std(d) for d in known.values()]])
        more = np.broadcast_to(np.array([*known.values()]).T, (len(mean), len(self.times), len(known)))
        self.x = np.concatenate([mean, more], -1) / self.scale
        rates = np.gradient(np.asarray(more), self.times, axis=1)
        self.rate = np.concatenate([slope, rates], -1) / self.scale
        self.features, self.rows = self._rows()
        self.found = {t: self._fitted(t, np.ones(len(mean), bool)) for t in THRESHOLDS}
        self.chosen = min(THRESHOLDS, key=self._error)

    def told(self, support: np.ndarray) -> bool:
        """Whether any threshold finds these terms."""
        return any(((c != 0) == support).all() for c in self.found.values())

    def _error(self, threshold: float) -> float:
        """Squared error of the rates at pixels left out."""
        total, folds = 0.0, np.arange(len(self.rows)) % FOLDS
        for fold in range(FOLDS):
            c = self._coefficients(threshold, folds != fold, quick=True)
            for terms, rates in (row for row, out in zip(self.rows, folds == fold, strict=True) if out):
                total += float(((rates - terms @ c.T)[:, : len(self.states)] ** 2).mean())
        return total

    def _fitted(self, threshold: float, pixels: np.ndarray) -> np.ndarray:
        return self._ours(self.features, self._coefficients(threshold, pixels)[: len(self.states)] / UNIT)

    def _coefficients(self, threshold: float, pixels: np.ndarray, quick: bool = False) -> np.ndarray:
        optimiser = ps.STLSQ(threshold=threshold, alpha=1e-6)
        if self.name == "e-sindy" and not quick:
            optimiser = ps.EnsembleOptimizer(optimiser, bagging=True, n_models=MODELS, ensemble_aggregator=_median)
        np.random.seed(self.seed)
        kept = [row for row, chosen in zip(self.rows, pixels, strict=True) if chosen]
        terms, rates = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        return np.asarray(optimiser.fit(terms, rates).coef_)

    def _rows(self) -> tuple[list[str], list[tuple[np.ndarray, np.ndarray]]]:
        """Names of its features, and what it regresses on what in every pixel."""
        count = len(self.states)
        polynomials = ps.PolynomialLibrary(degree=max(_degree(n) for n in self.library.names), include_bias=True)
        parts, columns = [polynomials], [list(range(count))]
        if self.known:
            parts.append(ps.PolynomialLibrary(1, include_bias=False))
            columns.append(list(range(count, count + len(self.known))))
        if self.name == "weak":
            parts = [self._weak(part) for part in parts]
        terms = ps.GeneralizedLibrary(parts, inputs_per_library=columns) if self.known else parts[0]
        rows = []
        for x, rate in zip(self.x, self.rate, strict=True):
            keeper = _Keeper(threshold=0.0, alpha=1e-6)
            model = ps.SINDy(optimizer=keeper, feature_library=terms)
            rates = None if self.name == "weak" else rate * UNIT
            model.fit(x, t=self.times / UNIT, x_dot=rates, feature_names=[*self.states, *self.known])
            rows.append(keeper.kept)
        return model.get_feature_names(), rows

    def _weak(self, part: ps.PolynomialLibrary) -> ps.WeakPDELibrary:
        np.random.seed(self.seed)  # the same test functions for all parts
        return ps.WeakPDELibrary(part, spatiotemporal_grid=self.times / UNIT, K=FUNCTIONS)

    def _ours(self, features: list[str], coefficients: np.ndarray) -> np.ndarray:
        """Coefficients of its features in the units and the order of our terms."""
        out = np.zeros((len(self.states), len(self.library.names)))
        factor = dict(zip((*self.states, *self.known), self.scale, strict=True))
        for feature, column in zip(features, coefficients.T, strict=True):
            powers = [(part.partition("^")[0], int(part.partition("^")[2] or 1)) for part in feature.split(" ")]
            size = np.prod([factor[name] ** power for name, power in powers if name != "1"])
            text = "*".join(name if power == 1 else f"{name}**{power}" for name, power in powers)
            if text in self.library.names or feature not in self.known:
                at = self.library.index(text)
                out[:, at] = column * self.scale[: len(self.states)] / size
        return out


class _Keeper(ps.STLSQ):
    """An optimiser that keeps what it is given."""

    def fit(self, x_, y, **options):
        self.kept = np.asarray(x_), np.asarray(y)
        return super().fit(x_, y, **options)


def _filled(times: np.ndarray, days: np.ndarray, values: np.ndarray) -> np.ndarray:
    seen = np.isfinite(values)
    return np.interp(times, days[seen], values[seen])


def _median(models: list[np.ndarray]) -> np.ndarray:
    return np.median(models, 0)


def _degree(name: str) -> int:
    return 0 if name in ("1", "sin_year", "cos_year") else sum(int(p.partition("**")[2] or 1) for p in _split(name))


def _split(name: str) -> list[str]:
    return name.replace("**", "^").replace("*", " ").replace("^", "**").split(" ")
