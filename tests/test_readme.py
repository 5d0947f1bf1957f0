"""The README's example runs as it is written, on a corner of its sample."""

import re
from pathlib import Path

import pytest

import pi_vae.data
from pi_vae.data import open_cube, samples

README = Path(__file__).parents[1] / "README.md"


CORNER = {"y": slice(40), "x": slice(40)}  # a map of the whole patch takes minutes


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    try:
        samples.path("worldcereal_patch_belgium")
    except samples.SampleError as error:
        pytest.skip(str(error))
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pi_vae.data, "open_cube", lambda name: open_cube(name).isel(CORNER, missing_dims="ignore"))
    names: dict = {}
    code, shortened = re.subn(r"steps=\d+", "steps=10", code)  # that every line runs is what is tried
    assert shortened == 1
    exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "roughness[0]" in printed and "'B04':" in printed
    lai = names["maps"]["lai_mean"]
    assert lai.sizes == {"time": 12, "y": 40, "x": 40}
    assert bool(lai.notnull().all()) and float(lai.min()) >= 0 and float(lai.max()) <= 12
