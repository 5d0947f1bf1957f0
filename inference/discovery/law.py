"""A law with its evidence, and the Pareto front of laws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sympy

from inference.discovery.expressions import values_of
from pi_vae.law import LawTerm, parse
from pi_vae.variables import CATALOGUE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LEVEL", "WORTHWHILE", "Law", "Laws"]

LEVEL = 0.05
STABLE = 0.5  # share of the resamples that must find a law with the same inputs
WORTHWHILE = 0.02  # held-out skill below which a law does not matter, however significant


@dataclass(frozen=True)
class Law:
    """An equation for the residual of one channel, with its evidence.

    Attributes:
        modality, channel: whose residual it explains.
        channels: all channels of the modality.
        form: SymPy expression in the inputs and the coefficients.
        coefficients: name -> value.
        covariance: `[K][K]` of them (`inference.discovery.evidence.gather`); NaN where they cannot be told apart.
        unit: of the law.
        units: input -> unit.
        ranges: input -> (lowest, highest) value that it was found on.
        typical: input -> its median there.
        complexity: constants, variables, operations and functions.
        description_length: in nats; of two laws of a channel the one with less explains more with less.
        train_skill: weighted R2 on the blocks of pixels and dates that it was found on.
        heldout_skill: weighted R2 on other pixels at other dates, with the constants of the former.
        null: greatest held-out skill over all laws and channels, of every permutation.
        stability: share of resamples (another seed, 70 % of the blocks) in which the best law of at most this
            complexity reads the same inputs; NaN where no law of the channel passes, as it is not computed then.
        inclusion: input -> share of these resamples in which it is read.
    """

    modality: str
    channel: str
    channels: tuple[str, ...]
    form: sympy.Expr
    coefficients: Mapping[str, float]
    covariance: tuple[tuple[float, ...], ...]
    unit: str
    units: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    typical: Mapping[str, float]
    complexity: int
    description_length: float
    train_skill: float
    heldout_skill: float
    null: tuple[float, ...]
    stability: float = float("nan")
    inclusion: Mapping[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.units)

    @property
    def expression(self) -> sympy.Expr:
        """The law with its numbers."""
        return self.form.xreplace({sympy.Symbol(k): sympy.Float(c) for k, c in self.coefficients.items()})

    @property
    def p_value(self) -> float:
        """Share of the null, the law itself counted in, with at least its held-out skill; over all channels."""
        return (1 + sum(value >= self.heldout_skill for value in self.null)) / (1 + len(self.null))

    @property
    def passes(self) -> bool:
        """Whether p is at most 0.05, the held-out skill at least 0.02, and its inputs are found again.

        One table in twenty without a law gives p <= 0.05; but then each resample of the pixels picks other inputs.
        """
        unstable = self.stability < STABLE  # false while the stability is not known (NaN)
        return self.p_value <= LEVEL and self.heldout_skill >= WORTHWHILE and not unstable

    @property
    def latex(self) -> str:
        """The law in LaTeX, three digits."""
        symbols = {sympy.Symbol(n): CATALOGUE[n].symbol for n in self.inputs if n in CATALOGUE}
        symbols |= {sympy.Symbol(n): rf"\mathrm{{{n}}}".replace("_", r"\_") for n in self.inputs if n not in CATALOGUE}
        return sympy.latex(_rounded(self.expression), symbol_names=symbols)

    def __str__(self) -> str:
        return f"{self.modality} {self.channel} residual [{self.unit}] = {_rounded(self.expression)}"

    def evaluate(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Value of the law, not clipped to `ranges`.

        Args:
            inputs: name -> array `[...]`, of one shape.

        Returns:
            `[...]` in units of the residual.
        """
        return self._at(inputs, self.coefficients)

    def evaluate_draws(self, inputs: Mapping[str, np.ndarray], draws: int = 200, seed: int = 0) -> np.ndarray:
        """`evaluate` with coefficients drawn from what is known of them.

        Args:
            inputs: as for `evaluate`.
            draws: how many.
            seed: of the draws.

        Returns:
            `[draw, ...]` in units of the residual.
        """
        drawn = np.tile(list(self.coefficients.values()), (draws, 1))
        if self.coefficients:
            spread, rng = np.nan_to_num(np.array(self.covariance)), np.random.default_rng(seed)
            drawn += rng.multivariate_normal(np.zeros(len(spread)), spread, draws, method="eigh")
        return np.stack([self._at(inputs, dict(zip(self.coefficients, each, strict=True))) for each in drawn])

    def _at(self, inputs: Mapping[str, np.ndarray], values: Mapping[str, float]) -> np.ndarray:
        arrays = np.broadcast_arrays(*(np.asarray(inputs[name], dtype=float) for name in self.inputs))
        x = np.stack([a.ravel() for a in arrays], -1)
        return values_of(self.form, dict(values), self.inputs, x).reshape(arrays[0].shape)

    def term(self, channels: Sequence[str] | None = None, widen: float = 0.0) -> LawTerm:
        """The law as a differentiable term, clipped to the range it was found on; what is known of its coefficients is
        their prior.

        Args:
            channels: channels of the modality in the order of the model; by default in that of the posterior.
            widen: share of each coefficient that is added to its prior sd, in quadrature.

        Raises:
            ValueError: its channel is not among them.
        """
        channels = tuple(channels) if channels is not None else self.channels
        if self.channel not in channels:
            raise ValueError(f"Channel {self.channel!r} of the law is not among {', '.join(channels)}: name it.")
        covariance = np.array(self.covariance) + np.diag((widen * np.array(list(self.coefficients.values()))) ** 2)
        return LawTerm(
            str(self.form),
            self.inputs,
            channels.index(self.channel),
            len(channels),
            self.coefficients,
            self.ranges,
            covariance.tolist() if len(covariance) and np.isfinite(covariance).all() else None,
        )

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {
            "modality": self.modality,
            "channel": self.channel,
            "channels": list(self.channels),
            "form": str(self.form),
            "coefficients": dict(self.coefficients),
            "covariance": [[None if np.isnan(c) else c for c in row] for row in self.covariance],
            "unit": self.unit,
            "units": dict(self.units),
            "ranges": {k: list(v) for k, v in self.ranges.items()},
            "complexity": self.complexity,
            "train_skill": self.train_skill,
            "heldout_skill": self.heldout_skill,
            "null": list(self.null),
            "stability": None if np.isnan(self.stability) else self.stability,
            "inclusion": dict(self.inclusion),
            "typical": dict(self.typical),
            "description_length": self.description_length,
            # For readers of the file; `from_dict` computes them anew.
            "expression": str(_rounded(self.expression)),
            "p_value": self.p_value,
            "passes": self.passes,
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> Law:
        """The law that `to_dict` wrote.

        Raises:
            ValueError: its form is not a law (see `pi_vae.law.parse`).
        """
        known = {k: v for k, v in data.items() if k not in ("expression", "p_value", "passes")}
        return cls(
            **known
            | {
                "channels": tuple(data["channels"]),
                "form": parse(data["form"], (*data["units"], *data["coefficients"])),
                "covariance": tuple(tuple(np.nan if c is None else c for c in row) for row in data["covariance"]),
                "ranges": {k: (low, high) for k, (low, high) in data["ranges"].items()},
                "null": tuple(data["null"]),
                "stability": float("nan") if data["stability"] is None else data["stability"],
            }
        )


@dataclass(frozen=True)
class Laws:
    """Pareto fronts of all channels of a modality.

    Attributes:
        modality: the target.
        front: all laws, by channel, the shortest first.
        null: greatest held-out skill over laws and channels, of every permutation.
        dropped: input -> why it was not used.
        settings: engine, seed and sizes of the search.
    """

    modality: str
    front: tuple[Law, ...]
    null: tuple[float, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping = field(default_factory=dict)

    @property
    def best(self) -> list[Law]:
        """At most one law per channel: of those that pass, the one with the least description length."""
        channels = dict.fromkeys(law.channel for law in self.front)
        passing = ([law for law in self.front if law.channel == channel and law.passes] for channel in channels)
        return [min(laws, key=lambda law: law.description_length) for laws in passing if laws]

    def table(self) -> str:
        """The fronts as text, one law a line."""
        limit = f"{np.quantile(self.null, 1 - LEVEL, method='higher'):.3f}" if self.null else "-"
        lines = [f"{'channel':8} {'length':>6} {'train':>7} {'heldout':>7} {'null95':>7} {'p':>6} {'':4}  law"]
        for law in self.front:
            lines.append(
                f"{law.channel:8} {law.complexity:6d} {law.train_skill:7.3f} {law.heldout_skill:7.3f} {limit:>7} "
                f"{law.p_value:6.3f} {'pass' if law.passes else 'fail'}  {_rounded(law.expression)}"
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """The Pareto front against the null and what each input does (`inference.discovery.figures.laws_figure`)."""
        from inference.discovery.figures import laws_figure  # draws with what reads this module

        return laws_figure(self)

    def __str__(self) -> str:
        best = self.best
        verdict = [f"Best: {law} (stability {law.stability:.2f})" for law in best] or ["No law passes the null."]
        return "\n".join([self.table(), *verdict])

    def to_json(self, path: str | Path | None = None) -> str:
        """The laws as JSON, written to a file on request."""
        text = json.dumps(
            {
                "modality": self.modality,
                "front": [law.to_dict() for law in self.front],
                "null": list(self.null),
                "dropped": dict(self.dropped),
                "settings": dict(self.settings),
            },
            indent=1,
            allow_nan=False,
        )
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path: str | Path) -> Laws:
        """The laws in a file that `to_json` wrote."""
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        front = tuple(Law.from_dict(law) for law in data["front"])
        return cls(data["modality"], front, tuple(data["null"]), data["dropped"], data["settings"])


def _rounded(expression: sympy.Expr, digits: int = 3) -> sympy.Expr:
    """Numbers to some significant digits, for reading only."""
    return expression.xreplace({number: sympy.Float(number, digits) for number in expression.atoms(sympy.Float)})
