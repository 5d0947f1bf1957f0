r"""`reference`: the posterior of a few pixels by Hamiltonian Monte Carlo, without a guide.

What the guide is measured against, and what the model itself says of data: one chain per pixel, all pixels in step,
given one set of global latents. The latents of a pixel are whitened by their prior, :math:`u = L w` with
:math:`w \sim N(0, I)`; a damped Gauss-Newton search with the weights of the Student-t finds the mode
:math:`\hat w`, and with the Cholesky factor of the curvature there, :math:`H = C C^T`, the chain runs in

.. math:: w = \hat w + C^{-T} z, \qquad H = I + A^T \Lambda A,

where the posterior is nearly standard normal, so that a few leapfrog steps decorrelate (Girolami & Calderhead 2011, the
metric held fixed). `A` are the derivatives of the expected signal. Minutes for a hundred pixels and a season on one
core; as a yardstick, not for maps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xarray as xr
from torch import Tensor

from inference.draws import seeded
from inference.posterior import _choose, _location
from inference.training import Run
from pi_vae import Latents, PhysicsVAE
from pi_vae.data import validate
from pi_vae.data.batches import Batch, CubeTensors
from pi_vae.variables import CATALOGUE

__all__ = ["WhitenedPosterior", "reference"]


def reference(
    run: Run,
    cube: xr.DataTree,
    draws: int = 200,
    warmup: int = 100,
    thin: int = 2,
    pixels: int | list[tuple[int, int]] | None = None,
    shared: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Posterior draws of the physical variables of some pixels by Hamiltonian Monte Carlo.

    Args:
        run: a run, fitted or not: the encoder is not used.
        cube: a valid cube; observations marked ``withheld`` are not used.
        draws: to keep; 0 gives 200 draws of the Gaussian approximation at the mode instead.
        warmup: steps that set the step size of each pixel, not kept.
        thin: steps per draw kept.
        pixels: as for `inference.posterior`.
        shared: global latents by site name; by default one draw of the run's own, the same as `calibration.importance`
            takes for this seed.
        seed: of everything random.

    Returns:
        DataTree with the groups ``posterior`` (variables `(chain, draw, pixel, time)` or `(chain, draw, pixel)`) and
        ``sample_stats`` (``acceptance`` and ``step_size`` by pixel; below an acceptance of about 0.5 a chain is stuck).

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: a pixel lies outside the cube.
    """
    validate(cube)
    model = run.model
    data = CubeTensors.read(cube, {name: m.channels for name, m in model.modalities.items()})
    rows, columns = _choose(pixels, data, seed)
    with seeded(seed):
        shared = model.draw_globals() if shared is None else shared
        target = WhitenedPosterior(model, data.at(rows, columns, 0), shared)
        mode = target.mode()
        if draws:
            chain, acceptance, step = target.chain(mode, draws, warmup, thin)
        else:
            chain, acceptance, step = target.gaussian(mode, 200), *torch.ones(2, len(rows))
        variables = {}
        for name, value in model.variables(target.latents(chain)).items():
            dynamic = CATALOGUE[name].dynamic
            dims = ("chain", "draw", "pixel", "time") if dynamic else ("chain", "draw", "pixel")
            array = (value if dynamic else value.squeeze(-1)).numpy()[None]
            variables[name] = (dims, array, {"units": CATALOGUE[name].unit, "long_name": CATALOGUE[name].long_name})
    location = _location(cube, data, rows, columns)
    stats = xr.Dataset({"acceptance": ("pixel", acceptance.numpy()), "step_size": ("pixel", step.numpy())})
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(variables, {"time": data.times}).assign_coords(location),
            "sample_stats": stats.assign_coords(location),
        }
    )


