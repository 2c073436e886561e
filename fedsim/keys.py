"""The keys of a scenario file, as the constructors that they are checked against."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field

from fedsim.downlink import CatchUp
from fedsim.fleet import Failures
from fedsim.network import Conditions
from fedsim.objectives import PGD
from fedsim.progress import Until
from fedsim.steps.schedules import Constant
from fedsim.units import Duration, Probability
from fedsim.wire.examples import ExampleNoise
from fedsim.wire.ledger import Accountant
from fedsim.wire.masked import Secure
from fedsim.wire.privacy import Noise

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Fleet:
    """Who takes part."""

    clients: Count
    devices: Any
    availability: Any = "always"
    participation: Any = "always"
    stragglers: Any = "none"
    drop: Failures = Failures()


@dataclass(frozen=True)
class Shrink:
    """Local work that falls as the server's version grows: E_t = max(least, round(E_0 factor^floor(t / every))).

    After FedDynAT's schedule of local epochs (Shah et al., Adversarial Training in Communication Constrained Federated
    Learning, 2021), without its FedCurv; how the paper rounds is not known to us. An edge counts its own versions, a
    peer its rounds.
    """

    factor: Annotated[float, Field(gt=0, le=1)]
    every: Count
    least: Count = 1

    def share(self, first: int, version: int) -> Fraction:
        """What is left of the `first` steps or epochs.

        >>> shrink = Shrink(factor=0.5, every=10, least=2)
        >>> [int(12 * shrink.share(12, version)) for version in (0, 9, 10, 20, 30)]
        [12, 12, 6, 3, 2]
        """
        return Fraction(max(self.least, round(first * self.factor ** (version // self.every))), first)


@dataclass(frozen=True)
class Local:
    """What a client does with the model: `steps` batches, or `epochs` passes over its examples."""

    optimizer: Any
    steps: Count | None = None
    epochs: Count | None = None
    batch: Count = 32
    optimizer_state: Literal["fresh", "kept"] = "fresh"
    """Momentum, moments and counts of steps: `fresh` at each training, or `kept` by the client from its last one."""
    private: ExampleNoise | None = None
    """None: gradients as they are."""
    objective: Any = None
    """None: the loss of the examples as they are."""
    shrink: Shrink | None = None
    """None: steps or epochs stay as they are."""
    personal: Literal["norms"] | tuple[str, ...] | None = None
    """Parameters that stay with the client: those of normalisation layers, or by the beginnings of their names."""
    source: Any = "backpropagation"
    """Where the gradients come from."""
    schedule: Any = "constant"
    """What the learning rate is multiplied by, as time goes on."""
    control: Any = None
    """How far to go of the step that the optimizer proposes; None: all the way."""
    growth: Any = None
    """How batches grow, from `batch`, while steps or epochs are as many examples as before; None: they do not."""

    probe: Any = None
    """What is looked at inside it, step by step (`probes.csv`)."""

    @property
    def rules(self) -> list[Any]:
        """For the length of steps, in order; a control comes last, as what it caps is the step that is taken."""
        rules = [] if isinstance(self.schedule, Constant) else [self.schedule]
        return rules if self.control is None else [*rules, self.control]

    @property
    def looks(self) -> list[Any]:
        """What looks at steps beside whatever makes their gradients, each at its price."""
        return self.rules if self.growth is None else [*self.rules, self.growth]

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("needs either steps or epochs")
        if self.growth is not None and not 2 <= self.batch <= self.growth.most:
            raise ValueError(f"growth: batches begin with {self.batch}, which has to be from 2 to {self.growth.most}")
        if self.shrink is not None and self.shrink.least > self.passes:
            raise ValueError(f"shrink: least is {self.shrink.least}, but there are {self.passes} at first")

    @property
    def passes(self) -> int:
        """Steps, or epochs, at first."""
        return self.steps or self.epochs or 0


@dataclass(frozen=True)
class Evaluate:
    """How often the model is measured, in virtual time, and on what."""

    every: Annotated[Duration, Field(gt=0)]
    train: bool = False
    """Also on what the clients train on, each weighted by its number of examples: the objective itself."""
    clients: bool = False
    """Show each client's own metrics (`clients.csv`) and their standard deviation."""
    robust: PGD | None = None
    """Also where this attack moves the examples to: `robust_accuracy` and `robust_loss`."""
    exam: Any = None
    """What else models are asked."""


