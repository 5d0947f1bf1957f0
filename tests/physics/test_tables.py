"""Tables are the ones that SOURCES.md describes, and the examples of the docstrings give what they show."""

import doctest
import hashlib
import importlib
import re
from pathlib import Path

import pytest
import torch

import pi_vae.physics

FOLDER = Path(pi_vae.physics.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def test_checksums_match_the_sources_file() -> None:
    stated = dict(
        reversed(pair)
        for pair in re.findall(r"^([0-9a-f]{64})  (\S+\.npz)$", (FOLDER / "tables" / "SOURCES.md").read_text(), re.M)
    )
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (FOLDER / "tables").glob("*.npz")}
    assert found == stated


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"pi_vae.physics.{name}"), extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0
