"""Small scenarios that between them have every member of every family whose members compute with tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsim.data import Dataset, Digits
from fedsim.scenario import FAMILIES

Scenario = dict[str, Any]


@dataclass(frozen=True)
class Wide(Digits):
    """Digits of twice as many pixels each way."""

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """See `Digits`."""
        plain = super().load(folders)
        x, x_test = (each.repeat_interleave(2, -1).repeat_interleave(2, -2) for each in (plain.x, plain.x_test))
        return replace(plain, x=x, x_test=x_test)


DIGITS: Scenario = {
    "seed": 3,
    "until": {"versions": 2},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 1.0}}}},
    "model": {"mlp": {"hidden": [8]}},
    "fleet": {"clients": 6, "devices": {"constant": {"per_example": "1 ms"}}},
    "local": {"steps": 2, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}
SERVERS: Scenario = {
    "fedfix": {"interval": "1 s"},
    "fedbuff": {"goal": 2},
    "ca2fl": {"goal": 2},
    "fadas": {"goal": 2},
    "async_fedavg": {"lr": 0.3},
    "fetchsgd": {"columns": 0.2, "kept": 0.1},
    "fedstale": {"beta": 0.7},
    "cda": {"ipc": 1, "views": 4, "epochs": 2, "smallest": 0.3, "recover": {"steps": 2, "jitter": 1, "flip": True}},
}
PEERS: Scenario = {
    "gossip": {"mixing": {"directed_pull": {"partners": 0.4}}, "merge": "last"},
    "gossip_pga": {"mixing": "metropolis", "period": 2},
    "epidemic": {"partners": 2},
}
CODES: Scenario = {
    "gc": {"stragglers": 1},
    "bernoulli": {"copies": 2, "ignore": 1},
    "srsgc": {"burst": 1, "window": 2, "stragglers": 1},
    "msgc": {"burst": 1, "window": 2, "stragglers": 1},
}
CODECS: Scenario = {
    name: {"ratio": 0.25} for name in ("gaussian", "rademacher", "countsketch", "srht", "rand_k", "top_k")
}
LIES: Scenario = {"inner_product": {"scale": 2}, "gaussian": {"sigma": 0.1}}
RULES: Scenario = {
    "trimmed_mean": {"liars": 1},
    "krum": {"liars": 1},
    "bulyan": {"liars": 0},
    "centred_clipping": {"radius": 0.1},
    "norm_bound": {"radius": 0.1},
}
OVER: Scenario = {name: {"over": "round"} for name in ("linear", "cosine", "trapezoid")}
ROUNDS: Scenario = {"until": {"versions": 3}}
SOME: Scenario = {"fleet": {**DIGITS["fleet"], "participation": {"bernoulli": {"rate": 0.6}}}}


def local(**changes: Any) -> Scenario:
    """Base, with another local step."""
    return {"local": DIGITS["local"] | changes}


def choice(name: str, needs: Scenario) -> Scenario:
    """A member with its arguments."""
    return {name: needs.get(name, {})}


def servers() -> Scenario:
    """Server algorithms by name."""
    low_rank = {
        "data": {"low_rank": {"rows": 40, "columns": 30, "rank": 2, "observed": 0.4}},
        "model": {"low_rank": {"rank": 2}},
        "local": {"steps": 1, "optimizer": {"sgd": {"lr": 1.0}}},
    }
    own = {
        "altmin": low_rank,
        "cda": {"model": {"mlp": {"hidden": [8], "norm": "batch"}}},
        "fedstale": SOME,
        "sfat": local(objective={"adversarial": {"radius": 0.1, "step": 0.05, "steps": 1}}),
    }
    return {
        f"server {name}": {"aggregator": choice(name, SERVERS), **own.get(name, {}), **ROUNDS}
        for name in FAMILIES["aggregator"]
    }


def without_server() -> Scenario:
    """Peers, and codes, by name."""
    ring = {"network": {"ring": {"nodes": 6}}, "aggregator": None}
    found: Scenario = {f"peers {name}": {**ring, "peers": choice(name, PEERS)} for name in FAMILIES["peers"]}
    found |= {
        f"merge by {name}": {**ring, "peers": {"gossip": {**PEERS["gossip"], "collective": name}}}
        for name in FAMILIES["collective"]
    }
    coded = {"aggregator": None, **local(steps=1, batch=12), "data": {"digits": {"partition": "iid"}}, **ROUNDS}
    return found | {f"coding {name}": {**coded, "coding": choice(name, CODES)} for name in FAMILIES["coding"]}


def travelling() -> Scenario:
    """What changes travel as, and who listens or lies."""
    expected = {"aggregator": {"fedavg": {"cohort": "all", "weights": "uniform"}}}
    found: Scenario = {f"codec {name}": {"wire": {"codec": choice(name, CODECS)}} for name in FAMILIES["codec"]}
    clips = {"flat": {"norm": 0.1}, "per_layer": {"norm": 0.1}, "adaptive": {"norm": 0.1, "count": 2.0}}
    for by in ("server", "clients", "each"):
        found[f"noise by {by}"] = {"wire": {"clip": 0.1, "noise": {"multiplier": 1.0, "by": by}}, **expected}
    found |= {
        f"clip {name}": {"wire": {"clip": {name: clips[name]}, "noise": {"multiplier": 1.0}}, **expected}
        for name in FAMILIES["clip"]
    }
    found["clipped messages"] = {
        "wire": {
            "codec": {"srht": {"ratio": 0.25}},
            "clip": {"flat": {"norm": 0.1, "message": True}},
            "noise": {"multiplier": 1.0, "by": "each"},
        },
        **expected,
    }
    found |= {
        f"corrupt {how}": {"faults": [{"corrupt": {"chance": 0.5, "how": how}}]} for how in ("nan", "bit", "shape")
    }
    found["secure"] = {"wire": {"codec": {"srht": {"ratio": 0.25}}, "secure": {"bound": 4.0}}, **expected}
    found["steps come down"] = {"wire": {"codec": {"srht": {"ratio": 0.25}}, "down": "step"}}
    found |= {f"lie {name}": {"adversaries": {"share": 0.4, "lie": choice(name, LIES)}} for name in FAMILIES["lie"]}
    found |= {f"poison {name}": {"adversaries": {"share": 0.4, "poison": name}} for name in FAMILIES["poison"]}
    listened = {
        "model": {"mlp": {"hidden": [4], "activation": "sigmoid"}},
        "fleet": {**DIGITS["fleet"], "clients": 3},
        **local(steps=1, batch=1),
        "until": {"versions": 1},
    }
    found |= {
        f"attack {name}": {**listened, "eavesdrop": {"attack": {name: {"iterations": 2, "restarts": 2}}}}
        for name in FAMILIES["attack"]
    }
    found["attack on sketches"] = {
        **listened,
        "wire": {"codec": {"gaussian": {"ratio": 0.5}}},
        "model": "logistic",
        "eavesdrop": {"attack": {"idlg": {"iterations": 2}}},
    }
    return found


def defended() -> Scenario:
    """Defences of servers and of peers."""
    liars = {"adversaries": {"share": 0.2, "lie": "sign_flip"}}
    whole = {"self_centred_clipping", "nearest_neighbour_mixing", "bucketing"}
    found: Scenario = {
        f"defence {name}": {**liars, "defence": choice(name, RULES)} for name in FAMILIES["defence"].keys() - whole
    }
    found |= {
        f"mixing before {name}": {"defence": {"nearest_neighbour_mixing": {"liars": 1, "rule": choice(name, RULES)}}}
        for name in FAMILIES["rule"]
    }
    found["defence bucketing"] = {"defence": {"bucketing": {"rule": "median"}}}
    found["defence self_centred_clipping"] = {
        "network": {"ring": {"nodes": 6}},
        "aggregator": None,
        "defence": "self_centred_clipping",
        "peers": {"gossip": {"mixing": "metropolis", "merge": "last"}},
        **liars,
    }
    return found


def steps() -> Scenario:
    """Optimizers and what is around them."""
    found: Scenario = {
        f"optimizer {name}": local(
            optimizer=name if name != "sgd" else {"sgd": {"lr": 0.1, "momentum": 0.9}}, optimizer_state="kept"
        )
        for name in FAMILIES["optimizer"]
    }
    for projector in ("rows", "randk", "blocks", "svd"):
        frugal = {"projector": projector, "gap": 1}
        found[f"frugal {projector}"] = {**local(optimizer={"frugal": frugal}), "model": {"mlp": {"hidden": [8, 8]}}}
    found["frugal columns"] = {**local(optimizer={"frugal": {"gap": 1}}), "model": {"mlp": {"hidden": [8, 8]}}}
    found |= {f"schedule {name}": local(schedule=choice(name, OVER)) for name in ("constant", *OVER, "refined")}
    found["schedule jump"] = local(schedule={"jump": {"at": 1, "factor": 2}})
    controls = {"ghosts": {}, "dal": {}, "clip": {"length": 0.1}}
    found |= {f"control {name}": local(control=choice(name, controls)) for name in FAMILIES["control"]}
    found |= {f"growth {name}": local(growth={name: {"most": 32}}) for name in FAMILIES["growth"]}
    found["sam"] = local(source={"sam": {"radius": 0.05}})
    found["eggroll"] = local(source={"eggroll": {"population": 4}}, optimizer={"adam": {"lr": 0.01}})
    found["eggroll by scores"] = {**found["eggroll"], "wire": {"up": "scores"}}
    found["eggroll of a cnn"] = {**found["eggroll"], "model": "cnn_group"}
    found["private examples"] = local(private={"clip": 1.0, "multiplier": 1.0})
    return found


def objectives() -> Scenario:
    """What is minimised, and how it is judged."""
    moved = {"radius": 0.1, "step": 0.05, "steps": 2}
    two = {"mlp": {"hidden": [8, 4], "further": 64}}
    robust = {"every": "1 h", "clients": True, "robust": {"radius": 0.1, "step": 0.05, "steps": 2}}
    found: Scenario = {
        "adversarial": {
            **local(objective={"adversarial": moved}),
            "evaluate": {"every": "1 h", "robust": robust["robust"]},
        },
        "adversarial in l2": local(objective={"adversarial": {**moved, "norm": "l2"}}),
        "trades": local(objective={"trades": moved}),
        "calfat": local(objective={"calfat": moved}),
        "fedrbn": {
            **local(objective={"fedrbn": {**moved, "share": 0.5}}),
            "evaluate": robust,
            "model": {"mlp": {"hidden": [8], "norm": "batch"}},
        },
        "personal": {**local(personal="norms"), "model": {"mlp": {"hidden": [8], "norm": "batch"}}, "evaluate": robust},
        "replay": {
            **local(objective={"replay": {"memory": 4}}, probe={"continual": {"examples": 20}}),
            "data": {"split_digits": {"trainings": 1}},
            "fleet": {**DIGITS["fleet"], "clients": 5},
        },
        "tent": {
            **local(objective={"tent": {"since": 1}}, source="sar", personal="norms", probe="online"),
            "data": {"drifting_digits": {"clean": 1, "size": 16}},
            "model": {"mlp": {"hidden": [8], "norm": "layer"}},
        },
        "borep": {
            **local(source={"borep": {"every": 1, "eta": 0.1, "nu": 0.1, "warm_up": 1}}, probe="cleaning"),
            "data": {"digits": {"partition": {"noisy": {"share": 0.5, "clean": 5}}}},
            "model": "logistic",
        },
        "odice": {
            **local(objective="odice", source={"combined": {"combiner": "orthogonal"}}),
            "data": {"grid_world": {"side": 3, "walks": 30, "patience": 9}},
            "model": {"mlp": {"hidden": [], "further": 1}},
            "evaluate": {"every": "1 h", "exam": "paths"},
        },
        "players": {
            **local(objective="players", source={"game": {"interaction": -1}}),
            "model": {"gan": {"hidden": [8]}},
            "data": {"seeded_digits": {"draws": 2, "latent": 4}},
            "evaluate": {"every": "1 h", "exam": "generated"},
        },
        "guided": {
            "data": {"noisy_digits": {"draws": 2}},
            "model": {"mlp": {"hidden": [8]}},
            "evaluate": {"every": "1 h", "exam": {"guided": {"scales": [1, 2]}}},
        },
        "sharpness": {"evaluate": {"every": "1 h", "exam": "sharpness", "train": True}},
        "label swap": {
            "data": {"digits": {"partition": {"label_swap": {"fraction": 0.5}}}},
            "evaluate": {"every": "1 h", "clients": True},
        },
        "resampled": {"data": {"digits": {"partition": {"resampled": {"alpha": 1.0}}}}},
    }
    for name in FAMILIES["combiner"]:
        found[f"combiner {name}"] = {
            **local(objective="together", source={"combined": {"combiner": name, "batches": "own"}}),
            "model": two,
            "evaluate": {"every": "1 h", "exam": "reconstruction"},
        }
        found[f"server combiner {name}"] = {"aggregator": {"fedavg": {"cohort": "all", "combiner": name}}}
    return found


def models() -> Scenario:
    """Every model, on data that suit it."""
    text = {"shakespeare": {"length": 16, "stride": 5}}
    few = {"fleet": {**DIGITS["fleet"], "clients": 3}}
    nets: Scenario = {
        "binary_mlp": {"hidden": [8, 8], "o": {"first": 1, "last": 3}},
        "resnet": {"width": 8, "blocks": [1]},
    }
    names = ("logistic", "mlp", "binary_mlp", "cnn_mnist", "cnn_cifar", "cnn_group", "resnet")
    found: Scenario = {f"model {name}": {"model": choice(name, nets | {"mlp": {"hidden": [8]}})} for name in names}
    found["model cnn_plain"] = {"model": "cnn_plain", "data": "small:Wide"}
    found["ghost norm"] = {"model": {"mlp": {"hidden": [8], "norm": "ghost", "ghost": 4}}}
    found["two_layer_relu"] = {
        "model": {"two_layer_relu": {"width": 8}},
        "data": {"separated": {"clients": 6, "gamma": 0.3}},
    }
    found["points"] = {
        "model": "logistic",
        "data": {"points": {"clients": 6, "dimension": 3, "spread": 1.0}},
        **local(batch=4),
    }
    found["char_lstm"] = {"model": "char_lstm", "data": text, **few}
    found["transformer"] = {
        "model": {"transformer": {"width": 4, "layers": 1, "heads": 1, "block": 2, "blocks": 2}},
        "data": {"shakespeare": {"length": 8, "stride": 16}},
        **few,
        **local(batch=2, objective={"sparse_attention": {"attention": "random"}}),
        "evaluate": {"every": "1 h", "exam": {"attention": {"examples": 2}}},
    }
    return found


def hierarchy() -> Scenario:
    """Edges, places on disk, and no training."""
    return {
        "edges": {"network": {"tree": {"edges": 2}}, "edges": {"rounds": 2, "aggregator": "fedavg"}},
        "memory on disk": {"aggregator": {"fedstale": {"memory": "disk", "beta": "adaptive"}}, **SOME, **ROUNDS},
        "one at a time": {"executor": "inline"},
        "timing only": {"executor": "null"},
    }


SCENARIOS: Scenario = {
    **servers(),
    **without_server(),
    **travelling(),
    **defended(),
    **steps(),
    **objectives(),
    **models(),
    **hierarchy(),
}


def scenario(name: str) -> Scenario:
    """One of the table, whole."""
    return {key: value for key, value in (DIGITS | SCENARIOS[name]).items() if value is not None}


def write_text(folder: Path) -> None:
    """Roles of a play, for the models of text."""
    rows = [
        {"role": role, "speeches": [word * 12]}
        for role, word in zip("XYZ", ("tick tock ", "ding dong ", "la "), strict=True)
    ]
    (folder / "shakespeare").mkdir()
    (folder / "shakespeare" / "by_role.jsonl").write_text("\n".join(map(json.dumps, rows)))
