"""Inputs shared by the physics tests: reference vectors, and canopies from the catalogue."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pi_vae.variables import CATALOGUE

State = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are small here: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference vectors, or a skip where it is absent."""
    folder = Path(os.environ.get("PI_VAE_REFERENCE", Path(__file__).parents[2].parent / "shared" / "reference"))
    if not (folder / "prosaild.npz").is_file():
        pytest.skip(f"no reference vectors in {folder}; set PI_VAE_REFERENCE to their folder")
    return folder


@pytest.fixture(scope="session")
def reference_prosail(reference: Path) -> Callable[..., tuple]:
    """``(leaf, dtype) -> (variables, geometry, arrays)`` of the reference cases."""
    files = {"prospect-5": "prosail5.npz", "prospect-d": "prosaild.npz"}
    renamed = {"cant": "ant", "ala": "lidfa", "soil_brightness": "rsoil"}

    def read(leaf: str, dtype: torch.dtype = torch.float64) -> tuple:
        with np.load(reference / files[leaf]) as stored:
            arrays = dict(stored)
        names = "n cab car cant cbrown cw cm lai ala hspot soil_brightness".split()
        variables = {v: torch.tensor(arrays["in_" + renamed.get(v, v)], dtype=dtype) for v in names}
        variables["soil_wetness"] = torch.tensor(1 - arrays["in_psoil"], dtype=dtype)  # psoil is the dry share
        angles = {"sza": "in_tts", "vza": "in_tto", "raa": "in_psi"}
        return variables, {k: torch.tensor(arrays[v], dtype=dtype) for k, v in angles.items()}, arrays

    return read


@pytest.fixture(scope="session")
def reference_csv(reference: Path) -> Callable[[str], dict[str, Tensor]]:
    """``name -> column -> tensor`` of a reference table."""

    def read(name: str) -> dict[str, Tensor]:
        with (reference / name).open() as stream:
            rows = list(csv.DictReader(stream))
        return {key: torch.tensor([float(row[key]) for row in rows], dtype=torch.float64) for key in rows[0]}

    return read


@pytest.fixture
def canopies() -> Callable[..., State]:
    """``(size, seed, dtype) -> (variables, geometry)``: uniform on the supports of the catalogue and ordinary
    angles."""

    def draw(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> State:
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)).to(dtype)

        variables = {v.name: uniform(v.low, v.high) for v in CATALOGUE.values()}
        variables["soil_wetness"] = uniform(0, 1)
        return variables, {"sza": uniform(15, 75), "vza": uniform(0, 15), "raa": uniform(0, 180)}

    return draw


@pytest.fixture
def corners() -> Callable[..., State]:
    """``(size, dtype) -> (variables, geometry)``: every value at an end of its support (widened where the operator
    promises more), nadir, exact hot spot and low sun among the angles."""
    wider = {"lai": (0.0, 1e-4, 12.0), "hspot": (1e-3, 1.0), "ala": (5.0, 57.3, 85.0), "soil_wetness": (0.0, 1.0)}
    angles = {"sza": (0.0, 30.0, 75.0), "vza": (0.0, 30.0, 60.0), "raa": (0.0, 180.0)}

    def draw(size: int, dtype: torch.dtype = torch.float32) -> State:
        generator = torch.Generator().manual_seed(0)

        def pick(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=dtype)[torch.randint(len(values), (size,), generator=generator)]

        limits = {v.name: (v.low, v.high) for v in CATALOGUE.values()} | wider
        variables = {name: pick(values).requires_grad_() for name, values in limits.items()}
        return variables, {name: pick(values).requires_grad_() for name, values in angles.items()}

    return draw
