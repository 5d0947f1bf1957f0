r"""Series with the course of the data and no law: surrogates.

Every state is written in principal modes of a smooth process at the dates (eigenvectors :math:`E` of an exponential
covariance, nearly cosines), and every mode is multiplied by a sign of its own,

.. math:: x_i'(p, \cdot) = \bar x_i + E\,\mathrm{diag}(s_i)\,E^\top (x_i(p, \cdot) - \bar x_i), \qquad s_{ik} = \pm 1 ,

drawn anew for every state and in common for all pixels and draws. The power of every mode stays, and with it variance
and autocorrelation, and so does what pixels share; the tie between a state and its rate, and to other states, drivers
and season, is broken (a form of the phase-randomised surrogates of Theiler et al. 1992, Physica D 58, 77-94, for
records that do not close on themselves).
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from inference.discovery.dynamics.samples import DynamicsSamples

__all__ = ["surrogate"]


def surrogate(samples: DynamicsSamples, seed: int) -> DynamicsSamples:
    """Samples whose states follow no law, with the same drivers; see the module."""
    rng = np.random.default_rng(seed)
    days = samples.times - samples.times[0]
    modes = np.linalg.eigh(np.exp(-3 * np.abs(days[:, None] - days) / days[-1]))[1]
    value = np.empty_like(samples.value)
    for i in range(len(samples.states)):
        turned = (modes * rng.choice([-1.0, 1.0], len(days))) @ modes.T
        centre = samples.value[..., i].mean()
        value[..., i] = centre + (samples.value[..., i] - centre) @ turned
    return samples.replace(value=value, slope=CubicSpline(samples.times, value, axis=2)(samples.times, 1))
