"""PySR: evolutionary search in Julia, which can search within a prescribed form and consistent units.

Importing PySR starts Julia, which is fragile beside torch in one process: it runs in `pysr_worker`, a process of its
own, under the interpreter ``PI_VAE_PYSR_PYTHON`` or else this one. Served are PySR 1.5 and 2.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import sympy

from inference.discovery.dimensions import Units, dimension
from inference.discovery.engines import CHECKED, Budget, Candidate, Scaling, anchored
from inference.discovery.expressions import canonical
from inference.discovery.forms import Form
from inference.discovery.template import Template
from pi_vae.law import parse

__all__ = ["CAPABILITIES", "INSTALL", "assemble", "available", "search", "settings_of"]

CAPABILITIES = CHECKED | {"form", "derivatives"}
INSTALL = "pip install pysr and install Julia, or name a Python that has both in PI_VAE_PYSR_PYTHON"
WORKER = Path(__file__).with_name("pysr_worker.py")
BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
FUNCTIONS = ("exp", "log", "sin", "cos")
ISLAND = 27  # members of one population
PENALTY = 1e5  # loss for inconsistent units
ARGUMENT = 9  # greatest length of the argument of a function
START_UP = 900.0  # seconds: Julia starts and compiles, at the first time it installs
TAIL = 800  # characters of what a failed worker said


def available() -> bool:
    """Whether PySR and Julia are there, by their files alone; a named interpreter is believed to have both."""
    named = os.environ.get("PI_VAE_PYSR_PYTHON")
    if named:
        return shutil.which(named) is not None
    return importlib.util.find_spec("pysr") is not None and _julia() is not None


def _julia() -> str | None:
    """Path of a Julia that juliacall would take without installing one."""
    for key in ("PYTHON_JULIACALL_EXE", "PYTHON_JULIAPKG_EXE"):
        if os.environ.get(key):
            return shutil.which(os.environ[key])
    own = Path(sys.prefix) / "julia_env" / "pyjuliapkg" / "install" / "bin"
    return shutil.which("julia") or shutil.which("julia", path=own)


def search(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    template: Template,
    seed: int,
    budget: Budget,
    units: Units | None = None,
) -> list[Candidate]:
    """Search equations, see `inference.discovery.engines.operon.search`.

    Searched within are operators, length, form and units; with a form, units are left to the caller, as PySR can not do
    both. Limits enter as heavy rows besides, see `anchored`.

    Raises:
        RuntimeError: the worker failed, was killed or took too long.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(y), min(len(y), budget.rows), replace=False))
    x, y, weights = x[chosen], y[chosen], weights[chosen] / weights[chosen].mean()
    scaling = Scaling.of(x, y)
    if not scaling.spread > 0:
        return []
    if template.free is not None or template.dimensionless_constants:
        # The numbers of a form, and constants without units, belong to the inputs as they are.
        scaling = Scaling(np.ones(len(names)), np.zeros(len(names)), 1.0, 0.0)
    x, y, weights = anchored(template, x, y, weights, names)
    x, y = scaling.apply(x, y)
    result = _run(settings_of(names, template, int(rng.integers(2**31)), budget, units), x, y, weights, budget)
    candidates = []
    for found in result["equations"]:
        try:
            expression = assemble(found["equation"], names, template)
        except ValueError:  # not finite or not real
            continue
        if template.free is None:
            expression = scaling.undo(expression, _letters(names), names)
        candidates.append(Candidate(expression, found["complexity"]))
    return candidates


def settings_of(
    names: Sequence[str], template: Template, seed: int, budget: Budget, units: Units | None = None
) -> dict[str, dict | None]:
    """What the worker reads, see there; the inputs are called ``z1``, ``z2`` … in it."""
    unary = [name for name in template.operators if name not in BINARY]
    functions = [name for name in FUNCTIONS if name in unary]
    options = {
        "binary_operators": [BINARY[name] for name in template.operators if name in BINARY],
        "unary_operators": unary,
        "maxsize": max(template.max_length, 7),
        "niterations": budget.generations,
        "populations": max(round(budget.population / ISLAND), 2),
        "population_size": ISLAND,
        "constraints": {name: ARGUMENT for name in unary},
        "nested_constraints": {outer: {inner: 0 for inner in functions} for outer in functions},
        "elementwise_loss": "L2DistLoss()",
        "timeout_in_seconds": budget.seconds,
        "parallelism": "serial",
        "deterministic": True,
        "random_state": seed,
        "batching": False,
        "progress": budget.progress,
        "verbosity": int(budget.progress),
        "temp_equation_file": False,
    }
    fit: dict[str, object] = {"variable_names": _letters(names)}
    form = template.free
    if template.units and units is not None and form is None:
        options["dimensional_constraint_penalty"] = PENALTY
        options["dimensionless_constants_only"] = template.dimensionless_constants
        fit["X_units"] = [_unit(units.inputs[name]) for name in names]
        fit["y_units"] = _unit(units.target)
    spec = None
    if form is not None:
        spec = {
            "combine": _combine(form, names),
            "expressions": list(form.functions),
            "variable_names": _letters(names),
            "parameters": dict.fromkeys(form.constants, 1) or None,
        }
    return {"options": options, "form": spec, "fit": fit}


