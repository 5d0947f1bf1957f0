"""Planted static laws of radar and optical residuals, tables of posterior draws that hold them, what counts as found.

A table has 2,000 points: 100 pixels at 20 dates. Inputs have the courses of fields: leaf area and chlorophyll with a
season of their own, soil moisture and precipitation by events that all share, temperature and day of year by the
calendar, three orbits with the local incidence of hills. What discovery gets is posterior-like: means, and draws around
them such that the truth lies among the draws; the law acts on the truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sympy

from inference.discovery import Table
from inference.discovery.dataset import DRIVERS
from inference.discovery.expressions import canonical
from pi_vae.law import evaluate, parse
from pi_vae.variables import CATALOGUE

__all__ = ["LAWS", "PlantedLaw", "agrees", "make_table", "numbers", "recovered"]

PIXELS, DATES, DRAWS = 100, 20, 24
ROUNDING = 0.05
UNITS = {name: v.unit for name, v in CATALOGUE.items()} | DRIVERS | {"incidence": "degree", "day_of_year": "day"}
RAD = "0.017453293"
YEAR = "0.017202424"  # 2 pi / 365.25


@dataclass(frozen=True)
class PlantedLaw:
    """A law, the inputs it is searched among, and what one would know beforehand.

    Attributes:
        name: what it is about.
        text: in the grammar of `pi_vae.law.parse`.
        template: arguments of `Template` that state partial knowledge.
    """

    name: str
    text: str
    template: dict

    @property
    def expression(self) -> sympy.Expr:
        return parse(self.text, tuple(UNITS))

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(sorted(s.name for s in self.expression.free_symbols))


LAWS = (
    PlantedLaw(
        "row direction",
        f"1.8*exp(-0.6*lai)*cos({RAD}*incidence)",
        {"monotone": {"lai": "decreasing"}, "sign": "positive", "limits": {"lai": ("inf", 0.0)}},
    ),
    PlantedLaw(
        "soil under a canopy",
        "9.0*soil_moisture*(1 - exp(-0.5*lai))",
        {"zero_at": {"soil_moisture": 0.0, "lai": 0.0}, "monotone": {"lai": "increasing"}},
    ),
    PlantedLaw(
        "water on leaves",
        "0.7*log(1 + precipitation)",
        {"zero_at": {"precipitation": 0.0}, "monotone": {"precipitation": "increasing"}},
    ),
    PlantedLaw(
        "freezing",
        "-3.0/(1 + exp(0.8*air_temperature - 219.2))",
        {"monotone": {"air_temperature": "increasing"}, "limits": {"air_temperature": ("inf", 0.0)}},
    ),
    PlantedLaw("calendar", f"0.9*sin({YEAR}*day_of_year + 0.7)", {"bounds": (-2.0, 2.0)}),
    PlantedLaw(
        "attenuation", "2.2*exp(-0.45*lai)", {"monotone": {"lai": "decreasing"}, "limits": {"lai": ("inf", 0.0)}}
    ),
    PlantedLaw("wet canopy", "0.35*lai*log(1 + precipitation)", {"zero_at": {"lai": 0.0, "precipitation": 0.0}}),
    PlantedLaw(
        "saturating canopy",
        "1.6*lai/(1.5 + lai)",
        {"zero_at": {"lai": 0.0}, "monotone": {"lai": "increasing"}},
    ),
    PlantedLaw(
        "moist soil through gaps",
        "14.0*soil_moisture*exp(-0.7*lai)",
        {"zero_at": {"soil_moisture": 0.0}, "limits": {"lai": ("inf", 0.0)}, "monotone": {"lai": "decreasing"}},
    ),
    PlantedLaw("pigment and leaf area", "0.012*cab*sqrt(lai)", {"zero_at": {"cab": 0.0, "lai": 0.0}}),
    PlantedLaw("path through the air", f"5.0*soil_moisture/cos({RAD}*incidence)", {"zero_at": {"soil_moisture": 0.0}}),
    PlantedLaw(
        "two effects",
        "1.5*exp(-0.8*lai) + 0.4*log(1 + precipitation)",
        {"monotone": {"lai": "decreasing", "precipitation": "increasing"}, "sign": "positive"},
    ),
)


def make_table(law: PlantedLaw | None, noise: float, seed: int, inputs: tuple[str, ...] | None = None) -> Table:
    r"""A table that holds a law, or noise of unit variance alone.

    Args:
        law: what is planted.
        noise: sd of the noise over that of the law; it is correlated in time, :math:`e^{-|\Delta t|/10}`.
        seed: of everything.
        inputs: those that are offered; all seven by default.
    """
    rng = np.random.default_rng(seed)
    day = np.sort(rng.choice(np.arange(1, 366), DATES, replace=False))
    shape = (PIXELS, DATES)
    peak, width = rng.normal(180, 30, (PIXELS, 1)), rng.uniform(30, 80, (PIXELS, 1))
    crop = np.exp(-0.5 * ((day - peak) / width) ** 2)
    rain = np.where(rng.random(DATES) < 0.5, rng.exponential(6.0, DATES), 0.0)
    wet = 0.12 + 0.2 * rng.beta(2, 3, DATES) + 0.02 * rng.normal(size=(PIXELS, 1))
    means = {
        "lai": 0.15 + rng.uniform(1.5, 6.0, (PIXELS, 1)) * crop,
        "cab": 25 + 30 * crop * rng.uniform(0.5, 1.0, (PIXELS, 1)) + 2 * rng.normal(size=(PIXELS, 1)),
        "soil_moisture": np.clip(wet + 0.02 * rng.normal(size=shape), 0.04, 0.5),
        "air_temperature": 282 - 10 * np.cos(2 * np.pi * (day - 20) / 365.25) + rng.normal(0, 3, DATES),
        "precipitation": rain,
        "incidence": rng.choice([31.0, 37.0, 44.0], DATES) + rng.normal(0, 8, (PIXELS, 1)),
        "day_of_year": day.astype(float),
    }
    names = tuple(means) if inputs is None else tuple(inputs)
    root = np.linalg.cholesky(np.exp(-np.abs(day[:, None] - day) / 10.0) + 1e-9 * np.eye(DATES))
    relative = {"lai": 0.1, "cab": 0.06, "soil_moisture": 0.08}

    def around(name: str) -> np.ndarray:
        """What the truth may be, its mean being what is given."""
        mean = np.broadcast_to(means[name], shape)
        if name not in relative:
            return mean
        return mean * np.exp(relative[name] * (rng.normal(size=shape) @ root.T) - 0.5 * relative[name] ** 2)

    truth = {name: around(name) for name in means}
    error = rng.normal(size=shape) @ root.T
    signal = np.zeros(shape) if law is None else evaluate(law.expression, truth, np) * np.ones(shape)
    spread = noise * signal.std() if law is not None else 1.0
    y = signal + spread * error
    cells = np.arange(PIXELS) * 12 // PIXELS
    return Table(
        modality="s1",
        unit="dB",
        channels=("VV",),
        names=names,
        units={name: UNITS[name] for name in names},
        x=np.stack([np.broadcast_to(means[name], shape) for name in names], -1),
        x_draws=np.stack([np.stack([around(name) for name in names], -1) for _ in range(DRAWS)]),
        y=y[..., None],
        sd=np.broadcast_to(0.3 * spread, (*shape, 1)).copy(),
        left=np.repeat(y[None, ..., None], DRAWS, 0),
        seen=np.ones(shape, bool),
        block=cells,
        season=np.arange(DATES) * 9 // DATES,
        times=np.datetime64("2020-12-31", "ns") + day * np.timedelta64(1, "D"),
        dropped={},
    )


def numbers(expression: sympy.Expr) -> set[float]:
    """Sizes of the constants of a law, however it is written."""
    forms = (expression, canonical(expression), sympy.expand(expression))
    sizes = {abs(float(n)) for form in forms for n in form.atoms(sympy.Number) if n != 0} | {1.0}
    return sizes | {abs(math.log(n)) for n in sizes if abs(math.log(n)) > 10}  # a factor that stands in an exponent


def recovered(form: sympy.Expr, coefficients: Mapping[str, float], law: PlantedLaw, table: Table) -> bool:
    """`agrees` over the box of a table's inputs."""
    rng = np.random.default_rng(0)
    rows = table.x[table.seen]
    box = {name: rng.uniform(rows[:, i].min(), rows[:, i].max(), 300) for i, name in enumerate(table.names)}
    return agrees(form, coefficients, law.expression, box)


