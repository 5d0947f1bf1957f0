"""The data contract: sound cubes pass unchanged, every breach is refused with its own sentence."""

import logging
import re
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import inference
from pi_vae import Optical, PhysicsVAE, Radar
from pi_vae.data import CubeError, CubeWarning, complete, open_cube, validate
from pi_vae.data.sentinel1 import db_to_linear, linear_to_db

Break = Callable[[xr.Dataset], xr.Dataset]


def broken(cube: xr.DataTree, node: str, change: Break) -> xr.DataTree:
    cube = cube.copy(deep=True)
    cube[node] = xr.DataTree(change(cube[node].to_dataset()))
    return cube


def scaled(name: str, change: Callable[[xr.DataArray], xr.DataArray]) -> Break:
    """Change the values of a variable and keep its attributes."""

    def apply(node: xr.Dataset) -> xr.Dataset:
        values = np.asarray(change(node[name])).astype(node[name].dtype)
        return node.assign({name: node[name].copy(data=values)})

    return apply


def with_attrs(name: str, **attrs: object) -> Break:
    return lambda node: node.assign({name: node[name].assign_attrs(attrs)})


def at(name: str, index: tuple[int, ...], value: object) -> Break:
    def apply(node: xr.Dataset) -> xr.Dataset:
        values = node[name].values.copy()
        values[index] = value
        return node.assign({name: (node[name].dims, values, node[name].attrs)})

    return apply


def dated(*days: str) -> Break:
    return lambda node: node.isel(time=slice(len(days))).assign_coords(time=np.array(days, "datetime64[ns]"))


def mixed_passes(node: xr.Dataset) -> xr.Dataset:
    node = node.assign(orbit_pass=("time", ["ascending", "descending"] * 3))
    return node.drop_vars("relative_orbit")


def per_date(name: str, values: np.ndarray) -> Break:
    return lambda node: node.assign({name: ("time", values)})