def assemble(text: str, names: Sequence[str], template: Template) -> sympy.Expr:
    """Expression of what PySR prints.

    Args:
        text: an equation in ``z1``, ``z2`` …; of a form, ``"f = #1 * 2.0; g = exp(#1); b = [0.5]"``, in which ``#1`` or
            ``z1`` is the first argument of the function, whichever input that is.
        names: of the inputs.
        template: whose form it is.

    Returns:
        In the letters ``z1``, ``z2`` … without a form, in the inputs with one.

    Raises:
        ValueError: the text is no equation.
    """
    form = template.free
    if form is None:
        return _expression(text, _letters(names))
    said = dict(
        re.split(r"\s*=\s*", part.strip(" ╭├╰\n"), maxsplit=1) for part in re.split(r"[;\n]", text) if "=" in part
    )
    missing = [name for name in (*form.functions, *form.constants) if name not in said]
    if missing:
        raise ValueError(f"PySR printed {text!r}, without {missing[0]!r} of the form {form.text!r}: report it.")
    parts = {}
    for name, arguments in form.functions.items():
        letters = _letters(arguments)
        part = canonical(_expression(said[name].replace("#", "z"), letters))
        parts[name] = part.xreplace(dict(zip(map(sympy.Symbol, letters), map(sympy.Symbol, arguments), strict=True)))
    constants = {name: float(_number(said[name].strip("[] "))) for name in form.constants}
    return form.assemble(parts, constants)


def _letters(names: Sequence[str]) -> list[str]:
    return [f"z{i}" for i in range(1, len(names) + 1)]


def _number(text: str) -> str:
    """Julia writes 32-bit exponents with an f."""
    return re.sub(r"(?<=[\d.])f(?=[+-]?\d)", "e", text)


def _expression(text: str, letters: Sequence[str]) -> sympy.Expr:
    # The one function of PySR that laws do not have is a power of what follows in brackets.
    return parse(_squares(_number(text).replace("^", "**")), letters)


def _squares(text: str) -> str:
    """``square(u)`` as ``((u)**2)``."""
    while (at := re.search(r"\bsquare\(", text)) is not None:
        depth, end = 1, at.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        text = f"{text[: at.start()]}(({text[at.end() : end - 1]})**2){text[end:]}"
    return text


def _combine(form: Form, names: Sequence[str]) -> str:
    """The form in Julia; its numbers are 32-bit like the data, as PySR 1.5 does not convert them."""
    letters = dict(zip(names, _letters(names), strict=True))

    def write(node: sympy.Expr) -> str:
        if node in form.places:
            name, position = form.places[node]
            function = f"D({name}, {position})" if position else name
            return f"{function}({', '.join(letters[a] for a in form.functions[name])})"
        if node.is_Symbol:
            return f"{node.name}[1]" if node.name in form.constants else letters[node.name]
        if node.is_number and not node.is_Function:
            digits = f"{float(node)!r}"
            return f"({digits.replace('e', 'f') if 'e' in digits else digits + 'f0'})"
        if node.is_Add or node.is_Mul:
            return f"({(' + ' if node.is_Add else ' * ').join(map(write, node.args))})"
        if node.is_Pow:
            base, exponent = node.args
            if exponent == sympy.Rational(1, 2):
                return f"sqrt({write(base)})"
            return f"({write(base)}^{f'({exponent})' if exponent.is_Integer else write(exponent)})"
        return f"{node.func.__name__}({write(node.args[0])})"

    return write(form.expression)


def _unit(unit: str) -> str:
    """A unit as DynamicQuantities reads it, reduced to base units: scale does not matter."""
    powers = [f"{base}^{exponent}" for base, exponent in sorted(dimension(unit).items())]
    return " * ".join(powers) or "1"


def _run(settings: Mapping, x: np.ndarray, y: np.ndarray, weights: np.ndarray, budget: Budget) -> dict:
    """What the worker wrote.

    Raises:
        RuntimeError: it failed, was killed or took too long; with the end of what it said.
    """
    python = os.environ.get("PI_VAE_PYSR_PYTHON") or sys.executable
    with tempfile.TemporaryDirectory(prefix="pysr-") as name:
        folder = Path(name)
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        np.savez(folder / "data.npz", x=x, y=y, weights=weights)
        # Run from a copy: beside the original lies this file, which would be imported in place of PySR.
        worker = shutil.copy(WORKER, folder / "worker.py")
        errors = folder / "errors.txt"
        limit = budget.seconds + START_UP
        try:
            with errors.open("w", encoding="utf-8") as said:
                out = None if budget.progress else subprocess.DEVNULL
                done = subprocess.run(
                    [python, str(worker), str(folder)], stdin=subprocess.DEVNULL, stdout=out, stderr=said, timeout=limit
                )
            fate = (
                f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
            )
        except subprocess.TimeoutExpired:
            done, fate = None, f"took more than {limit:g} s"
        except OSError as error:
            raise RuntimeError(f"PySR cannot be started with {python!r}: {error}.") from error
        result = folder / "result.json"
        if done is None or done.returncode or not result.exists():
            tail = errors.read_text(encoding="utf-8", errors="replace").strip()[-TAIL:]
            raise RuntimeError(f"The process of PySR under {python!r} {fate}; it said last: {tail or 'nothing'}")
        return json.loads(result.read_text(encoding="utf-8"))
