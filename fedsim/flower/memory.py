"""What trainings leave with a device, kept where it outlives the device's processes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fedsim.flower.words import NONE_YET, Forgotten
from fedsim.state import restore, saved
from fedsim.work import STATELESS, ClientState


@dataclass
class Diary:
    """Of one client in one run: what its trainings have left, by their ordinals.

    Two are enough. Whoever answers writes first, so an answer that was lost on its way is one entry too many: the next
    order names the last training that was heard of, and what came after it is torn out.
    """

    path: Path
    entries: dict[int, ClientState] = field(default_factory=dict)

    def recall(self, after: int) -> ClientState:
        """What the n-th training has left. Forgotten if there is no such entry, or no whole one."""
        if after == NONE_YET:
            return STATELESS
        pages = _Pages()
        try:
            restore(pages, self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise Forgotten(f"{self.path.name}: {error}") from None
        if after not in pages.entries:
            raise Forgotten(f"{self.path.name} has no entry of training {after}")
        self.entries = {after: pages.entries[after]}
        return self.entries[after]

    def write(self, ordinal: int, left: ClientState) -> None:
        """Another entry, on the disk when this returns, and never half."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(saved(_Pages({**self.entries, ordinal: left})))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


@dataclass
class _Pages:
    entries: dict[int, ClientState] = field(default_factory=dict)
