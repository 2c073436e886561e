"""Scenarios in which somebody remembers something: every kind of memory that a run has to carry on."""

from __future__ import annotations

from typing import Any

from kills import CALM, CODED, MIXED, MLP, TREE, among_peers, by_code, of
from test_adaptation import DIGITS as TENT
from test_cleaning import DIGITS as BOREP
from test_continual import DIGITS as CONTINUAL
from test_continual import REPLAY
from test_eavesdropping import DIGITS as OVERHEARD
from test_personal import ATTACK
from test_secure import DIGITS as SECURE
from test_secure import FAILING

NARROW = {"network": {"star": {"latency": "2 s", "server_down": "10 kbit/s", "server_up": "10 kbit/s"}}}
"""Models are under way for most of the time."""
EVERYBODY = {"cohort": "all"}
SHOWN = {"evaluate": {"every": "1 min", "clients": True}}
SGD = {"sgd": {"lr": 0.1, "momentum": 0.9}}
ADAM = {"adam": {"lr": 0.01}}
FRUGAL = {"frugal": {"lr": 0.01}}
NOISE = {"clip": {"adaptive": {"norm": 5.0, "count": 2.0}}, "noise": {"multiplier": 0.5}}
EDGES = {"network": TREE, "edges": {"aggregator": {"fedavg": {"cohort": 2, "goal": 1}}, "rounds": 2}}
POINTLESS = {"lie": {"scaled": {"factor": 1e44}}, "share": 0.25}
"""In float32 that is infinite, so that servers refuse it."""
COHORT = {"cohort": 4}


