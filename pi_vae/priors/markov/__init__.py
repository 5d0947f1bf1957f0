r"""Filter and smoother of a scalar process with a small Markov state, with derivatives in closed form.

With :math:`K = \tilde K + \epsilon I`, :math:`\tilde K_{ts} = h^\top A_{t \leftarrow s} c`, and site precisions
:math:`\lambda_t`, the covariance that the sites have taken away so far, `D`, goes from date to date by

.. math:: p = c - D h, \quad v = h^\top p + \epsilon, \quad q = 1 + \lambda v, \quad g = \lambda / q, \quad
          D \leftarrow A (D + g\,p p^\top) A^\top,

the Kalman filter (Särkkä & Solin 2019, section 12.3) written for the loss of variance, which needs no process noise.
Everything else follows: the posterior mean of sites with weighted means `b` and its weights,

.. math:: \mu = (K^{-1} + \Lambda)^{-1} b, \quad \alpha = K^{-1} \mu,

by one pass forth and one back (`.smooth`; Durbin & Koopman 2012, section 4.4), and :math:`\log|I + K\Lambda|` with the
posterior variances, which are its derivatives by the precisions (`.spread`). The derivative of the smoother is another
smoother pass with the same gains; that of the spread carries the direction in which the precisions change along both
passes. Neither keeps a tape: time and memory are linear in the dates. No state covariance is ever inverted, so equal
dates, zero precision and near-certain sites are not special cases. All in float64.

Series lie last and next to each other: `[G, T, V, n]`, or `[G, T, S, V, n]` for `S` draws of each, in groups
(`.layout`). On an accelerator there is one group and every operation runs over all series; on a processor the
recursions are compiled loops over some at a time (`.cpu`).
"""

from pi_vae.priors.markov.cascade import Transitions, columns, noise_factors
from pi_vae.priors.markov.filter import Filter
from pi_vae.priors.markov.layout import Enter, Leave, grouped, grouping
from pi_vae.priors.markov.simulate import Observe, Simulate
from pi_vae.priors.markov.smooth import Smooth
from pi_vae.priors.markov.spread import Spread

__all__ = [
    "Enter",
    "Filter",
    "Leave",
    "Observe",
    "Simulate",
    "Smooth",
    "Spread",
    "Transitions",
    "columns",
    "grouped",
    "grouping",
    "noise_factors",
]