class WhitenedPosterior:
    """Log density of the local latents of some pixels, whitened by their prior, with what samplers ask of it.

    Args:
        model: the model.
        batch: its `batch.pixels` and their seen observations.
        shared: global latents by site name.

    Attributes:
        size: number `D` of whitened latents of a pixel.
    """

    def __init__(self, model: PhysicsVAE, batch: Batch, shared: Mapping[str, Tensor]) -> None:
        self.model, self.batch, self.shared = model, batch, shared
        priors = model.priors(batch.dates, shared)
        self.factors = {site: prior.factor for site, prior in priors.items() if site != "static"}
        self.sizes = {"static": len(model.static)} | {s: f.shape[0] * f.shape[1] for s, f in self.factors.items()}
        self.size, self.pixels = sum(self.sizes.values()), len(batch.pixels)

    def latents(self, w: Tensor) -> Latents:
        """Latents of whitened ones `[..., D]`."""
        parts = dict(zip(self.sizes, w.split(list(self.sizes.values()), -1), strict=True))
        for site, factor in self.factors.items():
            parts[site] = (factor @ parts[site].unflatten(-1, factor.shape[:2]).unsqueeze(-1)).squeeze(-1)
        return self.model.latents(parts, self.batch.dates)

    def log_prob(self, w: Tensor) -> Tensor:
        """`[..., pixel]` log posterior density of `[..., pixel, D]`, up to a constant."""
        latents, total = self.latents(w), -0.5 * w.square().sum(-1)
        for name, seen in self.batch.modalities.items():
            mean = self.model.expected(name, latents, self.batch, self.shared)
            likelihood = self.model.modalities[name].likelihood(mean, self.shared[f"{name}_noise"])
            score = likelihood.log_prob(seen.series(self.batch.pixels)).sum(-1)
            total = total + torch.where(seen.mask(self.batch.pixels), score, 0.0).sum(-1)
        return total

    def normal_equations(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Curvature and gradient of `log_prob`.

        Args:
            w: `[pixel, D]`.

        Returns:
            `[pixel, D, D]`, by Gauss-Newton with the weights of the Student-t (positive definite), and `[pixel, D]`.
        """
        curvature = torch.eye(self.size).expand(self.pixels, -1, -1)
        gradient = -w
        for name, seen in self.batch.modalities.items():
            modality = self.model.modalities[name]
            mean, design = self._design(name, w)
            scale, freedom = self.shared[f"{name}_noise"], modality.degrees_of_freedom
            residual = seen.series(self.batch.pixels) - mean
            weight = (freedom + 1) / (freedom * scale**2 + residual**2) * seen.mask(self.batch.pixels).unsqueeze(-1)
            weighted = (design * weight.unsqueeze(-1)).flatten(1, 2)
            curvature = curvature + weighted.transpose(1, 2) @ design.flatten(1, 2)
            gradient = gradient + (residual.flatten(1).unsqueeze(1) @ weighted).squeeze(1)
        return curvature, gradient

    def mode(self, steps: int = 30) -> Tensor:
        """`[pixel, D]` a mode, by damped Gauss-Newton steps from the prior medians."""
        w = torch.zeros(self.pixels, self.size)
        damping, score = torch.ones(self.pixels), self.log_prob(w)
        identity = torch.eye(self.size)
        for _ in range(steps):
            curvature, gradient = self.normal_equations(w)
            move = torch.linalg.solve(curvature + damping[:, None, None] * identity, gradient)
            move = move * (2 / move.abs().amax(1, keepdim=True)).clamp(max=1)
            better = self.log_prob(w + move)
            taken = better > score
            gain = torch.where(taken, better - score, 0.0).max()
            w = torch.where(taken[:, None], w + move, w)
            score = torch.where(taken, better, score)
            damping = torch.where(taken, 0.3 * damping, 5 * damping).clamp(1e-3, 1e4)
            if gain < 0.05 and taken.float().mean() > 0.5:
                break
        return w

    def gaussian(self, mode: Tensor, draws: int) -> Tensor:
        """`[draw, pixel, D]` draws of the Gaussian at a mode."""
        factor = torch.linalg.cholesky(self.normal_equations(mode)[0]).transpose(1, 2)
        noise = torch.randn(self.pixels, self.size, draws)
        return mode + torch.linalg.solve_triangular(factor, noise, upper=True).permute(2, 0, 1)

    def chain(self, mode: Tensor, draws: int, warmup: int, thin: int) -> tuple[Tensor, Tensor, Tensor]:
        """One chain per pixel from its mode: `[draw, pixel, D]`, mean acceptance and step size `[pixel]`."""
        factor = torch.linalg.inv(torch.linalg.cholesky(self.normal_equations(mode)[0])).transpose(1, 2)

        def density(z: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                score = self.log_prob(mode + (factor @ z.unsqueeze(-1)).squeeze(-1))
                (slope,) = torch.autograd.grad(score.sum(), z)
            return score.detach(), torch.nan_to_num(slope)

        z = torch.randn_like(mode)
        score, slope = density(z)
        step, kept, accepted = torch.full((self.pixels, 1), 0.1), [], torch.zeros(self.pixels)
        for i in range(warmup + draws * thin):
            momentum = torch.randn_like(z)
            energy = score - 0.5 * momentum.square().sum(1)
            at, here, along = z, score, slope
            size = step * (0.8 + 0.4 * torch.rand_like(step))  # no orbit is closed by chance
            for _ in range(int(torch.randint(5, 13, ()))):
                momentum = momentum + 0.5 * size * along
                at = at + size * momentum
                here, along = density(at)
                momentum = momentum + 0.5 * size * along
            odds = torch.exp((here - 0.5 * momentum.square().sum(1) - energy).clamp(max=0)).nan_to_num(0.0)
            taken = torch.rand_like(odds) < odds
            z, slope = (torch.where(taken[:, None], new, old) for new, old in ((at, z), (along, slope)))
            score = torch.where(taken, here, score)
            if i < warmup:
                step = (step * torch.exp(0.2 * (odds.unsqueeze(1) - 0.75))).clamp(max=1.0)
            else:
                accepted = accepted + odds / (draws * thin)
                if (i - warmup) % thin == thin - 1:
                    kept.append(mode + (factor @ z.unsqueeze(-1)).squeeze(-1))
        return torch.stack(kept), accepted, step.squeeze(1)

    def _design(self, name: str, w: Tensor) -> tuple[Tensor, Tensor]:
        """Expected signal `[pixel, T_m, C]` of a modality and its derivatives `[pixel, T_m, C, D]` by the latents."""
        model, seen, latents = self.model, self.batch.modalities[name], self.latents(w)
        index, (pixels, dates) = seen.index, (self.pixels, len(seen.index))
        with torch.enable_grad():
            # A static latent gets a copy per date: every signal then depends on latents of its own date alone.
            u = latents.dynamic[..., index].clone().requires_grad_()
            s = latents.static.unsqueeze(-2).expand(-1, dates, -1).clone().requires_grad_()
            dynamic = model.dynamic_marginals(u, dim=-2).unbind(-2)
            static = model.static_marginals(s).unbind(-1)
            values = dict(zip((*model.dynamic, *model.static), (*dynamic, *static), strict=True))
            drivers = {k: d[index] for k, d in self.batch.drivers.items()}
            coefficients = self.shared.get(f"{name}_coefficients")
            angles = seen.angles(self.batch.pixels)
            mean = model.modalities[name].expected(values, angles, drivers, coefficients).expand(pixels, dates, -1)
            slopes = [torch.autograd.grad(c.sum(), (u, s), retain_graph=True) for c in mean.unbind(-1)]
        by_dynamic = torch.nan_to_num(torch.stack([d.transpose(1, 2) for d, _ in slopes], 2))
        by_static = torch.nan_to_num(torch.stack([d for _, d in slopes], 2))
        mean, columns = mean.detach(), {"static": by_static}
        rows = {site: factor[:, index] for site, factor in self.factors.items()}
        columns["dynamic"] = torch.einsum("ntcv,vtk->ntcvk", by_dynamic, rows["dynamic"]).flatten(-2)
        for site in self.factors:
            if site == f"residual_{name}":
                mean = mean + model.residual(name, latents, self.shared)[..., index, :]
                part = torch.einsum("ck,ktj->tckj", self.shared[f"{name}_loading"], rows[site]).flatten(-2)
                columns[site] = part.expand(pixels, -1, -1, -1)
            elif site != "dynamic":
                columns[site] = mean.new_zeros(*mean.shape, self.sizes[site])
        return mean, torch.cat([columns[site] for site in self.sizes], -1)
