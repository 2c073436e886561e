"""Vectors as whole numbers, whose sums are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.wire.agreement import modulo


@dataclass(frozen=True)
class FixedPoint:
    """Vectors as integers modulo 2^32, or 2^64 where 2^32 does not fit, so that sums of them are exact.

    Numbers up to `bound` in size are rounded to 2^`bits` - 1 even levels; up to `summands` vectors may be added.

    Raises:
        ValueError: not 2 to 53 bits, no finite positive bound, or a sum that does not fit 2^64.
    """

    bits: int
    bound: float
    summands: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 53:
            raise ValueError(f"a fixed-point number has 2 to 53 bits, not {self.bits}")
        if not 0 < self.bound < np.inf:
            raise ValueError(f"the bound is positive and finite, not {self.bound}")
        if self.summands < 1 or self.summands * self.levels >= 2**63:
            raise ValueError(f"{self.summands} summands of {self.bits} bits do not fit 2^64")

    @property
    def levels(self) -> int:
        """Above 0, and as many below."""
        return 2 ** (self.bits - 1) - 1

    @property
    def word(self) -> int:
        """Bytes of a number: 4 or 8."""
        return 4 if self.summands * self.levels < 2**31 else 8

    @property
    def step(self) -> float:
        """Between two levels."""
        return self.bound / self.levels

    @property
    def error(self) -> float:
        """The most by which a decoded sum of entries within the bound is off: half steps, and what float64 adds."""
        return self.summands * self.step * (0.5 + 2.0 ** (self.bits - 52))

    def nbytes(self, size: int) -> int:
        """Of a masked vector with so many entries."""
        return size * self.word

    def encode(self, vector: np.ndarray) -> np.ndarray:
        """float (d,) -> uint64 (d,), modulo 2^32 or 2^64; what exceeds the bound is clipped.

        Raises:
            ValueError: an entry is not a number.
        """
        if np.isnan(vector).any():
            raise ValueError("an entry of the vector is not a number")
        levels = np.rint(np.asarray(vector, np.float64) / self.step).clip(-self.levels, self.levels)
        return modulo(levels.astype(np.int64).view(np.uint64), self.word)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """The sum of up to `summands` encoded vectors: uint64 (d,), modulo 2^32 or 2^64 or not yet -> float64 (d,)."""
        return total.astype(f"u{self.word}").view(f"i{self.word}") * self.step
