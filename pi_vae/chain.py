r"""The posterior of all latents of a pixel: a chain of distributions, each conditional on those before.

.. math:: q(s, u, r) = q(s)\; q(u \mid s)\; \prod_m q(r_m \mid u, s)

Static variables come first (`pi_vae.static`), then the dynamic ones, then the exclusive residual of every modality.
These are exact posteriors of Gaussian processes given sites whose means lean on what was drawn before
(`pi_vae.priors.SitePosterior`), so the chain knows which latents trade off against each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor

from pi_vae.encoders import Sites
from pi_vae.priors import GaussianProcess, SitePosterior
from pi_vae.static import StaticPosterior

__all__ = ["ChainPosterior"]


class ChainPosterior:
    """Posterior of the local latents of some pixels, by site name.

    Args:
        sites: what the encoder says of the pixels.
        priors: prior of every site, in the order of the chain: ``"static"``, ``"dynamic"``, the residuals.
    """

    def __init__(self, sites: Sites, priors: Mapping[str, GaussianProcess | dist.MultivariateNormal]) -> None:
        self.names, self.lean = tuple(priors), sites.lean
        self._kept: tuple[Tensor, SitePosterior] | None = None
        parts = (sites.static_mean, sites.static_scale, sites.static_correlation, sites.static_shape)
        self.static = StaticPosterior(*parts)
        self.processes: dict[str, SitePosterior] = {
            name: priors[name].condition(
                sites.mean[name], sites.precision[name], sites.coupling[name], sites.caution[name], sites.skewness[name]
            )
            for name in self.names[1:]
        }

    def conditional(self, name: str, drawn: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """Distribution of a site given draws of the sites before it in `names`."""
        if name == "static":
            return self.static
        dynamic = self._dynamic(drawn["static"])
        if name == "dynamic":
            return dynamic
        return self.processes[name].after(self.lean[name](drawn["static"]), drawn["dynamic"] - dynamic.mean)

    def _dynamic(self, static: Tensor) -> SitePosterior:
        """Conditional of the dynamic variables; kept, because every residual asks for it with the same draws."""
        if self._kept is None or self._kept[0] is not static:
            shift = self.lean["dynamic"](static)
            self._kept = static, self.processes["dynamic"].after(shift, shift[..., :0, :])
        return self._kept[1]

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """Joint draws by site name, `[*sample, pixel, ...]`."""
        drawn = {"static": self.static.rsample(torch.Size(sample_shape))}
        for name in self.names[1:]:
            drawn[name] = self.conditional(name, drawn).rsample()
        return drawn
