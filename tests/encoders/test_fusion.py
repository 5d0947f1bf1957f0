"""What the encoder may and may not depend on."""

import dataclasses

import pytest
import torch

from pi_vae.data.batches import Batch, ModalityBatch
from pi_vae.encoders import FusionEncoder
from pi_vae.static import SHAPE


def _batch(side=5, patches=2):
    torch.manual_seed(0)
    dates = torch.tensor([18000.0, 18004.0, 18010.0, 18050.0], dtype=torch.float64)

    def modality(channels, index, angles):
        shape = (patches, len(index), side, side)
        valid = torch.rand(shape) > 0.3
        geometry = {a: torch.full((len(index),), 30.0) for a in angles}
        values = torch.randn(patches, len(index), channels, side, side)
        return ModalityBatch(values, valid, valid.clone(), torch.tensor(index), geometry)

    modalities = {
        "s2": modality(3, [0, 2, 3], ("sza", "vza", "raa")),
        "s1": modality(2, [0, 1, 3], ("incidence",)),
    }
    return Batch(dates, modalities, {}, (patches, side, side), torch.arange(patches * side * side))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = FusionEncoder(
        {"s2": 3, "s1": 2},
        {"s2": ("sza", "vza", "raa"), "s1": ("incidence",)},
        {"dynamic": 4, "residual_s1": 1},
        static=3,
        width=16,
    ).eval()
    # These start at zero; here they take part.
    for reader in encoder.readers.values():
        torch.nn.init.normal_(reader.coupling.weight, std=0.1)
        torch.nn.init.normal_(reader.caution.weight, std=0.1)
    return encoder


def _change(batch, name, **fields):
    modalities = dict(batch.modalities)
    modalities[name] = dataclasses.replace(modalities[name], **fields)
    return dataclasses.replace(batch, modalities=modalities)


def _same(first, second, atol=0.0):
    parts = ("static_mean", "static_scale", "static_correlation", "static_shape")
    pairs = [(getattr(first, part), getattr(second, part)) for part in parts]
    fields = ("mean", "precision", "coupling", "caution")
    pairs += [(getattr(first, f)[k], getattr(second, f)[k]) for f in fields for k in first.mean]
    static = torch.linspace(-1, 1, first.static_mean.numel()).view_as(first.static_mean)
    # A site without precision counts for nothing, whatever its mean leans on.
    pairs += [(s.lean[k](static) * (s.precision[k] > 0) for s in (first, second)) for k in first.mean]
    return all(torch.allclose(a, b, atol=atol, rtol=0) for a, b in pairs)


def test_shapes(encoder):
    sites = encoder(_batch())
    assert sites.mean["dynamic"].shape == (50, 4, 4) and sites.precision["residual_s1"].shape == (50, 1, 4)
    assert sites.coupling["dynamic"].shape == (50, 4, 4, 4) and sites.coupling["residual_s1"].shape == (50, 1, 4, 5)
    assert sites.static_mean.shape == sites.static_scale.shape == (50, 3)
    assert sites.static_correlation.shape == (50, 3, 3) and sites.static_shape.shape == (50, 3, SHAPE)
    assert (sites.precision["dynamic"] >= 0).all() and (sites.caution["dynamic"] > 0).all()
    assert sites.lean["dynamic"](torch.zeros(6, 50, 3)).shape == (6, 50, 4, 4)
    assert (sites.static_scale > 0).all() and (sites.static_scale <= 1).all()
    variance = sites.static_correlation.square().sum(-1)
    assert torch.allclose(variance, torch.ones(50, 3)) and (sites.static_correlation.triu(1) == 0).all()


def test_a_masked_value_has_no_influence(encoder):
    batch = _batch()
    m = batch.modalities["s2"]
    poisoned = torch.where(m.seen.unsqueeze(2), m.values, torch.nan)
    assert _same(encoder(batch), encoder(_change(batch, "s2", values=poisoned)))


