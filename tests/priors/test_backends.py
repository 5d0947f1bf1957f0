"""The contract of every representation of the covariance: the same numbers as dense float64 algebra."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pi_vae.priors import SitePosterior, TemporalGP
from pi_vae.priors.markov import cascade as markov_cascade
from pi_vae.priors.markov import spread as markov_spread

NUGGET = 1e-5
CASES = [
    ("dense", "matern32"),
    ("dense", "2 * matern12 + rbf * periodic"),
    ("kalman", "matern12"),
    ("kalman", "matern32"),
    ("kalman", "matern52"),
    ("kalman", "3 * matern52 + matern12"),
    ("eigen", "rbf"),
    ("eigen", "rbf * periodic"),
    ("eigen", "matern52"),
]
EXACT = [case for case in CASES if case[0] != "eigen"]
every = pytest.mark.parametrize(("backend", "kernel"), CASES)
exact = pytest.mark.parametrize(("backend", "kernel"), EXACT)


class Case:
    """Sites of 6 pixels and 3 variables at 24 dates, neither sorted nor distinct, and their posterior by algebra."""

    def __init__(self, backend, kernel, dtype=torch.float64, unseen=True):
        generator = torch.Generator().manual_seed(3)

        def rand(*shape):
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        self.tolerance = 1e-2 if backend == "eigen" else 1e-6
        self.dates = 18000 + 700 * rand(24)
        self.dates[5] = self.dates[17]
        self.dates[2] = self.dates[6] = self.dates[20]
        self.lengthscale, odds = torch.tensor([20.0, 60.0, 900.0]).double(), torch.tensor([0.0, 0.3, 2.0]).double()
        self.mean, self.precision = 2 * rand(6, 3, 24) - 1, 6 * rand(6, 3, 24)
        if unseen:
            self.precision *= rand(6, 3, 24) > 0.4
            self.precision[0] = 0.0
        self.gp = TemporalGP(kernel, backend)
        self.prior = self.gp.prior(self.dates, self.lengthscale.to(dtype), odds.to(dtype))
        self.posterior = self.prior.condition(self.mean.to(dtype), self.precision.to(dtype))
        matrix = self.gp.kernel(self.dates, self.dates, self.lengthscale)
        share = (odds / (1 + odds))[:, None, None]
        self.covariance = share + (1 - share) * matrix + NUGGET * torch.eye(24, dtype=torch.float64)
        self.expected = torch.linalg.inv(torch.linalg.inv(self.covariance) + torch.diag_embed(self.precision))
        self.expected_mean = (self.expected @ (self.precision * self.mean).unsqueeze(-1)).squeeze(-1)
        self.zero = torch.zeros(24, dtype=torch.float64)

    def close(self, found, expected, factor=1.0):
        tolerance = factor * self.tolerance
        return torch.allclose(found.double(), expected, rtol=tolerance, atol=tolerance)


@every
def test_mean_covariance_and_variance(backend, kernel):
    case = Case(backend, kernel)
    assert case.close(case.prior.covariance, case.covariance)
    assert case.close(case.posterior.mean, case.expected_mean)
    assert case.close(case.posterior.covariance, case.expected)
    assert case.close(case.posterior.variance, case.expected.diagonal(dim1=-2, dim2=-1))


@every
def test_divergence_and_log_evidence(backend, kernel):
    case = Case(backend, kernel, unseen=False)
    prior = MultivariateNormal(case.zero, case.covariance)
    dense = MultivariateNormal(case.expected_mean, case.expected)
    divergence = kl_divergence(case.posterior, case.prior.expand([6]))
    assert case.close(divergence, kl_divergence(dense, prior).sum(-1))
    sites = Normal(case.mean, case.precision.rsqrt()).log_prob(case.posterior.mean)
    found = (sites - 0.5 * case.precision * case.posterior.variance).sum((-2, -1)) - divergence
    evidence = MultivariateNormal(case.zero, case.covariance + torch.diag_embed(1 / case.precision))
    assert case.close(found, evidence.log_prob(case.mean).sum(-1))


@exact
def test_densities(backend, kernel):
    case = Case(backend, kernel)
    value = case.posterior.rsample()
    dense = MultivariateNormal(case.expected_mean, covariance_matrix=case.expected, validate_args=False)
    prior = MultivariateNormal(case.zero, case.covariance)
    assert torch.allclose(case.posterior.log_prob(value), dense.log_prob(value).sum(-1), rtol=1e-5)
    assert torch.allclose(case.prior.log_prob(value), prior.log_prob(value).sum(-1), rtol=1e-5)


def test_densities_of_eigenfeatures_are_those_of_their_own_covariance():
    case = Case("eigen", "rbf")
    value = case.prior.rsample((2,))
    prior = MultivariateNormal(case.zero, case.prior.covariance)
    assert torch.allclose(case.prior.log_prob(value), prior.log_prob(value).sum(-1), rtol=1e-5)


@every
def test_not_seen_is_exactly_not_seen(backend, kernel):
    case = Case(backend, kernel)
    other = torch.where(case.precision == 0, 1000.0, case.mean)
    moved = case.prior.condition(other, case.precision)
    assert torch.equal(moved.mean, case.posterior.mean)
    assert torch.allclose(case.posterior.divergence()[0], torch.tensor(0.0).double(), atol=1e-9)
    assert torch.allclose(case.posterior.covariance[0], case.prior.covariance, atol=1e-9)


@every
def test_draws_have_the_posterior_moments(backend, kernel):
    torch.manual_seed(5)
    case = Case(backend, kernel)
    for distribution, mean, covariance in (
        (case.posterior, case.expected_mean, case.expected),
        (case.prior.expand([6]), 0 * case.expected_mean, case.covariance.expand(6, -1, -1, -1)),
    ):
        draws = distribution.rsample((8000,))
        sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        assert ((draws.mean(0) - mean).abs() < 5.5 * sd / 8000**0.5).all()
        centred = (draws - draws.mean(0)) / sd
        found = torch.einsum("spvt,spvu->pvtu", centred, centred) / 8000
        assert (found - covariance / (sd.unsqueeze(-1) * sd.unsqueeze(-2))).abs().max() < 5.5 * (2 / 8000) ** 0.5


def _outputs(backend, kernel, dates, lengthscale, odds, mean, precision):
    torch.manual_seed(0)
    caution = torch.linspace(0.2, 1.0, mean.shape[-1], dtype=mean.dtype)
    prior = TemporalGP(kernel, backend).prior(dates, lengthscale, odds)
    posterior = prior.condition(mean, precision, caution=caution.expand_as(mean))
    return (
        posterior.mean,
        posterior.variance,
        posterior.divergence(),
        posterior.rsample((2,)),
        prior.rsample((2,)),
        1e-3 * posterior.log_prob(mean),
        1e-3 * prior.log_prob(mean),
    )


def _inputs():
    generator = torch.Generator().manual_seed(1)
    dates = torch.tensor([0.0, 3.0, 3.0, 500.0, 40.0, 90.0], dtype=torch.float64)
    lengthscale, odds = torch.tensor([20.0, 300.0]).double(), torch.tensor([0.2, 1.0]).double()
    mean, precision = (torch.rand(1, 2, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return dates, [x.requires_grad_() for x in (lengthscale, odds, mean, 5 * precision + 0.1)]


@exact
def test_derivatives_are_finite_differences(backend, kernel):
    dates, inputs = _inputs()
    assert torch.autograd.gradcheck(lambda *x: _outputs(backend, kernel, dates, *x), inputs, eps=1e-6, atol=1e-5)


@exact
def test_derivatives_by_sites_alone_are_finite_differences(backend, kernel):
    dates, (*given, mean, precision) = _inputs()
    given = [x.detach() for x in given]
    assert torch.autograd.gradcheck(
        lambda *x: _outputs(backend, kernel, dates, *given, *x), (mean, precision), eps=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("kernel", ["rbf", "rbf * periodic"])
def test_derivatives_of_eigenfeatures_are_those_of_the_dense_algebra(kernel):
    dates, inputs = _inputs()
    dates = torch.linspace(0, 100, 40, dtype=torch.float64)
    inputs[2:] = (torch.rand(2, 2, 40, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, expected = (_outputs(b, kernel, dates, *inputs)[:3] for b in ("eigen", "dense"))
    for a, b in zip(found, expected, strict=True):
        weights = torch.cos(torch.arange(a.numel())).view_as(a).double()
        pairs = zip(
            *(torch.autograd.grad((x * weights).sum(), inputs, retain_graph=True, allow_unused=True) for x in (a, b)),
            strict=True,
        )
        for one, other in pairs:
            if other is not None:
                assert (one - other).abs().max() <= 0.01 * other.abs().max()


@pytest.mark.parametrize(
    ("backend", "kernel"),
    [("dense", "matern32"), ("eigen", "rbf * periodic"), ("kalman", "matern32"), ("kalman", "matern52")],
)
def test_float32_is_stable_over_1024_dates(backend, kernel):
    torch.manual_seed(0)
    dates = torch.linspace(18000, 21650, 512).double().repeat_interleave(2)
    lengthscale = torch.tensor([1.0, 40.0, 3000.0], requires_grad=True)
    odds, mean = torch.full((3,), 0.3), torch.randn(1, 3, 1024)
    precision = torch.where(torch.rand(1, 3, 1024) > 0.5, 200 * torch.rand(1, 3, 1024), 0.0).requires_grad_()
    gp = TemporalGP(kernel, backend, loss=1e-3)
    posterior = gp.prior(dates, lengthscale, odds).condition(mean, precision)
    loss = posterior.divergence().sum() / 1e6 + posterior.rsample().square().sum()
    for gradient in torch.autograd.grad(loss, (lengthscale, precision)):
        assert torch.isfinite(gradient).all()
    assert (posterior.variance >= 0).all() and (posterior.variance < 1 + 1e-4).all()
    if backend != "eigen":
        prior = TemporalGP(kernel, "dense").prior(dates, lengthscale.detach().double(), odds.double())
        expected = prior.condition(mean.double(), precision.detach().double())
        assert (posterior.mean - expected.mean).abs().max() < 2e-2
        assert (posterior.variance / expected.variance - 1).abs().max() < 2e-2
        assert torch.allclose(posterior.divergence().double(), expected.divergence(), rtol=1e-3)


@every
def test_new_dates_are_exact_and_uncertain_away_from_the_data(backend, kernel):
    case = Case(backend, kernel)
    after = case.dates.max() + torch.tensor([1.0, 20.0, 60.0, 200.0]).double()
    new = torch.cat([torch.tensor([17990.0, 18200.0, 18200.0]).double(), after])
    dates = torch.cat([case.dates, new])
    within = case.posterior.at(new)
    matrix = case.gp.covariance(dates, dates, case.lengthscale, torch.tensor([0.0, 0.3, 2.0]).double())
    total = case.covariance + torch.diag_embed(1 / case.precision.clamp_min(1e-9))
    gain = matrix[:, 24:, :24] @ torch.linalg.inv(total)
    variance = 1 + NUGGET - (gain * matrix[:, 24:, :24]).sum(-1)
    assert within.event_shape == (3, 31)
    assert case.close(within.mean[..., 24:], (gain @ case.mean.unsqueeze(-1)).squeeze(-1), 3.0)
    assert case.close(within.variance[..., 24:], variance, 3.0)
    assert case.close(within.mean[..., :24], case.expected_mean, 3.0)
    if "periodic" not in kernel:  # a season comes back
        assert (within.variance[1:, 1, -4:].diff() > 1e-4).all()


@every
def test_a_posterior_of_another_process_is_refused(backend, kernel):
    case = Case(backend, kernel)
    other = case.gp.prior(case.dates, 1.1 * case.lengthscale, torch.tensor([0.0, 0.3, 2.0]).double())
    with pytest.raises(ValueError, match="conditioned on another process"):
        kl_divergence(case.posterior, other)
    another = "kalman" if backend == "dense" else "dense"
    same = TemporalGP("matern32", another).prior(case.dates, case.lengthscale, torch.tensor([0.0, 0.3, 2.0]).double())
    with pytest.raises(ValueError, match="conditioned on another process"):
        kl_divergence(case.posterior, same)


@pytest.mark.parametrize("kernel", ["matern12", "matern32", "3 * matern52 + matern12"])
@pytest.mark.parametrize("learned", [True, False])
def test_an_accelerator_computes_what_the_processor_does(kernel, learned, monkeypatch):
    """More series than are taken at once, and more dates; operation by operation, or compiled."""
    monkeypatch.setattr(markov_spread, "STRETCH", 30)
    generator = torch.Generator().manual_seed(2)
    dates = 400 * torch.rand(70, generator=generator, dtype=torch.float64)
    mean, precision, seen = (torch.rand(71, 3, 70, generator=generator, dtype=torch.float64) for _ in range(3))
    lengthscale, odds = torch.tensor([20.0, 60.0, 900.0]).double(), torch.tensor([0.0, 0.3, 2.0]).double()
    inputs = [lengthscale, odds, mean, torch.where(seen > 0.5, 5 * precision, 0.0)]
    for x in inputs if learned else inputs[2:]:
        x.requires_grad_()
    weights = [1.0, 0.5, 0.1, 0.2, 0.3, 0.01, 0.01]
    results = []
    for compiled in (("cpu",), ()):
        monkeypatch.setattr(markov_cascade, "COMPILED", compiled)
        outputs = _outputs("kalman", kernel, dates, *inputs)
        total = sum(w * (x * torch.cos(x.detach())).sum() for w, x in zip(weights, outputs, strict=True))
        results.append([*outputs, *torch.autograd.grad(total, [x for x in inputs if x.requires_grad])])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.detach().abs().max()))


@pytest.mark.parametrize("compiled", [(), ("cpu",)])
def test_derivatives_of_both_ways_are_finite_differences(compiled, monkeypatch):
    monkeypatch.setattr(markov_spread, "STRETCH", 4)  # more than one stretch of dates
    monkeypatch.setattr(markov_cascade, "COMPILED", compiled)
    dates, inputs = _inputs()
    outputs = lambda *x: _outputs("kalman", "matern32", dates, *x)  # noqa: E731
    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "kalman"])
def test_series_with_lengthscales_of_their_own(backend):
    torch.manual_seed(0)
    dates, (lengthscale, odds) = 300 * torch.rand(30).double(), torch.rand(2, 4, 3).double()
    lengthscale = 20 + 100 * lengthscale
    mean, precision, caution = torch.rand(3, 4, 3, 30).double()
    coupling, skewness = 0.2 * torch.randn(4, 3, 30, 3).double(), 0.3 * torch.randn(4, 3, 30).double()
    given = mean, 4 * precision * (precision > 0.5), coupling, caution, skewness
    gp, value = TemporalGP(backend=backend), 0.3 * torch.randn(4, 3, 30).double()
    prior = gp.prior(dates, lengthscale, odds).expand([4])
    posterior = prior.condition(*given)
    for i in range(4):
        own = gp.prior(dates, lengthscale[i], odds[i]).expand([1])
        alone = own.condition(*(x[i : i + 1] for x in given))
        for name in ("mean", "variance", "covariance"):
            assert torch.allclose(getattr(posterior, name)[i], getattr(alone, name)[0])
        for name in ("log_prob", "datewise_log_prob"):
            assert torch.allclose(getattr(posterior, name)(value)[i], getattr(alone, name)(value[i : i + 1])[0])
        assert torch.allclose(prior.log_prob(value)[i], own.log_prob(value[i : i + 1])[0])
    draws = posterior.rsample((4000,))
    expected = SitePosterior(
        prior, *given[:2], caution=caution, skewness=skewness
    )  # first of the process: leans on none
    assert draws.shape == (4000, 4, 3, 30) and prior.rsample((2,)).shape == (2, 4, 3, 30)
    spread = posterior.variance[:, 0].sqrt()
    assert ((draws.mean(0) - expected.mean)[:, 0].abs() < 5 * spread / 4000**0.5 + 0.05 * spread).all()
    with pytest.raises(ValueError, match="knows its own dates only"):
        posterior.at(dates[:2])
