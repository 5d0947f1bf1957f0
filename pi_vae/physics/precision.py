"""Constants in both precisions, so that no call has to cast them.

A table is held in float64 and in float32, and an operator takes the one of its inputs: casting in every call costs time
and, compiled, keeps a loop from using vector instructions.

Example::

    >>> import numpy as np
    >>> class Scale(Tabulated):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hold("factor", np.array([0.1, 0.2]))
    >>> Scale().table("factor", torch.ones(1)).dtype
    torch.float32
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Tabulated"]


class Tabulated(nn.Module):
    """Module with constant tables that are no part of its state."""

    def hold(self, name: str, values: np.ndarray) -> None:
        """Keep a table as the float64 buffer ``name`` and once more in float32."""
        table = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
        self.register_buffer(name, table, persistent=False)
        self.register_buffer(f"{name}_single", table.float(), persistent=False)

    def table(self, name: str, like: Tensor) -> Tensor:
        """The table in dtype and device of a tensor."""
        return getattr(self, f"{name}_single" if like.dtype == torch.float32 else name).to(like)
