"""Time once, train many: learning seeds abreast on one timeline, against as many runs each on its own.

Run by `python -m bench.sweep`. FedBuff, logistic regression on digits drawn with replacement, one local step of 8
examples, a server link that everybody shares: little learning and much to simulate. Both ways write the same folders;
what comes out is compared to the bit. Both in one process on one thread; seconds are those that it has computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch

from fedsim import scenario
from fedsim.conduct import conduct
from fedsim.data import Dataset
from fedsim.experiment import Experiment, assemble
from fedsim.results import load
from fedsim.together import conduct_together
from fedsim.trace import Trace


def federation(clients: int, at_work: int, updates: int) -> dict[str, Any]:
    """Phones behind a link of 10 Mbit/s."""
    return {
        "until": {"updates": updates},
        "data": {"digits": {"partition": {"with_replacement": {"alpha": 1.0, "examples": 20}}}},
        "model": "logistic",
        "fleet": {"clients": clients, "devices": "fedscale", "stragglers": {"lognormal": {"sigma": 0.3}},
                  "availability": {"markov": {"on": "2 h", "off": "6 h"}}},
        "network": {"star": {"server_up": "10 Mbit/s", "server_down": "10 Mbit/s"}},
        "local": {"steps": 1, "batch": 8, "optimizer": {"sgd": {"lr": 0.05}}},
        "aggregator": {"fedbuff": {"concurrency": at_work, "goal": 100}},
        "evaluate": {"every": "1 h"},
    }  # fmt: skip


def experiments(base: dict[str, Any], seeds: int) -> list[Experiment]:
    """One a learning seed."""
    loaded: dict[str, Dataset] = {}
    return [
        assemble(arm, None, loaded) for seed in range(seeds) for arm in scenario.read({**base, "learning_seed": seed})
    ]


def seconds(work: Callable[[], Any]) -> float:
    """Of this process's own computing, so that others on the machine hardly count."""
    began = process_time()
    work()
    return process_time() - began


def compare(clients: int, at_work: int, updates: int, seeds: int) -> None:
    """Print one row."""
    base = federation(clients, at_work, updates)
    many = experiments(base, seeds)
    alone = [one.simulation(Trace(), timing_only=True) for one in many[:1]]
    timeline = seconds(alone[0].run)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"abreast-{seed}" for seed in range(seeds)]
        once = seconds(lambda: conduct_together(many, paths))
        plain = seconds(lambda: [conduct(one, Path(folder) / f"{seed}") for seed, one in enumerate(many)])
        same = all(
            load(paths[seed]).receipt["digests"] == load(Path(folder) / f"{seed}").receipt["digests"]
            for seed in range(seeds)
        )
    work = f"{clients:>7,} clients {at_work:>6,} at work {updates:>8,} updates {seeds:>3} seeds"
    print(f"{work}: timelines {seeds} and 1, {plain:7.1f} s and {once:7.1f} s, {plain / once:.2f}x; "
          f"one timeline alone {timeline:.1f} s; "
          f"{'the same to the bit' if same else 'NOT THE SAME'}", flush=True)  # fmt: skip


def main() -> None:
    """The README's rows."""
    torch.set_num_threads(1)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    compare(clients=1_000, at_work=100, updates=5_000, seeds=seeds)
    compare(clients=10_000, at_work=1_000, updates=5_000, seeds=seeds)


if __name__ == "__main__":
    main()
