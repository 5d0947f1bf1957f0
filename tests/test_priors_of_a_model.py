"""A model that changes priors in the catalogue: they reach latents, checkpoints and simulations, or are refused."""

import numpy as np
import pytest
import torch
from scipy import stats

from inference import fit, load
from pi_vae import Optical, PhysicsVAE
from pi_vae.data import pattern, simulate
from pi_vae.variables import CATALOGUE, changed

BANDS = ("B03", "B04", "B08")
WATER = {"loc": 0.019, "scale": 0.0095}
PRIORS = {"cw": WATER, "ala": {"dynamic": True}, "cbrown": {"dynamic": False, "high": 1.0}, "cab": {"prior": "uniform"}}


@pytest.fixture(scope="module")
def model() -> PhysicsVAE:
    torch.manual_seed(0)
    return PhysicsVAE({"s2": Optical(BANDS, nodes=1, residual=0)}, width=16, layers=1, priors=PRIORS).eval()


def test_the_model_reads_its_own_catalogue_and_leaves_the_common_one(model) -> None:
    assert "ala" in model.dynamic and "cbrown" in model.static
    assert not CATALOGUE["ala"].dynamic and CATALOGUE["cw"].loc == 0.015
    assert model.catalogue["cw"].scale == 0.0095 and model.catalogue["n"] is CATALOGUE["n"]


def test_variables_have_the_new_distributions(model) -> None:
    u = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
    p = stats.norm.cdf(u.numpy())
    dynamic = model.dynamic_marginals(u.expand(len(model.dynamic), -1), dim=0)
    v = CATALOGUE["cw"]
    water = stats.truncnorm((v.low - 0.019) / 0.0095, (v.high - 0.019) / 0.0095, 0.019, 0.0095).ppf(p)
    assert np.allclose(dynamic[model.dynamic.index("cw")], water, rtol=1e-7)
    assert np.allclose(dynamic[model.dynamic.index("cab")], 5 + 85 * p, rtol=1e-7)
    static = model.static_marginals(torch.full((len(model.static),), 9.0))
    assert float(static[model.static.index("cbrown")]) == pytest.approx(1.0, abs=1e-3)


def test_a_simulation_and_a_fit_live_with_them(model, tmp_path) -> None:
    cube = simulate(model, pattern(size=4, bands=BANDS, optical_days=60), seed=1)
    truth = cube["truth"]
    assert "time" in truth["ala"].dims and "time" not in truth["cbrown"].dims
    assert float(truth["cbrown"].max()) <= 1.0
    run = fit(PhysicsVAE.from_settings(model.settings), cube, steps=4, checkpoint=tmp_path, progress=False)
    again = load(tmp_path).model
    assert again.catalogue == run.model.catalogue == model.catalogue
    assert again.settings["priors"] == PRIORS
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), run.model.parameters(), strict=True))


def test_numbers_of_numpy_become_plain_ones_for_the_checkpoint() -> None:
    settings = PhysicsVAE(priors={"cw": {"loc": np.float32(0.5) / 25, "scale": np.float64(0.01)}}).settings
    assert all(type(value) is float for value in settings["priors"]["cw"].values())


def test_the_season_is_mapped_by_the_leaf_area_of_the_model() -> None:
    narrow = PhysicsVAE(phenology=1, priors={"lai": {"high": 8.0, "loc": 3.0}})
    assert float(narrow.season.marginal.high) == 8.0 and float(narrow.season.marginal.loc) == 3.0


@pytest.mark.parametrize(
    ("priors", "sentence"),
    [
        ({"leaf_water": WATER}, "Unknown variable 'leaf_water': use names of the catalogue"),
        ({"cw": {"mean": 0.02}}, "Unknown field 'mean' in the prior of 'cw': use low, high, loc"),
        ({"cw": {"loc": "wet"}}, "The loc of 'cw' is 'wet': give a finite number"),
        ({"cw": {"scale": float("nan")}}, "The scale of 'cw' is nan: give a finite number"),
        ({"cw": {"scale": 0.0}}, "The scale of 'cw' is 0: give a positive"),
        ({"cw": {"dynamic": 1}}, "The dynamic of 'cw' is 1: give True or False"),
        ({"cw": {"prior": "beta"}}, "The prior of 'cw' is 'beta': give 'normal' or 'uniform'"),
        ({"lai": {"high": 15.0}}, r"'lai' would be \[0, 15\]: give one within \[0, 12\]"),
        ({"lai": {"low": 5.0, "high": 4.0}}, r"'lai' would be \[5, 4\]"),
        ({"cw": WATER | {"prior": "uniform"}}, "'cw' is uniform and has no loc or scale"),
        ({"cab": {"loc": 300.0}}, r"'cab', 300 \+- 30, has next to nothing on its support \[5, 90\]"),
    ],
)
def test_what_makes_no_sense_is_refused(priors, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        changed(priors)


def test_what_this_model_has_no_use_for_is_refused() -> None:
    def optical(**options) -> PhysicsVAE:
        return PhysicsVAE({"s2": Optical(BANDS, nodes=1, residual=0)}, **options)

    with pytest.raises(ValueError, match="No modality reads 'roughness'"):
        optical(priors={"roughness": {"loc": 1.0}})
    with pytest.raises(ValueError, match="No modality reads 'season_start'"):
        optical(priors={"season_start": {"loc": 100.0}})
    with pytest.raises(ValueError, match="'season_start' describes a whole season"):
        optical(phenology=1, priors={"season_start": {"dynamic": True}})
    with pytest.raises(ValueError, match="leave 'lai' dynamic"):
        optical(phenology=1, priors={"lai": {"dynamic": False}})
    still = {name: {"dynamic": False} for name in optical().dynamic}
    with pytest.raises(ValueError, match="No variable of this model is dynamic"):
        optical(priors=still)
    moving = {name: {"dynamic": True} for name in optical().static}
    with pytest.raises(ValueError, match="No variable of this model is static"):
        optical(priors=moving)