def test_a_channel_that_is_not_given_has_no_influence_and_its_absence_is_known(encoder):
    batch = _batch()
    m = batch.modalities["s2"]
    given = torch.arange(m.values.shape[2]) != 1
    poisoned = torch.where(given[:, None, None], m.values, torch.nan)
    sites = encoder(_change(batch, "s2", given=given))
    assert _same(sites, encoder(_change(batch, "s2", values=poisoned, given=given)))
    middling = torch.where(given[:, None, None], m.values, encoder.center("s2"))
    assert _same(sites, encoder(_change(batch, "s2", values=middling))), "nothing is learned yet"
    with torch.no_grad():
        encoder.spatial["s2"].absent.normal_(generator=torch.Generator().manual_seed(0))
        told = encoder(_change(batch, "s2", given=given))
        encoder.spatial["s2"].absent.zero_()
    assert not _same(told, sites)


def test_a_seen_value_has_influence_on_its_neighbours_and_other_dates(encoder):
    batch = _batch()
    m = batch.modalities["s2"]
    seen = torch.ones_like(m.seen)
    batch = _change(batch, "s2", seen=seen)
    moved = m.values.clone()
    moved[0, 0, :, 2, 2] += 3.0
    first, second = encoder(batch), encoder(_change(batch, "s2", values=moved))
    change = (first.mean["dynamic"] - second.mean["dynamic"]).abs().amax(1).view(2, 5, 5, 4)
    assert (change[0, 2, 2] > 0).all(), "all dates of the pixel"
    assert change[0, 2, 3, 0] > 0, "a neighbour"
    assert change[1].max() == 0, "no other patch"


def test_a_pixel_without_observation_keeps_the_prior(encoder):
    batch = _batch()
    for name in ("s2", "s1"):
        seen = batch.modalities[name].seen.clone()
        seen[0, :, 2, 2] = False
        batch = _change(batch, name, seen=seen)
    sites, pixel = encoder(batch), 2 * 5 + 2
    assert all((p[pixel] == 0).all() for p in sites.precision.values())
    assert (sites.static_mean[pixel] == 0).all() and (sites.static_scale[pixel] == 1).all()
    assert torch.equal(sites.static_correlation[pixel], torch.eye(3)) and (sites.static_shape[pixel] == 0).all()


def test_a_date_seen_nowhere_has_no_site_and_changes_nothing(encoder):
    batch = _batch()
    seen = batch.modalities["s2"].seen.clone()
    seen[:, 1] = False  # union date 2 is optical only
    batch = _change(batch, "s2", seen=seen)
    sites = encoder(batch)
    assert (sites.precision["dynamic"][..., 2] == 0).all()
    m = batch.modalities["s2"]
    keep = torch.tensor([0, 2])
    geometry = {k: g[keep] for k, g in m.geometry.items()}
    without = ModalityBatch(m.values[:, keep], m.valid[:, keep], m.seen[:, keep], m.index[keep], geometry)
    shorter = dataclasses.replace(batch, modalities={**batch.modalities, "s2": without})
    assert _same(sites, encoder(shorter), atol=1e-5)


def test_order_of_modalities_and_dates_does_not_matter(encoder):
    batch = _batch()
    m = batch.modalities["s1"]
    order = torch.tensor([2, 0, 1])
    geometry = {k: g[order] for k, g in m.geometry.items()}
    shuffled = ModalityBatch(m.values[:, order], m.valid[:, order], m.seen[:, order], m.index[order], geometry)
    turned = dataclasses.replace(batch, modalities={"s1": shuffled, "s2": batch.modalities["s2"]})
    assert _same(encoder(batch), encoder(turned), atol=1e-6)


def test_one_modality_alone_is_enough(encoder):
    batch = _batch()
    alone = dataclasses.replace(batch, modalities={"s1": batch.modalities["s1"]})
    sites = encoder(alone)
    assert torch.isfinite(sites.mean["dynamic"]).all()
    assert (sites.precision["dynamic"][..., 2] == 0).all(), "the optical-only date is unseen"
