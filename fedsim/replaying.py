"""Scores in place of changes: from them a server replays its clients' trainings, to the last bit.

Where gradients come from a population (`fedsim.sources.eggroll`), a training depends on the client's examples by N/2
scores a step alone. Seed, client, ordinal and version the server knows, so no seed has to travel: it draws the noise
anew, and lets the same optimizer take the same steps from the version that the client has started from, which it has to
keep until then. That costs it a gradient's work, without the passes forward, for every client's every step, which
virtual time does not price: servers compute in no time here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.data import Parts
from fedsim.errors import ScenarioError
from fedsim.sources import Eggroll, Replayed
from fedsim.sources.eggroll import SCORES
from fedsim.steps.rule import Learning
from fedsim.training import Trainer
from fedsim.wire.codec import FLOAT
from fedsim.work import ClientState, LocalResult, LocalTask, Train

if TYPE_CHECKING:
    from fedsim.aggregators.aggregator import Aggregator
    from fedsim.experiment import Experiment


@dataclass
class Replaying:
    """Trains, and lets the scores of every training through the wire; the changes are what the server makes of them."""

    train: Train
    replay: Train
    """The server's."""

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """What the server has of them."""
        results = self.train(tasks)
        heard = [self.heard(task, found) for task, found in zip(tasks, results, strict=True)]
        replayed = self.replay(heard)
        return [replace(found, delta=again.delta, written={}) for found, again in zip(results, replayed, strict=True)]

    @staticmethod
    def heard(task: LocalTask, found: LocalResult) -> LocalTask:
        """The training as the server knows it: of the client it has the scores of its steps, if any, and no more."""
        message = {SCORES: found.written[SCORES]} if task.steps else {}
        return replace(task, kept=ClientState(own=message))


def replayer(experiment: Experiment) -> Trainer:
    """The same local training as a server can repeat it: without examples, by the scores in `task.kept.own`."""
    trainer, nothing = experiment.trainer, Parts([np.zeros(1, dtype=np.int64)] * len(experiment.work.held))
    assert isinstance(trainer.source, Eggroll)
    return Trainer(experiment.evaluator.model, torch.zeros(1, 0), torch.zeros(1, dtype=torch.int64), nothing, 1,
                   trainer.optimizer, trainer.seed, source=Replayed(trainer.source), rules=trainer.rules)  # fmt: skip


def score_bytes(replay: Trainer) -> int:
    """Bytes that a local step adds to a message."""
    assert isinstance(replay.source, Replayed)
    return FLOAT * replay.source.source.population // 2


def check_replay(experiment: Experiment, aggregator: Aggregator) -> None:
    """ScenarioError where scores are not all that a server would need, or something else is to travel."""
    arm, trainer, rules = experiment.arm, experiment.trainer, experiment.trainer.rules
    wire, lies = arm.keys.wire, arm.keys.adversaries
    bare = wire.codec.name == "none" and wire.clip is None and wire.noise is None and wire.secure is None
    changes = aggregator.drift is None and aggregator.vectors == (1, 1) and aggregator.codec is None
    faults = {
        "only the source eggroll has scores that say all of a gradient": isinstance(trainer.source, Eggroll),
        "the server does not know what a client's optimizer remembers: take optimizer_state: fresh": not trainer.keeps,
        "the server has no examples, by which this control is to shorten steps": not any(rule.effort for rule in rules),
        "the server does not know the gradients of the client's last training, which make this schedule": not any(
            isinstance(rule, Learning) for rule in rules
        ),
        "parameters that stay with a client are not the server's to replay": not trainer.personal.any,
        "this aggregator corrects gradients, or wants more than changes": changes,
        "scores are no vectors that a codec, a clip, noise or masks are for": bare,
        "liars lie about vectors, which nobody sends": lies is None or lies.lie is None,
    }
    for why in [why for why, fine in faults.items() if not fine]:
        raise ScenarioError(f"{arm.place(('wire', 'up'))}: wire.up: {why}")
