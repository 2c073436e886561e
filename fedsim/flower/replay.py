"""A deployment once more, here: the same aggregator is told the same in the same order, and comes to the same model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from fedsim.conduct import Federated, conduct
from fedsim.errors import RunFailed, ScenarioError
from fedsim.experiment import assemble
from fedsim.flower.live import LiveCell, Timed
from fedsim.results import Run
from fedsim.scenario import read
from fedsim.server import ServerSimulation
from fedsim.units import SECOND
from fedsim.work import Deferred, LocalTask

SPOILED = {"infinite": torch.full((), torch.nan), "misshapen": torch.zeros(0)}
"""What stands in for numbers that a server has refused, by why."""


class Told(NamedTuple):
    """What a server was told at one moment: these clients have come, or gone; or one has answered, in time or not, or
    failed.
    """

    time: int
    kind: str
    clients: list[int]
    version: int
    began: int = 0
    ended: int = 0


def told(trace: pd.DataFrame) -> Iterator[Told]:
    """All that a deployment's server was told, in order; the rest of its trace is what came of that."""
    gone, times = set[tuple[int, int]](), dict[int, list[int]]()
    rows = trace.astype({"kind": str})
    changes = (rows.time != rows.time.shift()) | (rows.kind != rows.kind.shift())
    for _, group in rows.groupby(changes.cumsum()):
        time, name, version = (group[column].iloc[0] for column in ("time", "kind", "version"))
        clients = group.client.tolist()
        if name in ("train", "upload"):
            for client in clients:
                times.setdefault(client, []).append(int(time))
        elif name in ("join", "leave"):
            gone |= {(time, client) for client in clients if name == "leave"}
            yield Told(int(time), name, clients, int(version))
        elif name in ("arrive", "lost", "unasked"):
            for client in [client for client in clients if (time, client) not in gone]:
                yield Told(int(time), name, [client], int(version), *times.pop(client, []))


@dataclass
class Replay(LiveCell):
    """A server that is told what another one was, by its trace."""

    record: pd.DataFrame = field(kw_only=True)
    end: int = field(kw_only=True)
    """When the other one has measured its last model."""
    tasks: dict[int, LocalTask] = field(default_factory=dict, init=False)
    """What clients are at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refused = self.record[self.record.kind.isin(SPOILED)]
        rows = zip(refused.client, refused.version, refused.kind, strict=True)
        self.refused = {(client, version): str(kind) for client, version, kind in rows}

    def run(self) -> None:
        """From time 0 to the end.

        Raises:
            RunFailed: if the trace is of something else.
        """
        for each in told(self.record):
            self.happens(each.time, lambda each=each: self.again(each))
        self.pass_until(self.end + 1)
        self.progress.finish(self.aggregator, self.clock.now)

    def again(self, told: Told) -> None:
        """The same word."""
        if told.kind == "join":
            self.come(told.clients)
        elif told.kind == "leave":
            self.go(told.clients)
        elif told.kind == "unasked":
            self.tell_late(told.clients[0], told.version)
        elif (client := told.clients[0]) not in self.waiting:
            raise RunFailed(f"this trace is of something else: client {client} is not at work here at {told.time} us")
        else:
            self.tell(client, None if told.kind == "lost" else Timed(self.answer(client), told.began, told.ended))

    def send(self, task: LocalTask) -> None:
        """Whether anything comes of it is to be seen."""
        self.tasks[task.client] = task

    def answer(self, client: int) -> Deferred:
        """What it has trained, which is computed when it is read; or what was refused."""
        task = self.tasks[client]
        pending = self.world.executor.submit(task, self.clock.now, self.kept.get(client))
        if self.keeps:
            self.kept[client] = pending.keep()
        fault = self.refused.get((client, task.version))
        if fault is None:
            return pending
        result = pending.result()
        numbers = SPOILED[fault].expand_as(result.delta) if fault == "infinite" else SPOILED[fault]
        return Deferred(task, self.clock.now, self.world.executor, replace(result, delta=numbers))


def replay(run: Run, path: Path, data: Path | None = None) -> Run:
    """Replay a deployment's run folder into a folder of its own.

    Raises:
        ScenarioError: if it is none, or has not come to its end.
        RunFailed: if its trace does not fit its scenario.
    """
    if "deployment" not in run.receipt:
        raise ScenarioError(f"{run.path}: this is no deployment's run folder, or it has not come to its end")
    [arm] = read(run.scenario)
    end = round(float(run.metrics.time_s.iloc[-1]) * SECOND)

    def live(simulation: Federated) -> Replay:
        assert isinstance(simulation, ServerSimulation)
        return Replay(simulation.world, simulation.aggregator, simulation.work, simulation.progress,
                      wire=simulation.wire, record=run.trace, end=end)  # fmt: skip

    return conduct(assemble(arm, data), path, live=live)


def difference(one: Run, other: Run) -> float:
    """The largest between their final models' parameters."""
    return max(float(np.abs(value - other.weights[name]).max()) for name, value in one.weights.items())
