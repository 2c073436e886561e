"""What a local step minimises."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.objectives.adversarial import Adversarial
from fedsim.objectives.divergent import CalFAT, Trades
from fedsim.objectives.objective import Objective, Plain, Step
from fedsim.objectives.pgd import PGD
from fedsim.objectives.propagated import FedRBN
from fedsim.objectives.replay import Replay
from fedsim.objectives.tent import Tent
from fedsim.objectives.term import Term

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "adversarial": Adversarial,
    "trades": Trades,
    "calfat": CalFAT,
    "fedrbn": FedRBN,
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
    "Plain",
    "Replay",
    "Step",
    "Tent",
    "Term",
    "Trades",
]
