r"""Laws inside the model: an equation found for a residual becomes a differentiable term of the expected signal.

A law is text such as ``c0*exp(c1*lai)``. `parse` reads it with a grammar of its own (numbers, known names,
``+ - * / **`` and five functions; nothing is ever executed), `evaluate` computes it on torch tensors or numpy arrays.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import sympy

__all__ = ["LawTerm", "evaluate", "parse"]

FUNCTIONS = ("exp", "log", "sin", "cos", "sqrt")
TINY, HUGE = 1e-6, 60.0  # of what a logarithm or a root, and an exponential, are taken of in a model
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
MAX_CHARACTERS = 4000
MAX_EXPONENT = 12


class _Defined:
    """Functions of torch that go on as constants where, for some draw of the coefficients, they are not defined."""

    sin, cos = staticmethod(torch.sin), staticmethod(torch.cos)

    @staticmethod
    def exp(x: Tensor) -> Tensor:
        return x.clamp_max(HUGE).exp()

    @staticmethod
    def log(x: Tensor) -> Tensor:
        return x.clamp_min(TINY).log()

    @staticmethod
    def sqrt(x: Tensor) -> Tensor:
        return x.clamp_min(TINY).sqrt()

    @staticmethod
    def pow(x: Tensor, exponent: float) -> Tensor:
        return x.clamp_min(TINY) ** exponent


class LawTerm(nn.Module):
    r"""Contribution of a law to one channel of a modality.

    .. math::
        \Delta_c(t) = f\big(\mathrm{clip}(x(t)); \theta\big), \qquad \Delta_{c'}(t) = 0 \text{ for } c' \neq c,
        \qquad \theta \sim N(\mu, \Sigma)

    The coefficients :math:`\theta` are global latents of the model, with what discovery says of them as prior. Their
    posterior starts as the prior and is mean-field along the columns of a root of :math:`\Sigma`. Inputs are clipped to
    `limits`, the range over which the law was found: beyond it the law is continued as a constant instead of
    extrapolated. Logarithms and powers are taken of at least 1e-6, exponentials of at most 60, so that for no draw of
    the coefficients they are undefined.

    Args:
        expression: the law as text, see `parse`.
        inputs: names of the inputs that it reads.
        channel: index of the channel it belongs to.
        channels: number `C` of channels of the modality.
        coefficients: name -> prior mean of the constants that stand as names in the expression.
        limits: input -> (low, high); inputs that are not named are not clipped.
        covariance: `[K][K]` prior covariance of the constants; by default an sd of a tenth of each mean.

    Raises:
        ValueError: the expression is not a law, the channel does not exist, a name is both input and coefficient, or
            the covariance is none.

    Example:
        >>> term = LawTerm("c0*exp(c1*lai)", ["lai"], channel=0, channels=2, coefficients={"c0": 1.5, "c1": -0.6})
        >>> term({"lai": torch.zeros(4, 3)}).shape
        torch.Size([4, 3, 2])
    """

    prior_loc: Tensor
    prior_root: Tensor

    def __init__(
        self,
        expression: str,
        inputs: Sequence[str],
        channel: int,
        channels: int,
        coefficients: Mapping[str, float] | None = None,
        limits: Mapping[str, tuple[float, float]] | None = None,
        covariance: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        coefficients = dict(coefficients or {})
        self.limits = {name: (float(low), float(high)) for name, (low, high) in (limits or {}).items()}
        self.inputs, self.names = tuple(inputs), tuple(coefficients)
        self.channel, self.channels = channel, channels
        if not 0 <= channel < channels:
            raise ValueError(
                f"Law of channel {channel} of a modality with {channels} channels: use 0 to {channels - 1}."
            )
        both = sorted(set(self.inputs) & set(self.names))
        if both:
            raise ValueError(f"The law calls {both[0]!r} both an input and a coefficient: rename the coefficient.")
        self.expression = parse(expression, (*self.inputs, *self.names))
        loc = torch.tensor(list(coefficients.values()), dtype=torch.float64)
        floor = (1e-3 * loc).abs().clamp_min(1e-9)  # a covariance without full rank has a root all the same
        wide = torch.diag((0.1 * loc).abs().clamp_min(1e-6) ** 2)
        known = wide if covariance is None else torch.as_tensor(covariance, dtype=torch.float64) + torch.diag(floor**2)
        self.covariance = None if covariance is None else [list(map(float, row)) for row in covariance]
        if known.shape != (len(loc), len(loc)) or torch.linalg.cholesky_ex(known).info:
            raise ValueError(f"This is no covariance of {len(loc)} coefficients: give a positive definite matrix.")
        dtype = torch.get_default_dtype()
        self.register_buffer("prior_loc", loc.to(dtype))
        self.register_buffer("prior_root", torch.linalg.cholesky(known).to(dtype))
        # In units of the prior, so that one learning rate suits coefficients of any size.
        self.shift = nn.Parameter(torch.zeros_like(self.prior_loc))
        self.log_shrinkage = nn.Parameter(torch.zeros_like(self.prior_loc))

    @property
    def loc(self) -> Tensor:
        """`[K]` posterior means of the coefficients."""
        return self.prior_loc + self.prior_root @ self.shift

    @torch.no_grad()
    def forget(self) -> None:
        """Let the posterior of the coefficients be their prior."""
        self.shift.zero_()
        self.log_shrinkage.zero_()

    def prior(self) -> dist.TorchDistribution:
        """Prior of the coefficients, event shape `[K]`."""
        return dist.MultivariateNormal(self.prior_loc, scale_tril=self.prior_root)

    def posterior(self) -> dist.TorchDistribution:
        """Variational posterior of the coefficients, event shape `[K]`."""
        return dist.MultivariateNormal(self.loc, scale_tril=self.prior_root * self.log_shrinkage.exp())

    def forward(self, inputs: Mapping[str, Tensor], coefficients: Tensor | None = None) -> Tensor:
        """Evaluate the law.

        Args:
            inputs: name -> `[..., T]`, `[..., 1]` or `[T]`, in the units the law was found in; others are ignored.
            coefficients: `[K]`; by default their posterior means.

        Returns:
            `[..., T, C]` in the units of the likelihood (`T` is 1 if every input of the law is static).

        Raises:
            ValueError: an input of the law is not given.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise ValueError(
                f"The law {self.expression} reads {missing[0]!r}, which the model is not given: add it to the cube "
                "(weather belongs to the node 'drivers') or leave the law out."
            )
        values = {name: inputs[name] for name in self.inputs}
        values |= {name: values[name].clamp(*limits) for name, limits in self.limits.items() if name in values}
        coefficients = self.loc if coefficients is None else coefficients
        named = values | dict(zip(self.names, coefficients.unbind(-1), strict=True))
        value = torch.as_tensor(evaluate(self.expression, named, _Defined))
        blank = torch.zeros_like(value)
        return torch.stack([value if i == self.channel else blank for i in range(self.channels)], dim=-1)

    @property
    def settings(self) -> dict:
        """What `from_settings` needs; plain data for JSON."""
        return {
            "expression": str(self.expression),
            "inputs": list(self.inputs),
            "channel": self.channel,
            "channels": self.channels,
            "coefficients": dict(zip(self.names, self.prior_loc.tolist(), strict=True)),
            "limits": {name: list(limits) for name, limits in self.limits.items()},
            "covariance": self.covariance,
        }

    @classmethod
    def from_settings(cls, settings: Mapping) -> LawTerm:
        """Build the term that `settings` describes."""
        return cls(**settings)


def parse(text: str, names: Collection[str]) -> sympy.Expr:
    """Read a law.

    Args:
        text: numbers, `names`, ``+ - * /``, ``**`` with a number as exponent, and exp, log, sqrt, sin, cos.
        names: what may occur as inputs and coefficients.

    Returns:
        SymPy expression whose free symbols are among the names.

    Raises:
        ValueError: the text holds anything else, or is not finite.
    """
    import sympy  # a second and a half, for those who have a law

    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"A law of {len(text)} characters: give at most {MAX_CHARACTERS}.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not an expression: write it as in 'c0*exp(c1*lai)'.") from error

    def build(node: ast.expr) -> sympy.Expr:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return sympy.Integer(number) if isinstance(number, int) else sympy.Float(number)
            case ast.Name(id=name) if name in names:
                return sympy.Symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return build(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                exponent = build(right)
                # A number alone, and a small one: 9**9**9 would be computed at once.
                if exponent.is_number and exponent.is_real and abs(float(exponent)) <= MAX_EXPONENT:
                    halves = round(2 * float(exponent))
                    same = abs(2 * float(exponent) - halves) < 1e-12
                    return build(left) ** (sympy.Rational(halves, 2) if same else exponent)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](build(left), build(right))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                value = getattr(sympy, name)(build(argument))
                return value.evalf() if value.is_number else value
        raise ValueError(
            f"{ast.unparse(node)!r} cannot stand in the law {text!r}: use numbers, + - * / **, "
            f"{', '.join(FUNCTIONS)} and the names {', '.join(sorted(names))}."
        )

    expression = build(tree)
    if expression.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo, sympy.I):
        raise ValueError(f"The law {text!r} is {expression}: write one that is finite and real.")
    return expression


