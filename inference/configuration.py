"""Settings of the command line from a TOML or YAML file, in the words of the Python interface.

A section for every command has its options, ``[model]`` what `PhysicsVAE` takes (and ``kernel`` and ``backend`` of its
`TemporalGP`), ``[model.<modality>]`` what that modality takes. What is given on the command line goes first::

    [model]
    phenology = 1
    lengthscale = {soil_moisture = 20, lai = 60}

    [model.s2]
    residual = 2

    [fit]
    steps = 3000
    terms = ["cross_reconstruction"]

    [predict]
    draws = 128
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
import yaml

from pi_vae import Modality, Optical, PhysicsVAE, Radar, TemporalGP

__all__ = ["build_model", "read", "section"]

MODALITIES = {"s2": Optical, "s1": Radar}
TEMPORAL = ("kernel", "backend")


def read(path: str | Path, commands: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read a file of settings.

    Args:
        path: ``.toml``, ``.yaml`` or ``.yml``.
        commands: names of sections beside ``model``.

    Returns:
        section -> settings; their names are checked by who uses them (`section`, `build_model`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, has another ending, or a section that nobody knows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file of settings {path}: give one in TOML or YAML.")
    try:
        if path.suffix == ".toml":
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".yaml", ".yml"):
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        else:
            raise ValueError(f"{path} is neither .toml nor .yaml: give settings in one of them.")
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path} has no sections: give settings as [fit] or fit: with names and values below.")
    _check(settings, ("model", *commands), f"Section of {path}")
    for name, values in settings.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"{path}: {name!r} is {values!r}, and a section of names and values is expected.")
    return {name: dict(values) for name, values in settings.items()}


def section(settings: Mapping[str, Mapping], name: str, known: Iterable[str], path: str | Path) -> dict[str, Any]:
    """Settings of one section, whose names are checked; they may be written with hyphens, as on the command line.

    Raises:
        ValueError: a setting that the section does not have.
    """
    found = {str(key).replace("-", "_"): value for key, value in settings.get(name, {}).items()}
    _check(found, tuple(known), f"Setting of [{name}] in {path}")
    return found


def build_model(cube: xr.DataTree, settings: Mapping[str, Any] | None = None) -> PhysicsVAE:
    """The model of a cube: optical for its node ``s2``, radar for ``s1``.

    Args:
        cube: a valid cube.
        settings: section ``model``.

    Raises:
        ValueError: settings that model or modality do not take, or of a modality that the cube lacks.
    """
    settings = dict(settings or {})
    present = [name for name in MODALITIES if name in cube.children]
    takes = [name for name in _takes(PhysicsVAE) if name not in ("modalities", "temporal")]
    _check(settings, (*takes, *TEMPORAL, *MODALITIES), "Setting of [model]")
    modalities: dict[str, Modality] = {}
    for name in MODALITIES:
        options = settings.pop(name, {})
        if options and name not in present:
            raise ValueError(f"[model.{name}] is set and the cube has no node {name!r}: leave it out.")
        if not isinstance(options, Mapping):
            raise ValueError(f"[model] has {name} = {options!r}: give a section [model.{name}].")
        _check(options, _takes(MODALITIES[name]), f"Setting of [model.{name}]")
        if name in present:
            bands = {"bands": cube["s2"].band.values} if name == "s2" else {}
            modalities[name] = MODALITIES[name](**bands | dict(options))
    temporal = {name: settings.pop(name) for name in TEMPORAL if name in settings}
    return PhysicsVAE(modalities, TemporalGP(**temporal), **settings)


def _takes(callable_: Any) -> list[str]:
    return [name for name in inspect.signature(callable_).parameters if name != "self"]


def _check(found: Mapping, known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"{what} {str(name)!r} is unknown: {hint}")
