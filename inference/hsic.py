r"""The Hilbert-Schmidt independence criterion.

.. math:: HSIC(x, y) = \| C_{xy} \|_{HS}^2 = E[k(x, x') l(y, y')] + E[k(x, x')]\,E[l(y, y')]
          - 2 E[E[k(x, x') \mid x]\,E[l(y, y') \mid y]],

zero for Gaussian kernels if and only if both are independent (Gretton et al. 2005, ALT, LNCS 3734, 63-77; unbiased
estimator: Song et al. 2012, JMLR 13, 1393-1434).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hsic", "hsic_test"]


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion.

    Args:
        x, y: `[n, P]` and `[n, Q]` samples, `n` of at least 4; kernels are Gaussian, as wide as the median distance.

    Returns:
        A number about zero, also below it, if they are independent.
    """
    return _hsic(_gram(x), _gram(y))


def hsic_test(x: Tensor, y: Tensor, permutations: int = 500, seed: int = 0) -> tuple[float, float]:
    """The criterion, and the share of permutations of the samples in which it is as large (at least one in all).

    Args:
        x, y: as for `hsic`.
        permutations: their number.
        seed: of the permutations.
    """
    k, other = _gram(x), _gram(y)
    found, generator = _hsic(k, other), torch.Generator().manual_seed(seed)
    orders = (torch.randperm(len(k), generator=generator) for _ in range(permutations))
    larger = sum(bool(_hsic(k, other[order][:, order]) >= found) for order in orders)
    return float(found), (1 + larger) / (1 + permutations)


def _gram(x: Tensor) -> Tensor:
    """`[n, n]` Gaussian kernel of standardised samples, as wide as the median distance; zero on the diagonal."""
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    square = torch.cdist(x, x).square()
    width = square[~torch.eye(len(x), dtype=torch.bool, device=x.device)].median().clamp_min(1e-6)
    gram = torch.exp(-square / width)
    return gram - torch.diag(gram.diagonal())


def _hsic(k: Tensor, other: Tensor) -> Tensor:
    n = len(k)
    trace = (k * other).sum()
    means = k.sum() * other.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k.sum(0) * other.sum(0)).sum() / (n - 2)
    return (trace + means - cross) / (n * (n - 3))
