"""Where a law tends to: the limit by SymPy within a fixed time, else by numbers."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import sympy

from inference.discovery.expressions import values_of
from pi_vae.law import FUNCTIONS

__all__ = ["symbolic_limit", "tends_to"]

SECONDS = 0.5
ROWS = 3  # at which the other inputs are held for SymPy
STEPS = (1e2, 1e5, 1e8, 1e11)  # times the range of the data, towards infinity; its inverse, towards a number


class _Late(BaseException):
    """No Exception, lest SymPy catches it."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `_Late` after a time."""

    def late(*_) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _timed() -> bool:
    """Whether time can be kept: not in another thread than the first, nor where an alarm is set."""
    alarm = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    return alarm and not signal.getitimer(signal.ITIMER_REAL)[0]


def _limit(expression: sympy.Expr, x: sympy.Symbol, approach: sympy.Expr, side: str) -> sympy.Expr | None:
    """The limit; None if SymPy does not find it in time, or time cannot be kept."""
    if not _timed():
        return None
    try:
        with _at_most(SECONDS):
            found = sympy.limit(expression, x, approach, side)
    except (_Late, Exception):  # SymPy raises nearly anything where a limit is beyond it
        return None
    return None if found.has(sympy.Limit, sympy.AccumBounds, sympy.nan) else found


def symbolic_limit(form: sympy.Expr, name: str, approach: float, start: Mapping[str, float]) -> sympy.Expr | None:
    """Limit of a form as an expression in its coefficients and the other inputs.

    Args:
        form: in inputs and coefficients.
        name: the input.
        approach: a number, or an infinite one.
        start: coefficient -> value; only the sign matters, as in the limit of ``exp(c0*x)``. Inputs are taken for
            positive.

    Returns:
        The limit, which may be infinite; None where it is not found or holds functions that laws do not have.
    """
    if np.isinf(approach) and not _timed():
        return None  # and it is not to be remembered
    return _symbolic(form, name, approach, frozenset(k for k, value in start.items() if value < 0))


@functools.lru_cache(maxsize=4096)  # the same forms come again in every search
def _symbolic(form: sympy.Expr, name: str, approach: float, negative: frozenset[str]) -> sympy.Expr | None:
    x = sympy.Symbol(name)
    if np.isfinite(approach):
        found = form.subs(x, sympy.nsimplify(approach, rational=True))
        return None if found.has(sympy.nan) else found
    stand_ins = {s: sympy.Dummy(s.name, positive=True) for s in form.free_symbols if s != x}
    signed = {s: -d if s.name in negative else d for s, d in stand_ins.items()}
    found = _limit(form.xreplace(signed), x, _point(approach), "+")
    back = {d: -s if s.name in negative else s for s, d in stand_ins.items()}
    found = None if found is None else found.xreplace(back)
    if (
        found is None
        or found.has(sympy.I)
        or any(f.func.__name__ not in FUNCTIONS for f in found.atoms(sympy.Function))
    ):
        return None
    return found


def tends_to(
    expression: sympy.Expr,
    name: str,
    approach: float,
    value: float,
    names: Sequence[str],
    rows: np.ndarray,
    slack: float,
) -> bool:
    """Whether a law tends to a value, whatever its other inputs are.

    Args:
        expression: with numbers for its coefficients.
        name: the input that approaches.
        approach: a number, or an infinite one. A number at or beyond the edge of the rows is approached from inside.
        value: where the law should tend.
        names: inputs, in the order of the columns.
        rows: `[row, input]` at which the other inputs are held.
        slack: error that is none.
    """
    column = list(names).index(name)
    low, high = rows[:, column].min(), rows[:, column].max()
    side = "+" if approach <= low else "-" if approach >= high else "+-"
    x = sympy.Symbol(name)
    exact = sympy.nsimplify(expression, rational=True)
    for row in rows[np.linspace(0, len(rows) - 1, ROWS).astype(int)]:
        held = {sympy.Symbol(n): sympy.Rational(f"{v:.6g}") for n, v in zip(names, row, strict=True) if n != name}
        found = _limit(exact.subs(held), x, _point(approach), "+" if np.isinf(approach) else side)
        if found is None:
            return _numerically(expression, column, approach, value, names, rows, slack)
        if not found.is_finite or not found.is_real or abs(float(found) - value) > slack:
            return False
    return True


def _numerically(
    expression: sympy.Expr,
    column: int,
    approach: float,
    value: float,
    names: Sequence[str],
    rows: np.ndarray,
    slack: float,
) -> bool:
    """Whether the error shrinks to next to nothing on the way."""
    low, high = rows[:, column].min(), rows[:, column].max()
    reach = max(high - low, abs(high), abs(low), 1e-9)
    if np.isinf(approach):
        ways = [[np.sign(approach) * reach * step for step in STEPS]]
    else:
        inward = [s for s, inside in ((1.0, approach < high), (-1.0, approach > low)) if inside]
        ways = [[approach + sign * reach / step for step in STEPS] for sign in inward]
    for way in ways:
        errors = []
        for at in way:
            moved = rows.copy()
            moved[:, column] = at
            errors.append(np.abs(values_of(expression, {}, names, moved) - value).max())
        if not (errors[-1] <= 1e3 * slack and errors[-1] <= errors[0] + slack):
            return False
    return True


def _point(approach: float) -> sympy.Expr:
    if np.isinf(approach):
        return sympy.oo if approach > 0 else -sympy.oo
    return sympy.nsimplify(approach, rational=True)