def evaluate(expression: sympy.Expr, values: Mapping[str, Any], module: Any = torch) -> Any:
    """Value of an expression that `parse` could have made.

    Args:
        expression: SymPy expression.
        values: name -> tensor or array, broadcast together.
        module: ``torch``, ``numpy`` or what has functions of these names, which are used.

    Returns:
        Tensor or array of the broadcast shape; a float if the expression has no symbol.

    Raises:
        ValueError: the expression holds a function that laws do not have.
    """
    if expression.is_number:
        return float(expression)
    if expression.is_Symbol:
        return values[expression.name]
    parts = [evaluate(part, values, module) for part in expression.args]
    if expression.is_Add or expression.is_Mul:
        combine = operator.add if expression.is_Add else operator.mul
        total = parts[0]
        for part in parts[1:]:
            total = combine(total, part)
        return total
    if expression.is_Pow:
        base, exponent = parts
        if exponent == 0.5:
            return module.sqrt(base)
        # An exponent that is an integer keeps derivatives finite at negative bases.
        return base ** int(exponent) if exponent == int(exponent) else module.pow(base, exponent)
    name = expression.func.__name__
    if name not in FUNCTIONS:
        raise ValueError(f"The function {name} cannot stand in a law: use {', '.join(FUNCTIONS)}.")
    return getattr(module, name)(parts[0])
