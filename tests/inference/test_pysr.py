"""PySR in its process: what it is told, what it prints, how it fails. Only the last test searches, where Julia is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference.discovery import Budget, Template
from inference.discovery.dimensions import Units
from inference.discovery.engines import pysr
from pi_vae.law import parse

NAMES = ("lai", "soil_moisture")
UNITS = Units({"lai": "m2 m-2", "soil_moisture": "m3 m-3"}, "dB")
FORM = "f(lai)*exp(-b*lai) + g(soil_moisture)"
X = np.random.default_rng(0).uniform((0, 0.05), (6, 0.45), (60, 2))
Y = X[:, 0] * np.exp(-X[:, 0]) + X[:, 1]

#: A Julia that does nothing: it notes what it is asked for, and a search "finds" the file that the test gives.
STUB = """
import json, os, types
import numpy as np

NOTES = os.environ["STUB_NOTES"]

def note(**told):
    with open(NOTES, "a") as file:
        file.write(json.dumps(told, default=str) + "\\n")

class Anything:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()
    def __call__(self, *args, **kwargs):
        return Anything()
    def __getitem__(self, key):
        return Anything()
    def __setitem__(self, key, value):
        pass
    def __iter__(self):
        return iter((Anything(), Anything()))
    def __sub__(self, other):
        return self

class Search(Anything):
    def __call__(self, x, y, **told):
        note(fit={k: told[k] for k in ("niterations", "variable_names", "X_units", "y_units", "parallelism")},
             weighted=told["weights"] is not None)
        folder = os.path.join(OUT[0], told["run_id"])
        os.makedirs(folder, exist_ok=True)
        with open(os.environ["STUB_HALL"]) as source, open(os.path.join(folder, "hall_of_fame.csv"), "w") as file:
            file.write(source.read())
        return Anything()
    _jl_call_nogil = __call__  # PySR 2 calls this one, PySR 1.5 the former

OUT = []

class Regression(Anything):
    equation_search = Search()
    def Options(self, **told):
        OUT[:] = [told["output_directory"]]
        note(options={k: v for k, v in told.items() if isinstance(v, (int, float, str, type(None)))})
        return Anything()

class Julia(Anything):
    VERSION = types.SimpleNamespace(major=1, minor=11, patch=0)
    SymbolicRegression = Regression()
    def seval(self, source):
        note(source=source)
        return Anything()
    def take_b(self, buffer):
        return [0]
    def isa(self, value, kind):
        return True

class JuliaError(Exception):
    pass

def convert(kind, value):
    return value

Main, AnyValue, VectorValue = Julia(), Anything, Anything
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch):
    """A `juliacall` that only takes notes, for the worker; returns how to set what is found, and the notes."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "juliacall.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("STUB_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("STUB_HALL", str(tmp_path / "hall.csv"))
    monkeypatch.setenv("PI_VAE_PYSR_PYTHON", sys.executable)

    def notes(kind: str) -> list:
        lines = map(json.loads, (tmp_path / "notes").read_text().splitlines())
        return [line[kind] for line in lines if kind in line]

    def found(*equations: str) -> None:
        lines = [f'{length},{1 / length},"{text}"' for length, text in enumerate(equations, 3)]
        (tmp_path / "hall.csv").write_text("\n".join(["Complexity,Loss,Equation", *lines]) + "\n")

    return found, notes


def search(template: Template, budget: Budget | None = None, units: Units | None = UNITS) -> list:
    return pysr.search(X, Y, np.ones(60), NAMES, template, 1, budget or Budget(), units)


def test_the_real_code_of_pysr_takes_a_form(stub) -> None:
    """Constructor, template macro, options and reading of results are PySR's own; no search ran, Julia is a stub."""
    found, notes = stub
    found("f = 2.0; g = #1; b = [0.5]", "f = #1 * 2.0f-1; g = exp(square(#1) + 1.0); b = [0.25]")
    first, second = search(Template(form=FORM))
    assert first.expression == parse("2.0*exp(-0.5*lai) + soil_moisture", NAMES) and first.complexity == 3
    expected = parse("0.2*lai*exp(-0.25*lai) + 2.718281828459045*exp(soil_moisture**2)", NAMES)
    assert abs(complex((second.expression - expected).subs({"lai": 2, "soil_moisture": 0.3}))) < 1e-9
    (macro,) = [source for source in notes("source") if "@template_spec" in source]
    assert "expressions=(f, g,), parameters=(b=1,)," in macro and "do z1, z2" in macro
    assert "f(z1)" in macro and "exp(((-1.0f0) * b[1] * z1))" in macro and "g(z2)" in macro
    (options,) = notes("options")
    assert options["maxsize"] == 20 and options["deterministic"] is True
    assert options["dimensional_constraint_penalty"] is None, "PySR has no units within a form"
    assert notes("weighted") == [True] and notes("fit")[0]["parallelism"] == "serial"


