"""Messages that arrive with other numbers than were sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, Literal

from fedsim.faults.fault import Draw, OfClients
from fedsim.units import Probability

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.work import Update


@dataclass(frozen=True, kw_only=True)
class Corrupt(OfClients):
    """A client's answers from a version are spoiled by `chance`, after whatever codec they have travelled in.

    One number is not a number (`nan`), one bit of one number is another (`bit`), or the last number is missing
    (`shape`). What is not finite or misshapen the server refuses when it needs it; a bit may well go unnoticed. Where
    nothing is trained there are no numbers, so that nothing is refused either.
    """

    chance: Probability
    how: Literal["nan", "bit", "shape"] = "nan"

    def corrupted(self, update: Update, draw: Draw) -> Update:
        """See `Fault`. Reading its numbers may train."""
        address = update.client, update.version
        if not self.concerns(update.client) or draw(*address) >= self.chance or not update.delta.numel():
            return update
        delta = update.delta[:-1] if self.how == "shape" else self._elsewhere(
            update.delta, draw(*address, "place"), draw(*address, "bit"))  # fmt: skip
        return replace(update, numbers=replace(update.numbers.result(), delta=delta))

    def _elsewhere(self, delta: Tensor, place: float, bit: float) -> Tensor:
        """Another vector, which differs in one number."""
        numbers = delta.detach().cpu().numpy().copy()
        at = int(place * numbers.size)
        if self.how == "nan":
            numbers.flat[at] = nan
        else:
            words = numbers.reshape(-1).view(f"u{numbers.itemsize}")
            words[at] ^= words.dtype.type(1 << int(bit * 8 * numbers.itemsize))
        return delta.new_tensor(numbers)
