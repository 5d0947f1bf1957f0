"""Source distribution and wheel: what they hold, and that the wheel runs where nothing else of the project lies."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder with a source distribution and the wheel that was built from it."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("needs build")
    try:
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("needs setuptools >= 77, as pyproject.toml says")
    except PackageNotFoundError:
        pytest.skip("needs setuptools, as nothing is downloaded")
    copy = tmp_path_factory.mktemp("packaging") / "copy"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("pi_vae", "inference", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    return copy / "dist"


def source_files() -> set[str]:
    """What a wheel must hold of the packages."""
    kinds = ("*.py", "*.npz", "SOURCES.md", "py.typed")
    found = (file for package in ("pi_vae", "inference") for kind in kinds for file in (ROOT / package).rglob(kind))
    return {file.relative_to(ROOT).as_posix() for file in found}


def test_source_distribution(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[-1] for name in tar.getnames()}
    assert names >= source_files() | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"}


def test_wheel(built: Path) -> None:
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(info)} == source_files()
    assert sum(name.startswith("pi_vae/physics/tables/") for name in names) > 2
    assert f"{info}/licenses/LICENSE" in names
    assert "pi-vae = inference.cli:main" in entry_points


def test_the_wheel_runs(built: Path, tmp_path: Path) -> None:
    """Its dependencies are those of the running environment."""
    (archive,) = built.glob("*.whl")
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, archive]
    run(*pip, cwd=empty)
    places = run(
        sys.executable, "-c", "import inference, pi_vae\nprint(pi_vae.__file__, inference.__file__, sep='\\n')",
        cwd=empty, PYTHONPATH=str(target),
    )  # fmt: skip
    assert [Path(place).parent.parent for place in places.split()] == [target, target]
    printed = run(sys.executable, "-m", "pi_vae", "--version", cwd=empty, PYTHONPATH=str(target))
    assert printed.splitlines()[1].split() == ["pi_vae", archive.name.split("-")[1]]
    (command,) = (target / "bin").glob("pi-vae*")
    assert "--quick" in run(sys.executable, command, "demo", "--help", cwd=empty, PYTHONPATH=str(target), COLUMNS="120")
