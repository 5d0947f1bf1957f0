"""A system of equations in time, with its evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sympy
from scipy.integrate import solve_ivp

from inference.discovery.dynamics.constraints import Constraints
from inference.discovery.dynamics.library import Library
from inference.discovery.dynamics.samples import DAY_OF_YEAR, YEAR
from inference.discovery.law import LEVEL, WORTHWHILE
from pi_vae.law import evaluate

__all__ = ["DynamicalLaw"]

TOLERANCE = 1e-8


@dataclass(frozen=True)
class DynamicalLaw:
    r"""Equations :math:`\dot x_i = \sum_j c_{ij}\,\theta_j` of all states.

    Attributes:
        states: names.
        library: the terms.
        coefficients: `[S, J]` per day; 0 where a term is absent.
        resampled: `[B, S, J]` coefficients of the same terms by the bootstrap of `discover_dynamics`.
        inclusion: `[S, J]` share of the resamples whose own choice has the term.
        heldout_skill: `[S]` share of the weighted square of the rate, in its weak form, that equations found at other
            dates explain; 0 is that of no change at all.
        null: greatest such skill over the equations, of every surrogate.
        constraints: what the coefficients satisfy.
        units: state or driver -> unit.
        settings: seed and sizes of the search.
    """

    states: tuple[str, ...]
    library: Library
    coefficients: np.ndarray
    resampled: np.ndarray
    inclusion: np.ndarray
    heldout_skill: np.ndarray
    null: tuple[float, ...]
    constraints: Constraints = field(default_factory=Constraints)
    units: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping = field(default_factory=dict)

    @property
    def support(self) -> np.ndarray:
        """`[S, J]` bool: the terms that are there."""
        return self.coefficients != 0

    @property
    def drivers(self) -> tuple[str, ...]:
        """Names of the drivers that the equations may read."""
        return self.library.inputs[len(self.states) :]

    @property
    def system(self) -> dict[str, sympy.Expr]:
        """State -> its rate per day."""
        terms = self.library.terms.values()
        return {
            state: sympy.Add(*(sympy.Float(c) * term for c, term in zip(row, terms, strict=True) if c))
            for state, row in zip(self.states, self.coefficients, strict=True)
        }

    @property
    def p_values(self) -> np.ndarray:
        """`[S]` share of the null, the equation itself counted in, with at least its held-out skill."""
        return np.array(
            [(1 + sum(n >= skill for n in self.null)) / (1 + len(self.null)) for skill in self.heldout_skill]
        )

    @property
    def passes(self) -> bool:
        """Whether there is an equation with terms, and each of them has p at most 0.05 and skill at least 0.02."""
        there = self.support.any(1)
        good = (self.p_values <= LEVEL) & (self.heldout_skill >= WORTHWHILE)
        return bool(there.any() and good[there].all())

    @property
    def median(self) -> np.ndarray:
        """`[S, J]` median over the resamples: the coefficients less their bias, but not to rounding on the rules."""
        return np.median(self.resampled, 0)

    def interval(self, level: float = 0.9) -> np.ndarray:
        """`[2, S, J]` lower and upper end of the central interval over the resamples."""
        return np.quantile(self.resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)

    @property
    def latex(self) -> str:
        """The system in LaTeX, three digits."""
        names = {sympy.Symbol(n): rf"\mathrm{{{n}}}".replace("_", r"\_") for n in (*self.library.inputs, DAY_OF_YEAR)}
        rows = []
        for state, rate in self.system.items():
            short = sympy.Symbol(state)
            left = rf"\frac{{d}}{{dt}}{sympy.latex(short, symbol_names=names)}"
            digits = {number: sympy.Float(f"{float(number):.3g}", 3) for number in rate.atoms(sympy.Float)}
            rows.append(f"{left} &= {sympy.latex(rate.xreplace(digits), symbol_names=names)}")
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    def __str__(self) -> str:
        head = "The law passes the null." if self.passes else "No law passes the null."
        lines = [f"{head} Coefficients per day, with 90 % intervals and the share of resamples that have the term:"]
        low, high = self.interval()
        for i, state in enumerate(self.states):
            lines.append(f"d{state}/dt: skill {self.heldout_skill[i]:.3f}, p {self.p_values[i]:.3f}")
            for j in np.flatnonzero(self.support[i]):
                c, a, b = (f"{x:.4g}" for x in (self.coefficients[i, j], low[i, j], high[i, j]))
                lines.append(f"  {c:>11} {self.library.names[j]:12} [{a}, {b}] {self.inclusion[i, j]:.2f}")
        return "\n".join(lines)

    def rate(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rates `[..., S]` per day.

        Args:
            inputs: states, drivers and ``day_of_year``, broadcast together.
        """
        names = (*self.library.inputs, DAY_OF_YEAR)
        arrays = dict(zip(names, np.broadcast_arrays(*(np.asarray(inputs[n], float) for n in names)), strict=True))
        shape = arrays[names[0]].shape
        rates = [np.broadcast_to(evaluate(rate, arrays, np), shape) for rate in self.system.values()]
        return np.stack(rates, -1)

    def simulate(
        self,
        start: Mapping[str, float] | Sequence[float],
        times: np.ndarray,
        drivers: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """The states from a start on.

        Args:
            start: states at the first of the times.
            times: `[time]` days since 1970-01-01, increasing.
            drivers: name -> `[time]` at these times, taken as linear in between.

        Returns:
            `[time, S]`; NaN once the solution has left for infinity.

        Raises:
            ValueError: a state or driver is missing, or shapes or times are wrong.
        """
        times, drivers = np.asarray(times, float), dict(drivers or {})
        x0 = [start[s] for s in self.states if s in start] if isinstance(start, Mapping) else list(start)
        if len(x0) != len(self.states):
            raise ValueError(f"The start has {len(x0)} states: give {', '.join(self.states)}.")
        if times.ndim != 1 or len(times) < 2 or not (np.diff(times) > 0).all():
            raise ValueError("The times of a simulation are not a series that increases: sort them.")
        for name in self.drivers:
            if name not in drivers or np.shape(drivers[name]) != times.shape:
                raise ValueError(f"The driver {name!r} is not given at all {len(times)} times: pass it in drivers.")
        system = list(self.system.values())

        def rate(t: float, x: np.ndarray) -> list[float]:
            inputs = dict(zip(self.states, x, strict=True)) | {DAY_OF_YEAR: np.float64(t % YEAR)}
            inputs |= {name: np.interp(t, times, drivers[name]) for name in self.drivers}
            return [evaluate(equation, inputs, np) for equation in system]

        step = float(np.diff(times).min()) if self.drivers else np.inf  # no kink of a driver may be stepped over
        with np.errstate(all="ignore"):
            scale = max(np.abs(x0).max(), 1e-3)
            found = solve_ivp(
                rate, times[[0, -1]], x0, t_eval=times, rtol=TOLERANCE, atol=TOLERANCE * scale, max_step=step
            )
        states = np.full((len(times), len(self.states)), np.nan)
        states[: found.y.shape[1]] = found.y.T
        return states

    def to_json(self, path: str | Path | None = None) -> str:
        """The law as JSON, written to a file on request."""
        data = {
            "states": list(self.states),
            "library": self.library.to_dict(),
            "coefficients": self.coefficients.tolist(),
            "resampled": self.resampled.tolist(),
            "inclusion": self.inclusion.tolist(),
            "heldout_skill": self.heldout_skill.tolist(),
            "null": list(self.null),
            "constraints": self.constraints.to_dict(),
            "units": dict(self.units),
            "settings": dict(self.settings),
            # For readers of the file; `from_json` computes them anew.
            "system": {state: str(_rounded(rate)) for state, rate in self.system.items()},
            "p_values": self.p_values.tolist(),
            "passes": self.passes,
        }
        text = json.dumps(data, indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path: str | Path) -> DynamicalLaw:
        """The law in a file that `to_json` wrote.

        Raises:
            ValueError: a term or a constraint cannot be read.
        """
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        arrays = ("coefficients", "resampled", "inclusion", "heldout_skill")
        return cls(
            states=tuple(data["states"]),
            library=Library.from_dict(data["library"]),
            **{name: np.array(data[name], dtype=float) for name in arrays},
            null=tuple(data["null"]),
            constraints=Constraints.from_dict(data["constraints"]),
            units=data["units"],
            settings=data["settings"],
        )


def _rounded(expression: sympy.Expr, digits: int = 3) -> sympy.Expr:
    """Numbers to some significant digits, for reading only; those inside a function as they are."""
    return sympy.Add(
        *(
            sympy.Float(f"{float(number):.{digits}g}", digits) * rest
            for number, rest in (part.as_coeff_Mul() for part in sympy.Add.make_args(expression))
        )
    )
