r"""Leaf inclination distributions: how much of the leaf area lies in each class of leaf angle.

Two families, both normalised over 0..90 degrees:

- `campbell`: one parameter, the mean leaf angle (ellipsoidal distribution; Campbell 1990). Use it by default.
- `verhoef`: two parameters, ``lidf_a`` (mean slope) and ``lidf_b`` (bimodality), with :math:`|a| + |b| \le 1`
  (Verhoef 1998).

Classes: 18 of 5 degrees by default, or the 13 of Verhoef's SAIL (eight of 10 degrees, then five of 2 degrees).

Example::

    >>> campbell(torch.tensor([57.0])).shape  # [sample, class]
    torch.Size([1, 18])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import outer

__all__ = ["campbell", "class_edges", "verhoef"]


def class_edges(classes: int, like: Tensor) -> Tensor:
    """Limits of the leaf angle classes in degrees, ``[classes + 1]``.

    Raises:
        ValueError: ``classes`` is neither 18 nor 13.
    """
    if classes == 18:
        edges: Sequence[int] = range(0, 91, 5)
    elif classes == 13:
        edges = (*range(0, 81, 10), 82, 84, 86, 88, 90)
    else:
        raise ValueError(f"{classes} leaf angle classes: use 18 (5 degrees each) or 13 (Verhoef's).")
    return torch.tensor(list(edges), dtype=like.dtype, device=like.device)


def campbell(ala: Tensor, classes: int = 18) -> Tensor:
    r"""Ellipsoidal distribution of the mean leaf angle (Campbell 1990).

    .. math:: g(\theta) \propto \frac{\sin\theta}{(\cos^2\theta + \chi^2 \sin^2\theta)^2}, \qquad
        \ln \chi = 3.2491 - 0.1239 \, a + 2.1145 \cdot 10^{-3} a^2 - 1.6184 \cdot 10^{-5} a^3

    with :math:`a` the mean leaf angle in degrees. With :math:`u = \cos\theta`, :math:`v = \chi^2` and
    :math:`z = (1 - v) u^2 / v` its integral is :math:`u / (v + (1 - v) u^2) + u \, h(z) / v`, where
    :math:`h(z) = \arctan(\sqrt z) / \sqrt z` is analytic through :math:`z = 0`: no case for the sphere
    (:math:`\chi = 1`).

    Args:
        ala: mean leaf angle, ``[...]``, degrees, 5..85.
        classes: 18 or 13.

    Returns:
        Share of each class, ``[..., class]``, sum 1.
    """
    chi = torch.exp(3.2491 + ala * (-0.1239 + ala * (2.1145e-3 - ala * 1.6184e-5)))
    v = chi * chi
    u = torch.cos(torch.deg2rad(class_edges(classes, ala)))
    z = outer((1 - v) / v, u * u)
    integral = u * (1 / (1 + z) + _arctan_ratio(z))  # times v, which the normalisation takes out
    share = integral[..., :-1] - integral[..., 1:]
    return share / share.sum(-1, keepdim=True)


def _arctan_ratio(z: Tensor) -> Tensor:
    """``arctan(sqrt z) / sqrt z`` for ``z > -1``: arctan, artanh, or the power series around 0."""
    middle = z.abs() < 0.1
    series = torch.zeros_like(z)
    for j in range(12, -1, -1):
        series = 1 / (2 * j + 1) - z * series
    # every branch gets an argument of its own domain, so that the unused one has a finite gradient
    root = torch.where(z >= 0.1, z, 1.0).sqrt()
    imaginary = torch.where(z <= -0.1, -z, 0.5).clamp_max(1 - torch.finfo(z.dtype).eps).sqrt()
    outer = torch.where(z > 0, torch.atan(root) / root, torch.atanh(imaginary) / imaginary)
    return torch.where(middle, series, outer)


def verhoef(lidf_a: Tensor, lidf_b: Tensor, classes: int = 18) -> Tensor:
    r"""Two-parameter distribution (Verhoef 1998): its cumulative :math:`F` solves

    .. math:: F(\theta) = \frac{2}{\pi} (y + \theta), \qquad y = a \sin x + \tfrac{b}{2} \sin 2x, \qquad x = y + 2
    \theta.

    Solved by fixed-point iteration; one Newton step carries the gradient (implicit function theorem).

    Args:
        lidf_a: ``[...]``, -1..1. -1 erect, 1 flat leaves.
        lidf_b: ``[...]``, with ``|a| + |b| <= 1``.
        classes: 18 or 13.

    Returns:
        Share of each class, ``[..., class]``, sum 1.
    """
    a, b = torch.broadcast_tensors(lidf_a, lidf_b)
    a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    theta = torch.deg2rad(class_edges(classes, a))
    with torch.no_grad():
        x = (2 * theta).expand(*a.shape[:-1], len(theta)).clone()
        for _ in range(200):
            x = 0.5 * (x + a * torch.sin(x) + 0.5 * b * torch.sin(2 * x)) + theta
    slope = 1 - a.detach() * torch.cos(x) - b.detach() * torch.cos(2 * x)
    residual = x - a * torch.sin(x) - 0.5 * b * torch.sin(2 * x) - 2 * theta
    x = x - residual / slope.clamp_min(1e-3)
    cumulative = (x - theta) * (2 / math.pi)  # y + theta
    return cumulative[..., 1:] - cumulative[..., :-1]
