r"""Global latents from chains: stochastic approximation of expectation maximisation.

`fit` learns noise, lengthscales, coefficients and loadings together with the guide, and inherits what the guide gets
wrong: a guide that is vague early drives processes to be static (hence their tiny steps), and one that is too narrow
leaves the rest to the noise. Here the guide has no say. For some pixels one chain each runs on under the model
(`inference.refinement`), and between its steps the global latents :math:`\theta` follow the gradient of

.. math:: E_{q(\theta)}\left[\log p(y, z \mid \theta)\right] - KL(q(\theta) \,\|\, p(\theta)), \qquad
          z \sim p(z \mid y, \theta),

with falling steps (Delyon, Lavielle & Moulines 1999, Annals of Statistics 27, 94-128; with Markov chains: Kuhn &
Lavielle 2004, ESAIM: Probability and Statistics 8, 115-131).

That objective takes the latents for known, and so its :math:`q(\theta)` is far too sure where observations say little
of a process. In the end the spread of the positive global latents (not of loadings, networks and common course) is set
anew. The information of :math:`n` pixels is that of their scores,

.. math:: J = \sum_i (s_i - \bar s)(s_i - \bar s)^T, \qquad
          s_i = E_{p(z_i \mid y_i, \theta)}\left[\nabla_{\log\theta} \log p(y_i, z_i \mid \theta)\right],

by Fisher's identity (Berndt, Hall, Hall & Hausman 1974, Annals of Economic and Social Measurement 3, 653-665). One
factor is the mean over the first half of a chain and the other over the second, so that what remains of its noise does
not pass for information. With the prior's variances :math:`\Sigma_0` the spread is that of
:math:`(J + \Sigma_0^{-1})^{-1}`: what these pixels do not tell is left to the prior. The guide does not know the new
values: `inference.neural_posterior` teaches it.
"""

from __future__ import annotations

import math
import time

import torch
import xarray as xr
from lightning_fabric import Fabric
from torch import Tensor

from inference.calibration.importance import log_joint
from inference.optimisation import Phase, progress_bar, restored
from inference.posterior import choose_pixels
from inference.refinement import ACCEPTANCE, WhitenedPosterior, hamiltonian
from inference.training import Run, keep_weights
from pi_vae import PhysicsVAE
from pi_vae.data import validate
from pi_vae.data.batches import Batch
from pi_vae.data.scene import open_tensors

__all__ = ["learn_globals"]

METRIC_EVERY = 25  # steps
FIRST_STEP = 0.2  # of a trajectory
FORGETTING = 0.6  # power of the steps made, by which what one trajectory says of the step size counts less
DIFFERENCE = 0.1  # of log theta, between which densities are compared
SCORED_EVERY = 4  # steps


