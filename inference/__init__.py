"""What one does with a model: fit it, read its posterior, map it, discover what it misses."""

from inference.discovery import Template, couple, discover, refine
from inference.distillation import distil
from inference.embedding import embed
from inference.evaluation import withheld_scores
from inference.export import export_geotiff, export_stac
from inference.independence import independence
from inference.npe import neural_posterior
from inference.posterior import posterior
from inference.prediction import predict
from inference.saem import learn_globals
from inference.training import Run, fit, load
from inference.translation import translate

__all__ = [
    "Run",
    "Template",
    "couple",
    "discover",
    "distil",
    "embed",
    "export_geotiff",
    "export_stac",
    "fit",
    "independence",
    "learn_globals",
    "load",
    "neural_posterior",
    "posterior",
    "predict",
    "refine",
    "translate",
    "withheld_scores",
]
