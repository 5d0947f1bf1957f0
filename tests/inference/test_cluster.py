"""Tiles on a cluster: the same maps, whoever computes them, and nothing is lost with a worker."""

import os
import signal

import pytest
import xarray as xr
from distributed import Client, LocalCluster, get_worker

from inference import predict
from inference.cluster import each


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


def where(add: int, part: int) -> tuple[int, str]:
    return add + part, get_worker().address


def fails(part: int) -> int:
    if part == 2:
        raise ValueError(f"Part {part} is bad.")
    return part


def dies_once(marker: str, part: int) -> int:
    if part == 1 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def dies(part: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)


def test_without_a_client_parts_are_done_here_in_order():
    assert list(each(lambda a, b, part: (a, b, part), ("a", "b"), [3, 1, 2])) == [("a", "b", p) for p in (3, 1, 2)]


def test_workers_share_the_parts(client):
    results = list(each(where, (10,), list(range(40))))
    assert sorted(number for number, _ in results) == list(range(10, 50))
    assert len({address for _, address in results}) == 2


def test_maps_of_a_cluster_are_those_of_one_process(client, run, simulated, tmp_path):
    shared = predict(run, simulated, tmp_path / "shared.zarr", draws=4, tile=5).load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.cluster._client", lambda: None)
        alone = predict(run, simulated, tmp_path / "alone.zarr", draws=4, tile=5).load()
    assert len(shared["y"]) > 5
    xr.testing.assert_allclose(shared, alone, rtol=1e-5, atol=1e-6)


def test_what_fails_there_is_said_here(client):
    with pytest.raises(ValueError, match="Part 2 is bad"):
        list(each(fails, (), [0, 1, 2, 3]))


def test_a_worker_that_is_lost_is_replaced(client, tmp_path):
    assert sorted(each(dies_once, (str(tmp_path / "dead"),), list(range(6)))) == list(range(6))
    assert (tmp_path / "dead").exists()


def test_workers_that_are_lost_again_and_again_end_it_with_a_sentence(client):
    with pytest.raises(RuntimeError, match="lost again and again.*call again"):
        list(each(dies, (), [0]))


def test_the_script_of_a_job_asks_for_what_it_should():
    """A process for each core, of one thread, in an environment."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    options = {"queue": "cpu", "cores": 32, "processes": 32, "memory": "128GB", "walltime": "04:00:00"}
    prologue = ["export OMP_NUM_THREADS=1", "source venv/bin/activate"]
    for kind, asked in (("SLURMCluster", ("#SBATCH -p cpu", "#SBATCH --cpus-per-task=32", "#SBATCH -t 04:00:00")),
                        ("PBSCluster", ("#PBS -q cpu", "ncpus=32", "#PBS -l walltime=04:00:00"))):  # fmt: skip
        scheduler = {"dashboard_address": None}
        make = getattr(jobqueue, kind)
        with make(**options, interface="lo", job_script_prologue=prologue, scheduler_options=scheduler) as cluster:
            script = cluster.job_script()
        assert all(line in script for line in (*asked, *prologue)), script
        assert "--nworkers 32" in script and "--nthreads 1" in script
