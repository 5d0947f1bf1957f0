r"""Bounded marginal priors as a map from a standard normal (the copula of the model).

A latent :math:`u \sim N(0, 1)` becomes a physical value by

.. math:: v = F^{-1}(\Phi(u)),

so that :math:`v` has exactly the prior distribution :math:`F` and can never leave its support. For a normal
:math:`N(\mu, \sigma^2)` truncated to :math:`[l, h]`, with :math:`a = (l - \mu)/\sigma`, :math:`b = (h - \mu)/\sigma`,

.. math:: v = \mu + \sigma \Phi^{-1}(p), \quad
          p = \Phi(a)\Phi(-u) + \Phi(b)\Phi(u), \quad 1 - p = \Phi(-a)\Phi(-u) + \Phi(-b)\Phi(u).

Both probabilities are sums of positive terms, so neither tail cancels in float32; the quantile is taken in the
smaller of the two. A uniform prior is :math:`v = l + (h - l)\Phi(u)`.

Example:
    >>> import torch
    >>> from pi_vae.priors import Marginals
    >>> marginals = Marginals(["lai", "cab"])
    >>> marginals(torch.zeros(2)).round(decimals=2)  # the medians
    tensor([ 2.9600, 45.9200])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.special import ndtr, ndtri

from pi_vae.variables import CATALOGUE, Variable, lookup

__all__ = ["Marginals"]


class Marginals(nn.Module):
    """Map between standard-normal latents and physical variables.

    Args:
        names: `V` variables of the catalogue.
        catalogue: the entries, where they are not those of `pi_vae.variables` (`pi_vae.variables.changed`).

    Raises:
        ValueError: a name is not in the catalogue.
    """

    low: Tensor
    high: Tensor
    loc: Tensor
    scale: Tensor
    uniform: Tensor

    def __init__(self, names: Iterable[str], catalogue: Mapping[str, Variable] = CATALOGUE) -> None:
        super().__init__()
        variables = lookup(names, catalogue)
        self.names = tuple(v.name for v in variables)
        for field in ("low", "high", "loc", "scale"):
            values = torch.tensor([getattr(v, field) for v in variables], dtype=torch.float64)
            self.register_buffer(field, values, persistent=False)
        self.register_buffer("uniform", torch.tensor([v.prior == "uniform" for v in variables]), persistent=False)

    def forward(self, u: Tensor, dim: int = -1) -> Tensor:
        """Physical values of standard-normal latents.

        Args:
            u: `[..., V, ...]` latents, variables along ``dim``.
            dim: the dimension of the variables.

        Returns:
            `[..., V, ...]` values in the units and on the support of the catalogue.
        """
        low, high, loc, scale, uniform = self._along(u, dim)
        below, above = ndtr(-u), ndtr(u)
        a, b = (low - loc) / scale, (high - loc) / scale
        p = ndtr(a) * below + ndtr(b) * above
        q = ndtr(-a) * below + ndtr(-b) * above
        tail = torch.minimum(p, q).clamp_min(torch.finfo(u.dtype).tiny)
        normal = loc + scale * torch.where(p < q, ndtri(tail), -ndtri(tail))
        value = torch.where(uniform, low + (high - low) * above, normal)
        return torch.minimum(torch.maximum(value, low), high)

    def inverse(self, value: Tensor, dim: int = -1) -> Tensor:
        """Standard-normal latents of physical values (values at a bound map to about +-5).

        Args:
            value: `[..., V, ...]` values on the support.
            dim: the dimension of the variables.

        Returns:
            `[..., V, ...]` latents.

        Raises:
            ValueError: a value lies outside the support of its variable.
        """
        low, high, loc, scale, uniform = self._along(value, dim)
        outside = (value < low) | (value > high)
        if outside.any():
            index = int(outside.movedim(dim, -1).reshape(-1, len(self.names)).any(0).nonzero()[0])
            raise ValueError(
                f"A value of '{self.names[index]}' lies outside its support "
                f"[{self.low[index]:g}, {self.high[index]:g}]: check its unit."
            )
        a, b = ndtr((low - loc) / scale), ndtr((high - loc) / scale)
        normal = (ndtr((value - loc) / scale) - a) / (b - a)
        probability = torch.where(uniform, (value - low) / (high - low), normal)
        return ndtri(probability.clamp(3e-7, 1 - 3e-7))

    def _along(self, like: Tensor, dim: int) -> tuple[Tensor, ...]:
        """The parameters as tensors that broadcast against ``like`` with the variables on ``dim``."""
        shape = [1] * like.dim()
        shape[dim] = len(self.names)
        buffers = (self.low, self.high, self.loc, self.scale)
        return *(b.to(like.dtype).view(shape) for b in buffers), self.uniform.view(shape)
