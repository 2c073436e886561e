"""What a rule for the length of steps answers to, and what it may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedsim.objectives import Step
from fedsim.objectives.term import Named, Term
from fedsim.work import LocalTask


@dataclass(frozen=True)
class Proposal:
    """A local step of K clients as their optimizer would take it."""

    step: Step
    """Its source, batch, tasks and number; `params` are what the optimizer has made of them already."""
    terms: Sequence[Term]
    """What the gradient is of."""
    before: Named
    """Where the step starts from."""
    change: Named
    """What it would add: with learning rate, momentum, decay and all."""
    gradient: Named
    """Raw, of each client's batch, as the optimizer was given it."""


class Rule(Protocol):
    """Shortens or lengthens proposed steps. It does to a stack what it does to each client alone."""

    effort: ClassVar[float]
    """What a look at a proposal costs, in plain gradients of a batch."""
    classes: ClassVar[bool]
    """Whether it makes sense of classes alone, not of points."""

    def factors(self, proposal: Proposal) -> Tensor:
        """What each client's change is multiplied by, (K,); 1 leaves it as it is, to the bit."""
        ...


@runtime_checkable
class Learning(Protocol):
    """A rule by which a client's training depends on its last one."""

    def note(self, proposal: Proposal) -> Tensor:
        """A number of each client's step, (K,)."""
        ...

    def learnt(self, notes: Tensor) -> Tensor:
        """What the client keeps of a training's notes (steps,), float64: `task.kept.steps`, by the rule's class."""
        ...


class Notes:
    """What those of the rules that learn have noted of a stack's steps."""

    def __init__(self, rules: Sequence[Rule], tasks: Sequence[LocalTask]) -> None:
        self.learning = {type(rule).__name__: rule for rule in rules if isinstance(rule, Learning)}
        shape = (tasks[0].steps, len(tasks))  # the longest stands first
        self.tables = {name: torch.zeros(shape, dtype=torch.float64) for name in self.learning}

    def add(self, rule: Rule, proposal: Proposal) -> None:
        """Of one more step, if this rule learns."""
        if isinstance(rule, Learning):
            found = rule.note(proposal)
            self.tables[type(rule).__name__][proposal.step.number, : len(found)] = found.cpu()

    def kept(self, place: int, task: LocalTask) -> dict[str, Tensor]:
        """By the client that trains at this place of the stack."""
        if not task.steps:
            return dict(task.kept.steps)
        tables = self.tables.items()
        return {name: self.learning[name].learnt(table[: task.steps, place].clone()) for name, table in tables}


def taken(proposal: Proposal, factors: Tensor) -> dict[str, Tensor]:
    """The models after the step, name -> (K, *shape)."""
    models = {}
    for name, change in proposal.change.items():
        factor = factors.to(change).view(-1, *[1] * (change.dim() - 1))
        whole = proposal.step.params[name].view_as(change)
        models[name] = whole.where(factor == 1, proposal.before[name] + factor * change)
    return models
