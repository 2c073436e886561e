"""A scenario's wire, put together: which combinations work, what they cost, and what they disclose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedsim.eavesdropping import Eavesdropper, eavesdropper
from fedsim.errors import ScenarioError
from fedsim.network import policy_of
from fedsim.replaying import Replaying, check_replay, replayer, score_bytes
from fedsim.wire.agreement import ID
from fedsim.wire.codec import Codec, Plain, Verbatim
from fedsim.wire.fixed_point import FixedPoint
from fedsim.wire.ledger import dp_accounting
from fedsim.wire.masked import Masked
from fedsim.wire.masking import Exchange, traffic
from fedsim.wire.privacy import Adaptive, Privacy
from fedsim.wire.sending import Sending
from fedsim.work import LocalResult

if TYPE_CHECKING:
    from fedsim.aggregators.aggregator import Aggregator
    from fedsim.experiment import Experiment
    from fedsim.scenario import Arm
    from fedsim.training import Trainer
    from fedsim.workload import Workload

Train = Callable[[Sequence[Any]], list[LocalResult]]


def refuse_wire(arm: Arm, why: str, but: Collection[str] = ()) -> None:
    """ScenarioError if the scenario has a wire, somebody who listens, adversaries or a defence; all `but` some."""
    for key in ("wire", "eavesdrop", "adversaries", "defence"):
        if key not in but and getattr(arm.keys, key) is not None:
            raise ScenarioError(f"{arm.place((key,))}: {key}: {why}")


def refuse_insecure(experiment: Experiment, aggregator: Aggregator, codec: Codec) -> None:
    """ScenarioError where a server that sees sums alone cannot work."""
    arm = experiment.arm
    fixed = aggregator.linear and aggregator.expected is not None and aggregator.vectors == (1, 1)
    rounds = getattr(aggregator, "goal", None) is None and aggregator.deadline is None
    faults = {
        "nobody can see what liars send under masks": arm.keys.adversaries is None,
        "sums can be taken of linear codecs' messages alone": codec.linear,
        "a sum is all that the server has: take a linear aggregator with weights: uniform or expected": fixed,
        "a round waits for all that have begun it: leave out goal and deadline": rounds,
        "clients may fail, but not come and go": arm.keys.fleet.availability.name == "always",
        "whoever is cut off cannot take its masks back: take stall or reroute": policy_of(experiment.graph) != "fail",
        "nobody can listen to what lies under masks": arm.keys.eavesdrop is None,
    }
    for why in [why for why, fine in faults.items() if not fine]:
        raise ScenarioError(f"{arm.place(('wire', 'secure'))}: wire.secure: {why}")


@dataclass(frozen=True)
class Wire:
    """How one server and its clients talk."""

    codec: Codec
    privacy: Privacy
    size: int
    """Numbers in a model."""
    steps: bool
    """Whether the server tells of steps, not models."""
    plain: bool
    """Whether nothing at all is done."""
    catch_up: Any = "cheapest"
    eavesdropper: Eavesdropper | None = None
    replay: Trainer | None = None
    """By which the server makes changes of scores; None: changes are what travels."""
    changing: ClassVar[tuple[str, ...]] = ("privacy", "eavesdropper")

    @classmethod
    def of(cls, experiment: Experiment, aggregator: Aggregator) -> Wire:
        """What the scenario asks for.

        Raises:
            ScenarioError: where it cannot work with this algorithm, and why.
        """
        arm, layout = experiment.arm, experiment.layout
        keys, seed = arm.keys.wire, arm.learning_seed
        own = aggregator.codec
        if keys is None:
            codec, privacy = own or Plain(), Privacy(seed, layout)
            listener = eavesdropper(experiment, codec, privacy)
            plain = own is None and listener is None
            return cls(codec, privacy, layout.size, own is not None, plain, eavesdropper=listener)
        if own is not None and keys.codec.name != "none":
            raise ScenarioError(f"{arm.place(('wire', 'codec'))}: wire.codec: this aggregator has its own messages")
        if keys.up == "scores":
            check_replay(experiment, aggregator)
        codec = own or arm.build(experiment.given, "wire", "codec")
        clip = None if keys.clip is None else arm.build({}, "wire", "clip")
        noise = None if keys.noise is None else arm.build({}, "wire", "noise")
        if keys.secure is not None:
            refuse_insecure(experiment, aggregator, codec)
            secure = arm.build({}, "wire", "secure")
            codec = Masked(codec, FixedPoint(secure.bits, secure.bound, arm.keys.fleet.clients))
        privacy = Privacy(seed, layout, clip, noise, aggregator.expected or 1.0)
        wire = cls(codec, privacy, layout.size, keys.down == "step" or own is not None, plain=False,
                   catch_up=keys.catch_up, eavesdropper=eavesdropper(experiment, codec, privacy),
                   replay=replayer(experiment) if keys.up == "scores" else None)  # fmt: skip
        for path, why in wire.faults(aggregator):
            raise ScenarioError(f"{arm.place(('wire', path))}: wire.{path}: {why}")
        if clip is not None:
            aggregator.shield = wire.privacy.step
        if noise is not None:
            dp_accounting()  # what will be needed in the end is missed now
        return wire

    def faults(self, aggregator: Aggregator) -> list[tuple[str, str]]:
        """What cannot be, by key."""
        found: list[tuple[str, str]] = []
        clip, noise, own = self.privacy.clip, self.privacy.noise, aggregator.codec is not None
        if self.steps and not own:
            if not self.codec.linear or isinstance(self.codec, Plain):
                found.append(("down", "steps can be told of only where messages can be added up: take a sketch"))
            if not aggregator.linear:
                found.append(("down", f"{type(aggregator).__name__} does not step along a fixed combination of one "
                                      "version's messages, so such a message cannot tell of its steps"))  # fmt: skip
            if noise is not None and noise.by == "server":
                found.append(("noise", "the server's noise would not fit into the messages that tell of its steps: "
                                       "take by: clients or each"))  # fmt: skip
        if isinstance(self.codec, Masked) and clip is not None and clip.message:
            found.append(("clip", "messages under masks are whole numbers: clip updates, not messages"))
        if isinstance(self.codec, Masked) and noise is not None and noise.by == "server":
            found.append(("noise", "a server that sees sums alone cannot clip what it reads: take by: clients"))
        if noise is not None and clip is None:
            found.append(("noise", "without a clip nobody knows how much noise is enough"))
        if isinstance(clip, Adaptive) and noise is not None and 0 < clip.count <= noise.multiplier / 2:
            found.append(("clip", f"count noise of {clip.count:g} spends more than the whole of a multiplier of "
                                  f"{noise.multiplier:g}: it has to be above half of that"))  # fmt: skip
        if clip is not None and clip.message and not self.codec.linear:
            found.append(("clip", "this codec's messages are no vectors that could be clipped"))
        if clip is not None and clip.message and noise is not None and noise.by == "server":
            found.append(("noise", "messages are clipped, so it is messages that need noise: take by: clients or each"))
        if clip is not None and self.codec.feedback and noise is not None:
            found.append(("codec", "what error feedback keeps back has not been clipped: set feedback: false"))
        if noise is not None and noise.by != "each" and aggregator.expected is None:
            found.append(("noise", f"{type(aggregator).__name__} does not count a known number of updates alike, so "
                                   "nobody knows each one's share of the noise: take weights: uniform or expected, or "
                                   "by: each"))  # fmt: skip
        return found

    @property
    def keeps(self) -> bool:
        """Whether a message depends on the client's last one."""
        return self.codec.feedback

    def carry(self, train: Train) -> Train:
        """Local training whose results have travelled."""
        if self.replay is not None:
            return Replaying(train, self.replay)
        return train if self.plain else self.sending(train)

    def sending(self, train: Train) -> Sending:
        """The same, where a message is what comes of it, however plain."""
        overhear = self.eavesdropper.overhear if self.eavesdropper else None
        codec = Verbatim() if self.plain else self.codec
        return Sending(train, codec, self.privacy.seed, self.privacy, overhear)

    def traffic(self, advertised: int, shared: int, sent: int) -> dict[str, Exchange]:
        """What secure aggregation costs each client, see `masking.traffic`."""
        return traffic(self.codec.nbytes(self.size), advertised, shared, sent)

    def work(self, work: Workload) -> Workload:
        """With the bytes of messages in place of one of the vectors that go up, and perhaps of steps that come down."""
        if self.plain:
            return work
        if self.replay is not None:
            return replace(work, up=0, up_step=score_bytes(self.replay))
        nbytes = self.codec.nbytes(self.size) + (ID if isinstance(self.codec, Masked) else 0)
        step = self.codec.step_bytes(self.size) if self.steps else None
        return replace(work, up=work.up - 4 * self.size + nbytes, step=step, catch_up=self.catch_up)
