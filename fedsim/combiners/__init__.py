"""One direction out of several that may conflict: gradients of tasks, or updates of clients."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.combiners.cagrad import CAGrad
from fedsim.combiners.combiner import Combiner
from fedsim.combiners.gcond import GCond
from fedsim.combiners.orthogonal import Orthogonal
from fedsim.combiners.pcgrad import PCGrad

COMBINERS: dict[str, Callable[..., Combiner]] = {
    "pcgrad": PCGrad,
    "cagrad": CAGrad,
    "gcond": GCond,
    "orthogonal": Orthogonal,
}

__all__ = ["COMBINERS", "CAGrad", "Combiner", "GCond", "Orthogonal", "PCGrad"]