RADIANS = np.linspace(0.5, 0.9, 6)
REFUSALS: dict[str, tuple[str, Break, str]] = {
    # reflectance
    "reflectance in 0-10000": ("s2", scaled("reflectance", lambda r: r * 1e4), r"scaled by 10000.*divide by 10000"),
    "reflectance in percent": ("s2", scaled("reflectance", lambda r: r * 100), r"\(percent\).*divide by 100 "),
    "integers": ("s2", lambda n: n.assign(reflectance=(n.reflectance.fillna(0) * 1e4).astype("u2")), "Type uint16"),
    "offset missing": ("s2", scaled("reflectance", lambda r: r + 0.1), r"offset of -1000.*still in.*subtract 0\.1"),
    "offset twice": ("s2", scaled("reflectance", lambda r: r - 0.1), r"offset of -1000.*applied twice.*add 0\.1"),
    "offset on an old baseline": (
        "s2",
        lambda n: scaled("reflectance", lambda r: r - 0.1)(n).assign_attrs(processing_baseline="02.14"),
        "applied on a product that has none",
    ),
    "bands out of order": (
        "s2",
        lambda n: n.isel(band=[2, 1, 0, 3]),
        "'B04' out of order.*band index 0.*B02 B03 B04 B08",
    ),
    "band twice": ("s2", lambda n: n.isel(band=[0, 1, 1, 3]), "'B03' out of order.*band index 2"),
    "unknown band": ("s2", lambda n: n.assign_coords(band=["B02", "B03", "red", "B08"]), "Unknown band 'red'.*index 2"),
    "unnamed bands": ("s2", lambda n: n.drop_vars(["band", "wavelength"]), "Unnamed bands"),
    "valid NaN": (
        "s2",
        at("reflectance", (2, 1, 3, 2), np.nan),
        r"not finite.*band B03, index \(2, 3, 2\).*'valid' to f",
    ),
    "valid infinity": ("s1", at("backscatter", (0, 1, 4, 3), np.inf), r"not finite.*pol VH, index \(0, 4, 3\)"),
    # masks, dimensions
    "all-false mask": ("s2", scaled("valid", lambda v: v & False), "No usable pixel.*invert the mask"),
    "all-false radar mask": ("s1", scaled("valid", lambda v: v & False), "No usable pixel.*node 's1'"),
    "mask of numbers": ("s2", lambda n: n.assign(valid=n.valid.astype("u1")), "Type uint8.*convert to bool"),
    "missing reflectance": ("s2", lambda n: n.drop_vars("reflectance"), "Missing variable.*'reflectance'"),
    "missing mask": ("s1", lambda n: n.drop_vars("valid"), "Missing variable in node 's1', variable 'valid'"),
    "missing sun": ("s2", lambda n: n.drop_vars("sza"), r"Missing variable.*'sza'.*pi_vae\.data\.complete"),
    "missing incidence": ("s1", lambda n: n.drop_vars("incidence"), "Missing variable.*'incidence'.*complete"),
    "transposed": (
        "s2",
        lambda n: n.transpose("time", "y", "x", "band"),
        r"Dimensions.*transpose to \(time, band, y, x\)",
    ),
    "angle per band": ("s2", lambda n: n.assign(vza=("band", np.full(4, 5.0))), r"variable 'vza'.*\(time\) or"),
    "empty grid": ("s2", lambda n: n.isel(x=slice(0)), "Length 0 of dimension 'x'"),
    # dates
    "no dates": ("s2", lambda n: n.isel(time=slice(0)), "No dates"),
    "no time coordinate": ("s2", lambda n: n.drop_vars("time"), "No dates"),
    "numbers for dates": ("s1", lambda n: n.assign_coords(time=np.arange(6)), "Type int64.*datetime64"),
    "NaT": ("s2", dated("2021-03-01", "NaT", "2021-03-09"), "NaT.*index 1"),
    "unsorted dates": ("s2", dated("2021-03-01", "2021-03-09", "2021-03-05"), r"Unsorted.*index 2.*sortby"),
    "duplicate dates": ("s1", dated("2021-03-01", "2021-03-05", "2021-03-05"), "Duplicate date 2021-03-05.*index 2"),
    "unsorted drivers": ("drivers", dated("2021-03-09", "2021-03-05"), "Unsorted.*'drivers'"),
    # radar
    "decibels": ("s1", scaled("backscatter", linear_to_db), "decibels.*db_to_linear"),
    "declared decibels": ("s1", with_attrs("backscatter", units="dB"), "Units 'dB' declared but.*units to '1'"),
    "converted twice": ("s1", scaled("backscatter", db_to_linear), "converted from decibels once too often"),
    "raw digital numbers": (
        "s1",
        scaled("backscatter", lambda p: np.sqrt(p) * 1e3),
        "Raw digital numbers.*dn_to_linear",
    ),
    "zero power": ("s1", at("backscatter", (1, 1, 2, 2), 0.0), r"Power of 0 in usable.*pol VH"),
    "VH before VV": ("s1", lambda n: n.isel(pol=[1, 0]), "Polarisations VH VV.*VV first"),
    "no calibration": ("s1", lambda n: n.drop_attrs(deep=False), "Calibration None.*sigma0"),
    "beta0": ("s1", lambda n: n.assign_attrs(calibration="beta0"), "Calibration 'beta0'"),
    "mixed passes": ("s1", mixed_passes, r"Mixed orbit passes \(ascending, descending\).*add relative_orbit"),
    "pass without dates": ("s1", lambda n: n.assign(orbit_pass="ascending"), "give one per date"),
    # angles
    "sun in radians": ("s2", per_date("sza", RADIANS), "variable 'sza'.*convert to degrees|radians.*'sza'"),
    "azimuth in radians": ("s2", per_date("raa", RADIANS), r"\(radians\).*'raa'"),
    "declared radians": ("s2", with_attrs("vza", units="radian"), r"\(radians\).*'vza'"),
    "incidence in radians": ("s1", per_date("incidence", RADIANS), r"\(radians\).*'incidence'"),
    "impossible incidence": ("s1", at("incidence", (3,), 89.0), r"89\.0 degrees.*index \(3,\)"),
    "NaN incidence": ("s1", at("incidence", (3,), np.nan), r"not finite.*'incidence', index \(3,\)"),
    "sun below the horizon": ("s2", at("sza", (4,), 110.0), r"110\.0 degrees.*index \(4,\).*UTC"),
    "negative zenith": ("s2", at("vza", (0,), -5.0), r"-5\.0 degrees.*'vza'"),
    "azimuth beyond a turn": ("s2", at("raa", (0,), 400.0), r"400\.0 degrees.*'raa'"),
    "NaN sun": ("s2", at("sza", (2,), np.nan), r"not finite.*'sza', index \(2,\)"),
    # drivers, places
    "Celsius": ("drivers", scaled("air_temperature", lambda t: t - 273.15), r"Celsius.*273\.15"),
    "negative rain": ("drivers", at("precipitation", (0,), -1.0), "Negative value -1"),
    "NaN driver": ("drivers", at("precipitation", (2,), np.nan), r"NaN.*'precipitation', index \(2,\)"),
    "driver per band": ("drivers", lambda n: n.assign(air_temperature=("site", np.ones(3))), "Dimensions.*'drivers'"),
    "mixed zones": ("s1", lambda n: n.rio.write_crs("EPSG:32632"), "EPSG:32631 and EPSG:32632.*reproject"),
    "one node without a zone": ("s1", lambda n: n.drop_vars("spatial_ref"), "EPSG:32631 and none"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(cube: xr.DataTree, case: str) -> None:
    node, change, sentence = REFUSALS[case]
    with pytest.raises(CubeError, match=sentence) as caught:
        validate(broken(cube, node, change))
    text = str(caught.value)
    assert f"'{node}'" in text, "the sentence names the node"
    assert text.endswith(".") and not re.search(r"\. [A-Z]", text), "one sentence"


ENTRIES: dict[str, Callable[[inference.Run, xr.DataTree], object]] = {
    "fit": lambda run, cube: inference.fit(run.model, cube, 1, progress=False),
    "posterior": lambda run, cube: inference.posterior(run, cube, draws=1),
    "predict": lambda run, cube: inference.predict(run, cube, "nowhere", draws=1),
    "translate": lambda run, cube: inference.translate(run, cube, source=["s1"], target="s2", draws=1),
    "embed": lambda run, cube: inference.embed(run, cube),
    "distil": lambda run, cube: inference.distil(run, cube, steps=1, progress=False),
    "neural_posterior": lambda run, cube: inference.neural_posterior(run, cube, steps=1, progress=False),
    "learn_globals": lambda run, cube: inference.learn_globals(run, cube, steps=10, progress=False),
    "withheld_scores": lambda run, cube: inference.withheld_scores(run, cube, draws=1),
    "independence": lambda run, cube: inference.independence(run, cube),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_all_of_it(cube: xr.DataTree, entry: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = {"s2": Optical(bands=cube["s2"].band.values, nodes=1), "s1": Radar(residual=1)}
    run = inference.Run(PhysicsVAE(parts, width=8, layers=1).eval())
    for node, change, sentence in REFUSALS.values():
        with pytest.raises(CubeError, match=sentence):
            ENTRIES[entry](run, broken(cube, node, change))
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_sound_cube_is_returned_unchanged(cube: xr.DataTree) -> None:
    before = cube.copy(deep=True)
    assert validate(cube) is cube
    assert cube.identical(before)


def test_points_and_resolutions_are_sound(cube: xr.DataTree, points: xr.DataTree) -> None:
    validate(points)
    fine = cube["s2"].to_dataset().isel(y=slice(4))
    validate(xr.DataTree.from_dict({"s2_10m": fine, "s2_20m": _coarser(fine, 2)}))
    validate(xr.DataTree.from_dict({"s2_20m": _coarser(fine, 2), "s2_10m": fine}))


def test_grids_that_do_not_nest_are_refused(cube: xr.DataTree) -> None:
    fine = cube["s2"].to_dataset().isel(y=slice(4))
    with pytest.raises(CubeError, match="Lengths 4 and 3 in nodes 's2_10m' and 's2_20m', dimension 'y': crop both"):
        validate(xr.DataTree.from_dict({"s2_10m": fine, "s2_20m": fine.isel(y=slice(3))}))
    moved = _coarser(fine, 2)
    moved = moved.assign_coords(y=moved.y + 10)
    with pytest.raises(CubeError, match="Grids that lie 10 m apart in nodes 's2_10m' and 's2_20m', dimension 'y'"):
        validate(xr.DataTree.from_dict({"s2_10m": fine, "s2_20m": moved}))


def _coarser(node: xr.Dataset, factor: int) -> xr.Dataset:
    """Means over squares of pixels."""
    over = {"y": factor, "x": factor}
    means = node[["reflectance"]].coarsen(over).mean().astype("float32")
    return node.drop_dims(["y", "x"]).assign(reflectance=means.reflectance, valid=node.valid.coarsen(over).min())


def test_points_beside_a_grid_are_refused(cube: xr.DataTree, points: xr.DataTree) -> None:
    with pytest.raises(CubeError, match="Points beside a grid in nodes 's2' and 's1'"):
        validate(xr.DataTree.from_dict({"s2": cube["s2"].to_dataset(), "s1": points["s1"].to_dataset()}))
    with pytest.raises(CubeError, match=r"'s2' \(20\) and 's1' \(7\)"):
        fewer = points["s1"].to_dataset().isel(point=slice(7))
        validate(xr.DataTree.from_dict({"s2": points["s2"].to_dataset(), "s1": fewer}))


def test_what_is_no_cube_is_refused(cube: xr.DataTree) -> None:
    with pytest.raises(CubeError, match=r"A Dataset in place of a cube.*DataTree"):
        validate(cube["s2"].to_dataset())
    with pytest.raises(CubeError, match=r"No modality.*'drivers'.*s2"):
        validate(xr.DataTree.from_dict({"drivers": cube["drivers"].to_dataset()}))


@pytest.mark.parametrize("baseline", ["04.00", "N0511", "0500", 5.1])
def test_known_baseline_needs_few_samples_to_see_the_offset(cube: xr.DataTree, baseline: object) -> None:
    def one_date(node: xr.Dataset) -> xr.Dataset:
        node = scaled("reflectance", lambda r: r + 0.1)(node).isel(time=[0])
        return node.assign_attrs(processing_baseline=baseline)

    with pytest.raises(CubeError, match="still in"):
        validate(broken(cube, "s2", one_date))


def test_old_baseline_and_declared_offset_pass_the_offset_test(cube: xr.DataTree) -> None:
    for attrs in ({"processing_baseline": "02.14"}, {"offset_applied": 1}):
        lift = scaled("reflectance", lambda r: r + 0.1)
        validate(broken(cube, "s2", lambda node, a=attrs, f=lift: f(node).assign_attrs(a)))


@pytest.mark.parametrize(
    "spectrum", [(0.12, 0.18, 0.27, 0.36), (0.85, 0.85, 0.84, 0.78), (0.03, 0.025, 0.015, 0.005)],
    ids=["desert", "snow", "water"],
)  # fmt: skip
def test_plain_scenes_are_not_mistaken_for_an_offset(cube: xr.DataTree, spectrum: tuple[float, ...]) -> None:
    values = np.array(spectrum)[:, None, None] * np.random.default_rng(1).uniform(0.95, 1.05, (6, 4, 5, 4))
    validate(broken(cube, "s2", lambda n: n.assign(reflectance=(n.reflectance.dims, values.astype("f4")))))


def test_perfect_mask_over_many_dates_warns(cube: xr.DataTree) -> None:
    def many(node: xr.Dataset) -> xr.Dataset:
        node = node.isel(time=[0] * 20)
        return node.assign_coords(time=np.datetime64("2021-01-01", "ns") + np.arange(20) * np.timedelta64(5, "D"))

    with pytest.warns(CubeWarning, match="All pixels of all 20 dates usable in node 's2'"):
        validate(broken(cube, "s2", many))


def test_one_usable_pixel_in_a_large_grid_is_judged(cube: xr.DataTree) -> None:
    node = cube["s2"].to_dataset().isel(x=np.arange(4).repeat(40), y=np.arange(5).repeat(30), time=[0])
    valid = np.zeros(node["valid"].shape, bool)
    valid[0, 77, 101] = True
    node = node.assign(valid=(node["valid"].dims, valid), reflectance=node["reflectance"] * 1e4)
    with pytest.raises(CubeError, match="divide by 10000"):
        validate(xr.DataTree.from_dict({"s2": node}))


def test_complete_fills_angles_and_says_so(cube: xr.DataTree, caplog: pytest.LogCaptureFixture) -> None:
    bare = broken(cube, "s2", lambda n: n.drop_vars(["sza", "vza", "raa"]))
    bare = broken(bare, "s1", lambda n: n.drop_vars("incidence"))
    with caplog.at_level(logging.INFO, logger="pi_vae.data"):
        full = validate(complete(bare))
    assert "sza" not in bare["s2"] and "incidence" not in bare["s1"], "the input is not changed"
    for name in ("sza", "vza", "raa", "incidence"):
        assert f"no {name} " in caplog.text
        variable = full["s1" if name == "incidence" else "s2"][name]
        assert variable.attrs["units"] == "degree" and variable.attrs["comment"]
    assert (full["s2"]["vza"] == 5).all() and (full["s2"]["raa"] == 90).all()
    assert (full["s1"]["incidence"] == 38.5).all()
    # at 50.5 N the sun climbs from winter to spring
    assert (np.diff(full["s2"]["sza"]) < 0).all() and 40 < full["s2"]["sza"].values.min() < 62
    assert complete(cube) is cube, "nothing missing, nothing copied"


def test_sun_angles_need_a_place(cube: xr.DataTree) -> None:
    with pytest.raises(CubeError, match="no place to compute them.*write_crs"):
        complete(broken(cube, "s2", lambda n: n.drop_vars(["sza", "spatial_ref"])))


def test_unreadable_reference_system(cube: xr.DataTree) -> None:
    with pytest.raises(CubeError, match="Unreadable coordinate reference system in node 's1'"):
        validate(broken(cube, "s1", lambda n: n.assign_coords(spatial_ref=0)))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("name", ["cube.nc", "cube.zarr"])
def test_round_trip_through_files(cube: xr.DataTree, tmp_path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".nc"):
        cube.to_netcdf(file, engine="h5netcdf")
    else:
        cube.to_zarr(file)
    opened = open_cube(file)
    for node in ("s2", "s1", "drivers"):
        xr.testing.assert_equal(opened[node].to_dataset().load(), cube[node].to_dataset())
    lazy = open_cube(str(file), chunks={})
    assert lazy["s2"]["reflectance"].chunks is not None


def test_open_cube_takes_a_cube_in_memory(cube: xr.DataTree) -> None:
    assert open_cube(cube) is cube


def test_missing_file_lists_the_samples() -> None:
    with pytest.raises(FileNotFoundError, match=r"named 'nowhere\.nc'.*_belgium, treesat_abies_2020\.$"):
        open_cube("nowhere.nc")


def test_file_that_is_no_cube(tmp_path) -> None:
    text = tmp_path / "notes.nc"
    text.write_text("not a netCDF file")
    with pytest.raises(CubeError, match=r"Unreadable cube in .*notes\.nc.*DataTree"):
        open_cube(text)
