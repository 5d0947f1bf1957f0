"""The command line: foreseen errors are one sentence and leave nothing behind."""

import logging
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from inference import fit, load
from inference.cli import main


@pytest.fixture(scope="module")
def folder(build, simulated, tmp_path_factory):
    """A sound cube and a fit of one step to it."""
    folder = tmp_path_factory.mktemp("cli")
    cube = xr.DataTree.from_dict({name: simulated[name].to_dataset() for name in ("s2", "s1")})
    cube.to_netcdf(folder / "cube.nc", engine="h5netcdf")
    options = {"patches": 1, "patch_size": 4, "pixels": 4, "progress": False}
    fit(build(), cube, steps=1, device="cpu", checkpoint=folder / "run", **options)
    return folder


@pytest.fixture
def broken(simulated, tmp_path):
    """Writer of cubes with one fault."""

    def write(fault):
        nodes = {name: simulated[name].to_dataset() for name in ("s2", "s1")}
        if fault == "scaled":
            nodes["s2"]["reflectance"] = 10000 * nodes["s2"]["reflectance"]
        elif fault == "decibel":
            nodes["s1"]["backscatter"] = 10 * np.log10(nodes["s1"]["backscatter"])
        elif fault == "no dates":
            nodes["s2"] = nodes["s2"].isel(time=slice(0))
        elif fault == "no radar":
            del nodes["s1"]
        elif fault == "a band too few":
            nodes["s2"] = nodes["s2"].isel(band=slice(1, None))
        elif fault == "another sensor":
            nodes = {"s2_20m": nodes["s2"]}
        elif fault == "no modality":
            nodes = {"soil": nodes["s1"]}
        path = tmp_path / "broken.nc"
        xr.DataTree.from_dict(nodes).to_netcdf(path, engine="h5netcdf")
        return path

    return write


