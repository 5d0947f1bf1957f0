"""Latents: a value of everything local that the generative program draws."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Latents"]


@dataclass
class Latents:
    """Local latents of some pixels; leading dimensions are draws and pixels. Made by `PhysicsVAE.latents`.

    Attributes:
        dynamic: `[..., V, T]` latents of the dynamic variables on the standard-normal scale, with the season's mean.
        static: `[..., S]` of the static variables.
        residual: modality -> `[..., K, T]`.
    """

    dynamic: Tensor
    static: Tensor
    residual: dict[str, Tensor]
