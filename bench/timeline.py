"""How fast virtual time passes: fedsim's timeline against a bare SimPy loop of as many timeouts.

Run by `python -m bench.timeline`. FedBuff with the null executor on synthetic devices (1 to 100 s a local training,
20 Mbit/s down and 5 Mbit/s up, a model of 35 kB, an uncontended server); the bare loop has as many processes at a time,
each of which does nothing but wait. An event is one that SimPy's heap has handled.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Generator
from statistics import median
from time import perf_counter

import simpy
import torch

from fedsim.aggregators import FedBuff
from fedsim.executors import Null
from fedsim.fleet import Device, Fleet
from fedsim.network import Star
from fedsim.progress import Progress, Until
from fedsim.rng import stream
from fedsim.roster import Roster
from fedsim.selection import Uniform
from fedsim.server import ServerSimulation
from fedsim.simulation import Simulation
from fedsim.trace import Trace
from fedsim.units import SECOND
from fedsim.work import LocalResult
from fedsim.workload import Workload

MODEL_BYTES = 35_000


def timeline(clients: int, concurrency: int, updates: int) -> ServerSimulation:
    """A federation whose numbers nobody computes."""
    seconds = stream(0, "bench").uniform(1, 100, size=clients)
    fleet = Fleet([Device(20e6 / 8, 5e6 / 8, float(second)) for second in seconds])
    graph = Star(server_up=1e15, server_down=1e15).graph([20e6 / 8] * clients, [5e6 / 8] * clients)
    world = Simulation(fleet, graph, Null(LocalResult(torch.zeros(0), 0.0)), Trace())
    aggregator = FedBuff(torch.zeros(0), Roster(Uniform(0)), concurrency=concurrency, goal=10)
    ones = [1] * clients
    work = Workload(steps=ones, seen=ones, held=ones, flops=1.0, down=MODEL_BYTES, up=MODEL_BYTES)
    return ServerSimulation(world, aggregator, work, Progress(Until(updates=updates), every=3600 * SECOND))


def events_of(simulation: ServerSimulation) -> int:
    """Heap entries made so far: SimPy numbers them."""
    return next(simulation.clock._eid)


def bare(processes: int, events: int) -> float:
    """Seconds that a bare loop of so many timeouts takes."""
    environment = simpy.Environment()
    delays = stream(1, "bench").integers(1, 100 * SECOND, size=processes).tolist()

    def wait(delay: int) -> Generator[simpy.Event, None, None]:
        while True:
            yield environment.timeout(delay)

    for delay in delays:
        environment.process(wait(delay))
    began = perf_counter()
    for _ in range(events):
        environment.step()
    return perf_counter() - began


def compare(clients: int, concurrency: int, updates: int, repeats: int) -> None:
    """Print one row; runs alternate, so that whatever slows the machine slows both."""
    ratios, rates, events = [], [], 0
    for _ in range(repeats):
        simulation = timeline(clients, concurrency, updates)
        began = perf_counter()
        simulation.run()
        ours = perf_counter() - began
        events = events_of(simulation)
        ratios.append(bare(concurrency, events) / ours)
        rates.append(events / ours)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    work = f"{clients:>8,} clients {concurrency:>7,} at work {updates:>10,} updates"
    speed = f"{median(rates):>9,.0f} events/s {updates * median(rates) / events:>7,.0f} updates/s"
    print(f"{work} {speed}  {median(ratios):.2f} of bare SimPy  peak {peak:.2f} GB", flush=True)


def main() -> None:
    """The README's rows; `--long` adds the million updates."""
    compare(clients=1_000, concurrency=100, updates=20_000, repeats=5)
    compare(clients=1_000, concurrency=1_000, updates=20_000, repeats=5)
    compare(clients=100_000, concurrency=10_000, updates=50_000, repeats=3)
    if "--long" in sys.argv:
        compare(clients=100_000, concurrency=10_000, updates=1_000_000, repeats=1)


if __name__ == "__main__":
    main()
