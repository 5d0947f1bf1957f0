"""Kinds of nodes: what sets one sort of sensor apart in a cube. Optical and radar are here; others are registered.

Example:
    >>> kind_of("s2_20m").values, kind_of("s1").angles
    ('reflectance', ('incidence',))
    >>> "lst" in modality_nodes()
    False
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from pi_vae.data import sentinel1, sentinel2
from pi_vae.data.search import CubeError

__all__ = ["OPTICAL", "RADAR", "NodeKind", "kind_of", "modality_nodes", "register"]


def _nothing(node: str, dataset: xr.Dataset, seen: np.ndarray) -> Iterator[str]:
    return iter(())


def _same(values: Any) -> Any:
    return values


@dataclass(frozen=True)
class NodeKind:
    """What the nodes of one sort of sensor hold, see `pi_vae.data.cube` for the layout that all share.

    Attributes:
        nodes: their names in a cube.
        values: the variable that was measured, `(time, <channel>, y, x)` or `(time, <channel>, point)`.
        channel: the dimension of its channels.
        angles: variables of geometry in degrees, `(time)` or shaped as ``valid``; at least one.
        unit: of the values, for sentences.
        example: names of channels, for sentences.
        possible: least and largest value that is no mistake; an observation beyond counts as not seen.
        nominal: angle -> degrees that `pi_vae.data.complete` takes where a cube has none.
        to_likelihood: values (tensor) -> what the likelihood of the modality is written in.
        from_likelihood: the reverse, for simulated cubes (array).
        faults: node, dataset and `[channel, sample]` usable values -> sentences that say what is wrong with them.
        build: values `[time, channel, *space]`, dates, channels, ``valid=``, ``x=``, ``y=`` -> a node; by default one
            with the attributes of CF that all nodes have.
    """

    nodes: tuple[str, ...]
    values: str
    channel: str
    angles: tuple[str, ...]
    unit: str
    example: str = "A B"
    possible: tuple[float, float] = (-np.inf, np.inf)
    nominal: Mapping[str, float] = field(default_factory=dict)
    to_likelihood: Callable[[Any], Any] = _same
    from_likelihood: Callable[[Any], Any] = _same
    faults: Callable[[str, xr.Dataset, np.ndarray], Iterator[str]] = _nothing
    build: Callable[..., xr.Dataset] | None = None

    def node(self, values: np.ndarray, time: np.ndarray, channels: Sequence[str], **options: Any) -> xr.Dataset:
        """A node of this kind; `pi_vae.data.validate` judges it, this only lays it out.

        Args:
            values: `[time, channel, y, x]` or `[time, channel, point]`.
            time: `[time]` datetime64, UTC, increasing.
            channels: their names.
            options: ``valid`` `[time, *space]`, by default where all channels are finite; angles in degrees, a number,
                `[time]` or shaped as ``valid``; coordinates ``x`` and ``y``. Kinds with a ``build`` of their own take
                what that takes.
        """
        if self.build is not None:
            return self.build(values, time, channels, **options)
        values = np.asarray(values, np.float32)
        pixel = ("y", "x") if values.ndim == 4 else ("point",)
        valid = options.pop("valid", np.isfinite(values).all(axis=1))
        dataset = xr.Dataset(
            {
                self.values: (("time", self.channel, *pixel), values, {"units": self.unit}),
                "valid": (("time", *pixel), np.asarray(valid, bool), {"long_name": "usable observation"}),
            },
            coords={
                "time": ("time", np.asarray(time, "datetime64[ns]"), {"standard_name": "time"}),
                self.channel: (self.channel, [str(name) for name in channels]),
            },
        )
        for axis in ("x", "y"):
            if axis in options:
                meta = {"standard_name": f"projection_{axis}_coordinate", "units": "m"}
                dims: str | tuple[str, ...] = axis if values.ndim == 4 else "point"
                dataset = dataset.assign_coords({axis: (dims, np.asarray(options.pop(axis)), meta)})
        for angle, degrees in options.items():
            if angle not in self.angles:
                raise TypeError(f"A node of {self.values} takes valid, x, y and {', '.join(self.angles)}, not {angle}.")
            degrees = np.asarray(degrees, np.float32)
            degrees = np.full(len(dataset.time), degrees) if degrees.ndim == 0 else degrees
            dims = ("time",) if degrees.ndim == 1 else ("time", *pixel)
            dataset[angle] = (dims, degrees, {"units": "degree"})
        return dataset


def _decibel(power: Any) -> Any:
    return 10 * power.clamp_min(1e-6).log10()


OPTICAL = NodeKind(
    nodes=("s2", "s2_10m", "s2_20m", "s2_60m"),
    values="reflectance",
    channel="band",
    angles=tuple(sentinel2.ANGLES),
    unit="reflectance in 0-1",
    example="B02 B03 B04",
    possible=(-1.0, 5.0),
    nominal={"vza": sentinel2.NOMINAL_VZA, "raa": sentinel2.NOMINAL_RAA},
    faults=sentinel2.faults,
    build=sentinel2.s2_node,
)
RADAR = NodeKind(
    nodes=("s1",),
    values="backscatter",
    channel="pol",
    angles=("incidence",),
    unit="linear power",
    example="VV VH",
    possible=(-1.0, 1e4),
    nominal={"incidence": sentinel1.NOMINAL_INCIDENCE},
    to_likelihood=_decibel,
    from_likelihood=lambda decibel: 10 ** (decibel / 10),
    faults=sentinel1.faults,
    build=sentinel1.s1_node,
)
_KINDS: list[NodeKind] = [OPTICAL, RADAR]


def register(kind: NodeKind) -> NodeKind:
    """Let cubes hold nodes of another kind; a kind registered again under the same names takes the place of the first.

    Raises:
        ValueError: it names no node, no angle, or one that is optical or radar.
    """
    if not kind.nodes or not kind.angles:
        raise ValueError("A kind of node needs the name of at least one node and of one angle: give both.")
    taken = [name for name in kind.nodes if name in (*OPTICAL.nodes, *RADAR.nodes, "drivers", "truth")]
    if taken:
        raise ValueError(f"Node {taken[0]!r} is of another kind already: choose another name.")
    _KINDS[2:] = [other for other in _KINDS[2:] if not set(other.nodes) & set(kind.nodes)]
    _KINDS.append(kind)
    return kind


def modality_nodes() -> tuple[str, ...]:
    """Names of all nodes that are modalities."""
    return tuple(name for kind in _KINDS for name in kind.nodes)


def kind_of(name: str) -> NodeKind:
    """Kind of a node.

    Raises:
        CubeError: nobody registered one of this name.
    """
    for kind in _KINDS:
        if name in kind.nodes:
            return kind
    raise CubeError(
        f"Node '{name}' is of no kind that is known: name it one of {', '.join(modality_nodes())}, or register its "
        "kind with pi_vae.data.register."
    )
