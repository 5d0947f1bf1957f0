"""Figures of a run: maps, series, spectra, joint posteriors, skill and calibration.

Every function returns a `matplotlib.figure.Figure` made without pyplot: nothing stays open, any backend can save it.
Lines have the colours of Okabe & Ito (2008), values viridis, standard deviations magma, residuals and correlations
RdBu. Bands go between quantiles of the draws at place p (S + 1) of S (Hyndman & Fan 1996, type 6).

``python -m inference.plots demo gallery`` draws all of them from the folder of a demo (`inference.plots.gallery`).
Figures of laws are in `inference.discovery.figures`.
"""

from inference.plots.calibration import coverage_curves, rank_ecdf
from inference.plots.maps import residual_map, variable_map
from inference.plots.series import pixel_series, residual_series
from inference.plots.skill import elbo, reconstruction, withheld_skill
from inference.plots.spectra import spectrum
from inference.plots.variables import corner, phenology

__all__ = [
    "corner",
    "coverage_curves",
    "elbo",
    "phenology",
    "pixel_series",
    "rank_ecdf",
    "reconstruction",
    "residual_map",
    "residual_series",
    "spectrum",
    "variable_map",
    "withheld_skill",
]
