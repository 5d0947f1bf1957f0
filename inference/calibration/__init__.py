"""Whether a posterior means what it says: intervals, simulation-based calibration, importance ratios of the guide.

Which to use when

* the truth is known (a simulated cube, field measurements): `coverage`, `crps`, `pit`, by interval and by score;
* the cube was drawn from the model's own prior: `simulation_based_calibration`, a test with a p-value per variable;
* only the data are known: `importance`, how far the guide is from the posterior that the model itself defines, and
  `refine`, draws corrected for it where that is possible; `coverage(*observed(tree))` for the observations.
"""

from inference.calibration.importance import importance, log_joint, refine
from inference.calibration.intervals import at_pixels, coverage, crps, observed, pit
from inference.calibration.simulation import holm, one_per_group, simulation_based_calibration

__all__ = [
    "at_pixels",
    "coverage",
    "crps",
    "holm",
    "importance",
    "log_joint",
    "observed",
    "one_per_group",
    "pit",
    "refine",
    "simulation_based_calibration",
]