def learn_globals(
    run: Run,
    cube: xr.DataTree,
    steps: int = 300,
    pixels: int = 64,
    seed: int = 0,
    learning_rate: float = 3e-2,
    progress: bool = True,
) -> Run:
    """Learn the global latents of a fitted run from chains of some pixels.

    Args:
        run: a fitted run; its model is changed in place, the encoder excepted. A checkpoint of it is
            brought up to date.
        cube: a valid cube; observations marked ``withheld`` are not used.
        steps: of each chain while the global latents move; the first tenth is made before anything is learned, and
            half as many follow for the spread.
        pixels: number of chains; memory grows with the square of dates times variables for each.
        seed: of everything random.
        learning_rate: first step size of Adam, on the log scale.
        progress: show a progress bar.

    Returns:
        The run.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: fewer than ten steps, or the cube lacks a modality or channel of the model.
        FloatingPointError: the density is not finite; the model is as it was.
    """
    if steps < 10:
        raise ValueError(f"steps is {steps}: give ten at least.")
    validate(cube)
    model = run.model.eval()
    data = open_tensors(cube, {name: m.channels for name, m in model.modalities.items()})
    batch = data.at(*choose_pixels(pixels, data, seed), model.encoder.radius)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(seed, verbose=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = {id(p) for p in model.encoder.parameters()}
    others = [p for p in model.parameters() if id(p) not in own and p.requires_grad]
    phase = Phase([{"params": others, "lr": learning_rate}], steps)
    with torch.no_grad():
        shared = model.draw_globals()
        drawn = model.posterior(model.encode(batch), batch.dates, shared).rsample()
    chains = _Chains(model, batch, drawn)
    with progress_bar(progress, "nat per series") as bar, restored(model):
        phase.enter(model)
        after = max(3 * SCORED_EVERY, steps // 2)
        task = bar.add_task("chains", total=steps + after, value=math.nan, rate=0.0)
        start = time.monotonic()
        for step in range(steps):
            chains.move(shared)
            if step >= steps // 10:
                loss, shared = _complete_data_loss(model, batch, chains.drawn)
                if not torch.isfinite(loss):
                    model.load_state_dict(before)
                    raise FloatingPointError(f"The density is {loss.item()}: lower learning_rate ({learning_rate:g}).")
                phase.descend(loss / len(batch.pixels), fabric)
                rate = (step + 1) * len(batch.pixels) / max(time.monotonic() - start, 1e-9)
                bar.update(task, value=-loss.item() / len(batch.pixels), rate=rate)
            bar.advance(task)
        shared, scores = model.median_globals(), []
        for step in range(1, after + 1):
            chains.move(shared)
            if step > after // 4 and step % SCORED_EVERY == 0:
                scores.append(chains.scores(shared))
            bar.advance(task)
        if not torch.stack(scores).isfinite().all():
            model.load_state_dict(before)
            raise FloatingPointError("The density of a pixel is not finite: look for strange values.")
        _spread(model, torch.stack(scores))
    keep_weights(run)
    return run


class _Chains:
    """One chain of the local latents of every pixel of a batch, under whatever global latents there are.

    Each pixel has its own step size, found as it goes (Robbins & Monro 1951, Annals of Mathematical Statistics 22,
    400-407): where there are many dates one common to all leaves some pixels where they began.
    """

    def __init__(self, model: PhysicsVAE, batch: Batch, drawn: dict[str, Tensor]) -> None:
        self.model, self.batch, self.drawn = model, batch, drawn
        self.step = torch.full((len(batch.pixels),), FIRST_STEP)
        self.metric: Tensor | None = None
        self.steps = 0

    @torch.no_grad()
    def move(self, shared: dict[str, Tensor]) -> None:
        """One step of each chain."""
        target = WhitenedPosterior(self.model, self.batch, shared)
        w = target.whitened(self.drawn)
        if self.steps % METRIC_EVERY == 0:
            curvature = target.normal_equations(w)[0]
            self.metric = curvature if self.metric is None else 0.5 * (self.metric + curvature)
            self.factor = torch.linalg.cholesky(self.metric).mT
        self.steps += 1

        def back(z: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(self.factor, z.unsqueeze(-1), upper=True).squeeze(-1)

        start = (self.factor @ w.unsqueeze(-1)).squeeze(-1)
        _, stats = hamiltonian(lambda z: target.log_prob(back(z)), start, 1, 0, self.step)
        self.step = self.step * torch.exp(self.steps**-FORGETTING * (stats["acceptance"] - ACCEPTANCE))
        self.drawn = target.drawn(back(stats["last"]))

    @torch.no_grad()
    def scores(self, shared: dict[str, Tensor]) -> Tensor:
        """`[pixel, G]` derivatives of the density of every pixel by the logarithms of the positive global latents."""
        columns = []
        for site in self.model.global_latents:
            for j in range(len(shared[site])):
                sides = []
                for sign in (1, -1):
                    value = shared[site].clone()
                    value[j] *= math.exp(sign * DIFFERENCE)
                    sides.append(log_joint(self.model, self.batch, self.drawn, shared | {site: value}))
                columns.append((sides[0] - sides[1]) / (2 * DIFFERENCE))
        return torch.stack(columns, -1)


@torch.no_grad()
def _spread(model: PhysicsVAE, scores: Tensor) -> None:
    """Set the spread of the positive global latents by scores `[draw, pixel, G]`."""
    latents = list(model.global_latents.values())
    pixels, size = scores.shape[1:]
    first, second = (half.mean(0) - half.mean((0, 1)) for half in scores.tensor_split(2))
    information = first.T @ second * pixels / max(pixels - 1, 1)
    # With few pixels correlations of the scores are the least certain of it (Ledoit & Wolf 2004): drawn towards none.
    own = torch.diag(information.diagonal())
    information = own + pixels / (pixels + size) * (0.5 * (information + information.T) - own)
    values, vectors = torch.linalg.eigh(information.double())
    information = vectors @ (values.clamp_min(0.0).unsqueeze(-1) * vectors.T)
    precision = torch.cat([g.prior_scale for g in latents]).double() ** -2
    sd = torch.linalg.inv(information + torch.diag(precision)).diagonal().sqrt()
    for g, part in zip(latents, sd.split([len(g.loc) for g in latents]), strict=True):
        g.log_scale.copy_(part.log())


def _complete_data_loss(model: PhysicsVAE, batch: Batch, drawn: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative objective of the global latents in nats, and the draw of them that it was taken at."""
    priors, posteriors = model.globals("prior"), model.globals("posterior")
    shared = {site: q.rsample() for site, q in posteriors.items()}
    divergence = sum((q.log_prob(shared[s]) - priors[s].log_prob(shared[s])).sum() for s, q in posteriors.items())
    loss = divergence - log_joint(model, batch, drawn, shared).sum()
    return loss, {site: value.detach() for site, value in shared.items()}