@dataclass(frozen=True)
class Wire:
    """What travels between server and clients."""

    codec: Any = "none"
    """How clients write their changes."""
    up: Literal["change", "scores"] = "change"
    """Whether clients send changes, or the scores of their steps, by which the server replays their trainings."""
    down: Literal["model", "step"] = "model"
    """Whether the server sends models, or tells of its steps in the form of the clients' own messages."""
    catch_up: CatchUp = "cheapest"
    """With `step`: how clients make up for steps that they have missed."""
    clip: Any = None
    """How changes are shortened; None: not at all."""
    noise: Noise | None = None
    """None: nothing is added to them."""
    secure: Secure | None = None
    """None: the server sees every message."""


@dataclass(frozen=True)
class Eavesdrop:
    """Somebody reads a client's messages, and afterwards tries to find the examples behind them."""

    attack: Any
    client: Annotated[int, Field(ge=0)] = 0
    versions: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Server versions that the client has started from."""


@dataclass(frozen=True)
class Adversaries:
    """Clients that attack: a `share` of all, drawn by the seed, each in all the ways that are named."""

    share: Probability
    lie: Any = None
    """What they say of what they have learned; None: the truth."""
    poison: Any = None
    """What they learn from; None: their examples."""
    timing: Any = None
    """When they answer; None: as soon as they can."""
    since: Annotated[int, Field(ge=0)] = 0
    """The version from which on they do: sleep, then strike."""

    def __post_init__(self) -> None:
        if self.lie is None and self.poison is None and self.timing is None:
            raise ValueError("needs a lie, a poison or a timing")


@dataclass(frozen=True)
class Edges:
    """Servers at the edges of the network: each takes so many `rounds` with clients of its own on every model."""

    aggregator: Any
    rounds: Count = 1


@dataclass(frozen=True)
class Scenario:
    """One run: every answer that makes a federation."""

    until: Until
    data: Any
    model: Any
    fleet: Fleet
    local: Local
    evaluate: Evaluate
    aggregator: Any = None
    """A server's algorithm; or there are `peers`, or `coding`, instead."""
    peers: Any = None
    """What each of a number of equals does, without a server."""
    coding: Any = None
    """How workers share every gradient's work, so that a master need not wait for stragglers."""
    seed: int = 0
    """Names all draws: who holds what, who is there when and how fast, who is asked, who attacks; and what follows."""
    learning_seed: int | None = None
    """Names the draws of learning in its place: initial parameters, batches, noise, and what else is drawn in local
    trainings, messages, lies and a server's steps; runs that differ in it alone share their timeline."""
    network: Any = "star"
    links: Conditions | None = None
    """None: links are always up, and always the same."""
    wire: Wire | None = None
    """None: numbers in float32, as they are."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """For which epsilon is told, where there is noise."""
    accountant: Accountant = "rdp"
    """Renyi differential privacy, or privacy loss distributions."""
    eavesdrop: Eavesdrop | None = None
    """None: nobody listens."""
    adversaries: Adversaries | None = None
    """None: all clients are honest."""
    defence: Any = None
    """What combines updates in place of their mean; None: nobody is thought to lie."""
    faults: tuple[Any, ...] | None = None
    """What else goes wrong; None: nothing does."""
    edges: Edges | None = None
    """None: clients talk to the server themselves, whatever stands between."""
    select: Any = "uniform"
    executor: Any = "stacked"
    folder: str | None = None
    """Where the data are, besides the folders that are always searched."""
    compare: None = None
    """A list of changes to the rest, each a run of its own; `read` takes it out."""
    sweep: None = None
    """Keys with the values that they are to have in turn, all combinations; `read` takes it out."""
