"""PyTorch's containers of modules, for which a type checker knows what they hold.

Example:
    >>> from torch import nn
    >>> layers = ModuleDict({"first": nn.Linear(2, 3)})  # to a type checker a ModuleDict[nn.Linear]
    >>> layers["first"].out_features
    3
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING

from torch import nn

__all__ = ["ModuleDict", "ModuleList"]


class ModuleDict[M: nn.Module](nn.ModuleDict):
    """`torch.nn.ModuleDict` of modules of one kind."""

    if TYPE_CHECKING:

        def __init__(self, modules: Mapping[str, M] | None = None) -> None: ...
        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...


class ModuleList[M: nn.Module](nn.ModuleList):
    """`torch.nn.ModuleList` of modules of one kind."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[M] | None = None) -> None: ...
        def __iter__(self) -> Iterator[M]: ...
