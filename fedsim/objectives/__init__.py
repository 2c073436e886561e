"""What a local step minimises."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.objectives.adversarial import Adversarial
from fedsim.objectives.divergent import CalFAT, Trades
from fedsim.objectives.objective import Objective, Plain, Step
from fedsim.objectives.odice import Odice
from fedsim.objectives.pgd import PGD
from fedsim.objectives.players import Players
from fedsim.objectives.propagated import FedRBN
from fedsim.objectives.replay import Replay
from fedsim.objectives.sparse_attention import SparseAttention
from fedsim.objectives.tent import Tent
from fedsim.objectives.term import Term
from fedsim.objectives.together import Together

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "adversarial": Adversarial,
    "trades": Trades,
    "calfat": CalFAT,
    "fedrbn": FedRBN,
    "together": Together,
    "odice": Odice,
    "players": Players,
    "sparse_attention": SparseAttention,
    "replay": Replay,
    "tent": Tent,
}

__all__ = [
    "OBJECTIVES",
    "PGD",
    "Adversarial",
    "CalFAT",
    "FedRBN",
    "Objective",
    "Odice",
    "Plain",
    "Players",
    "Replay",
    "SparseAttention",
    "Step",
    "Tent",
    "Term",
    "Together",
    "Trades",
]
