"""What goes wrong with a disk ends with one sentence, and nothing that was done is lost."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import xarray as xr

from inference import Run, fit, predict, prediction, training
from pi_vae.data import CubeError, open_cube

SMALL = {"device": "cpu", "patches": 2, "patch_size": 5, "pixels": 12, "progress": False}


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing fails as it does where there is no room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def damaged(simulated, tmp_path) -> Path:
    """A cube on disk whose largest chunk is cut off."""
    path = tmp_path / "cube.zarr"
    simulated.to_zarr(path, zarr_format=3, consolidated=False)
    chunks = [f for f in (path / "s2" / "reflectance" / "c").rglob("*") if f.is_file()]
    largest = max(chunks, key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    return path


def test_a_chunk_that_is_cut_off_is_named(build, damaged, tmp_path) -> None:
    words = r"Node 's2' cannot be read \(.*: a chunk or file of it is damaged or was cut off, so copy it anew"
    cube = xr.open_datatree(damaged, engine="zarr", consolidated=False, chunks={})
    with pytest.raises(CubeError, match=words):
        open_cube(str(damaged))
    with pytest.raises(CubeError, match=words):
        fit(build(), cube, 2, **SMALL)
    with pytest.raises(CubeError, match=words):
        predict(Run(build().eval()), cube, tmp_path / "maps", draws=2)
    assert not (tmp_path / "maps").exists()


def test_a_full_disk_stops_a_fit_and_the_last_checkpoint_stays(build, simulated, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    whole = fit(build(), simulated, 12, checkpoint=tmp_path / "whole", **SMALL)
    write, written = training._write, []

    def filling(state: dict, folder: Path) -> None:
        with full_disk(1000 if written else 10**9):
            written.append(state["step"])
            write(state, folder)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_write", filling)
        with pytest.raises(
            OSError, match=r"checkpoint cannot be written to .*: is the disk full\? Make room and call ag"
        ):
            fit(build(), simulated, 12, checkpoint=tmp_path / "run", **SMALL)
    assert written == [4, 8] and [f.name for f in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4
    again = fit(build(), simulated, 12, checkpoint=tmp_path / "run", **SMALL)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_full_disk_stops_a_map_and_its_tiles_stay(build, simulated, tmp_path, monkeypatch) -> None:
    run = Run(build().eval())
    whole = predict(run, simulated, tmp_path / "whole", draws=4, tile=4)
    write, done = prediction._write_tile, []

    def filling(*arguments) -> None:
        with full_disk(10 if len(done) == 2 else 10**9):
            write(*arguments)
        done.append(arguments[-1])

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "_write_tile", filling)
        with pytest.raises(
            OSError, match=r"Maps cannot be written to .*maps .*make room.*tiles that are done are kept"
        ):
            predict(run, simulated, tmp_path / "maps", draws=4, tile=4)
    left = xr.open_zarr(tmp_path / "maps", consolidated=False).flags
    assert all((left.isel(y=y, x=x) != prediction.UNTOUCHED).all() for y, x in done)
    again = predict(run, simulated, tmp_path / "maps", draws=4, tile=4)
    xr.testing.assert_identical(whole.load(), again.load())


def test_a_full_disk_leaves_no_half_a_store(build, simulated, tmp_path) -> None:
    run = Run(build().eval())
    with full_disk(10), pytest.raises(OSError, match="Maps cannot be written to"):
        predict(run, simulated, tmp_path / "maps", draws=4)
    assert not (tmp_path / "maps").exists()
    assert predict(run, simulated, tmp_path / "maps", draws=4).lai_mean.notnull().all()