def test_the_real_code_of_pysr_takes_units(stub) -> None:
    """Units and names reach the backend; no search ran, Julia is a stub."""
    found, notes = stub
    found("z1", "z1 * exp(z2 / 0.5)")
    assert len(search(Template(units=True, dimensionless_constants=True))) == 2
    (fit,), (options,) = notes("fit"), notes("options")
    assert fit["variable_names"] == ["z1", "z2"] and fit["X_units"] == ["1", "1"] and fit["y_units"] == "1"
    assert options["dimensional_constraint_penalty"] == 1e5 and options["dimensionless_constants_only"] is True
    told = pysr.settings_of(("cw",), Template(units=True), 1, Budget(), Units({"cw": "ug cm-2"}, "K"))["fit"]
    assert told["X_units"] == ["kg^1 * m^-2"] and told["y_units"] == "K^1"


def test_a_hall_of_fame_is_read_back(stub, tmp_path: Path) -> None:
    """`PySRRegressor.from_file` of PySR itself reads what was left behind; no search ran, Julia is a stub."""
    found, _ = stub
    found("z1", "exp(z1) * 1.5f-1")
    code = (
        "import shutil, sys\nfrom pysr import PySRRegressor\n"
        f"shutil.copy({str(tmp_path / 'hall.csv')!r}, {str(tmp_path / 'hall_of_fame.csv')!r})\n"
        f"model = PySRRegressor.from_file(run_directory={str(tmp_path)!r}, binary_operators=['*'], "
        "unary_operators=['exp'], n_features_in=1, feature_names_in=['z1'])\n"
        "print('|'.join(model.equations_['equation']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().splitlines()[-1].split("|")
    assert pysr.assemble(second, ["lai"], Template()) == parse("0.15*exp(z1)", ["z1"]) and first == "z1"


@pytest.mark.parametrize(
    ("text", "form", "law"),
    [
        ("z1 * (z2 - 1.5e-1)", None, "z1*(z2 - 0.15)"),
        ("square(exp(z1) + square(z2))", None, "(exp(z1) + z2**2)**2"),
        ("╭ f = z1\n├ g = #1\n╰ b = [1.0]", FORM, "lai*exp(-1.0*lai) + soil_moisture"),
        ("g = #1 * #1; b = [2.0f0]; f = 1.0", FORM, "1.0*exp(-2.0*lai) + soil_moisture**2"),
        ("f = #2 + #1", "f(soil_moisture, lai)", "lai + soil_moisture"),
        ("f = #1 * #1", "f(lai) + D(f, 1)(lai)", "lai**2 + 2*lai"),
    ],
)
def test_what_is_printed_is_assembled(text: str, form: str | None, law: str) -> None:
    expected = parse(law, ("z1", "z2", *NAMES))
    assert (pysr.assemble(text, NAMES, Template(form=form)) - expected).simplify() == 0


def test_what_is_not_printed_is_missed() -> None:
    with pytest.raises(ValueError, match="without 'g' of the form"):
        pysr.assemble("f = 1.0", NAMES, Template(form=FORM))


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("import sys; sys.exit('Julia is lost')", "ended with 1; it said last: Julia is lost"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9; it said last: nothing"),
        ("import sys, time; print('busy', file=sys.stderr, flush=True); time.sleep(60)", "took more than 2 s.*busy"),
        ("pass", "ended with 0; it said last: nothing"),
    ],
)
def test_a_worker_that_fails_says_so(monkeypatch, tmp_path: Path, worker: str, message: str) -> None:
    (tmp_path / "worker.py").write_text(worker)
    monkeypatch.setattr(pysr, "WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(pysr, "START_UP", 1.0)
    monkeypatch.delenv("PI_VAE_PYSR_PYTHON", raising=False)
    with pytest.raises(RuntimeError, match=message):
        search(Template(), Budget(seconds=1.0))


def test_it_is_there_only_with_julia(monkeypatch, tmp_path: Path) -> None:
    for key in ("PI_VAE_PYSR_PYTHON", "PYTHON_JULIACALL_EXE", "PYTHON_JULIAPKG_EXE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not pysr.available()
    julia = tmp_path / "julia"
    julia.write_text("")
    julia.chmod(0o755)
    assert pysr.available()
    monkeypatch.setenv("PI_VAE_PYSR_PYTHON", str(tmp_path / "no_python"))
    assert not pysr.available()


@pytest.mark.julia
@pytest.mark.skipif(not pysr.available(), reason="no Julia, or no interpreter with it in PI_VAE_PYSR_PYTHON")
@pytest.mark.parametrize("form", [None, "f(lai) + g(soil_moisture)"])
def test_a_real_search(form: str | None) -> None:
    small = Budget(population=100, generations=10, seconds=300)
    best = search(Template(form=form, operators=["add", "sub", "mul", "exp"]), small)[-1].expression
    value = np.array([float(best.subs(dict(zip(NAMES, row, strict=True)))) for row in X])
    assert np.var(value - Y) < 0.05 * np.var(Y)
