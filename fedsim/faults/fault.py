"""What may go wrong, as the engine asks for it; each kind of fault answers for what it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from fedsim.fleet import Fate
from fedsim.units import Duration, Probability

if TYPE_CHECKING:
    import networkx as nx

    from fedsim.cell import Cell
    from fedsim.network import Outage
    from fedsim.work import Update

Draw = Callable[..., float]
"""A number, uniform in [0, 1), at an address of the fault's own."""
Phase = Literal["download", "train", "upload"]
Client = Annotated[int, Field(ge=0)]
Times = Annotated[tuple[Duration, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Asked:
    """What a client was asked for, for the n-th time, or a peer's n-th message, and how far it has come."""

    client: int
    number: int
    began: int
    now: int


class Fault:
    """Nothing goes wrong; the base of all others."""

    anywhere: ClassVar[bool] = False
    """Whether it is about links and clocks alone, so that peers, codes, edges and rounds under masks bear it too."""
    on_the_way: ClassVar[bool] = False
    """Whether it is about messages that come nevertheless, as they were sent, so that peers bear it too."""
    silencing: ClassVar[bool] = False
    """Whether somebody who is asked may never answer."""

    def named(self) -> Sequence[int]:
        """The clients that it names."""
        return ()

    def pace(self, client: int, draw: Draw) -> float:
        """A client's local training takes so many times as long."""
        return 1.0

    def fate(self, client: int, number: int, phase: Phase, draw: Draw) -> Fate | None:
        """How a client fails in this phase of what it does when it is asked for the n-th time."""
        return None

    def delay(self, asked: Asked, draw: Draw) -> int:
        """For how many microseconds its answer is held up before it travels."""
        return 0

    def copies(self, asked: Asked, draw: Draw) -> int:
        """How often its answer comes again."""
        return 0

    def corrupted(self, update: Update, draw: Draw) -> Update:
        """What arrives of an update."""
        return update

    def moments(self, draw: Draw) -> Sequence[int]:
        """When it strikes, if it strikes at times of its own."""
        return ()

    def strike(self, cell: Cell) -> None:
        """It does."""

    def outages(self, graph: nx.Graph, clients: int, draw: Draw) -> Sequence[Outage]:
        """What it takes down of a network."""
        return ()

    def weaken(self, graph: nx.Graph, draw: Draw) -> None:
        """Change capacities of a network's links."""


@dataclass(frozen=True, kw_only=True)
class OfClients(Fault):
    """Befalls `clients`, or everybody."""

    clients: tuple[Client, ...] | None = None

    def named(self) -> Sequence[int]:
        """See `Fault`."""
        return self.clients or ()

    def concerns(self, client: int) -> bool:
        """Whether it may befall this one."""
        return self.clients is None or client in self.clients


@dataclass(frozen=True, kw_only=True)
class OfWork(OfClients):
    """Befalls clients' work: each time that one is asked by `chance`, or what is under way `at` one of these times."""

    chance: Probability | None = None
    at: Times | None = None

    def __post_init__(self) -> None:
        if (self.chance is None) == (self.at is None):
            raise ValueError("needs either chance or at")

    def befalls(self, asked: Asked, draw: Draw) -> bool:
        """Whether it does."""
        if not self.concerns(asked.client):
            return False
        if self.chance is not None:
            return draw(asked.client, asked.number) < self.chance
        return any(asked.began < time <= asked.now for time in self.at or ())


@dataclass(frozen=True, kw_only=True)
class Timed(Fault):
    """Happens `at` these times; or so many `times`, as a Poisson process has it, `every` so often on average."""

    at: Times | None = None
    every: Annotated[Duration, Field(gt=0)] | None = None
    times: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        if (self.at is None) == (self.every is None):
            raise ValueError("needs either at or every")

    def instants(self, draw: Draw) -> Sequence[int]:
        """Microseconds, in order."""
        if self.every is None:
            return sorted(set(self.at or ()))
        gaps = (1 + round(-self.every * log(1 - draw("gap", number))) for number in range(self.times))
        return list(accumulate(gaps))


@dataclass(frozen=True, kw_only=True)
class Lasting(Timed):
    """The same, and goes on for a while each time."""

    lasts: Annotated[Duration, Field(gt=0)]

    def periods(self, draw: Draw) -> list[tuple[int, int]]:
        """From when until when, microseconds."""
        return [(moment, moment + self.lasts) for moment in self.instants(draw)]
