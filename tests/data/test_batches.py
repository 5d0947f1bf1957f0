"""From cube to tensors: units, masks and dates; patches that count every pixel alike; tiles that cover it once."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from pi_vae.data.batches import joined, parted
from pi_vae.data.tensors import CubeTensors

CHANNELS = {"s2": ("B02", "B03", "B04", "B08"), "s1": ("VV", "VH")}


def _ids(data):
    """The cube with the number of its pixel as every value."""
    ids = torch.arange(data.pixels, dtype=torch.float32).view(data.shape)
    for m in data.modalities.values():
        m.values = ids.expand(m.values.shape).clone()
    return data


def _pixels(batch):
    """Which pixels of the cube a batch counts, by the numbers of `_ids`."""
    return batch.modalities["s1"].series(batch.pixels)[:, 0, 0].long()


def _with(cube, name, **variables):
    cube = cube.copy()
    cube[name].dataset = cube[name].to_dataset().assign(variables)
    return cube


def test_values_come_in_the_units_of_the_likelihood(cube):
    data = CubeTensors.read(cube, CHANNELS)
    backscatter, valid = cube["s1"]["backscatter"].values, cube["s2"]["valid"].values
    assert np.allclose(data.modalities["s1"].values[0], 10 * np.log10(backscatter), atol=1e-4)
    optical = data.modalities["s2"].values[0].numpy()
    assert np.array_equal(optical, np.where(valid[:, None], cube["s2"]["reflectance"].values, 0))
    assert np.array_equal(data.modalities["s2"].valid[0], valid)
    assert torch.equal(data.modalities["s2"].seen, data.modalities["s2"].valid)


def test_channels_come_in_the_order_of_the_model(cube):
    turned = CubeTensors.read(cube, {"s2": ("B08", "B03"), "s1": ("VH",)})
    data = CubeTensors.read(cube, CHANNELS)
    assert torch.equal(turned.modalities["s2"].values, data.modalities["s2"].values[:, :, [3, 1]])
    assert torch.equal(turned.modalities["s1"].values, data.modalities["s1"].values[:, :, [1]])


def test_union_dates_hold_the_dates_of_every_modality_once(cube):
    radar = cube["s1"].to_dataset().isel(time=slice(1, 5))
    time = cube["s2"].time.values
    shifted = radar.assign_coords(time=np.concatenate([time[2:3], radar.time.values[1:]]))
    cube = xr.DataTree.from_dict({"s2": cube["s2"].to_dataset(), "s1": shifted})
    data = CubeTensors.read(cube, CHANNELS)
    assert len(data.dates) == 6 + 4 - 1 and (data.dates.diff() > 0).all()
    assert data.dates.dtype == torch.float64
    for name in ("s2", "s1"):
        assert np.array_equal(data.times[data.modalities[name].index], cube[name].time.values)
    days = (data.times - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    assert np.allclose(data.dates, days, atol=1e-6, rtol=0)


def test_weather_is_interpolated_to_the_union_dates(cube):
    data = CubeTensors.read(cube, CHANNELS)
    kelvin = cube["drivers"]["air_temperature"].values
    assert data.drivers["air_temperature"][0].item() == pytest.approx(kelvin[0])
    # Radar comes one day after the weather of the optical date, which comes every ten days.
    assert data.drivers["air_temperature"][1].item() == pytest.approx(kelvin[0] + 0.1 * (kelvin[1] - kelvin[0]))


def test_a_date_that_is_not_finite_everywhere_is_not_valid(cube):
    values = cube["s1"]["backscatter"].copy()
    values[2, 1, 3, 3] = np.nan
    data = CubeTensors.read(_with(cube, "s1", backscatter=values), CHANNELS)
    m = data.modalities["s1"]
    assert not m.valid[0, 2, 3, 3] and int((~m.valid).sum()) == 1
    assert (m.values[0, 2, :, 3, 3] == 0).all()


@pytest.mark.parametrize("score", [False, True])
def test_withheld_observations_are_never_seen_and_valid_only_to_be_scored(cube, score):
    withheld = xr.zeros_like(cube["s2"]["valid"])
    withheld[3, 1:3, :2] = True
    data = CubeTensors.read(_with(cube, "s2", withheld=withheld), CHANNELS, score_withheld=score)
    m, plain = data.modalities["s2"], CubeTensors.read(cube, CHANNELS).modalities["s2"]
    hidden = torch.from_numpy(withheld.values)[None]
    assert torch.equal(m.seen, plain.seen & ~hidden)
    assert torch.equal(m.valid, plain.valid if score else m.seen)
    kept = m.values.movedim(2, -1)[hidden]
    assert torch.equal(kept, plain.values.movedim(2, -1)[hidden]) if score else (kept == 0).all()


def test_a_cube_where_everything_is_withheld_is_refused(cube):
    for name in ("s2", "s1"):
        cube = _with(cube, name, withheld=xr.ones_like(cube[name]["valid"]))
    with pytest.raises(ValueError, match="no usable observation"):
        CubeTensors.read(cube, CHANNELS)


def test_a_channel_that_the_cube_lacks_is_refused_by_name(cube):
    with pytest.raises(ValueError, match="'s2' of the cube has no band 'B11'.*B02, B03, B04, B08"):
        CubeTensors.read(cube, {"s2": ("B03", "B11")})


def test_a_channel_that_the_cube_lacks_is_left_out_on_request(cube):
    part = CubeTensors.read(cube, {"s2": ("B03", "B11"), "s1": ("VH",)}, partial=True).modalities
    full = CubeTensors.read(cube, {"s2": ("B03",)}).modalities["s2"]
    assert part["s2"].given.tolist() == [True, False] and part["s1"].given.all()
    assert torch.equal(part["s2"].values[:, :, :1], full.values) and torch.equal(part["s2"].seen, full.seen)
    assert (part["s2"].values[:, :, 1] == 0).all()
    scored = part["s2"].scored(torch.arange(4))
    assert torch.equal(scored[..., 0], part["s2"].mask(torch.arange(4))) and not scored[..., 1].any()


def test_empty_dates_go_and_the_union_stays(cube):
    valid = cube["s2"]["valid"].copy()
    valid[[0, 4]] = False
    sza = cube["s2"]["sza"] + np.arange(6, dtype=np.float32)
    full = CubeTensors.read(_with(cube, "s2", valid=valid, sza=sza), CHANNELS)
    data = full.without_empty_dates()
    m = data.modalities["s2"]
    assert m.index.tolist() == full.modalities["s2"].index[[1, 2, 3, 5]].tolist()
    assert m.geometry["sza"].tolist() == [46.0, 47.0, 48.0, 50.0]
    assert m.valid.flatten(2).any(2).all() and m.values.shape[1] == m.seen.shape[1] == 4
    assert torch.equal(data.dates, full.dates)
    assert torch.equal(data.modalities["s1"].values, full.modalities["s1"].values)


@pytest.mark.parametrize("size, halo", [(1, 0), (2, 3), (3, 1), (4, 7), (50, 2)])
def test_tiles_cover_every_pixel_once_row_by_row(cube, size, halo):
    data = _ids(CubeTensors.read(cube, CHANNELS))
    grid = torch.arange(20).view(5, 4)
    found = []
    for rows, columns, batch in data.tiles(size, halo):
        assert torch.equal(_pixels(batch), grid[rows, columns].flatten())
        assert batch.scale == 1.0
        found.append(_pixels(batch))
    assert torch.equal(torch.cat(found).sort().values, torch.arange(20))


def test_a_halo_shows_the_neighbours_and_nothing_beyond_the_cube(cube):
    data = _ids(CubeTensors.read(cube, CHANNELS))
    rows, columns, batch = next(iter(data.tiles(2, 3)))
    m = batch.modalities["s1"]
    assert batch.shape == (1, 8, 8)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[3:8, 3:7] = True
    assert torch.equal(m.valid[0].any(0), inside) and torch.equal(m.seen, m.valid)
    assert torch.equal(m.values[0, 0, 0][inside], torch.arange(20.0))


def test_at_picks_the_pixels_asked_for_with_their_neighbours(cube):
    data = _ids(CubeTensors.read(cube, CHANNELS))
    rows, columns = torch.tensor([4, 0, 2]), torch.tensor([3, 0, 1])
    batch = data.at(rows, columns, 1)
    assert _pixels(batch).tolist() == [19, 0, 9]
    assert batch.modalities["s1"].values[2, 0, 0].tolist() == [[4, 5, 6], [8, 9, 10], [12, 13, 14]]
    corner = batch.modalities["s1"].valid[1, 0]
    assert corner.tolist() == [[False] * 3, [False, True, True], [False, True, True]]


def test_angles_of_pixels_follow_the_pixels(cube):
    incidence = 30 + torch.arange(20.0).view(5, 4).numpy()
    field = (("time", "y", "x"), np.broadcast_to(incidence, (6, 5, 4)).astype(np.float32))
    data = CubeTensors.read(_with(cube, "s1", incidence=field), CHANNELS)
    batch = data.at(torch.tensor([4, 2]), torch.tensor([3, 1]), 1)
    angles = batch.modalities["s1"].angles(batch.pixels)["incidence"]
    assert angles[:, 0].tolist() == [49.0, 39.0] and angles.shape == (2, 6)
    assert batch.modalities["s2"].angles(batch.pixels)["sza"].shape == (6,), "shared by the pixels of a date"


@pytest.mark.parametrize("count, size, pixels", [(2, 3, 5), (3, 2, 100), (1, 9, 7)])
def test_every_pixel_weighs_the_same_in_random_patches(cube, count, size, pixels):
    data = _ids(CubeTensors.read(cube, CHANNELS))
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(2000, data.pixels, dtype=torch.float64)
    for draw in weights:
        batch = data.patches(count, size, pixels, generator)
        # A pixel may lie in two patches of a batch: it counts twice.
        draw += batch.scale * torch.bincount(_pixels(batch), minlength=data.pixels)
    error = weights.std(0) / math.sqrt(len(weights))
    assert error.max() < 0.1
    assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


def test_outside_the_cube_nothing_is_counted_or_valid(cube):
    data = _ids(CubeTensors.read(cube, CHANNELS))
    generator = torch.Generator().manual_seed(1)
    hanging = 0
    for _ in range(50):
        batch = data.patches(2, 4, 100, generator)
        counted = torch.zeros(math.prod(batch.shape), dtype=torch.bool)
        counted[batch.pixels] = True
        valid = batch.modalities["s1"].valid.any(1).flatten()  # radar is valid everywhere in this cube
        assert torch.equal(valid, counted)
        hanging += int((~counted).any())
    assert hanging > 10


def test_the_same_generator_gives_the_same_patches(cube):
    data = CubeTensors.read(cube, CHANNELS)
    first, second, other = (data.patches(2, 3, 6, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.pixels, second.pixels) and not torch.equal(first.pixels, other.pixels)
    assert torch.equal(first.modalities["s2"].values, second.modalities["s2"].values)


def test_points_are_pixels_without_neighbours(cube, points):
    grid = CubeTensors.read(cube, CHANNELS)
    data = CubeTensors.read(points, CHANNELS)
    assert data.points and data.shape == (20, 1)
    for name in ("s2", "s1"):
        across = grid.modalities[name].values.transpose(-1, -2).flatten(-2)  # the points run down the columns
        assert torch.equal(data.modalities[name].values.squeeze(-1), across)
    data = _ids(data)
    tiles = list(data.tiles(3, 4))
    assert [len(batch.pixels) for _, _, batch in tiles] == [9, 9, 2]
    assert torch.cat([_pixels(batch) for _, _, batch in tiles]).tolist() == list(range(20))
    assert all(batch.shape[1:] == (1, 1) for _, _, batch in tiles)
    assert _pixels(data.at(torch.tensor([7, 3]), torch.tensor([0, 0]), 5)).tolist() == [7, 3]
    batch = data.patches(8, 24, 5, torch.Generator().manual_seed(0))
    assert batch.shape == (8, 1, 1) and len(batch.pixels) == 5 and batch.scale == pytest.approx(4.0)


def test_parts_of_a_batch_are_its_patches(cube):
    data = _ids(CubeTensors.read(cube, CHANNELS))
    batch = data.patches(5, 4, 20, torch.Generator().manual_seed(0))
    parts = parted(batch, 2)
    assert [part.shape for part in parts] == [(3, 4, 4), (2, 4, 4)] and parted(batch, 1)[0] is batch
    whole = joined(parts)
    assert whole.shape == batch.shape
    assert torch.equal(whole.pixels.sort().values, batch.pixels.sort().values)
    for name, one in batch.modalities.items():
        assert torch.equal(whole.modalities[name].values, one.values)
        assert all(torch.equal(whole.modalities[name].geometry[a], angle) for a, angle in one.geometry.items())
