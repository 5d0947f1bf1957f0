"""Features have names, belong to their pixel alone, and are the same at every call."""

import numpy as np
import pytest
import torch

from inference import embed, posterior

TIMES = ["2021-03-01", "2021-06-01"]


@pytest.fixture(scope="module")
def table(build, simulated):
    from inference import Run

    return embed(Run(build().eval()), simulated, TIMES, pixels=[(0, 0), (9, 11), (4, 5)])


def test_names_parts_and_shapes(table, build):
    model = build()
    moving, still = len(model.dynamic), len(model.static)
    residuals = sum(m.residual.rank for m in model.modalities.values())
    parts = {part: int((table.part == part).sum()) for part in ("physical", "exclusive", "uncertainty")}
    assert parts["physical"] == parts["uncertainty"] == 2 * moving + still and parts["exclusive"] == 2 * residuals
    assert table.course.dims == ("pixel", "time", "course_feature")
    assert table.sizes["course_feature"] == 2 * moving + residuals
    names = table.feature.values.tolist()
    assert {"ala", "lai 2021-03-01", "s1 residual 1 2021-06-01", "sd of lai 2021-06-01"} <= set(names)
    assert len(set(names)) == len(names) and np.isfinite(table.features).all()
    for name in ("lai", "s2 residual 1", "sd of cab"):  # the course is the same by date
        same = table.features.sel(feature=[f"{name} {t}" for t in TIMES]).values
        assert np.array_equal(same, table.course.sel(course_feature=name).values)
    assert (
        np.isnat(table.date.sel(feature="ala")) and str(table.date.sel(feature="lai 2021-06-01").values)[:4] == "2021"
    )


def test_a_pixel_without_observation_has_the_prior(table):
    never = table.isel(pixel=0)
    assert np.allclose(never.features.where(never.part == "physical", 0.0), 0.0, atol=0.05)
    spread = never.features.values[(never.part == "uncertainty").values]
    assert np.allclose(spread, 1.0, atol=0.35) and abs(spread.mean() - 1) < 0.06


def test_features_are_those_of_the_pixel_alone_and_stable(run, simulated, table):
    again = embed(run, simulated, TIMES, pixels=[(0, 0), (9, 11), (4, 5)])
    assert np.array_equal(again.features, table.features)
    alone = embed(run, simulated, TIMES, pixels=[(4, 5)])
    means = (table.part != "uncertainty").values
    assert np.allclose(alone.features.values[0, means], table.features.values[2, means], atol=1e-4)
    assert (alone.pixel_row.item(), alone.pixel_column.item()) == (4, 5)


def test_means_agree_with_draws_of_the_posterior(run, simulated, table):
    """The mean of a latent lies where draws of its variable have their middle."""
    model = run.model
    drawn = posterior(run, simulated, draws=400, pixels=[(4, 5)])["posterior"]
    values = drawn["ala"].values.ravel()
    grid = torch.linspace(-3, 3, 601).unsqueeze(-1).expand(-1, len(model.static))
    quantile = model.static_marginals(grid)[:, model.static.index("ala")].detach().numpy()
    latent = np.interp(values, quantile, np.linspace(-3, 3, 601))
    mean, sd = float(table.features.sel(feature="ala")[2]), float(table.features.sel(feature="sd of ala")[2])
    assert abs(latent.mean() - mean) < 4 * sd / 20 and abs(latent.std() / sd - 1) < 0.15


def test_one_modality_is_enough_and_dates_are_monthly_by_default(run, simulated):
    table = embed(run, simulated.drop_nodes("s1"), pixels=[(4, 5)])
    steps = np.diff(table.time.values) / np.timedelta64(1, "D")
    assert np.allclose(steps, 30) and np.isfinite(table.features).all()
