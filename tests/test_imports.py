"""The rules of the house: who may import whom, and how long a file may be.

The sources are parsed, not imported: the rules hold for imports inside functions as well. Imports under
``if TYPE_CHECKING`` are left out, as they never run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pi_vae", "inference", "tests", "benchmarks", "tutorials")
SOURCES = sorted(file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))

HEAVY = ("pysr", "pyoperon", "pysindy", "juliacall", "dask", "distributed")
SHAPELESS = ("utils.py", "util.py", "helpers.py", "common.py", "misc.py")

#: folder or file -> packages it must not import
FORBIDDEN = {
    "pi_vae": ("inference",),
    "pi_vae/priors": ("pi_vae.data",),
    "pi_vae/encoders": ("pi_vae.data",),
    "pi_vae/data": ("pi_vae.model", "pi_vae.PhysicsVAE"),
}
#: folder -> all it may import besides the standard library
ALLOWED = {"pi_vae/physics": ("torch", "numpy", "pi_vae.physics")}


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    deferred: bool  # inside a function, hence not run when the module is imported


def imports(source: str, file: Path) -> Iterator[Import]:
    """All imports of a source as absolute names; ``from a import b`` gives ``a.b``."""

    def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        deferred = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # one dot is the package the file lies in, each further dot the one above
            package = list(file.parent.parts)[: len(file.parent.parts) + 1 - node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno, deferred) for alias in node.names)
        for child in children:
            yield from visit(child, deferred)

    return visit(ast.parse(source), False)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def breaches(source: str, file: Path) -> list[str]:
    """Sentences that say which import breaks which rule."""
    found = []
    for item in imports(source, file):
        place = f"{file.as_posix()}:{item.line} imports {item.module}"
        for folder, packages in FORBIDDEN.items():
            if file.is_relative_to(folder) and within(item.module, packages):
                found.append(f"{place}, which {folder} must not import.")
        for folder, packages in ALLOWED.items():
            standard = item.module.split(".")[0] in sys.stdlib_module_names
            if file.is_relative_to(folder) and not standard and not within(item.module, packages):
                found.append(f"{place}, but {folder} imports nothing besides {', '.join(packages)}.")
        if file.parts[0] in ("pi_vae", "inference") and within(item.module, HEAVY) and not item.deferred:
            found.append(f"{place} at its top: import it inside the function that needs it.")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_imports(file: Path) -> None:
    assert breaches((ROOT / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_a_file_is_a_room(file: Path) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400, f"{file} has {len(lines)} lines: divide it by idea."
    long = [number for number, line in enumerate(lines, 1) if len(line) > 120]
    assert not long, f"{file} has more than 120 characters in lines {long}."
    assert file.name not in SHAPELESS, f"{file} has a name that says nothing: name it after its idea."


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pi_vae/physics/leaf.py", "import xarray"),
        ("pi_vae/physics/leaf.py", "from pi_vae.variables import lookup"),
        ("pi_vae/physics/leaf.py", "from ..variables import lookup"),
        ("pi_vae/physics/leaf.py", "def f():\n    import pyro"),
        ("pi_vae/priors/temporal.py", "from pi_vae import data"),
        ("pi_vae/encoders/fusion.py", "from pi_vae.data.batches import Batch"),
        ("pi_vae/encoders/fusion.py", "from ..data.batches import Batch"),
        ("pi_vae/data/simulate.py", "from pi_vae import PhysicsVAE"),
        ("pi_vae/data/simulate.py", "from ..model import PhysicsVAE"),
        ("pi_vae/model.py", "def f():\n    from inference.training import fit"),
        ("inference/prediction.py", "import dask.array as da"),
        ("inference/discovery/engines/pysr.py", "class A:\n    from pysr import PySRRegressor"),
    ],
)
def test_the_rules_bite(file: str, source: str) -> None:
    assert len(breaches(source, Path(file))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "pi_vae/physics/optical.py",
            "import math\nimport torch.nn as nn\nfrom .leaf import Prospect\nfrom . import soil",
        ),
        ("pi_vae/data/simulate.py", "from pi_vae.variables import CATALOGUE\nfrom pi_vae.physics import Prosail"),
        ("pi_vae/model.py", "from .encoders.fusion import Encoder\nfrom .variables import lookup"),
        ("inference/prediction.py", "from pi_vae.data import open_cube\ndef f():\n    import dask.array as da"),
        ("inference/prediction.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dask"),
        ("inference/discovery/engines/pysr.py", "from inference.discovery.engines import pysr"),
    ],
)
def test_the_rules_let_pass(file: str, source: str) -> None:
    assert breaches(source, Path(file)) == []


def test_a_model_does_not_wait_for_what_reads_files() -> None:
    code = "import sys, pi_vae; print({'rasterio', 'pooch', 'numba', 'arviz', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
