"""What is hidden, how much of it, in which shape; and that hiding never reveals."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from pi_vae.data import pattern, withhold
from pi_vae.data.batches import Batch, ModalityBatch
from pi_vae.data.occlusion import occlude

NAMES = ("s2", "s1")


@pytest.fixture(scope="module")
def wide():
    """60 x 60 pixels, a third of the optical blocks under clouds."""
    return pattern(size=60, bands=("B03",))


def _masks(cube, name):
    return cube[name]["withheld"].values, cube[name]["valid"].values


def _batch(patches=40, dates=12, side=16):
    generator = torch.Generator().manual_seed(5)

    def modality(channels):
        valid = torch.rand(patches, dates, side, side, generator=generator) < 0.8
        seen = valid & (torch.rand(valid.shape, generator=generator) < 0.9)
        values = torch.randn(patches, dates, channels, side, side, generator=generator)
        return ModalityBatch(values, valid, seen, torch.arange(dates), {"incidence": torch.full((dates,), 38.0)})

    modalities = {"s2": modality(3), "s1": modality(2)}
    days = torch.arange(dates, dtype=torch.float64)
    return Batch(days, modalities, {}, (patches, side, side), torch.arange(patches * side * side))


def _all_seen(batch):
    full = {name: dataclasses.replace(m, seen=torch.ones_like(m.seen)) for name, m in batch.modalities.items()}
    return dataclasses.replace(batch, modalities=full)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_the_share_withheld_is_the_fraction_asked_for(wide, fraction):
    for name in NAMES:
        withheld, valid = _masks(withhold(wide, fraction, block=10, seed=1), name)
        blocks = valid.sum() / 100  # a block is drawn as a whole
        assert abs(withheld.sum() / valid.sum() - fraction) < 4 * math.sqrt(fraction * (1 - fraction) / blocks)


def test_withheld_is_a_part_of_valid_and_the_rest_of_the_cube_stays(wide):
    hidden = withhold(wide, 0.3, seed=2)
    for name in NAMES:
        withheld, valid = _masks(hidden, name)
        assert withheld.any() and not (withheld & ~valid).any()
        assert hidden[name].to_dataset().drop_vars("withheld").identical(wide[name].to_dataset())
        assert "withheld" not in wide[name]


def test_a_block_is_withheld_as_a_whole(wide):
    # 7 does not divide 60: the last blocks are narrower.
    hidden = withhold(wide, 0.3, block=7, seed=3)
    withheld, _ = _masks(hidden, "s1")  # radar is valid everywhere
    for y in range(0, 60, 7):
        for x in range(0, 60, 7):
            block = withheld[:, y : y + 7, x : x + 7].reshape(len(withheld), -1)
            assert (block == block[:, :1]).all()
    share = withheld[:, ::7, ::7].mean((1, 2))
    assert 0 < share.min() and share.max() < 1, "blocks of a date are drawn one by one"


def test_modalities_are_withheld_independently(wide):
    masks = [withhold(wide, 0.5, block=1, seed=4)[name]["withheld"].values[:19] for name in NAMES]
    clear = wide["s2"]["valid"].values
    both = np.corrcoef(masks[0][clear], masks[1][clear])[0, 1]
    assert abs(both) < 4 / math.sqrt(clear.sum())


def test_the_seed_decides_the_mask(wide):
    first, second, other = (withhold(wide, 0.2, seed=seed)["s2"]["withheld"].values for seed in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_points_are_withheld_one_by_one(points):
    hidden = withhold(points, 0.5, block=10, seed=0)
    withheld, valid = _masks(hidden, "s1")
    assert hidden["s1"]["withheld"].dims == ("time", "point") and not (withheld & ~valid).any()
    assert (withheld.any(1) & ~withheld.all(1)).any(), "points of one date differ"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(wide, fraction):
    with pytest.raises(ValueError, match="withheld fraction is .*between 0 and 1"):
        withhold(wide, fraction)


def test_occlusion_changes_what_is_seen_and_nothing_else():
    batch = _batch()
    hidden = occlude(batch, _generator())
    for name, m in batch.modalities.items():
        after = hidden.modalities[name]
        assert not (after.seen & ~m.seen).any(), "nothing is revealed"
        assert (m.seen & ~after.seen).any()
        for field in ("values", "valid", "index", "geometry"):
            assert getattr(after, field) is getattr(m, field)
    for field in ("dates", "drivers", "shape", "pixels", "scale"):
        assert getattr(hidden, field) is getattr(batch, field)


def test_whole_dates_are_hidden_with_the_stated_probability():
    hidden = occlude(_all_seen(_batch()), _generator(), dates=0.3, blocks=0.0, modality=0.0)
    for m in hidden.modalities.values():
        date = m.seen.flatten(2)
        assert (date.all(2) | ~date.any(2)).all()
        assert abs((~date.any(2)).float().mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / date[..., 0].numel())


def test_rectangles_hide_the_stated_share_everywhere_alike():
    size, blocks = 16, 0.7
    batch = _all_seen(_batch(patches=150))
    hidden = occlude(batch, _generator(), dates=0.0, blocks=blocks, modality=0.0)
    side = np.ceil((0.25 + 0.5 * (np.arange(1000) + 0.5) / 1000) * size)
    expected = blocks * (side / (size + side - 1)).mean() ** 2
    share = torch.stack([~m.seen for m in hidden.modalities.values()]).float()
    error = share.mean((3, 4)).std().item() / math.sqrt(share[..., 0, 0].numel())
    assert abs(share.mean().item() - expected) < 4 * error
    by_pixel = share.mean((0, 1, 2))
    spread = math.sqrt(expected * (1 - expected) / share[..., 0, 0].numel())
    assert (by_pixel - expected).abs().max() < 5 * spread, "the middle of a patch is no different from its edge"


def test_rectangles_are_rectangles_of_the_stated_sides():
    hidden = occlude(_all_seen(_batch()), _generator(), dates=0.0, blocks=1.0, modality=0.0)
    gone = ~torch.cat([m.seen.flatten(0, 1) for m in hidden.modalities.values()])
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        assert (line.int().diff(dim=1).clamp_min(0).sum(1) + line[:, 0].int()).max() == 1, "one piece"
        assert line.sum(1).max() == 12, "at most three quarters of 16"


def test_channels_are_hidden_as_often_as_stated_and_one_stays():
    batch, generator = _batch(patches=1, dates=2, side=2), _generator()
    hidden = [occlude(batch, generator, channels=0.5).modalities for _ in range(400)]
    for name, count in (("s2", 3), ("s1", 2)):
        given = torch.stack([modalities[name].given for modalities in hidden])
        assert given.any(1).all()
        # One that stays whatever the coins say, and all others heads: nothing is lost.
        lost = 0.5 * (1 - 0.5 ** (count - 1))
        assert abs((~given).any(1).float().mean().item() - lost) < 4 * math.sqrt(lost * (1 - lost) / 400)


def test_at_most_one_modality_is_hidden_from_a_patch():
    batch = _all_seen(_batch(patches=400, dates=2, side=2))
    hidden = occlude(batch, _generator(), dates=0.0, blocks=0.0, modality=0.4)
    gone = torch.stack([~m.seen.flatten(1).any(1) for m in hidden.modalities.values()])
    assert gone.sum(0).max() == 1
    assert abs(gone.any(0).float().mean().item() - 0.4) < 4 * math.sqrt(0.24 / 400)
    assert gone.any(1).all(), "each modality has its turn"


def test_the_only_modality_is_never_hidden_altogether():
    batch = _all_seen(_batch())
    alone = dataclasses.replace(batch, modalities={"s1": batch.modalities["s1"]})
    hidden = occlude(alone, _generator(), dates=0.0, blocks=0.0, modality=1.0)
    assert hidden.modalities["s1"].seen.all()


def test_the_generator_decides_what_is_occluded():
    first, second, other = (occlude(_batch(), _generator(seed)).modalities["s2"].seen for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
