"""Cubes that stay on disk: patches, tiles and pixels are those of the cube in memory, and so are fits and maps."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from inference import fit, posterior, predict
from pi_vae.data import open_cube, pattern, scene
from pi_vae.data.scene import Cubes, Scene, open_tensors
from pi_vae.data.tensors import CubeTensors

BANDS = ("B03", "B04", "B08")


@pytest.fixture(scope="module")
def on_disk(simulated, tmp_path_factory):
    """The simulated cube in chunks on disk."""
    path = tmp_path_factory.mktemp("scene") / "cube.zarr"
    simulated.to_zarr(path, zarr_format=3, consolidated=False)
    return open_cube(path)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return a == b


def both(cube: xr.DataTree) -> tuple[CubeTensors, Scene]:
    channels = {name: tuple(node["band" if "band" in node else "pol"].values) for name, node in cube.children.items()
                if name != "truth"}  # fmt: skip
    return CubeTensors.read(cube, channels), Scene(cube, channels)


def test_patches_tiles_and_pixels_are_those_of_the_cube_in_memory(on_disk) -> None:
    whole, parts = both(on_disk)
    assert parts.shape == whole.shape and parts.pixels == whole.pixels and parts.finest == whole.finest
    assert same(parts.index, whole.index) and np.array_equal(parts.times, whole.times)
    found = [d.patches(5, 6, 40, torch.Generator().manual_seed(3)) for d in (whole, parts)]
    assert same(*found)
    for one, other in zip(whole.tiles(5, 3), parts.tiles(5, 3), strict=True):
        assert one[:2] == other[:2] and same(one[2], other[2])
    rows, columns = torch.tensor([0, 9, 4]), torch.tensor([0, 11, 5])
    assert same(whole.at(rows, columns, 7), parts.at(rows, columns, 7))


def test_pixels_of_different_sizes_stay_together() -> None:
    cube = pattern(size=12, bands=(*BANDS, "B11"))
    node = cube["s2"].to_dataset()
    rng = np.random.default_rng(0)
    node["reflectance"] = node["reflectance"].copy(data=rng.random(node["reflectance"].shape, np.float32))
    coarse = node.sel(band=["B11"]).isel(y=slice(None, None, 2), x=slice(None, None, 2))
    nodes = {"s2_10m": node.sel(band=list(BANDS)), "s2_20m": coarse}
    whole, parts = both(xr.DataTree.from_dict(nodes))
    assert parts.factors == {"s2_10m": 1, "s2_20m": 2}
    for size, halo in ((4, 3), (5, 1)):
        for one, other in zip(whole.tiles(size, halo), parts.tiles(size, halo), strict=True):
            assert one[:2] == other[:2] and same(one[2], other[2])
    assert same(*(d.patches(3, 4, 20, torch.Generator().manual_seed(1)) for d in (whole, parts)))


def test_a_small_cube_and_points_are_read_as_a_whole(on_disk, monkeypatch) -> None:
    channels = {"s2": BANDS, "s1": ("VV", "VH")}
    assert isinstance(open_tensors(on_disk, channels), CubeTensors)
    monkeypatch.setattr(scene, "IN_MEMORY", 100)
    assert isinstance(open_tensors(on_disk, channels), Scene)
    points = {name: on_disk[name].to_dataset().stack(point=("y", "x")).drop_vars(["point", "y", "x"])
              for name in ("s2", "s1")}  # fmt: skip
    assert isinstance(open_tensors(xr.DataTree.from_dict(points), channels), CubeTensors)


def test_maps_and_draws_are_the_same(run, on_disk, simulated, tmp_path, monkeypatch) -> None:
    maps = predict(run, simulated, tmp_path / "whole.zarr", draws=4, tile=6)
    drawn = posterior(run, simulated, draws=3, pixels=[(4, 5), (9, 0)])
    monkeypatch.setattr(scene, "IN_MEMORY", 100)
    streamed = predict(run, on_disk, tmp_path / "parts.zarr", draws=4, tile=6)
    xr.testing.assert_identical(streamed.load(), maps.load())
    again = posterior(run, on_disk, draws=3, pixels=[(4, 5), (9, 0)])
    assert np.array_equal(again["posterior"]["lai"].values, drawn["posterior"]["lai"].values)


def test_a_fit_learns_from_disk_and_refuses_to_hold_out(build, on_disk, monkeypatch) -> None:
    monkeypatch.setattr(scene, "IN_MEMORY", 100)
    run = fit(build(), on_disk, steps=4, pixels=16, patches=2, patch_size=6, device="cpu", progress=False)
    again = fit(build(), on_disk, steps=4, pixels=16, patches=2, patch_size=6, device="cpu", progress=False)
    assert np.isfinite(run.history["loss"]).all() and run.history["loss"] == again.history["loss"]
    with pytest.raises(ValueError, match="holdout is 0.2"):
        fit(build(), on_disk, steps=4, holdout=0.2, device="cpu", progress=False)


def test_several_cubes_with_dates_of_their_own_are_fitted_together(build, simulated) -> None:
    later = {name: node.to_dataset().isel(time=slice(1, None)) for name, node in simulated.children.items()
             if name != "truth"}  # fmt: skip
    west = xr.DataTree.from_dict({name: node.isel(x=slice(4)) for name, node in later.items()})
    parts = [open_tensors(cube, {"s2": BANDS, "s1": ("VV", "VH")}) for cube in (simulated, west)]
    cubes, generator = Cubes(parts), torch.Generator().manual_seed(0)
    assert cubes.pixels == 160
    batches = [cubes.patches(2, 5, 20, generator) for _ in range(300)]
    lengths = [len(batch.dates) for batch in batches]
    assert set(lengths) == {len(part.dates) for part in parts}
    assert abs(lengths.count(len(parts[1].dates)) / 300 - 0.25) < 0.1  # its share of the pixels
    assert np.mean([batch.scale * len(batch.pixels) for batch in batches]) == pytest.approx(160, rel=0.1)
    settings = {"steps": 4, "pixels": 16, "patches": 2, "patch_size": 6, "device": "cpu", "progress": False}
    run, again = (fit(build(), [simulated, west], **settings) for _ in range(2))
    assert np.isfinite(run.history["loss"]).all() and run.history["loss"] == again.history["loss"]
    one, other = fit(build(), [simulated], **settings), fit(build(), simulated, **settings)
    assert one.history["loss"] == other.history["loss"]
    for wrong, words in (([], "no cube"), ([simulated, west], "holdout is 0.2")):
        with pytest.raises(ValueError, match=words):
            fit(build(), wrong, steps=4, holdout=0.2, device="cpu", progress=False)


PROGRAM = """
import json, re, sys
from pi_vae.data import open_cube, scene
from pi_vae.data.scene import open_tensors

