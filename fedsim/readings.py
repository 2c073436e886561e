"""What virtual time has learnt from numbers, so that it can be repeated without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar


class Readings:
    """Wherever the timeline depends on numbers it reads them here: they are noted, and given back if time is repeated.

    >>> first, again = Readings(), Readings()
    >>> [first.read(lambda: value) for value in (None, 2.5)]
    [None, 2.5]
    >>> again.replay(first.count, first.noted)
    >>> [again.read(lambda: 0.0) for _ in range(3)]
    [None, 2.5, 0.0]
    """

    changing: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.count = 0
        self.noted: dict[int, Any] = {}
        """Words and numbers by their place; what is not there was None, as most refusals are."""
        self.known = 0
        """How many are given back."""

    def replay(self, count: int, noted: Mapping[int, Any]) -> None:
        """Give back what was noted when so many were read."""
        self.known, self.noted = count, dict(noted)

    def read(self, number: Callable[[], Any]) -> Any:
        """What this says, now or when time passed for the first time."""
        place, self.count = self.count, self.count + 1
        if place < self.known:
            return self.noted.get(place)
        fact = number()
        if fact is not None:
            self.noted[place] = fact
        return fact
