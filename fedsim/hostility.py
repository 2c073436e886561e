"""A scenario's adversaries and its defence, put together: which of them work with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedsim.attacks.liars import Jury, Liars, Lying, LyingPeers, Poisoning, drawn
from fedsim.errors import ScenarioError
from fedsim.keys import Adversaries
from fedsim.node import Said, truth
from fedsim.stalling import Stalling

if TYPE_CHECKING:
    from fedsim.aggregators.aggregator import Aggregator
    from fedsim.data import Dataset
    from fedsim.defences import Guard
    from fedsim.scenario import Arm


@dataclass(frozen=True)
class Hostility:
    """Of one experiment."""

    arm: Arm
    given: Mapping[str, Any]

    @cached_property
    def adversaries(self) -> Adversaries | None:
        """Who attacks, and how; None: nobody does."""
        keys = self.arm.keys.adversaries
        return None if keys is None else self.arm.build(self.given, "adversaries")

    @cached_property
    def liars(self) -> Liars | None:
        """Who attacks, and from when on."""
        attack = self.adversaries
        return attack and Liars(drawn(self.given["clients"], attack.share, self.given["seed"]), attack.since)

    def poisoning(self, dataset: Dataset) -> Poisoning | None:
        """What they learn from. ScenarioError if these data cannot be changed so."""
        attack, liars = self.adversaries, self.liars
        if attack is None or liars is None or attack.poison is None:
            return None
        if not dataset.has_classes:
            self.refuse("poison", "these data have no classes that could be mistaken")
        if attack.poison.pictures and not dataset.x.is_floating_point():
            self.refuse("poison", "a trigger is drawn into numbers, not into characters")
        return Poisoning(liars, attack.poison)

    @property
    def stalling(self) -> Stalling | None:
        """When they answer."""
        attack, liars = self.adversaries, self.liars
        if attack is None or liars is None or attack.timing is None:
            return None
        return Stalling(liars.who, attack.timing, liars.since)

    @property
    def defence(self) -> Any:
        """What stands in for the mean, its draws those of learning. ValueError if it refuses its arguments."""
        return self.arm.build({**self.given, "seed": self.arm.learning_seed}, "defence")

    def prepare(self, aggregator: Aggregator, tallies: dict[str, float] | None) -> None:
        """Let liars lie to a server, and let it defend itself; `tallies` is told what comes of it.

        ScenarioError if the server cannot be defended so, or attacked at such times.
        """
        attack, liars, stalling = self.adversaries, self.liars, self.stalling
        if stalling and stalling.timing.limited and aggregator.deadline is None:
            self.refuse("timing", "this server has no deadline that could be drawn out")
        if stalling and stalling.timing.stale and aggregator.synchronous:
            self.refuse("timing", "this server waits for everybody whom it has asked, so nobody is stale")
        if self.arm.keys.defence is not None:
            try:
                aggregator.defend(self.defence)
            except ValueError as error:
                raise ScenarioError(f"{self.arm.place(('defence',))}: defence: {error}") from None
        if attack is not None and liars is not None and attack.lie is not None:
            aggregator.spoil = Lying(liars, attack.lie, self.arm.learning_seed)
        if tallies is not None and (liars is not None or aggregator.defence is not None):
            aggregator.jury = Jury(liars or Liars(frozenset()), tallies)

    def peers(self, algorithm: Any) -> tuple[Guard | None, Said]:
        """What defends peers, and what they say of their models.

        ScenarioError if their algorithm does not send models alone, or they cannot attack so.
        """
        attack, liars, stalling = self.adversaries, self.liars, self.stalling
        if stalling and (stalling.timing.limited or stalling.timing.stale):
            self.refuse("timing", "peers wait for whom they hear, however long that takes: take pace")
        lie = attack and attack.lie
        if not getattr(algorithm, "exchanges_models", False):
            for path in [path for path, said in {"defence": self.arm.keys.defence, "lie": lie}.items() if said]:
                where = (path,) if path == "defence" else ("adversaries", path)
                why = "only peers that send each other models alone can lie about them, or be defended: take gossip"
                raise ScenarioError(f"{self.arm.place(where)}: {'.'.join(where)}: {why}")
        defence = None if self.arm.keys.defence is None else self.defence
        if lie is None or liars is None:
            return defence, truth
        if not lie.alone:
            self.refuse("lie", "peers do not know what honest ones say in a round, which this lie needs")
        return defence, LyingPeers(liars, lie, self.arm.learning_seed)

    def refuse_all_but_timing(self) -> None:
        """ScenarioError if workers of a code are to do more than take their time; it has no versions to wait for."""
        attack, stalling = self.adversaries, self.stalling
        for key in [key for key in ("lie", "poison") if attack and getattr(attack, key) is not None]:
            self.refuse(key, "a code believes its workers; they can attack by their timing alone")
        if stalling and stalling.timing.stale:
            self.refuse("timing", "all workers of a code begin a round at once, so nobody is stale")
        if stalling and len(stalling.who) == self.given["clients"]:
            self.refuse("share", "somebody has to be honest, for others to wait for")

    def refuse(self, key: str, why: str) -> None:
        """ScenarioError."""
        raise ScenarioError(f"{self.arm.place(('adversaries', key))}: adversaries.{key}: {why}")
