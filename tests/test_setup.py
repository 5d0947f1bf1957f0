"""Setting up on a fresh machine: which Python is taken, what is said where there is none, what is left behind."""

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that take part, beside an empty folder of commands."""
    copy = tmp_path / "checkout"
    (copy / ".ci").mkdir(parents=True)
    for name in (".ci/setup", "Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy / name)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "sh", "rm", "mkdir", "cat", "chmod"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return copy


def run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run with nothing on PATH but the folder of commands."""
    commands = checkout.parent / "bin"
    environment = {"PATH": str(commands), "HOME": str(checkout.parent)}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


def script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{BASH}\n{text}\n")
    file.chmod(0o755)


def fake_python(file: Path, *, version: int, pip: int = 0) -> None:
    """A command that answers as Python 3.``version`` would, and notes its own name in the environment it makes."""
    script(
        file,
        f"""
if [ "$1" = -c ]; then exit {int(version < 12)}; fi
if [ "$2" = venv ]; then
    mkdir -p .venv/bin
    echo "$0" >.venv/made_by
    cat "$0" >.venv/bin/python
    chmod +x .venv/bin/python
fi
if [ "$2" = pip ] && [ "$3" = install ]; then echo "$*" >.venv/asked; exit {pip}; fi
""",
    )


SENTENCE = (
    "No Python 3.12 or later with venv found on PATH or in pyenv: "
    "install one (such as python3.12 and python3.12-venv) and run make again.\n"
)


@pytest.mark.parametrize("state", ["no Python", "old Python", "shim that refuses"])
def test_no_python(checkout: Path, state: str) -> None:
    commands = checkout.parent / "bin"
    if state == "old Python":
        fake_python(commands / "python3", version=11)
    if state == "shim that refuses":
        script(commands / "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    done = run(checkout, BASH, ".ci/setup")
    assert done.returncode == 1
    assert done.stderr == SENTENCE and done.stdout == ""
    assert not (checkout / ".venv").exists(), "nothing half-made is left"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "types"])
def test_make_stops_without_python(checkout: Path, target: str) -> None:
    done = run(checkout, shutil.which("make"), target)
    assert done.returncode != 0
    assert SENTENCE in done.stderr
    assert not (checkout / ".venv").exists()


def test_python_3_12_is_preferred(checkout: Path) -> None:
    commands = checkout.parent / "bin"
    for name, version in (("python3.14", 14), ("python3.12", 12), ("python3", 13)):
        fake_python(commands / name, version=version)
    done = run(checkout, BASH, ".ci/setup")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv" / "made_by").read_text().strip() == str(commands / "python3.12")
    assert "-c constraints.txt -e .[test]" in (checkout / ".venv" / "asked").read_text()
    assert (checkout / ".venv" / ".installed").exists()


def test_pyenv_is_searched(checkout: Path) -> None:
    hidden = checkout.parent / ".pyenv" / "versions" / "3.13.1" / "bin" / "python"
    fake_python(hidden, version=13)
    fake_python(checkout.parent / "bin" / "python3", version=10)
    assert run(checkout, BASH, ".ci/setup").returncode == 0
    assert (checkout / ".venv" / "made_by").read_text().strip() == str(hidden)


def test_failed_installation_is_said_and_tried_again(checkout: Path) -> None:
    fake_python(checkout.parent / "bin" / "python3", version=12, pip=1)
    done = run(checkout, BASH, ".ci/setup")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Installing the pinned dependencies into .venv failed")
    assert not (checkout / ".venv" / ".installed").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_up_to_date_environment_is_left_alone(checkout: Path) -> None:
    fake_python(checkout.parent / "bin" / "python3", version=12)
    stamp = ".venv/.installed"
    make = shutil.which("make")
    assert run(checkout, make, stamp).returncode == 0
    assert "up to date" in run(checkout, make, stamp).stdout
    later = (checkout / stamp).stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (later, later))
    assert "Installing" in run(checkout, make, stamp).stderr


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all("==" in pin and "/" not in pin and "@" not in pin for pin in pins)


@pytest.mark.parametrize("module", ["pi_vae.data.cube", "inference.training"])
def test_our_warnings_are_errors(module: str) -> None:
    """The filter of setup.cfg takes a warning by the module that raises it."""
    with pytest.raises(UserWarning, match="of ours"):
        exec("warnings.warn('of ours')", {"__name__": module, "warnings": warnings})