def attacked(aggregator: str, attack: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A calm run with liars."""
    return of(aggregator, fleet=CALM, adversaries=attack, **changes)


CLIENTS = {
    "momentum": of("fedbuff", {"optimizer": SGD, "optimizer_state": "kept"}),
    "moments": of("fedavg", {"optimizer": ADAM, "optimizer_state": "kept"}, **MLP),
    "subspaces": of("fedbuff", {"optimizer": FRUGAL, "optimizer_state": "kept"}, **MLP),
    "personal": of("fedbuff", {"personal": "norms"}, model={"mlp": {"hidden": [8], "norm": "layer"}}, **SHOWN),
    "statistics": of("fedavg", {"personal": "norms", "objective": {"fedrbn": {**ATTACK, "share": 0.5}}},
                     model={"resnet": {"width": 8, "blocks": [1], "norm": "batch"}}, until={"versions": 2},
                     fleet={**CALM, "clients": 4}),
    "feedback": of("fedbuff", wire={"codec": {"top_k": {"ratio": 0.1}}}),
    "low rank": of("fedavg", wire={"codec": {"power_sgd": {"rank": 2}}}),
    "steps": of("fedbuff", {"schedule": "refined", "optimizer": SGD}, **MLP),
    "scores": BOREP | {"fleet": {**BOREP["fleet"], "drop": 0.1}},
    "examples": {**CONTINUAL, "local": {**CONTINUAL["local"], **REPLAY}},
    "tent": TENT,
    "batches": of("fedavg", {"batch": 8, "optimizer": {"adagrad": {"lr": 0.02}}, "growth": {"norm_test": {"eta": 0.3}}},
                  with_=EVERYBODY),
    "maturing": of("fedbuff", fleet=CALM, model={"binary_mlp": {"hidden": [8, 8], "o": {"first": 1.0, "last": 3.0}}},
                   evaluate={"every": "1 min", "clients": True, "train": True}),
}  # fmt: skip
SERVERS = {
    "models under way": of("fedbuff", **NARROW),
    "variates under way": of("scaffold", **NARROW),
    "models under way from edges": of("fedavg", with_=EVERYBODY, **EDGES | {"network": {"tree": {
        **TREE["tree"], "latency": "5 s", "backhaul_latency": "9 s"}}}),
    "refusals": attacked("fedbuff", POINTLESS),
    "refused rounds": attacked("fedavg", POINTLESS, with_={"cohort": 2}),
    "oort": of("fedavg", with_=COHORT, select={"oort": {"explore": 0.5}}),
    "oort, asynchronous": of("fedbuff", select={"oort": {"explore": 0.5}}),
    "availability": of("fedbuff", select="availability"),
    "foolsgold": attacked("fedavg", {"lie": "sybils", "share": 0.3}, defence="foolsgold"),
    "filter": attacked("fedbuff", {"lie": "sign_flip", "share": 0.3}, defence="async_filter", with_={"goal": 6}),
    "buckets": attacked("fedavg", {"lie": "alie", "share": 0.25}, with_={"cohort": 8},
                        defence={"nearest_neighbour_mixing": {"rule": {"median": {"liars": 1}}, "liars": 1}}),
    "poison": attacked("fedavg", {"poison": "label_flip", "share": 0.3}),
    "stale": attacked("fedbuff", {"timing": {"stale": {"versions": 2}}, "share": 0.3}),
    "combiner": of("fedavg", with_={"combiner": "gcond"}),
    "clips": of("fedavg", wire=NOISE, fleet=CALM, with_={"cohort": 4, "weights": "uniform"}),
    "examples' noise": of("fedbuff", {"private": {"clip": 1.0, "multiplier": 1.0}}),
    "steps down": of("fedavg", wire={"codec": {"countsketch": {"ratio": 0.2}}, "down": "step"}),
    "eavesdropper": OVERHEARD | {"eavesdrop": {"attack": {"idlg": {"iterations": 3, "restarts": 1}}, "client": 2,
                                               "versions": [0, 1]}},
    "scores": of("fedbuff", {"source": {"eggroll": {"population": 8}}}, wire={"up": "scores"}),
    "disk": of("fedstale", with_={"memory": "disk", "beta": "adaptive"}),
    "edges": of("fedavg", with_=EVERYBODY, **EDGES),
    "edges under memory": of("fedstale", {"optimizer": SGD, "optimizer_state": "kept"}, **EDGES),
    "secure": SECURE | {"wire": {"secure": {"bound": 1.0, "bits": 20}}, "fleet": FAILING},
    "deadline": of("fedavg", with_={"cohort": 6, "goal": 4, "deadline": "2 min"}),
    "accuracy": of("fedbuff", until={"versions": 40, "accuracy": 0.5}),
    "measured often": of("fedbuff", evaluate={"every": "1 s", "train": True, "clients": True}),
    "one by one": of("fedbuff", {"optimizer": SGD, "optimizer_state": "kept"}, executor="inline"),
    "small stacks": of("fedbuff", executor={"stacked": {"budget": "8 kB", "ahead": True}}),
}  # fmt: skip
OTHERS = {
    "liars": among_peers("gossip", adversaries={"lie": "sign_flip", "share": 0.3}, defence="self_centred_clipping"),
    "foolsgold": among_peers("gossip", adversaries={"lie": "sign_flip", "share": 0.3}, defence="foolsgold"),
    "momentum": among_peers("adpsgd", local={"steps": 4, "batch": 16, "optimizer": SGD, "optimizer_state": "kept"}),
    "ring": among_peers(
        "gossip_pga", peers={"gossip_pga": {**MIXED["gossip_pga"], "period": 2, "collective": "ring"}}, **SHOWN
    ),
    "tree": among_peers("gossip_pga", peers={"gossip_pga": {**MIXED["gossip_pga"], "period": 2, "collective": "tree"}}),
    "direct": among_peers(
        "gossip_pga", peers={"gossip_pga": {**MIXED["gossip_pga"], "period": 2, "collective": "direct"}}
    ),
    "moments": by_code("msgc", local={**CODED["local"], "optimizer": ADAM}),
    "lingering": by_code("gc", adversaries={"timing": "linger", "share": 0.34}),
}
MEMORIES = {
    f"{family}: {name}": base
    for family, table in {"clients": CLIENTS, "servers": SERVERS, "others": OTHERS}.items()
    for name, base in table.items()
}
