"""The benchmarks run, on whatever machine, and their tables can be believed: numbers of one run, peers named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, folder: Path) -> tuple[str, dict]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    target = folder / "out.json"
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments, "--json", str(target)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(target.read_text())


@pytest.mark.slow
def test_gpu_says_where_it_ran_and_stays_below_its_bound(tmp_path: Path) -> None:
    text, table = run("gpu.py", "--device", "cpu", "--quick", "--batch", "200", "--repeats", "1", folder=tmp_path)
    assert "No accelerator here" in text
    assert 0 < table["separate operations/200"]["fraction"] < 1


@pytest.mark.slow
def test_speed_names_absent_peers_and_how_to_get_them(tmp_path: Path) -> None:
    text, table = run("physics_speed.py", "--quick", "--batch", "100", "--repeats", "1", folder=tmp_path)
    assert table["K=3/threads=1/batch=100"]["backward"]["per_core_second"] > 0
    row = table["torchrtm/threads=1/batch=100"]
    assert "backward" in row or "pip install 'torchrtm==1.5.8'" in row["absent"] and row["absent"] in text
