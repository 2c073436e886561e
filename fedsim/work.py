"""What is asked of a client and what comes back: the words that the two wings share.

Facts (who, which version, how many) are known at once; numbers may still be pending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from weakref import ref

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ClientState:
    """What a training leaves with its client, for the next one to go on from."""

    drift: Tensor | None = None
    """What a correction against drift keeps, flat (P,)."""
    optimizer: Mapping[str, Tensor | float] = field(default_factory=dict)
    """What the optimizer remembers, by its own names: flat vectors (P,), numbers such as a count of steps, and as
    `name/parameter` what has a shape of its own."""
    personal: Tensor | None = None
    """Its own values of the parameters that it does not share."""
    wire: Mapping[str, Tensor] = field(default_factory=dict)
    """What a codec keeps from one message to the next, and what the last message has lost."""
    steps: Mapping[str, Tensor] = field(default_factory=dict)
    """What rules for the length of steps have learnt, (steps,) each."""
    own: Mapping[str, Tensor] = field(default_factory=dict)
    """What an objective or a source of gradients has written down for the next training, and what batches have grown
    to."""


STATELESS = ClientState()


@dataclass(slots=True, weakref_slot=True, eq=False)
class Release:
    """What a server gives out at a version, held by all who start from it."""

    version: int
    params: Tensor
    """Flat (P,)."""
    sent: Tensor | None = None
    """What comes with the model, flat (P,), if anything does."""
    changing: ClassVar[tuple[str, ...]] = ("params", "sent")


Parts = tuple[Any, ...]
"""What a message between peers holds: vectors (P,) and numbers."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Letter:
    """A message between peers that is under way."""

    parts: Parts
    changing: ClassVar[tuple[str, ...]] = ("parts",)


@dataclass(frozen=True, slots=True, eq=False)
class LocalTask:
    """Everything that one local training may depend on."""

    client: int
    params: Tensor
    """The model it starts from, flat (P,); shared by all who start from it, so never written to."""
    ordinal: int
    """The client's n-th training: names its random stream."""
    steps: int
    sent: Tensor | None = None
    """What came with the model, flat (P,), if anything did."""
    kept: ClientState = STATELESS
    """What the client's last training has left with it."""
    version: int = 0
    """The server version that it starts from."""


@dataclass(frozen=True, slots=True, eq=False)
class CodedTask(LocalTask):
    """A sum of gradients, with coefficients: what a worker of a gradient code sends. `ordinal` is the job's number."""

    chunks: tuple[int, ...] = ()
    """Of the job's data."""
    coefficients: tuple[float, ...] = ()
    coded: bool = False
    """Whether it travels in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class LocalResult:
    """What local training yields."""

    delta: Tensor
    """End minus start, flat (P,); of a `CodedTask` the sum of gradients."""
    loss: float
    """Mean over all examples seen, each at its own step."""
    square_loss: float = 0.0
    """Mean of the squared per-example losses (Oort's utility needs it)."""
    kept: ClientState = STATELESS
    """What stays with the client for its next training."""
    extra: Tensor | None = None
    """What goes up beside the change, flat (P,)."""
    within: bool | None = None
    """Whether the change did not have to be clipped; None: nobody looked."""
    written: Mapping[str, Tensor] = field(default_factory=dict)
    """What an objective or a source of gradients has written down at its steps."""
    probed: Mapping[str, np.ndarray] | None = None
    """What a probe saw while it trained, a table by column; None: there was none."""

    def result(self) -> LocalResult:
        """Itself: numbers that are there can be asked for like pending ones."""
        return self


Train = Callable[[Sequence[LocalTask]], list[LocalResult]]
"""What makes results of tasks, in the same order."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Deferred:
    """The result of a task that may not have run yet. Reading it makes it run."""

    task: LocalTask
    due: int
    """When its update arrives, in microseconds, as foreseen at the start: the order of need."""
    owner: Executor
    value: LocalResult | None = None
    arrived: bool = False
    """Whether its update has been heard: what synchronous algorithms may train without waste."""
    after: Kept | None = None
    """What the client's last training has left or will leave with it, if this one goes on from that."""
    heir: ref[Kept] | None = None
    """To what this one will leave with the client."""
    changing: ClassVar[tuple[str, ...]] = ("task", "due", "value", "arrived", "after", "kept")

    def result(self) -> LocalResult:
        """The numbers, computed now if they were not yet."""
        if self.value is None:
            self.owner.compute(self)
        assert self.value is not None
        return self.value

    def keep(self) -> Kept:
        """What this leaves with its client, now or when it runs."""
        kept = Kept(self) if self.value is None else Kept(None, self.value.kept)
        self.kept = kept
        return kept

    @property
    def kept(self) -> Kept | None:
        """What this one will leave with the client, as long as somebody cares."""
        return None if self.heir is None else self.heir()

    @kept.setter
    def kept(self, kept: Kept | None) -> None:
        self.heir = None if kept is None else ref(kept)

    def __repr__(self) -> str:  # must not make it run
        state = "pending" if self.value is None else "ready"
        return f"<Deferred client={self.task.client} due={self.due} {state}>"


@dataclass(slots=True, weakref_slot=True, eq=False)
class Kept:
    """What a training leaves with its client. It outlives the training's other numbers."""

    maker: Deferred | None
    """Who is to make it; None: it is made."""
    state: ClientState = STATELESS

    def settled(self) -> ClientState:
        """It, made now if it was not yet."""
        if self.maker is not None:
            self.maker.result()
        return self.state


class Executor(Protocol):
    """Decides when local training is computed, and in what company; never what it yields."""

    trained: int
    """How many local trainings were computed."""

    def submit(self, task: LocalTask, due: int, after: Kept | None = None) -> Deferred:
        """Promise the result of a task that goes on from what the client's last one left, if that is given."""
        ...

    def expect(self, pending: Deferred) -> None:
        """Take over a promise that was made before."""
        ...

    def compute(self, wanted: Deferred) -> None:
        """Fill in `wanted.value`, and perhaps others' too."""
        ...


class Numbers(Protocol):
    """Whatever can be asked for a local result."""

    def result(self) -> LocalResult:
        """The numbers, computed now if they were not yet."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What a server is told when a client has finished."""

    client: int
    version: int
    """The server version that the client started from."""
    examples: int
    """How many training examples the client holds."""
    steps: int
    """How many local steps it took."""
    duration: int
    """From being started to being heard, in microseconds."""
    numbers: Numbers

    @property
    def delta(self) -> Tensor:
        """End minus start, flat (P,). Reading it may train."""
        return self.numbers.result().delta

    @property
    def extra(self) -> Tensor | None:
        """What came beside the change, flat (P,), if anything did. Reading it may train."""
        return self.numbers.result().extra

    @property
    def within(self) -> bool | None:
        """Whether the change did not have to be clipped, if anybody looked. Reading it may train."""
        return self.numbers.result().within

    @property
    def loss(self) -> float:
        """Mean local loss. Reading it may train."""
        return self.numbers.result().loss


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """How good a model was found to be."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """By name; none where nothing was trained."""
    clients: Mapping[str, np.ndarray] = field(default_factory=dict)
    """A table by column, with a row for each client; none where that was not asked for."""
