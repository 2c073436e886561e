"""What probes have seen inside local trainings, gathered as updates are heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedsim.units import SECOND

if TYPE_CHECKING:
    from fedsim.work import Deferred


@dataclass
class Probed:
    """Tables of the trainings whose updates were heard, in this order, whoever has computed them and when.

    Numbers are not asked for before the server steps, so that clients can still train together. What is heard in vain
    is computed too, as it has been looked at.
    """

    tables: list[dict[str, Any]] = field(default_factory=list)
    """`time_s` of arrival, client, the version that it has started from, the number of its training (`ordinal`); then
    `step`, so many taken, and what the probe saw."""
    heard: list[tuple[int, Deferred]] = field(default_factory=list)
    """When, and what, since the tables were written."""

    def hear(self, now: int, pending: Deferred) -> None:
        """An update has come."""
        self.heard.append((now, pending))

    def settle(self) -> None:
        """Write the tables of all that was heard. May train."""
        for now, pending in self.heard:
            seen, task = pending.result().probed, pending.task
            if seen is not None:
                facts = {
                    "time_s": now / SECOND,
                    "client": task.client,
                    "version": task.version,
                    "ordinal": task.ordinal,
                }
                self.tables.append({**facts, **seen})
        self.heard.clear()
