"""A fit shared by two processes is that of one which works through the same parts."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from inference import fit, load
from inference.processes import Processes
from pi_vae import Optical, PhysicsVAE, Radar

SMALL = {"device": "cpu", "patches": 2, "patch_size": 5, "pixels": 12, "progress": False}
STEPS = 12

PROGRAM = """
import os, sys
import torch
import inference.training
from inference import fit
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import open_cube

cube, folder, steps, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rank = os.environ["RANK"]
torch.set_num_threads(1)
torch.manual_seed(int(rank))  # whatever a process began with, the weights of the first are taken
parts = {"s2": Optical(("B03", "B04", "B08"), nodes=1, residual=1), "s1": Radar(residual=1)}
model = PhysicsVAE(parts, width=16, layers=1)
inference.training.SAVE_EVERY = 4
if stop:
    whole, taken = inference.training.Phase.step, 0

    def step(self):
        global taken
        taken += 1
        if taken > stop:
            os._exit(3)
        whole(self)

    inference.training.Phase.step = step
run = fit(model, open_cube(cube), steps, device="cpu", checkpoint=folder, patches=2, patch_size=5, pixels=12,
          progress=False)
torch.save((model.state_dict(), run.history), f"{folder}/rank{rank}.pt")
"""


def _model() -> PhysicsVAE:
    torch.manual_seed(0)
    parts = {"s2": Optical(("B03", "B04", "B08"), nodes=1, residual=1), "s1": Radar(residual=1)}
    return PhysicsVAE(parts, width=16, layers=1)


def _shared(cube: str, folder: Path, stop: int = 0) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    script = [sys.executable, "-c", textwrap.dedent(PROGRAM), cube, str(folder), str(STEPS), str(stop)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(launcher + script, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture
def cube(simulated, tmp_path) -> str:
    path = tmp_path / "cube.zarr"
    simulated.to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


def test_two_processes_end_where_one_does_interrupted_or_not(cube, simulated, tmp_path) -> None:
    one = fit(_model(), simulated, STEPS, parts=2, **SMALL)
    two = tmp_path / "two"
    interrupted = _shared(cube, two, stop=6)
    assert interrupted.returncode != 0 and (two / "checkpoint.pt").exists()
    alone = fit(_model(), simulated, STEPS, parts=2, checkpoint=shutil.copytree(two, tmp_path / "alone"), **SMALL)
    finished = _shared(cube, two)
    assert finished.returncode == 0, finished.stderr[-3000:]
    (first, history), (second, _) = (torch.load(two / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        # Sums of two gradients in another order: rounding, which Adam lets grow where gradients are small.
        for other in (one, alone):
            torch.testing.assert_close(value, other.model.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert history["loss"] == pytest.approx(one.history["loss"], rel=1e-6)
    assert load(two, _model()).history["loss"] == history["loss"]


def test_parts_are_batches_of_one_step(simulated) -> None:
    """A step of two parts has half the variance, and another loss, than a step of one."""
    one, two = (fit(_model(), simulated, 3, parts=p, **SMALL) for p in (1, 2))
    assert one.history["loss"][0] != two.history["loss"][0]
    again = fit(_model(), simulated, 3, **SMALL)
    assert again.history["loss"] == one.history["loss"]


def test_parts_that_cannot_be_shared_are_refused(simulated) -> None:
    with pytest.raises(ValueError, match=r"parts is 0, and there are 1 process\(es\): give a multiple"):
        fit(_model(), simulated, 3, parts=0, **SMALL)


def test_gradients_of_one_process_stay_as_they_are() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([1.0, 2.0])
    crew = Processes("cpu", None)
    crew.sum_gradients([p, torch.nn.Parameter(torch.ones(1))])
    assert p.grad.tolist() == [1.0, 2.0] and crew.mean_loss([3.0]) == 3.0 and crew.parts == 1
