"""Whatever is done to a sound cube: it passes and can be read, or one sentence says what is wrong. Nothing else."""

import re
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pi_vae.data import CubeError, complete, validate
from pi_vae.data.tensors import CubeTensors

CHANNELS = {"s2": ("B02", "B03", "B04", "B08"), "s1": ("VV", "VH")}
VALUES = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e9, -1e-30, 1e-300]
TYPES = ["f2", "f8", "i4", "u1", "bool", "U3", "O", "M8[ns]", "c16"]


def _variable(draw, node: xr.Dataset) -> str:
    return draw(st.sampled_from(sorted(map(str, node.variables))))


def values(draw, node: xr.Dataset) -> xr.Dataset:
    """Some entries are replaced."""
    name = _variable(draw, node)
    array = node[name].values
    if array.dtype.kind not in "fM" or not array.size:
        return node
    flat = array.copy().reshape(-1)
    where = draw(st.lists(st.integers(0, flat.size - 1), min_size=1, max_size=4))
    flat[where] = np.datetime64("NaT", "ns") if array.dtype.kind == "M" else draw(st.sampled_from(VALUES))
    return _assigned(node, name, node[name].copy(data=flat.reshape(array.shape)))


def kinds(draw, node: xr.Dataset) -> xr.Dataset:
    """A variable has another type."""
    name, kind = _variable(draw, node), draw(st.sampled_from(TYPES))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _assigned(node, name, node[name].astype(kind))
    except (TypeError, ValueError, RuntimeError):
        return node  # numpy knows no such conversion


def scales(draw, node: xr.Dataset) -> xr.Dataset:
    """A variable is in another unit."""
    name, factor = _variable(draw, node), draw(st.sampled_from([1e4, 100.0, 1e-4, -1.0, np.pi / 180, 0.0]))
    if node[name].dtype.kind != "f":
        return node
    return _assigned(node, name, node[name] * factor + draw(st.sampled_from([0.0, 0.1, -0.1, -273.15])))


def absences(draw, node: xr.Dataset) -> xr.Dataset:
    """A variable or coordinate is missing."""
    return node.drop_vars(_variable(draw, node))


def orders(draw, node: xr.Dataset) -> xr.Dataset:
    """Dimensions or entries come in another order, or some are missing or there twice."""
    if draw(st.booleans()):
        return node.transpose(*draw(st.permutations(sorted(map(str, node.dims)))))
    name = draw(st.sampled_from(sorted(map(str, node.dims))))
    return node.isel({name: draw(st.lists(st.integers(0, node.sizes[name] - 1), max_size=4))})


def names(draw, node: xr.Dataset) -> xr.Dataset:
    """Something has another name."""
    name = draw(st.sampled_from(sorted({*map(str, node.variables), *map(str, node.dims)})))
    return node.rename({name: draw(st.sampled_from(["lon", "B99", "", "Time"]))})


def labels(draw, node: xr.Dataset) -> xr.Dataset:
    """Attributes, of the node or a variable, say something else."""
    text = draw(st.sampled_from(["dB", "radian", "percent", "", "beta0", None, 7, ["a"]]))
    key = draw(st.sampled_from(["units", "calibration", "processing_baseline", "crs_wkt"]))
    if draw(st.booleans()):
        return node.assign_attrs({key: text})
    name = _variable(draw, node)
    return _assigned(node, name, node[name].assign_attrs({key: text}))


def scalars(draw, node: xr.Dataset) -> xr.Dataset:
    """A variable has other dimensions."""
    name = _variable(draw, node)
    return node.drop_vars(name).assign({name: draw(st.sampled_from([0.5, ("other", [1.0, 2.0]), "text"]))})


def _assigned(node: xr.Dataset, name: str, array: xr.DataArray) -> xr.Dataset:
    return node.assign_coords({name: array}) if name in node.coords else node.assign({name: array})


DEFECTS = [values, kinds, scales, absences, orders, names, labels, scalars]


@pytest.mark.slow
@settings(
    max_examples=400,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_spoilt_cube_is_read_or_refused_in_one_sentence(cube: xr.DataTree, data: st.DataObject) -> None:
    nodes = {str(name): node.to_dataset() for name, node in cube.children.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(nodes)))
        defect = data.draw(st.sampled_from(DEFECTS))
        try:
            nodes[name] = defect(data.draw, nodes[name])
        except (ValueError, KeyError, TypeError):
            continue  # xarray itself refuses to make it
    spoilt = xr.DataTree.from_dict(nodes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sound = validate(complete(spoilt))
    except CubeError as error:
        text = str(error)
        assert text.endswith(".") and not re.search(r"\. [A-Z]", text), f"not one sentence: {text}"
        return
    try:
        tensors = CubeTensors.read(sound, CHANNELS, partial=True)
    except ValueError as error:
        assert "channel" in str(error) or "modality" in str(error) or "band" in str(error), error
        return
    for modality in tensors.modalities.values():
        assert modality.values[modality.valid.unsqueeze(2).expand_as(modality.values)].isfinite().all()
