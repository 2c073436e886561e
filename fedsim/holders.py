"""Who holds numbers while virtual time passes: what generators may have in their local variables."""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Holders:
    """Promises, models that were given out, letters: each by the number of its making, as long as anybody needs it.

    A timeline that is repeated makes the same ones in the same order; so the numbers that they hold can be put back.
    """

    def __init__(self) -> None:
        self.count = 0
        self.members: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def add(self, holder: T) -> T:
        """One more; itself."""
        self.members[self.count] = holder
        self.count += 1
        return holder
