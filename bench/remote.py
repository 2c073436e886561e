"""One round of a convolutional network on all cores: the executor `remote` against `inline`.

Run by `python -m bench.remote`, when nobody else works on the machine: seconds are those of the clock, and the load of
the machine is printed with them. FedAvg, 20 clients a round, its CNN, Fashion-MNIST (where it is looked for:
scenarios/README.md); one thread a worker. Rounds take turns in one process; what comes out is compared to the bit. The
ceiling is what the machine itself has to give: as many `inline` runs at once as there are cores, which share nothing
but caches and memory, over as many one after another.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch

from fedsim import scenario
from fedsim.experiment import Experiment, assemble
from fedsim.trace import Trace
from fedsim.work import Measured

BASE: dict[str, Any] = {
    "until": {"versions": 1},
    "data": {"fashion_mnist": {"partition": "iid"}},
    "model": "cnn_mnist",
    "fleet": {"clients": 20, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 10, "optimizer": {"sgd": {"lr": 0.05}}},
    "aggregator": {"fedavg": {"cohort": 20}},
    "evaluate": {"every": "10 h"},
}


def experiment(executor: Any, rounds: int) -> Experiment:
    """With so many rounds."""
    [arm] = scenario.read({**BASE, "executor": executor, "until": {"versions": rounds}})
    return assemble(arm)


def timed(one: Experiment) -> tuple[float, torch.Tensor]:
    """Seconds of a run whose model nobody measures, and that model."""
    simulation: Any = one.simulation(Trace())
    simulation.progress.evaluate = lambda params: Measured()
    began = perf_counter()
    simulation.run()
    return perf_counter() - began, simulation.aggregator.params


@cache
def inline(rounds: int) -> Experiment:
    """On one thread; made once in each process, so that those who start together also run together."""
    torch.set_num_threads(1)
    return experiment("inline", rounds)


def alone(rounds: int) -> float:
    """Its seconds."""
    return timed(inline(rounds))[0]


def ceiling(workers: int, rounds: int, repeats: int) -> list[float]:
    """How many times as much so many processes get done as one, in each repeat."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def seconds(at_once: int) -> float:
            """The mean of so many runs, side by side."""
            return mean(each.result() for each in [pool.submit(alone, rounds) for _ in range(at_once)])

        seconds(workers)  # starts the processes and reads the data
        return [workers * seconds(1) / seconds(workers) for _ in range(repeats)]


def main() -> None:
    """The README's line, for threads and for processes."""
    rounds, repeats = (int(word) for word in (*sys.argv[1:], "3", "5")[:2])
    workers = os.cpu_count() or 1
    ways = {"inline": inline(rounds)} | {
        name: experiment({"remote": {"workers": workers, **where}}, rounds)
        for name, where in {"threads": {}, "processes": {"address": "local"}}.items()
    }
    for one in ways.values():  # reads the data and starts the workers
        timed(one)
    turns = [{name: timed(one) for name, one in ways.items()} for _ in range(repeats)]
    print(f"{ways['inline'].layout.size:,} parameters, {rounds} rounds, {workers} workers")
    for name in ways:
        ratios = [turn["inline"][0] / turn[name][0] for turn in turns]
        same = all(torch.equal(turn["inline"][1], turn[name][1]) for turn in turns)
        print(f"{name}: {median(turn[name][0] for turn in turns):.2f} s; {spread(ratios)}; "
              f"{'the same to the bit' if same else 'NOT THE SAME'}")  # fmt: skip
    print(f"ceiling {spread(ceiling(workers, rounds, repeats))}; load {os.getloadavg()[0]:.1f}")


def spread(ratios: list[float]) -> str:
    """The median, and from where to where they lie."""
    return f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
