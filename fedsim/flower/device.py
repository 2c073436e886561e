"""A client on a device: the local training and the wire of a scenario, answering orders one at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep, time_ns

from fedsim.errors import ScenarioError
from fedsim.experiment import Experiment
from fedsim.flower.memory import Diary
from fedsim.flower.words import Answer, Introduction, Order
from fedsim.server import ServerSimulation
from fedsim.trace import Trace
from fedsim.units import SECOND
from fedsim.work import LocalTask


class Device:
    """One client of an experiment.

    Args:
        experiment: `deployable`, and of the same scenario as the server's, so that its parts of the data are too.
        client: its number, which says what its part of the data is.
        diary: the file that keeps what its trainings leave with it.
        throttled: be as slow as the client's device in the scenario, which has to be slower than this machine.

    Raises:
        ScenarioError: if there is no such client.
    """

    def __init__(self, experiment: Experiment, client: int, diary: Path, throttled: bool = False):
        clients = len(experiment.work.held)
        if not 0 <= client < clients:
            raise ScenarioError(f"partition-id: {client} is none of 0 to {clients - 1}, the clients of this scenario")
        simulation = experiment.simulation(Trace())
        assert isinstance(simulation, ServerSimulation)
        aggregator, self.keeps = simulation.aggregator, simulation.keeps
        train = aggregator.answers or partial(experiment.trainer, drift=aggregator.drift)
        assert simulation.wire is not None
        self.sending = simulation.wire.sending(train)
        self.client, self.digest, self.diary = client, experiment.arm.digest, Diary(diary)
        self.world, self.work, self.throttled = simulation.world, simulation.work, throttled

    def introduce(self) -> Introduction:
        """Who it is."""
        return Introduction(self.client, self.digest)

    def answer(self, order: Order) -> Answer:
        """Train, and write down what that leaves before saying what came of it.

        Raises:
            Forgotten: if the order goes on from what is here no longer.
        """
        task = order.task
        if order.bound is not None:
            self.sending.privacy.bounds[task.version] = order.bound
        if order.after is not None:
            task = replace(task, kept=self.diary.recall(order.after))
        began = _now()
        [result] = self.sending.train([task])
        letter = self.sending.written(task, result)
        if self.throttled:
            sleep(max(0, began + self.training_time(task) - _now()) / SECOND)
        ended = _now()
        left = letter.left
        if order.after is not None:
            self.diary.write(task.ordinal, left.kept)
        return Answer(letter.message, left.loss, left.square_loss, began, ended, left.within, left.extra)

    def training_time(self, task: LocalTask) -> int:
        """Microseconds that the scenario's device would take."""
        client, version, ordinal = task.client, task.version, task.ordinal
        return self.world.training_time(client, version, ordinal, self.work.seen_at(client, version), self.work.flops)


def _now() -> int:
    """Microseconds since 1970."""
    return time_ns() // 1000
