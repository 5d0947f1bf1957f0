"""`kill -9` at random moments: fits end at the same bits, stores at the same maps, as if nothing had happened."""

import json
import subprocess
import sys
import textwrap

import pytest

# Imports once, then forks a worker for every attempt: what is killed is the whole process that does the work.
PROGRAM = """
import json, os, random, signal, sys, time
import torch
import xarray as xr
import inference.training
from inference import fit, load, predict
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import open_cube

what, cube_path, folder, kills = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
inference.training.SAVE_EVERY = 4
BANDS = ("B03", "B04", "B08")


def work(target):
    cube = open_cube(cube_path)
    torch.manual_seed(0)
    parts = {"s2": Optical(BANDS, nodes=1, residual=1), "s1": Radar(residual=1)}
    model = PhysicsVAE(parts, width=16, layers=1)
    os.write(pipe, b"ready")
    if what == "fit":
        fit(model, cube, 60, device="cpu", checkpoint=target, patches=2, patch_size=8, pixels=24, progress=False)
    else:
        predict(load(folder + "/run", model), cube, target, draws=6, tile=4)


def attempt(target, seconds):
    '''Work in a process of its own, killed so many seconds after it has begun; whether it was.'''
    global pipe
    reader, pipe = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(target)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.read(reader, 5)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("the work failed")
    return os.WIFSIGNALED(status)


random.seed(0)
start = time.monotonic()
attempt(folder + "/whole", None)
duration = time.monotonic() - start
hit = sum(attempt(folder + "/killed", random.uniform(0.0, 0.2) * duration) for _ in range(kills))
attempt(folder + "/killed", None)
print(json.dumps({"hit": hit}))
"""


def killed(what: str, cube: str, folder: str, kills: int) -> int:
    """How many of the attempts were killed before they had come to their end."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), what, cube, folder, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])["hit"]


@pytest.fixture
def cube(simulated, tmp_path) -> str:
    path = tmp_path / "cube.zarr"
    simulated.to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


@pytest.mark.slow
def test_a_fit_that_is_killed_ten_times_ends_at_the_same_bits(cube, tmp_path) -> None:
    import torch

    assert killed("fit", cube, str(tmp_path), 10) >= 4
    whole, resumed = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "killed"))
    assert whole["model"].keys() == resumed["model"].keys()
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    assert whole["history"]["loss"] == resumed["history"]["loss"]


@pytest.mark.slow
def test_a_map_that_is_killed_ten_times_ends_the_same(build, simulated, cube, tmp_path) -> None:
    import xarray as xr

    from inference import fit

    fit(build(), simulated, 3, device="cpu", checkpoint=tmp_path / "run", progress=False)
    assert killed("predict", cube, str(tmp_path), 10) >= 4
    whole, resumed = (xr.open_zarr(tmp_path / name, consolidated=False).load() for name in ("whole", "killed"))
    xr.testing.assert_identical(whole, resumed)
