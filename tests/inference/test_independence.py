"""Independence of residual and physics: the criterion, its test, and tables of models that keep it or do not."""

from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kstest

from inference import Run
from inference.hsic import hsic, hsic_test
from inference.independence import independence, independence_figure


def _pair(n, strength, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 1, generator=generator)
    return x, strength * x[:, :1].square() + noise


def test_the_estimator_is_unbiased_and_equals_the_sum_over_quadruples():
    x, y = _pair(6, 1.0)
    # Kernels as documented: standardised, as wide as the median squared distance.
    standard = [(z - z.mean(0)) / z.std(0) for z in (x, y)]
    squares = [torch.cdist(z, z) ** 2 for z in standard]
    k, m = (torch.exp(-s / s[~torch.eye(6, dtype=torch.bool)].median()) for s in squares)
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(6), 4)]
    assert torch.allclose(hsic(x, y), torch.stack(terms).mean(), atol=1e-6)
    found = torch.stack([hsic(*_pair(40, 0.0, seed)) for seed in range(300)])
    assert abs(float(found.mean())) < 3 * float(found.std()) / 300**0.5 and (found < 0).float().mean() > 0.3


def test_p_values_are_uniform_without_dependence_and_small_with_one_that_no_correlation_shows():
    p_values = np.array([hsic_test(*_pair(40, 0.0, seed), permutations=100, seed=seed)[1] for seed in range(60)])
    assert (p_values < 0.1).mean() < 0.25 and 0.35 < p_values.mean() < 0.65
    x, y = _pair(150, 1.5)
    assert abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1]) < 0.3
    assert hsic_test(x, y, permutations=200)[1] < 0.01


def test_it_has_gradients_for_training():
    x, y = _pair(30, 1.0)
    x.requires_grad_()
    hsic(x, y).backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def blind(build, simulated):
    """Where the encoder says nothing the posterior is the prior, and residual and physics are independent."""
    model = build().eval()
    with torch.no_grad():
        for reader in model.encoder.readers.values():
            reader.precision.mixed.bias.fill_(-9.0)
        for modality in model.modalities.values():
            modality.residual.loading.loc.fill_(0.5)
    tables = [independence(Run(model), simulated, pixels=100, permutations=100, seed=seed) for seed in range(5)]
    return tables[0].assign(p_values=xr.concat([table["p_value"] for table in tables], "seed"))


def test_the_prior_passes(blind):
    assert set(blind.modality.values) == {"s2", "s1"}
    for drawn in blind["p_values"].transpose("modality", "seed").values:
        assert kstest(drawn, "uniform").pvalue > 0.01, f"p-values of independent latents should be uniform: {drawn}"
    assert float(blind["linear"].max()) < 0.05 and float(blind["nonlinear"].max()) < 0.05
    assert (blind["swap"].sel(variable=["lai", "soil_moisture"]) < 0.05).all()
    assert (blind["energy"] > 0).all() and (blind["rmse"] > 0).all()


def test_a_residual_that_leans_on_physics_fails(build, simulated):
    model = build().eval()
    with torch.no_grad():
        for name in ("dynamic", "residual_s1"):
            reader = model.encoder.readers[name]
            reader.precision.mixed.bias.fill_(2.0)
        # The site means of the residual follow the deviations of leaf area.
        reader.coupling.bias.zero_()
        reader.coupling.bias[model.dynamic.index("lai")] = 3.0
        model.encoder.readers["dynamic"].precision.mixed.bias.fill_(-1.0)
    found = independence(Run(model), simulated, pixels=100, permutations=100).sel(modality="s1")
    assert float(found["p_value"]) < 0.02
    assert float(found["linear"].sel(variable="lai")) > 0.3


def test_the_swap_is_seen_where_leaf_area_is_read_off_the_residual(build, simulated):
    quiet, loud = build().eval(), build().eval()
    for model, size in ((quiet, 0.5), (loud, 15.0)):
        model.modalities["s1"].residual.loading.loc.data = size * torch.ones(2, 1)
    moved = [
        float(independence(Run(m), simulated, pixels=40, permutations=20)["swap"].sel(modality="s1", variable="lai"))
        for m in (quiet, loud)
    ]
    assert moved[1] > 3 * moved[0] > 0


def test_the_figure_has_a_panel_for_every_modality(blind):
    assert len(independence_figure(blind).axes) == 4


def test_wrong_input_is_refused_in_one_sentence(build, simulated):
    with pytest.raises(ValueError, match="No modality in the cube, with its finest pixels, has a residual"):
        independence(Run(build(residual=0)), simulated)
