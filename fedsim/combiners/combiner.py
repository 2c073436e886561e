"""What every combiner of conflicting directions answers to."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Protocol

from torch import Tensor

Memory = MutableMapping[str, Tensor]


class Combiner(Protocol):
    """Makes one direction of several. Where none conflicts it is their mean, unless its docstring says otherwise."""

    def combine(self, rows: Tensor, names: Sequence[int], turn: int, memory: Memory) -> Tensor:
        """Of directions (n, P), float64, of tasks or clients of these names; `turn` numbers the calls. (P,).

        `memory` is what it has written down in earlier turns, by names of its own; tensors are replaced, not changed.
        """
        ...
