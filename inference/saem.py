r"""Global latents from chains: stochastic approximation of expectation maximisation.

`fit` learns noise, lengthscales, coefficients and loadings together with the guide, and inherits what the guide gets
wrong: a guide that is vague early drives processes to be static (hence their tiny steps), and one that is too narrow
leaves the rest to the noise. Here the guide has no say. For some pixels one chain each runs on under the model
(`inference.refinement`), and between its steps the global latents :math:`\theta` follow the gradient of

.. math:: E_{q(\theta)}\left[\log p(y, z \mid \theta)\right] - KL(q(\theta) \,\|\, p(\theta)), \qquad
          z \sim p(z \mid y, \theta),

with falling steps (Delyon, Lavielle & Moulines 1999, Annals of Statistics 27, 94-128; with Markov chains: Kuhn &
Lavielle 2004, ESAIM: Probability and Statistics 8, 115-131). What they know is what these pixels tell, and so is the
spread of :math:`q(\theta)`; loadings are points. The guide does not know the new values: `inference.neural_posterior`
teaches it.
"""

from __future__ import annotations

import math
import time

import torch
import xarray as xr
from lightning_fabric import Fabric

from inference.calibration.importance import log_joint
from inference.optimisation import Phase, progress_bar, restored
from inference.posterior import choose_pixels
from inference.refinement import WhitenedPosterior, hamiltonian
from inference.training import Run, keep_weights
from pi_vae import PhysicsVAE
from pi_vae.data import validate
from pi_vae.data.batches import CubeTensors

__all__ = ["learn_globals"]

METRIC_EVERY = 25  # steps
QUARTER = 1.6  # length of a trajectory


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
        steps: of each chain; the first tenth is made before anything is learned.
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
    model = run.model.cpu().eval()
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    batch = data.at(*choose_pixels(pixels, data, seed), model.encoder.radius)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(seed, verbose=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = {id(p) for p in model.encoder.parameters()}
    others = [p for p in model.parameters() if id(p) not in own and p.requires_grad]
    phase = Phase([{"params": others, "lr": learning_rate}], steps)
    with torch.no_grad():
        shared = model.draw_globals()
        drawn = model.posterior(model.encoder(batch), batch.dates, shared).rsample()
    metric = None
    with progress_bar(progress, "nat per series") as bar, restored(model):
        phase.enter(model)
        task, start = bar.add_task("chains", total=steps, value=math.nan, rate=0.0), time.monotonic()
        for step in range(steps):
            with torch.no_grad():
                target = WhitenedPosterior(model, batch, shared)
                w = target.whitened(drawn)
                if step % METRIC_EVERY == 0:
                    curvature = target.normal_equations(w)[0]
                    metric = curvature if metric is None else 0.5 * (metric + curvature)
                    factor = torch.linalg.cholesky(metric).mT
                drawn = target.drawn(_moved(target, w, factor))
            if step >= steps // 10:
                loss, shared = _complete_data_loss(model, batch, drawn)
                if not torch.isfinite(loss):
                    model.load_state_dict(before)
                    raise FloatingPointError(f"The density is {loss.item()}: lower learning_rate ({learning_rate:g}).")
                phase.descend(loss / len(batch.pixels), fabric)
                rate = (step + 1) * len(batch.pixels) / max(time.monotonic() - start, 1e-9)
                bar.update(task, value=-loss.item() / len(batch.pixels), rate=rate)
            bar.update(task, completed=step + 1)
    keep_weights(run)
    return run


def _moved(target: WhitenedPosterior, w: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`[pixel, D]` after one step of each chain."""

    def back(z: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve_triangular(factor, z.unsqueeze(-1), upper=True).squeeze(-1)

    start = (factor @ w.unsqueeze(-1)).squeeze(-1)
    return back(hamiltonian(lambda z: target.log_prob(back(z)), start, 1, 0, QUARTER)[1]["last"])


def _complete_data_loss(model: PhysicsVAE, batch, drawn) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Negative objective of the global latents in nats, and the draw of them that it was taken at."""
    priors, posteriors = model.globals("prior"), model.globals("posterior")
    shared = {site: q.rsample() for site, q in posteriors.items()}
    divergence = sum((q.log_prob(shared[s]) - priors[s].log_prob(shared[s])).sum() for s, q in posteriors.items())
    loss = divergence - log_joint(model, batch, drawn, shared).sum()
    return loss, {site: value.detach() for site, value in shared.items()}
