"""The training objective written in torch alone, to compare with what Pyro makes of the program; for encoder_speed.py.

Same encoder, posterior, divergences and likelihoods as `inference.ChainRuleELBO` over `PhysicsVAE.model` and `.guide`,
and the same random numbers in the same order, but no sites of a program and no traces. Where one part of a step hands
over to the next the graph can be cut, so that derivatives are timed part by part.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from inference.objective import hidden_means
from pi_vae import PhysicsVAE
from pi_vae.data.batches import Batch

__all__ = ["Cut", "Uncut", "Watch", "by_hand", "check", "closes"]

LIMITS = {"loss": 1e-4, "derivatives": 1e-2}  # relative; float32, sums in another order


class Watch:
    """Processor and wall seconds by name, each since the last look."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        self.last = time.process_time(), time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.process_time(), time.perf_counter()
        for total, new, old in zip((self.seconds, self.wall), now, self.last, strict=True):
            total[name] = total.get(name, 0.0) + new - old
        self.start()


class Uncut:
    """Hands over the graph as it is: the loss has all derivatives at once."""

    def __call__(self, part: str, handed: object) -> object:
        return handed

    def backward(self, loss: Tensor) -> None:
        loss.backward()


class Cut(Uncut):
    """Cuts the graph where a part ends, and times every part forth and back."""

    def __init__(self) -> None:
        self.forth, self.back = Watch(), Watch()
        self.cuts: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def __call__(self, part: str, handed: object) -> object:
        self.forth(part)
        ends: list[Tensor] = []
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            ends.append(tensor)
            leaves.append(tensor.detach().requires_grad_())
            return leaves[-1]

        handed = _mapped(handed, leaf)
        self.cuts.append((part, ends, leaves))
        self.forth.start()
        return handed

    def backward(self, loss: Tensor) -> None:
        """Derivatives of the loss: those of the last part, then of the others on the way back."""
        self.back.start()
        loss.backward()
        self.back("likelihood")
        for part, ends, leaves in reversed(self.cuts):
            asked = [(end, leaf.grad) for end, leaf in zip(ends, leaves, strict=True) if leaf.grad is not None]
            torch.autograd.backward(*(list(x) for x in zip(*asked, strict=True)))
            self.back(part)


def by_hand(model: PhysicsVAE, batch: Batch, draws: int, closed: bool = True, cut: Uncut | None = None) -> Tensor:
    """The loss, in nats of the cube.

    Args:
        model: the model.
        batch: with hidden observations.
        draws: of the posterior per hidden observation.
        closed: divergences of the processes in closed form, else by the one draw that is there.
        cut: what is done where a part ends.
    """
    cut = Uncut() if cut is None else cut
    shared, whole, priors = {}, 0.0, model.globals("prior")
    for site, posterior in model.globals("posterior").items():
        shared[site] = posterior.rsample()
        whole = whole + _global_divergence(posterior, priors[site])
    shared, whole = cut("prior", (shared, whole))
    sites = cut("encoder", model.encode(batch))

    posterior = model.posterior(sites, batch.dates, shared)
    drawn, given = {}, {}
    for name in posterior.names:
        given[name] = posterior.conditional(name, drawn)
        drawn[name] = given[name].rsample()
    ordinary = torch.distributions.Normal(0.0, 1.0).log_prob(drawn["static"]).sum(-1)
    local = posterior.static.log_prob(drawn["static"]) - ordinary
    for name, process in posterior.processes.items():
        if closed:
            local = local + given[name].divergence()
        else:
            local = local + given[name].log_prob(drawn[name]) - process.prior.log_prob(drawn[name])
    unseen = posterior.rsample((draws,))
    drawn, unseen, local = cut("prior", (drawn, unseen, local))

    latents, hidden = (model.latents(some, batch.dates, shared) for some in (drawn, unseen))
    means = {name: model.expected(name, latents, batch, shared) for name in batch.modalities}
    predicted = {name: hidden_means(model, name, batch, hidden, shared) for name in batch.modalities}
    means, predicted = cut("physics", (means, predicted))

    total = -model.kl_weight * local.sum()
    for name, observed in batch.modalities.items():
        modality, noise = model.modalities[name], shared[f"{name}_noise"]
        density = modality.likelihood(means[name], noise).log_prob(observed.series(batch.pixels))
        total = total + torch.where(observed.scored(batch.pixels), density, 0.0).sum()
        mean, values = predicted[name]
        density = modality.likelihood(mean, noise).log_prob(values)
        total = total + ((torch.logsumexp(density, 0) - math.log(draws)) * observed.given).sum()
    return whole - batch.scale * total


def closes(model: PhysicsVAE, batch: Batch) -> bool:
    """Whether Pyro finds the closed divergence of the processes; otherwise it takes one draw."""
    with torch.random.fork_rng(devices=[]):
        nodes = poutine.trace(model.guide).get_trace(batch).nodes
    try:
        kl_divergence(nodes["dynamic"]["fn"], nodes["_RETURN"]["value"].processes["dynamic"].prior)
    except NotImplementedError:
        return False
    return True


def check(
    ways: Mapping[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]], model: PhysicsVAE
) -> dict[str, dict[str, float]]:
    """How far the losses and derivatives of several ways lie from those of the first, relatively.

    Args:
        ways: name -> the loss and its backward pass; every one from the same seed.
        model: whose parameters the derivatives are by.

    Raises:
        ArithmeticError: farther than rounding explains.
    """
    values, slopes = {}, {}
    for way, (loss, backward) in ways.items():
        torch.manual_seed(0)
        value = loss()
        backward(value)
        values[way] = value.item()
        slopes[way] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
    first, *others = ways
    found = {}
    for way in others:
        apart = {"loss": abs(values[way] / values[first] - 1), "derivatives": _distance(slopes[first], slopes[way])}
        for what, limit in LIMITS.items():
            if not apart[what] < limit:
                raise ArithmeticError(
                    f"Relative difference {apart[what]:.1e} of the {what} between {first!r} and {way!r}, more than "
                    f"{limit:g}: they are not the same objective; bring benchmarks/elbo_by_hand.py up to the model."
                )
        found[way] = apart
    return found


def _distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Largest relative difference of the derivatives by a parameter; tiny ones count by what all are."""
    if first.keys() != second.keys():
        return math.inf
    size = torch.stack([x.norm() for x in first.values()]).norm()
    return max(float((x - second[k]).norm() / (x.norm() + 1e-4 * size)) for k, x in first.items())


def _global_divergence(posterior: Distribution, prior: Distribution) -> Tensor:
    """Between normals of the logarithm; of a point estimate, minus its log density."""
    if not hasattr(posterior, "base_dist"):
        return -prior.log_prob(posterior.v)
    q, p = posterior.base_dist, prior.base_dist
    apart = (q.scale.square() + (q.loc - p.loc).square()) / p.scale.square()
    return (0.5 * (apart - 1) + (p.scale / q.scale).log()).sum()


def _mapped(item: object, function: Callable[[Tensor], Tensor]) -> object:
    """A nest of tensors with the function at every one of them."""
    if isinstance(item, Tensor):
        return function(item)
    if isinstance(item, dict):
        return {key: _mapped(value, function) for key, value in item.items()}
    if isinstance(item, tuple | list):
        return type(item)(_mapped(value, function) for value in item)
    if isinstance(item, functools.partial):
        return functools.partial(item.func, *_mapped(item.args, function), **_mapped(item.keywords, function))
    if dataclasses.is_dataclass(item):
        parts = {f.name: _mapped(getattr(item, f.name), function) for f in dataclasses.fields(item)}
        return dataclasses.replace(item, **parts)
    return item
