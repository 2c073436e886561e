"""Decentralised algorithms: what a peer does, one generator each. None knows the time, and none knows SimPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedsim.peers.adpsgd import ADPSGD
from fedsim.peers.collectives import COLLECTIVES
from fedsim.peers.dpsgd import DPSGD
from fedsim.peers.gossip import Gossip, Local, epidemic, gossip_pga
from fedsim.peers.quasi_global import QGDSGDm
from fedsim.peers.relay import RelaySGD
from fedsim.peers.sgp import SGP
from fedsim.peers.tracking import DeTAG, GradientTracking

PEERS: dict[str, Callable[..., Any]] = {
    "local": Local,
    "gossip": Gossip,
    "gossip_pga": gossip_pga,
    "epidemic": epidemic,
    "dpsgd": DPSGD,
    "adpsgd": ADPSGD,
    "sgp": SGP,
    "gradient_tracking": GradientTracking,
    "qg_dsgdm": QGDSGDm,
    "relay_sgd": RelaySGD,
    "detag": DeTAG,
}

__all__ = ["COLLECTIVES", "PEERS"]
