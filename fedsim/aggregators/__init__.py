"""Server algorithms as state machines: told what happened, they say whom to start.

They never wait, send or look at a clock, so the same object runs in virtual time and on real devices.
"""

from __future__ import annotations

from fedsim.aggregators.ace import ACE
from fedsim.aggregators.aggregator import Aggregator
from fedsim.aggregators.altmin import AltMin
from fedsim.aggregators.async_fedavg import AsyncFedAvg
from fedsim.aggregators.ca2fl import CA2FL
from fedsim.aggregators.cda import CDA
from fedsim.aggregators.diloco import DiLoCo
from fedsim.aggregators.fadas import FADAS
from fedsim.aggregators.fedasync import FedAsync
from fedsim.aggregators.fedau import FedAU
from fedsim.aggregators.fedavg import FedAvg
from fedsim.aggregators.fedavgm import FedAvgM
from fedsim.aggregators.fedbuff import FedBuff
from fedsim.aggregators.fedfix import FedFix
from fedsim.aggregators.fednova import FedNova
from fedsim.aggregators.fedopt import FedAdagrad, FedAdam, FedYogi
from fedsim.aggregators.fedprox import FedProx
from fedsim.aggregators.fedstale import FedStale
from fedsim.aggregators.fedvarp import FedVARP
from fedsim.aggregators.fetchsgd import FetchSGD
from fedsim.aggregators.mifa import MIFA
from fedsim.aggregators.scaffold import SCAFFOLD
from fedsim.aggregators.sfat import SFAT

AGGREGATORS: dict[str, type[Aggregator]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fednova": FedNova,
    "scaffold": SCAFFOLD,
    "sfat": SFAT,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "diloco": DiLoCo,
    "fedau": FedAU,
    "fedvarp": FedVARP,
    "mifa": MIFA,
    "fedstale": FedStale,
    "fetchsgd": FetchSGD,
    "fedfix": FedFix,
    "async_fedavg": AsyncFedAvg,
    "fedasync": FedAsync,
    "fedbuff": FedBuff,
    "ca2fl": CA2FL,
    "ace": ACE,
    "fadas": FADAS,
    "altmin": AltMin,
    "cda": CDA,
}

__all__ = [
    "ACE", "AGGREGATORS", "CA2FL", "CDA", "FADAS", "MIFA", "SCAFFOLD", "SFAT", "Aggregator", "AltMin", "AsyncFedAvg",
    "DiLoCo", "FedAU", "FedAdagrad", "FedAdam", "FedAsync", "FedAvg", "FedAvgM", "FedBuff", "FedFix", "FedNova",
    "FedProx", "FedStale", "FedVARP", "FedYogi", "FetchSGD",
]  # fmt: skip
