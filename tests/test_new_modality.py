"""A sensor of one's own: land surface temperature, from the node in a cube to maps and translation."""

import numpy as np
import pytest
import torch
import xarray as xr

from inference import fit, load, posterior, predict, translate
from pi_vae import Modality, Optical, PhysicsVAE
from pi_vae.data import CubeError, NodeKind, kinds, pattern, register, simulate, validate
from pi_vae.data.tensors import CubeTensors


class TwoSources(torch.nn.Module):
    """Radiometric temperature of leaves over soil (Norman et al. 1995, Agric. For. Meteorol. 77, 263-293)."""

    variables, drivers = ("lai", "soil_moisture"), ("air_temperature",)

    def forward(self, variables, geometry):
        cover = 1 - torch.exp(-0.5 * variables["lai"] / torch.cos(torch.deg2rad(geometry["vza"])))
        sun = torch.cos(torch.deg2rad(geometry["sza"]))
        leaves = geometry["air_temperature"] + sun * variables["leaf_excess"]
        soil = geometry["air_temperature"] + sun * variables["soil_excess"] * (1 - variables["soil_moisture"] / 0.5)
        return (cover * leaves**4 + (1 - cover) * soil**4).pow(0.25).unsqueeze(-1)


class Thermal(Modality):
    unit = "K"

    def __init__(self):
        coefficients = {"leaf_excess": 3.0, "soil_excess": 25.0}
        super().__init__(TwoSources(), ("T",), ("sza", "vza"), coefficients, 1.0, None, degrees_of_freedom=10.0)
        self.settings = {}


@pytest.fixture
def kind(monkeypatch):
    monkeypatch.setattr(kinds, "_KINDS", list(kinds._KINDS))
    return register(
        NodeKind(
            nodes=("lst",),
            values="temperature",
            channel="channel",
            angles=("sza", "vza"),
            unit="K",
            possible=(200.0, 350.0),
            nominal={"vza": 0.0},
        )
    )


@pytest.fixture
def cube(kind):
    """Simulated from the model, with temperatures at dates of their own and weather."""
    empty = pattern(size=6, bands=("B03", "B04", "B08"), optical_days=40, radar_days=40)
    times = np.datetime64("2021-03-03T10:00", "ns") + np.arange(6) * np.timedelta64(30, "D")
    place = {axis: empty["s2"][axis].values for axis in ("x", "y")}
    node = kind.node(np.full((6, 1, 6, 6), 290.0), times, ["T"], sza=40.0, vza=5.0, **place)
    node = node.assign_coords(spatial_ref=empty["s2"]["spatial_ref"])
    drivers = xr.Dataset({"air_temperature": ("time", 280 + 10 * np.arange(6.0) / 5)}, {"time": times})
    empty = xr.DataTree.from_dict({"s2": empty["s2"].to_dataset(), "lst": node, "drivers": drivers})
    return simulate(_model(), empty, seed=0)


def _model():
    torch.manual_seed(0)
    return PhysicsVAE({"s2": Optical(bands=["B03", "B04", "B08"], residual=0), "lst": Thermal()}, width=16, layers=1)


def test_from_a_node_to_maps_and_translation(cube, tmp_path):
    options = {"patches": 1, "patch_size": 6, "pixels": 8, "device": "cpu", "progress": False}
    run = fit(_model(), cube, steps=3, checkpoint=tmp_path / "run", **options)
    tree = posterior(run, cube, draws=4, pixels=3)
    assert tree["posterior_predictive"]["lst"].dims == ("chain", "draw", "pixel", "lst_time", "lst_channel")
    assert tree["posterior_predictive"]["lst"].attrs["units"] == "K"
    assert "global_lst_coefficients" in tree["posterior"]
    maps = predict(run, cube, tmp_path / "maps.zarr", draws=4)
    assert np.isfinite(maps["lst_mean"]).all()
    found = translate(run, cube, source=["s2"], target="lst", draws=4, pixels=2)
    assert np.isfinite(found["posterior_predictive"]["lst"]).all()
    bare = xr.DataTree.from_dict({name: cube[name].to_dataset() for name in ("s2", "drivers")})
    added = translate(run, bare, source=["s2"], target="lst", draws=4, pixels=2)
    assert added["posterior_predictive"]["lst"].sizes["lst_time"] == bare["s2"].sizes["time"]
    again = load(tmp_path / "run", _model())
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in run.model.state_dict().items())


def test_what_is_simulated_follows_the_operator(cube):
    truth, node = cube["truth"].to_dataset(), cube["lst"].to_dataset()
    there = truth.sel(time=node.time)
    leaf, soil = truth["global_lst_coefficients"].values
    variables = {name: torch.from_numpy(there[name].values) for name in ("lai", "soil_moisture")}
    variables |= {"leaf_excess": torch.tensor(leaf), "soil_excess": torch.tensor(soil)}
    air = torch.from_numpy(cube["drivers"]["air_temperature"].values.astype(np.float32))[:, None, None]
    expected = TwoSources()(variables, {"sza": torch.tensor(40.0), "vza": torch.tensor(5.0), "air_temperature": air})
    error = node["temperature"].transpose("time", "y", "x", "channel").values - expected.numpy()
    typical = np.median(np.abs(error)) / float(truth["global_lst_noise"][0])
    assert 0.5 < typical < 0.9, "that of a Student-t of ten degrees of freedom is 0.70"


@pytest.mark.parametrize(
    "fault, sentence",
    [
        ("channels", "Dimensions .*node 'lst', variable 'temperature'"),
        ("angle", "Missing variable in node 'lst', variable 'sza'"),
        ("integers", "convert to K as float32"),
    ],
)
def test_a_node_that_breaks_the_contract(cube, fault, sentence):
    node = cube["lst"].to_dataset()
    if fault == "channels":
        node["temperature"] = node["temperature"].isel(channel=0)
    elif fault == "angle":
        node = node.drop_vars("sza")
    else:
        node["temperature"] = node["temperature"].astype(int)
    nodes = {name: child.to_dataset() for name, child in cube.children.items()}
    with pytest.raises(CubeError, match=sentence):
        validate(xr.DataTree.from_dict(nodes | {"lst": node}))


def test_an_impossible_value_is_not_seen(cube):
    cube["lst"]["temperature"][0, 0, 0, 0] = 20.0  # degrees Celsius
    data = CubeTensors.read(cube, {"lst": ("T",)})
    assert not data.modalities["lst"].seen[0, 0, 0, 0] and data.modalities["lst"].seen[0, 0, 0, 1]


def test_a_driver_that_is_missing(cube):
    bare = xr.DataTree.from_dict({name: cube[name].to_dataset() for name in ("s2", "lst")})
    with pytest.raises(ValueError, match="needs the driver 'air_temperature'"):
        fit(_model(), bare, steps=1, device="cpu", progress=False)


def test_kinds_that_make_no_sense(kind):
    with pytest.raises(ValueError, match="'s2' is of another kind"):
        register(NodeKind(("s2",), "reflectance", "band", ("sza",), "1"))
    with pytest.raises(ValueError, match="at least one node and of one angle"):
        register(NodeKind(("lst",), "temperature", "channel", (), "K"))
    with pytest.raises(CubeError, match="'l8' is of no kind that is known"):
        kinds.kind_of("l8")
    with pytest.raises(TypeError, match="not incidence"):
        kind.node(np.zeros((1, 1, 2, 2)), np.array(["2021-01-01"]), ["T"], incidence=3.0)