scene.IN_MEMORY = float(sys.argv[2])
data = open_tensors(open_cube(sys.argv[1]), {"s2": ("B03", "B04", "B08")})
pixels = sum(len(batch.pixels) for _, _, batch in data.tiles(64, 7))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(json.dumps([pixels, int(peak) / 1024]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cube(tmp_path) -> None:
    """Peak memory [MB] of reading all tiles, of a cube and of one eight times its size, in processes of their own."""
    empty = pattern(size=256, bands=BANDS)["s2"].to_dataset()
    found = {}
    for times in (1, 8):
        tall = xr.concat([empty.assign_coords(y=empty.y - 2560 * i) for i in range(times)], "y", data_vars="minimal")
        values = np.full(tall["reflectance"].shape, 0.2, np.float32)
        tall["reflectance"] = tall["reflectance"].copy(data=values)
        path = tmp_path / f"{times}.zarr"
        xr.DataTree.from_dict({"s2": tall.chunk({"y": 64, "x": 64})}).to_zarr(path, zarr_format=3, consolidated=False)
        for limit in (1e3, 1e12):
            command = [sys.executable, "-c", PROGRAM, str(path), str(limit)]
            # In one arena: how many threads allocate at once would otherwise move the peak by 40 MB from run to run.
            one = {"capture_output": True, "text": True, "check": True, "env": os.environ | {"MALLOC_ARENA_MAX": "1"}}
            lines = subprocess.run(command, **one).stdout.splitlines()
            pixels, found[times, limit] = json.loads(lines[-1])
            assert pixels == times * 256**2
    assert found[8, 1e3] < found[1, 1e3] + 60, found
    assert found[8, 1e12] > found[8, 1e3] + 100, found  # else there was nothing to save
