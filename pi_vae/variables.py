"""The catalogue of physical variables: what the latents mean, in which unit, on which support, with which prior.

Every latent of the model is one of these variables. A prior is a normal distribution truncated to the support
(``prior="normal"``) or uniform on it (``prior="uniform"``); `pi_vae.priors.marginals` maps it from a standard normal.
A *dynamic* variable has one value per pixel and date, a *static* one a value per pixel. ``seen_by`` lists the
modalities whose operator reads the variable; one that both read is *common* and carries information between sensors.

Sources
    ATBD: Weiss, Baret & Jay (2020), S2ToolBox Level 2 products, version 2.1, table of input variables.
    Feret: Feret et al. (2017), PROSPECT-D, Remote Sensing of Environment 193, 204-215, table 1 (measured ranges).
    Feret21: Feret et al. (2021), PROSPECT-PRO, Remote Sensing of Environment 252, 112173 (measured ranges).
    Jackson: Jackson et al. (2004), Remote Sensing of Environment 92, 475-482 (maize to 5, soybean to 2 kg m-2).
    Beck: Beck et al. (2006), Remote Sensing of Environment 100, 321-334 (form of a season); the priors are wide, for
        mid-latitudes of the north: a season of 20 days to eleven months that starts about the end of April.
    Oh: Oh (2004), IEEE Geoscience and Remote Sensing Letters 1, 309-313 (range of validity).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

__all__ = ["CATALOGUE", "Variable", "changed", "lookup"]


@dataclass(frozen=True)
class Variable:
    """A physical quantity with unit, support and prior.

    Attributes:
        name: key used in code, file names and coordinates.
        symbol: how it is written in formulas and on axes (mathtext).
        unit: unit, ``"1"`` where there is none.
        low, high: support; a value can approach but not leave it.
        loc, scale: mean and sd of the normal before truncation (unused for a uniform prior).
        prior: ``"normal"`` (truncated to the support) or ``"uniform"``.
        dynamic: one value per pixel and date if true, else one value per pixel.
        seen_by: modalities whose operator reads it.
        long_name: for axes and metadata.
        source: where support and prior come from.
    """

    name: str
    symbol: str
    unit: str
    low: float
    high: float
    loc: float
    scale: float
    dynamic: bool
    seen_by: tuple[str, ...]
    long_name: str
    source: str
    prior: str = "normal"

    @property
    def common(self) -> bool:
        """Whether more than one modality reads the variable."""
        return len(self.seen_by) > 1


_S2, _S1, _BOTH = ("s2",), ("s1",), ("s2", "s1")

CATALOGUE: dict[str, Variable] = {
    v.name: v
    for v in (
        # name, symbol, unit, low, high, loc, scale, dynamic, seen by, long name, source
        Variable("lai", "LAI", "m2 m-2", 0.0, 12.0, 2.0, 3.0, True, _BOTH,
                 "leaf area index", "ATBD (0-15)"),
        Variable("cab", "C_{ab}", "ug cm-2", 5.0, 90.0, 45.0, 30.0, True, _S2,
                 "leaf chlorophyll a+b", "ATBD (20-90), lower for senescent leaves (Feret)"),
        Variable("cw", "C_w", "cm", 0.002, 0.06, 0.015, 0.015, True, _S2,
                 "leaf water thickness", "ATBD (from relative water 0.60-0.85)"),
        Variable("cbrown", "C_{brown}", "1", 0.0, 2.0, 0.0, 0.3, True, _S2,
                 "brown pigments", "ATBD"),
        Variable("soil_moisture", "m_v", "m3 m-3", 0.03, 0.50, 0.20, 0.12, True, _BOTH,
                 "soil moisture (volumetric)", "Oh (0.04-0.29), upper end of mineral soils at saturation"),
        Variable("soil_brightness", "B_s", "1", 0.3, 2.0, 1.0, 0.5, True, _S2,
                 "soil brightness", "ATBD (0.5-3.5 of a darker reference soil); tillage, crusts and litter change it"),
        Variable("n", "N", "1", 1.0, 2.5, 1.5, 0.3, False, _S2,
                 "leaf structure", "ATBD (1.2-1.8), Feret (1-2.5)"),
        Variable("car", "C_{ar}", "ug cm-2", 1.0, 25.0, 9.0, 5.0, False, _S2,
                 "leaf carotenoids", "Feret"),
        Variable("cant", "C_{ant}", "ug cm-2", 0.0, 10.0, 0.0, 2.0, False, _S2,
                 "leaf anthocyanins", "Feret"),
        Variable("cm", "C_m", "g cm-2", 0.002, 0.02, 0.005, 0.005, False, _S2,
                 "leaf dry matter", "ATBD (0.003-0.011), Feret (0.001-0.02)"),
        Variable("prot", "C_{prot}", "g cm-2", 0.0, 0.003, 0.001, 0.0006, False, _S2,
                 "leaf protein", "Feret21; with cbc in place of cm in PROSPECT-PRO"),
        Variable("cbc", "C_{bc}", "g cm-2", 0.001, 0.017, 0.004, 0.0045, False, _S2,
                 "leaf carbon-based constituents", "Feret21; prior so that prot + cbc has that of cm"),
        Variable("ala", "ALA", "degree", 30.0, 80.0, 60.0, 30.0, False, _S2,
                 "average leaf angle", "ATBD"),
        Variable("hspot", "h", "1", 0.05, 0.6, 0.2, 0.5, False, _S2,
                 "hot-spot parameter", "ATBD (0.1-0.5)"),
        Variable("vwc", "W_v", "kg m-2", 0.0, 8.0, 1.5, 2.0, True, _S1,
                 "vegetation water content", "Jackson"),
        Variable("roughness", "s", "cm", 0.3, 5.0, 1.5, 1.0, False, _S1,
                 "soil rms height", "Oh (0.13 < ks < 6.98)"),
        Variable("season_base", "L_0", "m2 m-2", 0.0, 4.0, 0.3, 0.5, False, _BOTH,
                 "leaf area index out of season", "Beck"),
        Variable("season_amplitude", "A", "m2 m-2", 0.0, 9.0, 3.0, 2.0, False, _BOTH,
                 "leaf area index added by the season", "Beck"),
        Variable("season_start", "t_s", "day", -90.0, 365.0, 115.0, 50.0, False, _BOTH,
                 "start of season (day of year)", "Beck"),
        Variable("season_length", "t_e - t_s", "day", 20.0, 330.0, 120.0, 60.0, False, _BOTH,
                 "length of season", "Beck"),
        Variable("season_rise", "r_u", "day-1", 0.02, 0.4, 0.08, 0.06, False, _BOTH,
                 "rate of green-up", "Beck"),
        Variable("season_fall", "r_d", "day-1", 0.02, 0.4, 0.08, 0.06, False, _BOTH,
                 "rate of senescence", "Beck"),
        Variable("season_pause_2", "p_2", "day", 0.0, 200.0, 30.0, 40.0, False, _BOTH,
                 "pause before the second season", "Beck"),
        Variable("season_amplitude_2", "A_2", "m2 m-2", 0.0, 9.0, 0.0, 2.0, False, _BOTH,
                 "leaf area index added by the second season", "Beck"),
        Variable("season_length_2", "d_2", "day", 20.0, 200.0, 80.0, 40.0, False, _BOTH,
                 "length of the second season", "Beck"),
    )
}  # fmt: skip


def lookup(names: Iterable[str], catalogue: Mapping[str, Variable] = CATALOGUE) -> list[Variable]:
    """Entries of the names in a catalogue, in the order given.

    Raises:
        ValueError: a name is not in the catalogue; the message lists the names that are.
    """
    names = list(names)
    unknown = [name for name in names if name not in catalogue]
    if unknown:
        raise ValueError(
            f"Unknown variable {', '.join(map(repr, unknown))}: use names of the catalogue ({', '.join(catalogue)})."
        )
    return [catalogue[name] for name in names]


def changed(priors: Mapping[str, Mapping[str, float | str | bool]]) -> dict[str, Variable]:
    """The catalogue with other priors.

    Args:
        priors: variable -> field -> value, of the fields ``low``, ``high``, ``loc`` and ``scale`` (in the unit of the
            variable), ``prior`` and ``dynamic``. The support can only become narrower: the operators hold on it.

    Returns:
        All entries of the catalogue by name, in its order.

    Raises:
        ValueError: an unknown variable or field, a value that is none of the field, or values that contradict each
            other: an empty or wider support, a normal without spread, ``loc`` or ``scale`` of a uniform prior, a normal
            that lies so far outside its support that next to nothing of it is left.

    Example:
        >>> changed({"cw": {"loc": 0.019, "scale": 0.0095}})["cw"].scale
        0.0095
    """
    lookup(priors)
    return CATALOGUE | {name: _changed(CATALOGUE[name], dict(fields)) for name, fields in priors.items()}


FIELDS = ("low", "high", "loc", "scale", "prior", "dynamic")
FAR = 4.0  # sd from the mean of a normal to its support


def _changed(variable: Variable, fields: dict[str, Any]) -> Variable:
    name = variable.name
    for field, value in fields.items():
        if field not in FIELDS:
            raise ValueError(f"Unknown field {field!r} in the prior of {name!r}: use {', '.join(FIELDS)}.")
        if field == "prior":
            known = value in ("normal", "uniform")
        elif field == "dynamic":
            known = isinstance(value, bool)
        else:
            known = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not known:
            kind = {"prior": "'normal' or 'uniform'", "dynamic": "True or False"}.get(field, "a finite number")
            raise ValueError(f"The {field} of {name!r} is {value!r}: give {kind}.")
        if field in ("low", "high", "loc", "scale"):
            fields[field] = float(value)  # plain numbers, for checkpoints
    new = replace(variable, **fields)
    support = f"[{new.low:g}, {new.high:g}]"
    if not variable.low <= new.low < new.high <= variable.high:
        raise ValueError(
            f"The support of {name!r} would be {support}: give one within [{variable.low:g}, {variable.high:g}], where "
            "the operators hold."
        )
    if new.prior == "uniform" and not {"loc", "scale"}.isdisjoint(fields):
        raise ValueError(f"The prior of {name!r} is uniform and has no loc or scale: give low and high alone.")
    if new.prior == "normal" and new.scale <= 0:
        raise ValueError(f"The scale of {name!r} is {new.scale:g}: give a positive standard deviation.")
    if new.prior == "normal" and max(new.low - new.loc, new.loc - new.high) > FAR * new.scale:
        raise ValueError(
            f"The normal of {name!r}, {new.loc:g} +- {new.scale:g}, has next to nothing on its support {support}: move "
            "loc or widen scale."
        )
    return new
