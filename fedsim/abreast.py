"""Runs abreast: time passes once, and several learn on it, each its own model from numbers of its own.

Virtual time is priced from counts and sizes, so it is the same for all whose counts and sizes are. What each server
decides is compared at every event: who decides otherwise than the first is left behind, and needs time of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fedsim.progress import Model, Progress
from fedsim.server import ServerSimulation

if TYPE_CHECKING:
    from fedsim.aggregators.aggregator import Aggregator, Refusal
    from fedsim.drift import Drift
    from fedsim.work import Deferred, Executor, LocalTask, Update

T = TypeVar("T")
COUNTERS = ("version", "updates", "lost", "down", "up", "_staleness", "_since_row")
"""Of a progress: what all have in common."""


class Nobody(Exception):
    """All are over, or left behind."""


@dataclass(eq=False)
class Lane:
    """One of the runs: a simulation as if it were alone, whose own clock stands still."""

    simulation: ServerSimulation
    error: Exception | None = None
    """What has ended it, if not the end of time."""
    apart: bool = False
    """Whether it was left behind."""

    @property
    def aggregator(self) -> Aggregator:
        """Its own server."""
        return self.simulation.aggregator

    @property
    def progress(self) -> Progress:
        """Its own measurements; counters stand still between them."""
        return self.simulation.progress


class Lanes:
    """All runs, and those of them that are still abreast."""

    def __init__(self, simulations: Sequence[ServerSimulation]):
        self.all = [Lane(simulation) for simulation in simulations]
        self.active = dict(enumerate(self.all))

    def each(self, verb: Callable[[int, Lane], T]) -> dict[int, T]:
        """What they answer, by number; an error is the end of whose it is. Nobody, if nobody is left."""
        answers = {}
        for number, lane in list(self.active.items()):
            try:
                answers[number] = verb(number, lane)
            except Exception as error:
                lane.error = error
                del self.active[number]
        if not self.active:
            raise Nobody
        return answers

    def leave_behind(self, numbers: Iterable[int]) -> None:
        """These go on without the others, another time."""
        for number in numbers:
            self.active.pop(number).apart = True


@dataclass(eq=False, slots=True, weakref_slot=True)
class Together:
    """What each has promised, or kept, by number: one pending result where time passes."""

    of: Mapping[int, Any]

    @property
    def arrived(self) -> bool:
        """Whether their updates have been heard."""
        return all(one.arrived for one in self.of.values())

    @arrived.setter
    def arrived(self, heard: bool) -> None:
        for one in self.of.values():
            one.arrived = heard

    def keep(self) -> Together:
        """What each leaves with its client."""
        return Together({number: one.keep() for number, one in self.of.items()})


class Servers:
    """Their algorithms as one, as long as they decide alike."""

    def __init__(self, lanes: Lanes):
        self.lanes, self.refused = lanes, list["Refusal"]()
        self._agree(lanes.each(lambda number, lane: []))

    @property
    def params(self) -> dict[int, Any]:
        """Each one's model."""
        return {number: lane.aggregator.params for number, lane in self.lanes.active.items()}

    @property
    def sent(self) -> dict[int, Any]:
        """What travels beside each one's model, if anything does."""
        return {number: lane.aggregator.sent for number, lane in self.lanes.active.items()}

    @property
    def drift(self) -> Drift | None:
        """The first one's; what matters here is whether clients keep anything, which is the same for all."""
        return next(iter(self.lanes.active.values())).aggregator.drift

    def join(self, clients: Sequence[int]) -> list[int]:
        """These clients can be asked from now on."""
        return self._agree(self.lanes.each(lambda number, lane: lane.aggregator.join(clients)))

    def leave(self, clients: Sequence[int]) -> list[int]:
        """These clients are gone."""
        return self._agree(self.lanes.each(lambda number, lane: lane.aggregator.leave(clients)))

    def receive(self, update: Update) -> list[int]:
        """A client has finished: each hears its own numbers."""
        numbers = cast("Together", update.numbers).of
        return self._agree(self.lanes.each(
            lambda number, lane: lane.aggregator.receive(replace(update, numbers=numbers[number]))))  # fmt: skip

    def expire(self) -> list[int]:
        """The deadline of the present round has passed."""
        return self._agree(self.lanes.each(lambda number, lane: lane.aggregator.expire()))

    def _agree(self, started: dict[int, list[int]]) -> list[int]:
        """Whom the first one starts; whoever would start others, or is elsewhere now, is left behind."""
        decided = {number: (clients, *self._facts(number)) for number, clients in started.items()}
        first = next(iter(decided.values()))
        self.lanes.leave_behind(number for number, one in decided.items() if one != first)
        clients, self.version, self.round, self.deadline, self.refused = first
        return clients

    def _facts(self, number: int) -> tuple[int, int, int | None, list[Refusal]]:
        one = self.lanes.active[number].aggregator
        refused, one.refused = one.refused, []
        return one.version, one.round, one.deadline, refused


class Executors:
    """Their executors as one."""

    def __init__(self, lanes: Lanes):
        self.lanes = lanes

    @property
    def trained(self) -> int:
        """How many local trainings all have computed."""
        return sum(lane.simulation.world.executor.trained for lane in self.lanes.all)

    def submit(self, task: LocalTask, due: int, after: Together | None = None) -> Together:
        """Promise each one's result, of its own model."""
        params, sent = cast("dict[int, Any]", task.params), cast("dict[int, Any]", task.sent)

        def promise(number: int, lane: Lane) -> Deferred:
            own = replace(task, params=params[number], sent=sent[number])
            return lane.simulation.world.executor.submit(own, due, after and after.of[number])

        return Together(self.lanes.each(promise))


@dataclass
class Measuring(Progress):
    """Counts for all, and lets each measure its own model."""

    lanes: Lanes = field(kw_only=True)

    def heard(self, now: int, pending: Any) -> None:
        """A local training has answered."""
        for number, lane in self.lanes.active.items():
            lane.progress.heard(now, pending.of[number])

    def row(self, model: Model, now: int) -> None:
        """One more row in each one's table."""
        self.lanes.each(lambda number, lane: self.tell(lane).row(lane.aggregator, now))
        self.rows.append(next(iter(self.lanes.active.values())).progress.rows[-1])
        self._staleness = self._since_row = 0
        self.watch(self, now)

    def tell(self, lane: Lane) -> Progress:
        """One's own progress, up to date."""
        for name in COUNTERS:
            setattr(lane.progress, name, getattr(self, name))
        return lane.progress

    def _settle(self) -> None:
        self.lanes.each(lambda number, lane: lane.progress._settle())


def pass_abreast(
    simulations: Sequence[ServerSimulation], watch: Callable[[Progress, int], None] = lambda progress, now: None
) -> list[Lane]:
    """Let time pass for all, who have been set up alike; what has become of each."""
    lanes, first = Lanes(simulations), simulations[0]
    progress = Measuring(first.progress.until, first.progress.every, watch=watch, patience=first.progress.patience,
                         lanes=lanes)  # fmt: skip
    try:
        world = replace(first.world, executor=cast("Executor", Executors(lanes)))
        shared = ServerSimulation(world, cast("Aggregator", Servers(lanes)), first.work, progress)
        for lane in lanes.all:
            lane.simulation.ordinals = shared.ordinals
        shared.run()
    except Nobody:
        pass
    except Exception as error:
        for lane in lanes.active.values():
            lane.error = error
    for lane in lanes.all:
        progress.tell(lane)
    return lanes.all
