"""The benchmark of the backends runs, and its table holds what it says."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_backend_is_measured_against_dense_in_one_run(tmp_path):
    target = tmp_path / "out.json"
    arguments = "--kernels matern32 --dates 16 64 --series 256 --repeats 1 --json".split()
    command = [sys.executable, str(ROOT / "benchmarks" / "temporal.py"), *arguments, str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cases = json.loads(target.read_text())["matern32"]["cases"]
    case = cases["64/256"]
    assert set(case["seconds"]) == {"dense", "eigen", "kalman"} and case["rule"] == "kalman"
    assert case["slower"] == case["seconds"][case["rule"]] / min(case["seconds"].values()) - 1
    for backend in ("dense", "kalman"):  # of the two sizes measured; how large it is depends on the load of the machine
        times = [cases[f"{dates}/256"]["seconds"][backend] for dates in (16, 64)]
        assert math.isclose(cases[f"exponent/{backend}/256"]["long"], math.log(times[1] / times[0], 4), rel_tol=1e-6)
