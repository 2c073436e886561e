"""Clients that train together, from their first step to what they yield: the one loop of all local training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fedsim.drift import Drift
from fedsim.objectives import Step, Term
from fedsim.optimizers.addressed import Addressed
from fedsim.optimizers.memory import Memory, StackMemory
from fedsim.optimizers.retake import Retake
from fedsim.optimizers.step import step as take
from fedsim.probes import Sightings
from fedsim.sources import Retaking
from fedsim.steps.rule import Notes, Proposal, taken
from fedsim.work import ClientState, LocalResult, LocalTask

if TYPE_CHECKING:
    from fedsim.training import Trainer


class Stack:
    """K clients that take their n-th steps at once; who has taken all of its own leaves.

    Args:
        trainer: says what a step is.
        tasks: the longest first, alike in their batches' size, their memories and their models.
        drift: what they add to their gradients.
    """

    def __init__(self, trainer: Trainer, tasks: Sequence[LocalTask], drift: Drift | None) -> None:
        self.trainer, self.tasks, self.active = trainer, tasks, len(tasks)
        self.rows, self.labels = trainer.visits(tasks)
        self.losses = torch.zeros(self.rows.shape, dtype=tasks[0].params.dtype, device=self.rows.device)
        starts = [trainer.layout.unflatten(task.params) for task in tasks]
        self.all = {name: torch.stack([start[name] for start in starts]) for name in trainer.layout.names}
        self.params = {name: tensor.detach() for name, tensor in self.all.items()}
        """Of those who are active, name -> (K, *shape)."""
        self.gradients, self.pace = trainer.gradients_at(tasks[0].version), trainer.pace(tasks)
        self.offsets, self.memories = trainer.objective.offset(tasks), [dict(task.kept.own) for task in tasks]
        self.moved = [tensor if trainer.stackable else tensor[0] for tensor in self.params.values()]
        self.optimizer = trainer.optimizer(self.moved)
        if isinstance(self.optimizer, Addressed):
            self.optimizer.begin(tasks, trainer.seed, stacked=trainer.stackable)
        self.memory = StackMemory(self.optimizer, dict(zip(self.params, self.moved, strict=True)), trainer.layout)
        self.memory.recall([task.kept.optimizer for task in tasks])
        self.remembered: list[Memory] = []
        """What optimizers leave with those who have left, in order."""
        self.notes, self.sightings = Notes(trainer.rules, tasks), Sightings(trainer.probe)
        self.retaking = trainer.source if isinstance(trainer.source, Retaking) else None
        self.correction = drift.correction(tasks, trainer.layout) if drift else None

    def trained(self) -> list[LocalResult]:
        """Take all steps."""
        for number, span in enumerate(self.pace):
            if self.tasks[self.active - 1].steps <= number:
                self.part(sum(task.steps > number for task in self.tasks))
                narrow(self.optimizer, self.moved, self.active)
            step = self.begin(number, span)
            self.sightings.before(step)
            terms = self.trainer.objective.terms(step)
            grads, self.losses[: self.active, span] = self.trainer.source.gradients(step, terms)
            self.pace.look(step, terms)
            self.protect_and_correct(step, grads)
            self.move(step, terms, grads)
            self.sightings.after(step)
        self.part(0)
        return self.results()

    def part(self, active: int) -> None:
        """Let all but the first so many go."""
        if self.trainer.keeps:
            self.remembered = self.memory.of(slice(active, self.active)) + self.remembered
        self.active = active

    def begin(self, number: int, span: slice) -> Step:
        """The step of this number, on what lies in this span of everybody's visits."""
        trainer, active, rows = self.trainer, self.active, self.rows[: self.active, span]
        x = trainer.x.index_select(0, rows.flatten()).unflatten(0, (active, -1))
        y, offset = self.labels[:active, span], None if self.offsets is None else self.offsets[:active]
        if trainer.poisoning:
            x, y = trainer.poisoning.spoiled(x, y, self.tasks)
        return Step(self.gradients, self.params, x, y, offset, self.tasks[:active], number, trainer.seed,
                    trainer.layout, rows, trainer.look_up, self.memories[:active], trainer.personal.names,
                    self.pace.ahead)  # fmt: skip

    def protect_and_correct(self, step: Step, grads: dict[str, Tensor]) -> None:
        """Add noise and what corrects drift to the gradients."""
        if self.trainer.private:
            self.trainer.private.add(grads, step.tasks, step.number, step.x.shape[1], step.seed)
        if self.correction:
            self.correction.add(grads, self.params)

    def move(self, step: Step, terms: Sequence[Term], grads: dict[str, Tensor]) -> None:
        """Let the optimizer propose, rules shorten or lengthen, and the source take back what it does not want."""
        rules = self.trainer.rules
        before = {name: tensor.clone() for name, tensor in self.params.items()} if rules else {}
        for tensor, name in zip(self.moved, self.params, strict=True):
            tensor.grad = grads[name].reshape(tensor.shape)
        retake = Retake(self.optimizer, self.params) if self.retaking else None
        take(self.optimizer)
        for rule in rules:
            change = {name: tensor - before[name] for name, tensor in self.params.items()}
            proposal = Proposal(step, terms, before, change, grads)
            self.notes.add(rule, proposal)
            for name, after in taken(proposal, rule.factors(proposal)).items():
                self.params[name].copy_(after)
        if self.retaking and retake:
            self.retaking.after(step, terms, retake)
        grads.clear()
        self.optimizer.zero_grad()  # frees them, so that the next ones are written where they were

    def results(self) -> list[LocalResult]:
        """Each client's own; none keeps the stack in memory."""
        trainer, end, losses = self.trainer, self.trainer.layout.join(self.all), self.losses.cpu().numpy()
        remembered = self.remembered if trainer.keeps else [{}] * len(self.tasks)
        left = self.correction.finish(self.tasks) if self.correction else None
        found = []
        for k, task in enumerate(self.tasks):
            loss, square_loss = mean_losses(losses[k, : task.steps * self.pace.first])
            drift, extra = [None if rows is None else rows[k].clone() for rows in left or (None, None)]
            delta, personal = trainer.personal.withheld(end[k], task.params)
            own = {**(self.memories[k] if trainer.remembers else {}), **self.pace.kept}
            kept = ClientState(drift, remembered[k], steps=self.notes.kept(k, task), personal=personal, own=own)
            trainer.paces += self.pace.rows(task)
            found.append(LocalResult(delta, loss, square_loss, kept, extra, written=self.memories[k],
                                     probed=self.sightings.table(k, task)))  # fmt: skip
        return found


def mean_losses(losses: np.ndarray) -> tuple[float, float]:
    """The mean, and that of squares; 0 where there are none."""
    seen, count = losses.astype(np.float64), max(1, losses.size)
    return float(seen.sum()) / count, float(np.square(seen).sum()) / count


def narrow(optimizer: Optimizer, params: Sequence[Tensor], clients: int) -> None:
    """Let an optimizer go on with the first clients only; the others' parameters and memories stand still."""
    for tensor in params:
        memory = optimizer.state[tensor]
        for name, value in memory.items():
            if isinstance(value, Tensor) and value.shape[:1] == tensor.shape[:1]:
                memory[name] = value[:clients]
        tensor.grad = None
        tensor.data = tensor.data[:clients]
