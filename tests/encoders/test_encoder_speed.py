"""The benchmark of the encoder runs; its table adds up, and the objective by hand is the one that is trained."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_of_the_encoder_adds_up(tmp_path):
    target = tmp_path / "out.json"
    arguments = "--quick --pixels 9 36 --tile 4 --draws 8 --json".split()
    command = [sys.executable, str(ROOT / "benchmarks" / "encoder_speed.py"), *arguments, str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = json.loads(target.read_text())

    for layout in ("points", "grid"):
        rows = [table["inference"][f"{layout}/threads=1/{pixels}"] for pixels in (9, 36)]
        for row in rows:  # one repeat: the best pass is the only one
            taken = sum(row["seconds"][stage] for stage in ("encode", "posterior", "draws"))
            assert math.isclose(row["pixels"] / row["per_core_second"], taken, rel_tol=1e-6)
            assert min(row["seconds"].values()) > 0 and row["peak_mb"] > 0
        times = [row["pixels"] / row["per_core_second"] for row in rows]
        growth = table["inference"][f"exponent/{layout}/threads=1"]
        assert math.isclose(growth["long"], math.log(times[1] / times[0], 4), rel_tol=1e-6)
        assert math.isclose(growth["all"], growth["long"], rel_tol=1e-6)  # two cubes, one line

    step = table["training"]["threads=1"]
    assert set(step["parts"]) == {"batch", "encoder", "prior", "physics", "likelihood", "optimiser"}
    assert all(step["parts"][part][way] > 0 for part in ("encoder", "prior", "physics") for way in ("forth", "back"))
    seconds = {way: step["seconds"][way]["step"] for way in ("pyro", "hand")}
    assert math.isclose(step["overhead"], seconds["pyro"] / seconds["hand"] - 1, rel_tol=1e-6)
    for way in ("hand", "parts"):
        assert step["apart"][way]["loss"] < 1e-4 and step["apart"][way]["derivatives"] < 1e-2
    for shares in table["largest"].values():
        assert 0 < sum(shares.values()) <= 1 + 1e-9
