"""What one does with a model: fit it, read its posterior, map it, discover what it misses."""

from inference.evaluation import withheld_scores
from inference.posterior import posterior
from inference.prediction import export_geotiff, predict
from inference.training import Run, fit, load

__all__ = ["Run", "export_geotiff", "fit", "load", "posterior", "predict", "withheld_scores"]
