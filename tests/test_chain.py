"""The chain of Gaussians: what is drawn first moves what comes after, and nothing else."""

from functools import partial

import pytest
import torch

from pi_vae.chain import ChainPosterior
from pi_vae.encoders import Sites
from pi_vae.priors import TemporalGP
from pi_vae.static import SHAPE

PIXELS, DATES, STATIC, DYNAMIC, RANK = 3, 4, 2, 2, 1


@pytest.fixture
def chain():
    torch.manual_seed(0)
    dates = torch.tensor([0.0, 10.0, 30.0, 200.0], dtype=torch.float64)
    gp = TemporalGP()
    priors = {"static": torch.distributions.MultivariateNormal(torch.zeros(STATIC), torch.eye(STATIC))}
    priors |= {
        name: gp.prior(dates, torch.full((count,), 40.0), torch.full((count,), 0.3))
        for name, count in (("dynamic", DYNAMIC), ("residual_s1", RANK))
    }
    before = {"dynamic": 0, "residual_s1": DYNAMIC}
    counts = {"dynamic": DYNAMIC, "residual_s1": RANK}
    static_mean = torch.randn(PIXELS, STATIC)

    def lean(slope, static):
        """Linear, so that the chain is Gaussian as a whole, and zero at the mean."""
        return torch.einsum("...ps,vts->...pvt", static - static_mean, slope)

    sites = Sites(
        lean={name: partial(lean, torch.randn(v, DATES, STATIC)) for name, v in counts.items()},
        caution={name: torch.rand(PIXELS, v, DATES) for name, v in counts.items()},
        skewness=dict.fromkeys(counts),
        mean={name: torch.randn(PIXELS, v, DATES) for name, v in counts.items()},
        precision={name: 3 * torch.rand(PIXELS, v, DATES) for name, v in counts.items()},
        coupling={name: torch.randn(PIXELS, v, DATES, before[name] + v) for name, v in counts.items()},
        static_mean=static_mean,
        static_scale=torch.tensor([0.8, 0.52**0.5]).expand(PIXELS, 2),
        static_correlation=torch.tensor([[1.0, 0.0], [0.4 / 0.52**0.5, 0.6 / 0.52**0.5]]).expand(PIXELS, 2, 2),
        static_shape=torch.zeros(PIXELS, 2, SHAPE),
    )
    return ChainPosterior(sites, priors)


def test_draws_come_in_the_order_of_the_chain_with_the_shapes_of_its_sites(chain):
    drawn = chain.rsample((5,))
    assert tuple(drawn) == chain.names == ("static", "dynamic", "residual_s1")
    shapes = {"static": (STATIC,), "dynamic": (DYNAMIC, DATES), "residual_s1": (RANK, DATES)}
    assert {name: value.shape for name, value in drawn.items()} == {k: (5, PIXELS, *v) for k, v in shapes.items()}


def test_means_do_not_depend_on_the_coupling(chain):
    drawn = chain.rsample((40_000,))
    for name in ("dynamic", "residual_s1"):
        error = drawn[name].mean(0) - chain.processes[name].mean
        assert (error.abs() < 5 * drawn[name].std(0) / 200).all()


def test_the_density_of_the_chain_is_that_of_its_draws(chain):
    # Entropy by the mean log density must be that of the Gaussian with the covariance of the draws.
    with torch.no_grad():
        drawn = chain.rsample((40_000,))
        density = sum(chain.conditional(name, drawn).log_prob(drawn[name]) for name in chain.names)
    joint = torch.cat([drawn[name].flatten(2) for name in chain.names], -1)
    for pixel in range(PIXELS):
        covariance = joint[:, pixel].double().T.cov()
        size = len(covariance)
        entropy = 0.5 * (torch.logdet(covariance) + size * (1 + torch.log(torch.tensor(2 * torch.pi))))
        assert -density[:, pixel].mean() == pytest.approx(entropy.item(), abs=0.05)
