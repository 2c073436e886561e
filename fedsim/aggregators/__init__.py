"""Server algorithms as state machines: told what happened, they say whom to start.

They never wait, send or look at a clock, so the same object runs in virtual time and on real devices.
"""

from __future__ import annotations

from fedsim.aggregators.fedasync import FedAsync
from fedsim.aggregators.fedavg import FedAvg
from fedsim.aggregators.fedbuff import FedBuff

AGGREGATORS = {"fedavg": FedAvg, "fedbuff": FedBuff, "fedasync": FedAsync}

__all__ = ["AGGREGATORS", "FedAsync", "FedAvg", "FedBuff"]
