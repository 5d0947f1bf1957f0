r"""Ranges of the data behind the empirical models, and the report that an input has left them.

A polynomial fitted to moisture between 0.04 and 0.29 returns a number at 0.5 too. Two ways to know:

- `outside` flags each sample, exactly, at any time: for maps, tables and tests.
- `report` is called by every model on its inputs and logs one sentence (level WARNING, logger
  ``pi_vae.physics.validity``) the first time an input of that model leaves its range, then never again in the process.

Why logging and not `warnings`: extrapolation is a fact about the inputs, not a fault of the program. A warning may be
an error where a test suite or a user says so, and then a latent that wanders over a bound for one step would end a
fit of hours. What it costs: two comparisons of extremes (some 10 microseconds per input) while everything is inside,
nothing once reported. On an accelerator, where reading a value waits for the device, calls number 1, 2, 4, 8 ... are
looked at. Inside ``torch.compile`` and ``torch.func.vmap``, which cannot branch on values, nothing is; `outside` works
in both.

Example::

    >>> outside("oh2004", mv=torch.tensor([0.2, 0.4]), incidence=35.0)
    tensor([False,  True])
"""

from __future__ import annotations

import logging
from collections import Counter

import torch
from torch import Tensor

__all__ = ["RANGES", "forget", "outside", "report"]

LOG = logging.getLogger(__name__)

#: model -> input -> (least, largest, unit) of the data that the model was fitted to
RANGES: dict[str, dict[str, tuple[float, float, str]]] = {
    "oh1992": {"ks": (0.1, 6.0, ""), "incidence": (10.0, 70.0, "degrees")},
    "oh2004": {"mv": (0.04, 0.291, "m3 m-3"), "ks": (0.13, 6.98, ""), "incidence": (10.0, 70.0, "degrees")},
    "dubois1995": {"ks": (0.0, 2.5, ""), "incidence": (30.0, 65.0, "degrees"), "frequency_ghz": (1.5, 11.0, "GHz")},
    "mironov2009": {"mv": (0.0, 0.5, "m3 m-3"), "clay": (0.0, 76.0, "%"), "frequency_ghz": (0.3, 26.5, "GHz")},
    # the five soils of Hallikainen et al. (1985), table I; also those of Dobson et al. (1985)
    "hallikainen1985": {"mv": (0.0, 0.5, "m3 m-3"), "sand": (5.02, 51.51, "%"), "clay": (8.53, 47.38, "%")},
    "dobson1985": {
        "mv": (0.0, 0.5, "m3 m-3"), "sand": (5.02, 51.51, "%"), "clay": (8.53, 47.38, "%"),
        "frequency_ghz": (1.4, 18.0, "GHz"),
    },
    "topp1980": {"mv": (0.0, 0.55, "m3 m-3")},
    "topp1980_inverse": {"eps": (3.0, 40.0, "")},
}  # fmt: skip

_reported: set[tuple[str, str]] = set()
_calls: Counter[str] = Counter()


def outside(model: str, **inputs: Tensor | float) -> Tensor:
    """Flag of the samples that lie outside the data of a model.

    Args:
        model: a key of `RANGES`.
        inputs: inputs of the model by name, ``[...]``, broadcast together; those without a range are ignored.

    Returns:
        Boolean ``[...]``, true where at least one input is outside its range (or NaN).

    Raises:
        ValueError: the model is unknown, or none of the inputs has a range.
    """
    if model not in RANGES:
        raise ValueError(f"No ranges for {model!r}: use one of {', '.join(RANGES)}.")
    known = [(torch.as_tensor(inputs[name]), low, high) for name, (low, high, _) in RANGES[model].items()
             if name in inputs]  # fmt: skip
    if not known:
        raise ValueError(f"No range for {', '.join(inputs)} of {model}: give some of {', '.join(RANGES[model])}.")
    flag = torch.zeros((), dtype=torch.bool, device=known[0][0].device)
    for value, low, high in known:
        flag = flag | ~((value >= low) & (value <= high))
    return flag


def report(model: str, **inputs: Tensor | float) -> None:
    """Log, once per process, model and input, that an input is outside the range of the model.

    Args:
        model: a key of `RANGES`.
        inputs: inputs of the model by name, any shape; those without a range are ignored.
    """
    if torch.compiler.is_compiling():
        return
    _calls[model] += 1
    seldom = _calls[model] & (_calls[model] - 1)  # zero for powers of two
    for name, value in inputs.items():
        if name not in RANGES[model] or (model, name) in _reported:
            continue
        if isinstance(value, Tensor) and seldom and value.device.type != "cpu":
            continue
        least, largest = _extremes(value)
        low, high, unit = RANGES[model][name]
        if least < low or largest > high:
            _reported.add((model, name))
            LOG.warning(
                "%s: %s is %.4g..%.4g, its data are %g..%g %s; results beyond are extrapolated. "
                "pi_vae.physics.validity.outside flags the samples; this is said once.",
                model, name, least, largest, low, high, unit,
            )  # fmt: skip


def forget() -> None:
    """Report everything anew, as in a fresh process."""
    _reported.clear()
    _calls.clear()


def _extremes(value: Tensor | float) -> tuple[float, float]:
    """Least and largest value; NaN, which is outside of nothing, where there is none to read."""
    if not isinstance(value, Tensor):
        return float(value), float(value)
    try:
        least, largest = torch.aminmax(value.detach())
        return float(least), float(largest)
    except RuntimeError:  # no elements, or inside vmap
        return float("nan"), float("nan")