def agrees(
    form: sympy.Expr, coefficients: Mapping[str, float], planted: sympy.Expr, inputs: Mapping[str, np.ndarray]
) -> bool:
    """Whether a law found is the planted one once its constants are rounded.

    Every constant that lies within 5 % of one of the planted law (as planted, in canonical form, expanded, or the
    inverse of such; phases up to whole turns) is replaced by it; a constant added to the law that is below 5 % of the
    planted law's sd is dropped. Then the two must agree to 1e-6 at all points.

    Args:
        form: in inputs and coefficients.
        coefficients: name -> value.
        planted: the law that is there.
        inputs: name -> `[point]` at which they are compared.
    """
    size = len(next(iter(inputs.values())))
    true = np.broadcast_to(evaluate(planted, inputs, np), size)
    known = numbers(planted)
    known |= {1 / n for n in known}
    known |= {abs(n + k * np.pi) for n in known for k in (-2, -1, 1, 2)} if planted.has(sympy.sin) else set()
    choices = []
    for name, value in coefficients.items():
        near = [np.copysign(n, value) for n in sorted(known) if abs(n - abs(value)) <= ROUNDING * n]
        choices.append([np.float64(n) for n in near or [value]])
        if form.is_Add and sympy.Symbol(name) in form.args and abs(value) < ROUNDING * true.std():
            form = form - sympy.Symbol(name)
    for rounded in itertools.product(*choices):
        with np.errstate(all="ignore"):
            found = evaluate(form, {**inputs, **dict(zip(coefficients, rounded, strict=True))}, np)
        if np.abs(np.broadcast_to(found, size) - true).max() < 1e-6 * np.abs(true).max():
            return True
    return False
