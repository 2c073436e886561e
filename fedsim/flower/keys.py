"""The keys of a fleet file: what a Flower app's time and traffic are foreseen from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import Annotated, Any

from flwr.app import RecordDict
from pydantic import Field

from fedsim import keys
from fedsim.errors import RunFailed
from fedsim.fleet.devices import TRAINING_PER_INFERENCE
from fedsim.flower.internals import HEARTBEAT
from fedsim.keys import Count
from fedsim.network import Conditions
from fedsim.units import SECOND, Duration


@dataclass(frozen=True)
class App:
    """How the work of an app's clients is priced, and what else would be the affair of its SuperLink.

    A reply to `train` costs its node `passes` over so many examples as it says in one of its metrics; a reply to
    `evaluate` one pass at a third of the price, as an inference is to a training; a reply to `query` nothing. A client
    takes what it sleeps (`time.sleep`) in addition.
    """

    flops: Annotated[float, Field(gt=0)] | None = None
    """To train on one example once; devices whose time for an example was measured do not ask."""
    passes: Count | str = 1
    """How often a training looks at each example: a number, or which key of the app's run config says so."""
    examples: str = "num-examples"
    """The metric of a reply that says how many examples its node has used."""
    heartbeat: Duration = HEARTBEAT * SECOND
    """After so long a SuperLink notices that a node is gone, or a node that its ClientApp has died; Flower's."""
    limit: Annotated[Duration, Field(gt=0)] = 30 * 86_400 * SECOND
    """An app that is not over by then has failed."""

    def seen(self, kind: str, content: RecordDict, run_config: Mapping[str, Any]) -> int:
        """Examples that a reply to a message of this kind has cost, each counted as one that was trained on once.

        RunFailed if it does not say.
        """
        if kind not in ("train", "evaluate"):
            return 0
        told = self.told(content)
        if told is None:
            raise RunFailed(f"a reply to {kind} says nothing of {self.examples!r} in its metrics, so nobody knows how "
                            "long it takes: let it say so, or name its metric in app.examples")  # fmt: skip
        if kind == "evaluate":
            return ceil(told / TRAINING_PER_INFERENCE)
        passes = run_config[self.passes] if isinstance(self.passes, str) else self.passes
        return ceil(told * passes)

    def told(self, content: RecordDict) -> float | None:
        """How many examples a reply says that it has used."""
        found = (record[self.examples] for record in content.metric_records.values() if self.examples in record)
        return next((number for number in found if isinstance(number, int | float) and 0 <= number < inf), None)


@dataclass(frozen=True)
class FleetFile:
    """What a Flower app is to run on."""

    fleet: keys.Fleet
    app: App = App()
    seed: int = 0
    network: Any = "star"
    links: Conditions | None = None
    """None: links are always up, and always the same."""
    folder: str | None = None
    """Where recorded devices and networks are, besides the folders that are always searched."""
