"""What every server algorithm answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from fedsim.defences.defence import Defence, Guard, Sender
from fedsim.drift import Drift
from fedsim.readings import Readings
from fedsim.roster import Census, Roster
from fedsim.work import Update

if TYPE_CHECKING:
    from fedsim.answers import Answers
    from fedsim.wire.codec import Codec

Count = Annotated[int, Field(ge=1)]
Many = Count | Literal["all"]
Rate = Annotated[float, Field(gt=0)]
Fault = Literal["unasked", "misshapen", "infinite"]
Spoil = Callable[[Sequence[Update]], Sequence[Update]]
Jury = Callable[[Sequence[Update], Sequence[Update], "Tensor | None"], None]
"""Of the updates of a step, those of them that are sound, and how much each of these counted; None: as always."""
Shield = Callable[[Tensor, Sequence[Update], int], Tensor]
"""Of a direction, the updates that it comes from, and the version that it starts from."""


class Refusal(NamedTuple):
    """An update that was not taken: nobody had asked for it, or its numbers have the wrong shape or are not finite."""

    client: int
    version: int
    fault: Fault


@dataclass
class Aggregator(ABC):
    """A server algorithm. Each verb answers with the clients that are to start now, from `params` at `version`.

    A driver (virtual or real) calls the verbs one at a time. If `deadline` is not None it sets a timer of so many
    microseconds whenever `round` has changed, and calls `expire` when it runs out in that same round.

    An update counts only if its client is at work from the version that it names: duplicates, and late answers of
    those who went away meanwhile, are refused. Shapes and numbers are looked at when they are needed for a step.
    """

    params: Tensor
    """The model, flat (P,); replaced, never written to."""
    roster: Roster
    _: KW_ONLY
    lr: Rate = 1.0
    """Of the server's step."""
    version: int = field(default=0, init=False)
    """How many server steps have been taken."""
    round: int = field(default=0, init=False)
    """How many timers' worth of work have begun."""
    deadline: int | None = field(default=None, init=False)
    refused: list[Refusal] = field(default_factory=list, init=False)
    """Since a driver has emptied it."""
    spoil: Spoil | None = field(default=None, init=False, repr=False)
    """What becomes of the updates of a step before they are looked at: some of them may be lies."""
    shield: Shield | None = field(default=None, init=False, repr=False)
    """What becomes of a direction before the model moves along it: noise."""
    defence: Defence | None = field(default=None, init=False)
    """Combines updates where they are to count alike; None: their mean."""
    jury: Jury | None = field(default=None, init=False, repr=False)
    """Told what became of a step's updates."""
    counted: Tensor | None = field(default=None, init=False, repr=False)
    """How much each of the last step's sound updates counted, (m,), where a defence said so."""
    readings: Readings = field(default_factory=Readings, init=False, repr=False)
    """Who was refused for their numbers."""

    synchronous: ClassVar[bool] = False
    """Whether updates that come too late are thrown away."""
    vectors: ClassVar[tuple[int, int]] = (1, 1)
    """How many vectors (P,) travel to a client, and back."""

    @property
    def sent(self) -> Tensor | None:
        """What travels to a client beside the model, flat (P,)."""
        return None

    @property
    def drift(self) -> Drift | None:
        """What clients are to add to their gradients."""
        return None

    @property
    def codec(self) -> Codec | None:
        """What changes travel as, if that is the algorithm's own affair."""
        return None

    @property
    def answers(self) -> Answers | None:
        """What clients do and send in place of a change of the model; None: that change."""
        return None

    @property
    def linear(self) -> bool:
        """Whether every step is a linear combination of one version's updates, by weights known without them."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what an update has to be."""
        return tuple(self.params.shape)

    @property
    def expected(self) -> float | None:
        """How many updates a step counts on average, each for as much as any other; None: that is not so."""
        return None

    @property
    def asked(self) -> int | None:
        """On how many updates it steps; None: that depends."""
        return None

    @property
    def defensible(self) -> bool:
        """Whether a defence can combine its updates."""
        return False

    def defend(self, defence: Guard) -> None:
        """Let a defence combine the updates from now on. ValueError if it cannot."""
        if not self.defensible:
            raise ValueError(f"{type(self).__name__} does not take the mean of alike updates, so nothing can stand in")
        if not isinstance(defence, Defence):
            raise ValueError("this one clips around a peer's own model, and a server has none")
        if self.asked is not None and self.asked < defence.least:
            raise ValueError(f"needs {defence.least} updates a step, but {self.asked} are asked for")
        self.defence = defence

    def defended(self, defence: Defence, updates: Sequence[Update], weights: Sequence[float] | None = None) -> Tensor:
        """What a defence makes of the updates, (P,), each multiplied by its weight."""
        weights = weights or [1.0] * len(updates)
        rows = [weight * update.delta for update, weight in zip(updates, weights, strict=True)]
        senders = [Sender(each.client, each.version, weight) for each, weight in zip(updates, weights, strict=True)]
        vector, self.counted = defence.combine(rows, senders)
        return vector

    @property
    def census(self) -> Census:
        """What is known of the clients beforehand. ValueError if nothing is."""
        if self.roster.census is None:
            raise ValueError(f"{type(self).__name__} has to know how many clients there are, and how they differ")
        return self.roster.census

    def join(self, clients: Iterable[int]) -> list[int]:
        """These clients can be asked from now on."""
        self.roster.join(clients)
        return self.refill()

    def leave(self, clients: Iterable[int]) -> list[int]:
        """These clients are gone, and their work in progress is lost."""
        self.roster.leave(clients)
        return self.refill()

    def receive(self, update: Update) -> list[int]:
        """A client has finished and is free again."""
        if self.roster.busy.get(update.client) != update.version:
            self.refused.append(Refusal(update.client, update.version, "unasked"))
            return []
        self.roster.back(update.client)
        if self.take(update):
            self.roster.heard(update)
        return self.refill()

    def expire(self) -> list[int]:
        """The deadline of the present round has passed."""
        return []

    def start(self, count: Many) -> list[int]:
        """Put up to so many idle clients to work from the present version."""
        return self.roster.start(len(self.roster.idle) if count == "all" else count, self.version)

    def top_up(self, concurrency: Many) -> list[int]:
        """Start idle clients until so many are at work."""
        return self.start("all" if concurrency == "all" else concurrency - len(self.roster.busy))

    def step(self, updates: Iterable[Update]) -> None:
        """Take a server step on these updates; none is taken if not one of them is sound."""
        ordered = in_client_order(updates)
        told = self.spoil(ordered) if self.spoil else ordered
        sound = [update for update in told if self.is_sound(update)]
        if sound:
            direction = self.direction(sound)
            self.move(self.shield(direction, sound, self.version) if self.shield else direction)
            self.version += 1
            if self.jury:
                self.jury(told, sound, self.counted)

    def is_sound(self, update: Update) -> bool:
        """Whether its numbers can be used; else it is refused. Reading them may train."""
        fault: Fault | None = self.readings.read(lambda: self.fault_of(update))
        if fault:
            self.refused.append(Refusal(update.client, update.version, fault))
        return fault is None

    def fault_of(self, update: Update) -> Fault | None:
        """What is wrong with its numbers."""
        vectors = [update.delta] if self.vectors[1] == 1 else [update.delta, update.extra]
        for vector in vectors:
            if not isinstance(vector, Tensor) or vector.shape != self.shape:
                return "misshapen"
            if not is_finite(vector):
                return "infinite"
        return None

    def move(self, direction: Tensor) -> None:
        """Move the model along a direction (P,)."""
        self.params = self.params + self.lr * direction

    @abstractmethod
    def take(self, update: Update) -> bool:
        """Make what the algorithm makes of an update; whether it counts for anything."""

    @abstractmethod
    def refill(self) -> list[int]:
        """Whom to start now, if anybody."""

    @abstractmethod
    def direction(self, updates: list[Update]) -> Tensor:
        """Where to go, (P,), as these sound updates have it, at least one; they come in the order of their clients."""


def is_finite(vector: Tensor) -> bool:
    """Whether all its numbers are; so they are where their sum is, which is found many times faster."""
    return not len(vector) or isfinite(float(vector.sum())) or bool(torch.isfinite(vector).all())


def in_client_order(updates: Iterable[Update]) -> list[Update]:
    """The order in which updates are summed, so that arrival cannot change a bit; one client's keep their turn."""
    return sorted(updates, key=lambda update: update.client)
