"""What clients have to do and to carry, as counts and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fedsim.downlink import CatchUp


@dataclass(frozen=True)
class Workload:
    """The counts and sizes that a client's round is priced from."""

    steps: Mapping[int, int] | Sequence[int]
    """Local steps of each client, by its number; at first, where they become fewer."""
    seen: Mapping[int, int] | Sequence[int]
    """Examples that each client's local training looks at; at first."""
    held: Mapping[int, int] | Sequence[int]
    """Training examples that each client holds."""
    flops: float
    """Floating-point operations to train on one example."""
    down: int
    """Bytes from server to client: a model, and what else is sent along."""
    up: int
    """Bytes from client to server, whatever it has done."""
    up_step: int = 0
    """Bytes from client to server for each of its local steps."""
    step: int | None = None
    """Bytes that tell a client of one server step, where it need not be sent whole models."""
    catch_up: CatchUp = "cheapest"
    share: Callable[[int], Fraction] | None = None
    """Of both, for those who start from a server version; None: the whole."""

    def steps_at(self, client: int, version: int) -> int:
        """Local steps of a client that starts from this version."""
        return self.steps[client] if self.share is None else int(self.steps[client] * self.share(version))

    def up_at(self, client: int, version: int) -> int:
        """Bytes that it then sends."""
        return self.up + self.up_step * self.steps_at(client, version)

    def seen_at(self, client: int, version: int) -> int:
        """Examples that it then looks at."""
        return self.seen[client] if self.share is None else round(self.seen[client] * self.share(version))
