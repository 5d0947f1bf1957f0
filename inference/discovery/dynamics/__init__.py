"""Equations in time: sparse regression of the rates of states on what they and the weather are.

`draw_states` (from a fitted run) or `smooth` (from noisy series) give joint draws of states and rates, `Library` the
terms, `Constraints` what physics says of their coefficients; `discover_dynamics` returns a `DynamicalLaw` with its
evidence.
"""

from inference.discovery.dynamics.constraints import Constraints
from inference.discovery.dynamics.discover import discover_dynamics
from inference.discovery.dynamics.law import DynamicalLaw
from inference.discovery.dynamics.library import Library
from inference.discovery.dynamics.samples import DynamicsSamples, draw_states
from inference.discovery.dynamics.smoothing import smooth

__all__ = [
    "Constraints",
    "DynamicalLaw",
    "DynamicsSamples",
    "Library",
    "discover_dynamics",
    "draw_states",
    "smooth",
]
