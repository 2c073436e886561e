"""Learning rates that change with time, as factors of the optimizer's own.

A step of SGD, with momentum or not, of Adam, AdamW, Adagrad or RMSprop is proportional to its learning rate, so that a
factor of the step is one of the rate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.steps.rule import Proposal
from fedsim.work import LocalTask

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Constant:
    """The optimizer's own rate."""

    effort: ClassVar[float] = 0.0
    classes: ClassVar[bool] = False

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        return torch.ones(len(proposal.step.tasks))


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A factor by how much is done, in [0, 1): of the local training (`round`), or of all versions of the run (`run`).

    A run that does not say how many versions it has cannot have the latter. `versions` is given by the run.
    """

    over: Literal["round", "run"] = "run"
    versions: int | None
    effort: ClassVar[float] = 0.0
    classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.over == "run" and self.versions is None:
            raise ValueError("a schedule over the run needs until.versions; or say over: round")

    def done(self, task: LocalTask, step: float) -> float:
        """How much is, before a task's step of this number; where batches grow, by examples."""
        part = step / task.steps
        return part if self.over == "round" or self.versions is None else (task.version + part) / self.versions

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        step = proposal.step
        return torch.tensor([self.factor(min(1.0, self.done(task, step.number + step.ahead))) for task in step.tasks])

    @abstractmethod
    def factor(self, done: float) -> float:
        """When so much is done."""


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """From 1 straight to `last`: the best for last iterates in the worst case (Defazio et al., 2023)."""

    last: Share = 0.0

    def factor(self, done: float) -> float:
        """See `Schedule`.

        >>> Linear(versions=10).factor(0.0), Linear(versions=10, last=0.5).factor(0.5)
        (1.0, 0.75)
        """
        return 1 - (1 - self.last) * done


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """From 1 to `last` along half a cosine (Loshchilov and Hutter, SGDR, ICLR 2017), after a linear `warm_up`."""

    last: Share = 0.0
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of what is to be done."""

    def factor(self, done: float) -> float:
        """See `Schedule`.

        >>> Cosine(versions=10).factor(0.5), Cosine(versions=10, warm_up=0.2).factor(0.1)
        (0.5, 0.5)
        """
        if done < self.warm_up:
            return done / self.warm_up
        rest = (done - self.warm_up) / (1 - self.warm_up)
        return self.last + (1 - self.last) * (1 + cos(pi * rest)) / 2


@dataclass(frozen=True, kw_only=True)
class Trapezoid(Schedule):
    """Straight up during `warm_up`, 1, and straight down to 0 during `cool_down`."""

    warm_up: Share = 0.0
    cool_down: Share = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_up + self.cool_down > 1:
            raise ValueError("warm_up and cool_down are more than all that is to be done")

    def factor(self, done: float) -> float:
        """See `Schedule`.

        >>> rule = Trapezoid(versions=10, warm_up=0.2, cool_down=0.4)
        >>> rule.factor(0.1), rule.factor(0.5), rule.factor(0.8)
        (0.5, 1.0, 0.5)
        """
        up = done / self.warm_up if self.warm_up else 1.0
        down = (1 - done) / self.cool_down if self.cool_down else 1.0
        return round(min(1.0, up, down), 12)


@dataclass(frozen=True)
class Jump:
    """The optimizer's own rate, and `factor` times as much from version `at` on: a fault, to see who bears it.

    As in the experiments of Ghosts of Softmax (2603.13552), where what is called a spike lasts to the end.
    """

    at: Annotated[int, Field(ge=0)]
    factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1000.0
    effort: ClassVar[float] = 0.0
    classes: ClassVar[bool] = False

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        return torch.tensor([self.factor if task.version >= self.at else 1.0 for task in proposal.step.tasks])
