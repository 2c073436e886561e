"""How long the vectors of a stack of clients are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

from torch import Tensor

from fedsim.gradients.closed_form import at_most


def norms(named: Mapping[str, Tensor], order: int = 2) -> Tensor:
    """Of each client's tensors (K, *shape) together, (K,): 1-norms, or 2-norms.

    By one thread, as torch would share a lone client's long sum among several; and tensor by tensor, as it adds up a
    column of a lone client in another order than several ones. Rounding would tell of both.
    """
    with at_most(1):
        rows = [part.flatten(1) for part in named.values()]
        sums = [(row.abs() if order == 1 else row.square()).sum(1) for row in rows]
        total = reduce(add, sums)
        return total if order == 1 else total.sqrt()
