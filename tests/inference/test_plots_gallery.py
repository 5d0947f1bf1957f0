"""The gallery draws every public figure of a demo's folder, and says why it left one out."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import inference.plots.gallery
from inference import fit
from inference.discovery import Laws
from inference.plots.gallery import _at_pixels, write_gallery
from inference.plots.skill import _pairs

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory,
    tree: xr.DataTree,
    maps: xr.Dataset,
    scores: dict,
    make_laws: Callable[[float], Laws],
    build,
    simulated,
) -> Path:
    """What a demo writes, of the shared tree, maps, scores and laws; its run is a fit of one step."""
    folder = tmp_path_factory.mktemp("demo")
    tree.to_netcdf(folder / "posterior.nc", engine="h5netcdf")
    maps.to_zarr(folder / "maps.zarr", zarr_format=3, consolidated=False)
    (folder / "metrics.json").write_text(json.dumps({"withheld": scores}))
    make_laws(0.7).to_json(folder / "laws.json")
    torch.manual_seed(0)
    options = {"patches": 1, "patch_size": 4, "pixels": 4, "progress": False, "device": "cpu"}
    fit(build(), simulated, steps=2, checkpoint=folder / "run", **options)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory) -> Path:
    return write_gallery(folder, tmp_path_factory.mktemp("gallery") / "deep", pixel=3)


def test_every_public_figure_is_drawn_or_missed_with_a_reason(index: Path) -> None:
    text = index.read_text(encoding="utf-8")
    calls = [line.strip().partition("(")[0] for line in text.splitlines() if line.startswith("    ")]
    assert set(calls) == {*inference.plots.__all__, "laws_figure", "residual_law"}
    shown = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert sorted(shown) == sorted(file.name for file in index.parent.glob("*.png"))
    assert all((index.parent / name).read_bytes()[:8] == PNG for name in shown)
    assert len(shown) == len(set(shown)) == len(calls) - 1
    (missed,) = [line for line in text.splitlines() if line.startswith("Not drawn: ")]
    assert "fit PhysicsVAE(..., phenology=1)" in missed


def test_the_index_says_what_each_figure_is_and_how_it_is_called(index: Path) -> None:
    text = index.read_text(encoding="utf-8")
    assert text.startswith("# Gallery\n")
    assert "## spectrum\n\nObserved reflectance of one pixel" in text and "    spectrum(tree, 3)\n" in text
    assert '    residual_series(tree, 3, "s1")\n' in text and '    variable_map(maps, "lai")\n' in text


def test_observations_and_maps_of_the_posterior_pixels_go_together(tree: xr.DataTree, maps: xr.Dataset) -> None:
    points, cube = _at_pixels(maps, tree, ["s2", "s1"])
    pixel, row, column = 9, 9 // 6, 9 % 6
    np.testing.assert_array_equal(points["lai_mean"].isel(y=pixel, x=0), maps["lai_mean"][:, row, column])
    power = cube["s1"]["backscatter"].isel(point=pixel, pol=0).values
    np.testing.assert_allclose(10 * np.log10(power), tree["observed_data"]["s1"].values[pixel, :, 0])
    _, unit, x, y = next(_pairs(points, cube, "s1"))
    seen = tree["constant_data"]["s1_seen"].values
    assert unit == "dB" and len(x) == seen.sum()
    np.testing.assert_allclose(np.sort(x), np.sort(tree["observed_data"]["s1"].values[..., 0][seen]), rtol=1e-6)


def test_a_folder_that_is_no_demo_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No posterior.nc in .*: give the folder that pi-vae demo wrote"):
        write_gallery(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="no pixel 24: give one of 0 to 23"):
        write_gallery(folder, tmp_path / "out", pixel=24)
    assert not (tmp_path / "out").exists()


def test_the_module_draws_it_or_fails_with_one_sentence(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    drawn: list[tuple] = []
    monkeypatch.setattr(inference.plots.gallery, "write_gallery", lambda *given: drawn.append(given) or "index")
    monkeypatch.setattr(sys, "argv", ["plots", str(folder), str(tmp_path / "out"), "--pixel", "3"])
    runpy.run_module("inference.plots", run_name="__main__")
    assert drawn == [(folder, tmp_path / "out", 3)] and capsys.readouterr().out == "index\n"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["plots", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="^inference.plots: No posterior.nc in [^\n]*$"):
        runpy.run_module("inference.plots", run_name="__main__")