def _call(monkeypatch, capsys, *arguments):
    """Exit code and what is written to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["pi-vae", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def _refused(call, sentence):
    code, out, err = call
    assert code == 1 and out == ""
    assert err.startswith("pi-vae: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert re.search(sentence, err), err


@pytest.mark.parametrize("command", ["fit", "predict", "discover"])
def test_a_file_that_does_not_exist(monkeypatch, capsys, tmp_path, command):
    call = _call(monkeypatch, capsys, command, tmp_path / "nofile.nc", "--output", tmp_path / "out")
    _refused(call, "No file, folder or sample named '.*nofile.nc'")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fault, sentence",
    [
        ("scaled", "scaled by 10000.*node 's2'.*divide by 10000"),
        ("decibel", "node 's1', variable 'backscatter'.*"),
        ("no dates", "No dates in node 's2'"),
        ("no modality", "No modality among the nodes"),
    ],
)
def test_a_cube_that_breaks_the_contract(monkeypatch, capsys, tmp_path, broken, fault, sentence):
    call = _call(monkeypatch, capsys, "fit", broken(fault), "--output", tmp_path / "out", "--steps", 1)
    _refused(call, sentence)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_cube(monkeypatch, capsys, tmp_path):
    (tmp_path / "notes.nc").write_text("not a cube")
    _refused(_call(monkeypatch, capsys, "fit", tmp_path / "notes.nc", "-o", tmp_path / "out"), "Unreadable cube")
    assert not (tmp_path / "out").exists()


def test_a_cube_of_another_sensor_is_refused(monkeypatch, capsys, tmp_path, broken, folder):
    output = tmp_path / "maps.zarr"
    call = _call(monkeypatch, capsys, "predict", broken("another sensor"), "--run", folder / "run", "--output", output)
    _refused(call, "name them alike")
    assert not output.exists()


def test_a_cube_with_a_band_too_few_is_mapped(monkeypatch, capsys, tmp_path, broken, folder):
    output, cube = tmp_path / "maps.zarr", broken("a band too few")
    code, _, _ = _call(monkeypatch, capsys, "predict", cube, "--run", folder / "run", "--draws", 4, "--output", output)
    assert code == 0
    assert np.isfinite(xr.open_zarr(output)["s2_mean"].sel(s2_channel="B03")).any(), "predicted, though never seen"


def test_a_cube_without_radar_is_translated_from_optical(monkeypatch, capsys, tmp_path, broken, folder):
    output, cube = tmp_path / "new" / "translated.nc", broken("no radar")
    arguments = ("--run", folder / "run", "--source", "s2", "--target", "s1", "--pixels", 2, "--draws", 4, "-o", output)
    code, out, _ = _call(monkeypatch, capsys, "translate", cube, *arguments)
    assert code == 0 and str(output) in out
    tree = xr.open_datatree(output)
    assert tree["posterior_predictive"]["s1"].shape == (1, 4, 2, 7, 2)
    call = _call(monkeypatch, capsys, "translate", cube, *arguments[:-1], tmp_path / "no.nc", "--source", "s1")
    _refused(call, "'s1' is not in the cube")
    assert not (tmp_path / "no.nc").exists()


def test_a_run_that_does_not_exist(monkeypatch, capsys, tmp_path, folder):
    output = tmp_path / "maps.zarr"
    call = _call(monkeypatch, capsys, "predict", folder / "cube.nc", "--run", tmp_path / "no", "--output", output)
    _refused(call, "No checkpoint in .*no")
    assert not output.exists() and not (tmp_path / "no").exists()


def test_an_unknown_target_of_discovery(monkeypatch, capsys, tmp_path, folder):
    output = tmp_path / "laws.json"
    arguments = ("--run", folder / "run", "--target", "s9", "--pixels", 4, "--output", output)
    _refused(_call(monkeypatch, capsys, "discover", folder / "cube.nc", *arguments), "s9")
    assert not output.exists()


def test_other_settings_than_those_of_the_fit_in_the_folder(monkeypatch, capsys, tmp_path, folder):
    before = (folder / "run" / "checkpoint.pt").read_bytes()
    arguments = ("--output", folder / "run", "--steps", 2, "--device", "cpu")
    call = _call(monkeypatch, capsys, "fit", folder / "cube.nc", *arguments)
    _refused(call, "holds a fit with seed 0 and 1 steps")
    assert (folder / "run" / "checkpoint.pt").read_bytes() == before


def test_a_folder_without_products_gets_no_report(monkeypatch, capsys, tmp_path):
    _refused(_call(monkeypatch, capsys, "report", tmp_path / "nothing"), "nothing")
    assert not any(tmp_path.iterdir())


def test_the_folder_of_a_fit_gets_a_report(monkeypatch, capsys, tmp_path, folder):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    code, out, err = _call(monkeypatch, capsys, "report", run)
    assert (code, out.strip(), err) == (0, str(run / "report.html"), "")
    page = (run / "report.html").read_text()
    assert "The fit had 1 steps" in page and "<figure>" in page and "model.modalities.s2.bands" in page


def test_maps_are_written_where_they_are_asked_for(monkeypatch, capsys, tmp_path, folder):
    output = tmp_path / "maps.zarr"
    arguments = ("--run", folder / "run", "--output", output, "--draws", 2)
    code, _, _ = _call(monkeypatch, capsys, "predict", folder / "cube.nc", *arguments)
    assert code == 0
    maps = xr.open_zarr(output, consolidated=False)
    assert maps["lai_mean"].shape == (11, 10, 12) and np.isfinite(maps["lai_mean"]).all()


TOML = """
[model]
kernel = "matern12"
lengthscale = {lai = 40}
[model.s2]
residual = 1
[fit]
steps = 2
patches = 1
patch_size = 4
pixels = 4
[predict]
draws = 3
"""
YAML = "model: {kernel: matern12, lengthscale: {lai: 40}, s2: {residual: 1}}\n"
YAML += "fit: {steps: 2, patches: 1, patch-size: 4, pixels: 4}\n"


@pytest.mark.parametrize("name, text", [("a.toml", TOML), ("a.yaml", YAML)])
def test_a_file_of_settings(monkeypatch, capsys, tmp_path, folder, name, text):
    (tmp_path / name).write_text(text)
    arguments = ("--config", tmp_path / name, "--output", tmp_path / "run", "--device", "cpu", "--quiet", "--pixels", 5)
    level = logging.getLogger().level
    assert _call(monkeypatch, capsys, "fit", folder / "cube.nc", *arguments) == (0, "", "")
    assert logging.getLogger().level == level, "quiet only until the command ends"
    run = load(tmp_path / "run")
    assert run.model.temporal.name == "matern12" and run.model.modalities["s2"].residual.rank == 1
    assert run.model.settings["lengthscale"]["lai"] == pytest.approx(40)
    again = _call(monkeypatch, capsys, "fit", folder / "cube.nc", *arguments, "--steps", 3)
    _refused(again, "2 steps, not seed 0 and 3 steps")  # what is typed goes first


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("[fitt]\nsteps = 2", "Section of .* 'fitt' is unknown: did you mean 'fit'"),
        ("[fit]\nstep = 2", r"Setting of \[fit\] in .* 'step' is unknown: did you mean 'steps'"),
        ("[model]\nphenolgy = 1", r"\[model\] 'phenolgy' is unknown: did you mean 'phenology'"),
        ("[model.s2]\nrank = 1", r"\[model.s2\] 'rank' is unknown: known are bands"),
        ("[model]\ns2 = 1", r"give a section \[model.s2\]"),
        ("[model]\nkernel = 'cubic'", "'cubic'"),
        ("[fit\nsteps = 2", "cannot be read"),
        ("fit = 2", "'fit' is 2, and a section"),
    ],
)
def test_settings_that_make_no_sense(monkeypatch, capsys, tmp_path, folder, text, sentence):
    (tmp_path / "a.toml").write_text(text)
    arguments = ("--config", tmp_path / "a.toml", "--output", tmp_path / "run", "--steps", 1)
    _refused(_call(monkeypatch, capsys, "fit", folder / "cube.nc", *arguments), sentence)
    assert not (tmp_path / "run").exists()


def test_settings_of_another_kind_or_nowhere(monkeypatch, capsys, tmp_path, folder):
    (tmp_path / "a.ini").write_text("")
    _refused(_call(monkeypatch, capsys, "fit", folder / "cube.nc", "--config", tmp_path / "a.ini"), "neither .toml nor")
    _refused(_call(monkeypatch, capsys, "fit", folder / "cube.nc", "--config", tmp_path / "b.toml"), "No file of sett")
    (tmp_path / "a.toml").write_text("[fit]\nsteps = 'many'")
    code, _, err = _call(monkeypatch, capsys, "fit", folder / "cube.nc", "--config", tmp_path / "a.toml")
    assert code == 2 and "--steps" in err and "valid integer" in err


def test_the_help_lists_the_commands(monkeypatch, capsys):
    code, out, _ = _call(monkeypatch, capsys, "--help")
    assert code == 0
    assert all(
        re.search(rf"\b{command}\b", out) for command in ("demo", "fit", "predict", "translate", "discover", "report")
    )


@pytest.mark.parametrize("program", ["from inference.cli import main; main()", "module"])
def test_versions(program):
    arguments = ["-m", "pi_vae"] if program == "module" else ["-c", program]
    done = subprocess.run([sys.executable, *arguments, "--version"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert found["torch"] == torch.__version__.split("+")[0] and found["python"] == platform.python_version()
    assert {"pi_vae", "pyro-ppl", "arviz", "pysr"} <= set(found)


def test_a_process_of_its_own_says_one_sentence_and_fails(tmp_path):
    program = [sys.executable, "-c", "from inference.cli import main; main()", "fit", "nofile.nc", "-o", "out"]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(program, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("pi-vae: No file") and done.stderr.count("\n") == 1, done.stderr
    assert not any(tmp_path.iterdir())
