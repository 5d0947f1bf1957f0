"""The sample registry: where it looks, what it trusts, and what the Belgian patch holds."""

import dataclasses
import hashlib

import numpy as np
import pooch
import pytest
import xarray as xr

from pi_vae.data import CubeError, open_cube, samples, validate
from pi_vae.data.sentinel1 import linear_to_db

NAME = "worldcereal_patch_belgium"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A registered sample of a few bytes, no folder beside the repository, no network; returns its bytes."""
    content = b"a small file"
    sample = samples.Sample(
        url="https://example.invalid/small.bin",
        sha256=hashlib.sha256(content).hexdigest(),
        local="some/small.bin",
        loader=lambda file: xr.DataTree(),
        licence="MIT",
        attribution="nobody",
    )

    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setitem(samples.SAMPLES, "small", sample)
    monkeypatch.delenv("PI_VAE_DATA", raising=False)
    monkeypatch.setattr(samples, "__file__", str(tmp_path / "repository" / "pi_vae" / "data" / "samples.py"))
    monkeypatch.setattr(pooch, "retrieve", offline)
    return content


def put(folder, content: bytes):
    file = folder / "some" / "small.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_named_folder_comes_before_the_one_beside_the_repository(small, monkeypatch, tmp_path) -> None:
    beside = put(tmp_path / "shared" / "data", small)
    assert samples.path("small") == beside
    named = put(tmp_path / "named", small)
    monkeypatch.setenv("PI_VAE_DATA", str(tmp_path / "named"))
    assert samples.path("small") == named
    monkeypatch.setenv("PI_VAE_DATA", str(tmp_path / "empty"))
    assert samples.path("small") == beside, "a folder without the file is passed over"


def test_wrong_checksum_is_refused(small, tmp_path) -> None:
    put(tmp_path / "shared" / "data", small + b" changed")
    with pytest.raises(samples.SampleError, match=r"Wrong checksum .* in sample 'small', file .*small\.bin: replace"):
        samples.path("small")


def test_download_is_the_last_resort_and_checked(small, monkeypatch, tmp_path) -> None:
    asked = {}

    def retrieve(url: str, known_hash: str, fname: str, path) -> str:
        asked.update(url=url, known_hash=known_hash)
        return str(tmp_path / "cache" / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert samples.path("small") == tmp_path / "cache" / "small.bin"
    sample = samples.SAMPLES["small"]
    assert asked == {"url": sample.url, "known_hash": f"sha256:{sample.sha256}"}


def test_no_file_and_no_network(small, tmp_path) -> None:
    with pytest.raises(samples.SampleError, match=r"'small' is neither in .*shared/data nor downloadable.*PI_VAE_DATA"):
        samples.path("small")


def test_unknown_name() -> None:
    with pytest.raises(samples.SampleError, match=rf"Unknown sample 'mars': use one of {NAME}"):
        samples.load("mars")


def test_registry_is_complete() -> None:
    for sample in samples.SAMPLES.values():
        assert len(sample.sha256) == 64 and sample.url.startswith("https://")
        assert all(dataclasses.asdict(sample).values())


@pytest.fixture(scope="module")
def belgium() -> xr.DataTree:
    try:
        return open_cube(NAME)
    except samples.SampleError as error:
        if "neither in" not in str(error):
            raise
        pytest.skip(f"sample not at hand: {error}")


def test_belgium_optical(belgium: xr.DataTree) -> None:
    s2 = belgium["s2"]
    assert s2["reflectance"].dims == ("time", "band", "y", "x") and s2["reflectance"].shape == (12, 9, 100, 100)
    assert s2["reflectance"].dtype == np.float32
    assert s2["band"].values.tolist() == ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
    usable = s2["valid"].mean(("y", "x")).values
    assert (usable[[1, 2]] == 0).all(), "December and January hold no data"
    assert (np.delete(usable, [1, 2]) > 0.99).all()
    assert not s2["valid"].values[6].all(), "reflectance 0 in several bands is a gap"
    clear = s2["reflectance"].where(s2["valid"])
    assert float(clear.sel(band="B02").median()) == pytest.approx(0.05, abs=0.01)
    assert float(clear.sel(band="B08").isel(time=7).median()) == pytest.approx(0.3937, abs=1e-4)
    assert float(clear.max()) > 1.5, "clouds are not clipped"
    assert s2["sza"].values[7] == pytest.approx(29.3, abs=0.5), "June, shortly before noon"


def test_belgium_radar_and_weather(belgium: xr.DataTree) -> None:
    s1, drivers = belgium["s1"], belgium["drivers"]
    assert s1["pol"].values.tolist() == ["VV", "VH"] and s1.attrs["calibration"] == "sigma0"
    median = np.median(linear_to_db(s1["backscatter"].values), axis=(0, 2, 3))
    np.testing.assert_allclose(median, [-9.9, -16.7], atol=0.5)
    assert bool(s1["valid"].all())
    assert drivers["air_temperature"].dims == ("time",)
    assert drivers["air_temperature"].values[0] == pytest.approx(281.68)
    assert drivers["precipitation"].values[0] == pytest.approx(35.76)
    assert "orbit_pass" not in s1 and "relative_orbit" not in s1, "unknown, hence not invented"


def test_belgium_dates_and_place(belgium: xr.DataTree) -> None:
    for name in ("s2", "s1", "drivers"):
        node = belgium[name]
        assert node["time"].values[0] == np.datetime64("2020-11-15T10:45")
        assert node["composite_start"].values[0] == np.datetime64("2020-11-01")
        assert "middle of the month" in node.attrs["comment"]
    for name in ("s2", "s1"):
        assert belgium[name].to_dataset().rio.crs.to_epsg() == 32631
        assert (np.diff(belgium[name]["x"]) == 10).all() and (np.diff(belgium[name]["y"]) == -10).all()
    assert belgium.attrs["licence"] == "MIT" and "Copernicus" in belgium.attrs["attribution"]


@pytest.mark.parametrize(("shift", "sentence"), [(0.1, "probably still in"), (-0.1, "applied twice")])
def test_belgium_with_a_wrong_offset_is_refused(belgium: xr.DataTree, shift: float, sentence: str) -> None:
    """The offset is told from the dark end of real fields, not only of made-up ones."""
    cube = belgium.copy()
    s2 = belgium["s2"].to_dataset()
    cube["s2"] = xr.DataTree(s2.assign(reflectance=s2["reflectance"] + np.float32(shift)))
    with pytest.raises(CubeError, match=sentence):
        validate(cube)
