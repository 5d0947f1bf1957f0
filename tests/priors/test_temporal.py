"""The temporal prior: its coupled posterior, the choice of backend, any date, and time derivatives."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pi_vae.priors import GaussianProcess, TemporalGP
from pi_vae.priors.dense import Dense
from pi_vae.priors.eigen import Eigen
from pi_vae.priors.state_space import StateSpace

DATES = torch.tensor([18000.0, 18003.0, 18003.0, 18040.0, 18200.0], dtype=torch.float64)
LENGTHSCALE, ODDS = torch.tensor([20.0, 300.0], dtype=torch.float64), torch.tensor([0.0, 0.5], dtype=torch.float64)
BACKENDS = ["dense", "eigen", "kalman"]


def _case(backend="dense", pixels=4, kernel="matern32"):
    torch.manual_seed(1)
    prior = TemporalGP(kernel, backend).prior(DATES, LENGTHSCALE, ODDS)
    mean = torch.randn(pixels, 2, len(DATES), dtype=torch.float64)
    precision = 5 * torch.rand(pixels, 2, len(DATES), dtype=torch.float64)
    precision[:, :, 1] = 0
    return prior, mean, precision


def _coupled(backend):
    """A posterior that leans on a static latent and an earlier process, and the same by dense algebra."""
    prior, mean, precision = _case(backend, pixels=1)
    coupling, caution = torch.randn(1, 2, 5, 3, dtype=torch.float64), torch.rand(1, 2, 5, dtype=torch.float64)
    posterior = prior.condition(mean, precision, coupling, caution)
    inverse = torch.linalg.inv(prior.covariance)
    sharp = torch.linalg.inv(inverse + torch.diag_embed(precision[0]))
    own = torch.linalg.inv(inverse + torch.diag_embed((precision * caution)[0]))
    static, given = torch.randn(1, 2, 5, dtype=torch.float64), torch.randn(1, 1, 5, dtype=torch.float64)
    gains = sharp * precision[0].unsqueeze(-2)  # site means -> posterior means
    moved = (gains @ static[0].unsqueeze(-1)).squeeze(-1)
    shift = torch.stack([gains[v] @ (coupling[0, v, :, 0] * given[0, 0]) for v in range(2)])
    second_on_first = gains[1] * coupling[0, 1, :, 1]
    shift[1] += second_on_first @ shift[0]
    joint = torch.zeros(10, 10, dtype=torch.float64)
    joint[:5, :5], joint[5:, :5] = own[0], second_on_first @ own[0]
    joint[:5, 5:] = joint[5:, :5].mT
    joint[5:, 5:] = own[1] + second_on_first @ own[0] @ second_on_first.mT
    return (
        prior,
        posterior.after(static, given),
        MultivariateNormal((posterior.mean[0] + moved + shift).flatten(), joint),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_coupled_posterior_is_the_joint_gaussian_of_its_chain(backend):
    _, posterior, dense = _coupled(backend)
    draws = posterior.rsample((40_000,)).flatten(1)
    scale = dense.covariance_matrix.diagonal().sqrt()
    assert ((draws.mean(0) - dense.mean).abs() < 0.03 * scale).all()
    assert ((draws.T.cov() - dense.covariance_matrix).abs() < 0.04 * scale * scale[:, None]).all()
    value = torch.randn(1, 2, 5, dtype=torch.float64)
    assert torch.allclose(posterior.log_prob(value), dense.log_prob(value.flatten()), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_densities_date_by_date_are_those_of_the_single_dates(backend):
    _, posterior, dense = _coupled(backend)
    value = torch.randn(10, dtype=torch.float64)
    covariance, mean = dense.covariance_matrix, dense.mean.flatten()
    first, gain = covariance[:5, :5], covariance[5:, :5] @ torch.linalg.inv(covariance[:5, :5])
    second = covariance[5:, 5:] - gain @ covariance[:5, 5:]
    centre = torch.cat([mean[:5], mean[5:] + gain @ (value - mean)[:5]])
    scale = torch.cat([first.diagonal(), second.diagonal()]).sqrt()
    expected = torch.distributions.Normal(centre, scale).log_prob(value)
    found = posterior.datewise_log_prob(value.view(1, 2, 5))
    assert torch.allclose(found.flatten(), expected, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_divergence_of_a_coupled_posterior_is_unbiased(backend):
    prior, posterior, dense = _coupled(backend)
    expected = kl_divergence(dense, MultivariateNormal(0 * dense.mean, torch.block_diag(*prior.covariance)))
    many = posterior.after(torch.zeros(4000, 1, 2, 5, dtype=torch.float64), posterior.earlier.expand(4000, 1, 1, 5))
    found = many.divergence()
    assert abs(found.mean() - expected) < 4 * found.std() / 4000**0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_caution_widens_and_leaves_the_mean(backend):
    prior, mean, precision = _case(backend)
    sharp = prior.condition(mean, precision)
    wide = prior.condition(mean, precision, caution=0.2 * torch.ones_like(precision))
    assert torch.equal(wide.mean, sharp.mean)
    assert torch.allclose(wide.covariance, prior.condition(mean, 0.2 * precision).covariance)
    assert (wide.variance > sharp.variance).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_seen_leans_on_nothing(backend):
    prior, mean, precision = _case(backend)
    coupling = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    posterior = prior.condition(mean, torch.zeros_like(precision), coupling)
    posterior = posterior.after(torch.randn(4, 2, 5).double(), torch.randn(4, 1, 5).double())
    assert torch.allclose(posterior.divergence(), torch.zeros(4, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_of_a_posterior_after_draws_are_those_one_by_one(backend):
    prior, mean, precision = _case(backend)
    posterior = prior.condition(mean, precision)
    shift = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    together = posterior.after(shift, shift[..., :0, :])
    for one, moved in enumerate(shift):
        assert torch.allclose(together.mean[one], prior.condition(mean + moved, precision).mean, atol=1e-9)
    assert together.rsample((2,)).shape == (2, 3, 4, 2, 5) and together.divergence().shape == (3, 4)


@pytest.mark.parametrize(
    ("kernel", "dates", "expected"),
    [
        ("matern32", 15, Dense),
        ("matern32", 16, StateSpace),
        ("matern12 + 2 * matern52", 100, StateSpace),
        ("rbf", 15, Dense),
        ("rbf * periodic", 100, Eigen),
        ("matern12 + periodic", 40, Dense),  # rough: no low rank
    ],
)
def test_the_default_backend_is_the_rule_of_the_documentation(kernel, dates, expected):
    days = 5 * torch.arange(dates, dtype=torch.float64)
    assert type(TemporalGP(kernel).prior(days, LENGTHSCALE, ODDS).gram) is expected


@pytest.mark.parametrize(("series", "dates"), [(64, 22), (256, 16), (65536, 15)])
def test_few_series_stay_dense_for_longer(series, dates):
    for count, expected in ((dates - 1, Dense), (dates, StateSpace)):
        days = 5 * torch.arange(count, dtype=torch.float64)
        assert type(TemporalGP("matern32").prior(days, LENGTHSCALE, ODDS, series).gram) is expected
    forced = TemporalGP("matern32", "kalman")
    assert (forced.name, forced.backend) == ("matern32", "kalman")
    assert type(forced.prior(days[:3], LENGTHSCALE, ODDS, series).gram) is StateSpace


@pytest.mark.parametrize("kernel", ["rbf", "periodic", "matern32 + periodic", "matern32 * matern12"])
def test_kernels_without_a_markov_state_refuse_the_kalman_filter(kernel):
    with pytest.raises(ValueError, match="has no finite Markov state, which backend 'kalman' needs: use 'eigen'"):
        TemporalGP(kernel, backend="kalman")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="Unknown backend 'sparse'.*auto, dense, eigen, kalman"):
        TemporalGP(backend="sparse")


@pytest.mark.parametrize(("dates", "draws", "dense"), [(13, 1, True), (20, 1, False), (20, 8, True), (60, 8, False)])
def test_more_dates_are_dense_where_more_is_drawn(dates, draws, dense):
    days = torch.linspace(18000, 18360, dates, dtype=torch.float64)
    prior = TemporalGP().prior(days, LENGTHSCALE, ODDS, series=4096, draws=draws)
    assert isinstance(prior.gram, Dense if dense else StateSpace)


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_that_earlier_latents_shift_are_shifted_each_by_its_own(backend):
    prior, mean, precision = _case(backend)
    coupling = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    shift, deviations = torch.randn(3, 2, 4, 2, 5).double(), torch.randn(3, 2, 4, 1, 5).double()
    posterior = prior.condition(mean, precision, coupling)
    together = posterior.after(shift, deviations)
    for i in range(3):
        for j in range(2):
            alone = posterior.after(shift[i, j], deviations[i, j])
            assert torch.allclose(together.mean[i, j], alone.mean, atol=1e-12)
            assert torch.allclose(together.log_prob(mean)[i, j], alone.log_prob(mean), atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_coupled_posterior_goes_to_new_dates(backend):
    prior, mean, precision = _case(backend)
    coupling = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    shift, deviations = torch.randn(4, 2, 5).double(), torch.randn(4, 1, 5).double()
    posterior = prior.condition(mean, precision, coupling).after(shift, deviations)
    within = posterior.at(torch.tensor([17000.0, 18100.0]))
    assert torch.allclose(within.mean[..., :5], posterior.mean, atol=1e-6)
    torch.manual_seed(0)
    draws = within.rsample((4000,))
    assert (draws.mean(0)[..., :5] - posterior.rsample((4000,)).mean(0)).abs().max() < 0.15
    assert torch.allclose(draws[..., 5].std(0), torch.ones(4, 2, dtype=torch.float64), atol=0.1)  # long before


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_between_given_values_are_gaussian_conditioning(backend):
    prior, _, _ = _case(backend)
    new = torch.tensor([17990.0, 18003.0, 18100.0, 18300.0], dtype=torch.float64)
    value = prior.rsample((3,))
    found = prior.between(value, new)
    dates = torch.cat([DATES, new])
    joint = TemporalGP("matern32").covariance(dates, dates, LENGTHSCALE, ODDS) + 1e-5 * torch.eye(9).double()
    gain = joint[:, 5:, :5] @ torch.linalg.inv(joint[:, :5, :5])
    assert torch.allclose(found.mean, (gain @ value.unsqueeze(-1)).squeeze(-1), atol=1e-6)
    assert torch.allclose(found.covariance_matrix[0], joint[:, 5:, 5:] - gain @ joint[:, :5, 5:], atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", ["matern32", "matern52", "rbf * periodic"])
def test_slopes_are_those_of_dense_algebra(backend, kernel):
    if backend == "kalman" and "rbf" in kernel:
        pytest.skip("no Markov state")
    prior, mean, precision = _case(backend, kernel=kernel)
    posterior, new = prior.condition(mean, precision), torch.tensor([18001.0, 18003.0, 18030.0, 18500.0]).double()
    found = posterior.slopes(new)
    gp, step = TemporalGP(kernel), 1e-2
    # By differences: the process a step before and after every new date, and at it.
    dates = torch.cat([DATES, new, new - step, new + step])
    joint = gp.covariance(dates, dates, LENGTHSCALE, ODDS)
    one = torch.eye(4, dtype=torch.float64)
    zero = torch.zeros_like(one)
    reads = torch.cat([torch.cat([one, zero, zero], -1), torch.cat([zero, -one, one], -1) / (2 * step)])
    within, across = joint[:, :5, :5] + 1e-5 * torch.eye(5).double(), reads @ joint[:, 5:, :5]
    total = torch.linalg.inv(within + torch.diag_embed(1 / precision.clamp_min(1e-9)))
    expected_mean = (across @ total @ mean.unsqueeze(-1)).squeeze(-1)
    expected = reads @ joint[:, 5:, 5:] @ reads.mT - across @ total @ across.mT
    scale = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found.mean - expected_mean).abs() < 2e-3 * scale).all()
    error = (found.covariance_matrix - expected) / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    assert error.abs().max() < 2e-3
    # Joint draws given draws at the dates of the process have the same moments.
    torch.manual_seed(0)
    draws = prior.between(posterior.rsample((4000,)), new, slopes=True).sample()
    centred = (draws - found.mean) / scale
    moments = torch.einsum("spvt,spvu->pvtu", centred, centred) / 4000
    correlation = found.covariance_matrix / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    assert (centred.mean(0).abs() < 5 / 4000**0.5).all() and (moments - correlation).abs().max() < 0.12


def test_rough_processes_have_no_slopes():
    prior, mean, precision = _case(kernel="matern12")
    with pytest.raises(ValueError, match="has no derivative"):
        prior.condition(mean, precision).slopes(DATES)


def test_a_process_without_a_kernel_knows_its_own_dates_only():
    prior, mean, precision = _case()
    with pytest.raises(ValueError, match="knows its own dates only: build it with TemporalGP.prior"):
        GaussianProcess(prior.gram).condition(mean, precision).at(DATES)
