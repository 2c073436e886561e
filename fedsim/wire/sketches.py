"""Sketches: linear maps R to fewer numbers, with E[R^T R] = I, drawn anew for every server version.

Song, Wang, Yu and Zhang, Sketching for First Order Method (ICML 2023): clients send R x, and R^T y is read from what
comes. All who start from one version share R, so that sketches can be added up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log1p, sqrt
from typing import ClassVar

import torch
from fedsim_kernels.count_table import count_table
from fedsim_kernels.language import launches
from fedsim_kernels.srht import srht
from fedsim_kernels.srht_lift import srht_lift
from torch import Generator, Tensor
from torch.nn.functional import pad

from fedsim.wire.codec import FLOAT, Codec, Draw, Message, Ratio, blocks
from fedsim.wire.hadamard import padded, transformed


@dataclass(frozen=True, kw_only=True)
class Sketch(Codec, ABC):
    """b = `ratio` d numbers, at least one, for d. With `fresh: false` R is always the same, which does not converge."""

    linear: ClassVar[bool] = True
    ratio: Ratio
    fresh: bool = True

    @abstractmethod
    def sketch(self, vector: Tensor, rows: int, draw: Generator) -> Tensor:
        """R x (b,) for x (d,)."""

    @abstractmethod
    def lift(self, content: Tensor, size: int, draw: Generator) -> Tensor:
        """R^T y (d,) for y (b,)."""

    def rows(self, size: int) -> int:
        """B."""
        return max(1, round(self.ratio * size))

    def randomness(self, draw: Draw) -> Generator:
        """What R is drawn from."""
        name = type(self).__name__
        return draw.shared(name) if self.fresh else draw.fixed(name)

    def nbytes(self, size: int) -> int:
        """Of b numbers in float32."""
        return FLOAT * self.rows(size)

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """R x."""
        return (self.sketch(vector.float(), self.rows(len(vector)), self.randomness(draw)),)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """R^T y."""
        return self.lift(message[0], size, self.randomness(draw))

    def moment(self, size: int) -> float:
        """E|R^T R x|^2 / |x|^2."""
        return 1 + (size - 1) / self.rows(size)


class Gaussian(Sketch):
    """Entries N(0, 1/b). In O(b d), and some rows at a time, so that R never lies in memory."""

    def sketch(self, vector: Tensor, rows: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        parts = [
            self.entries(end - first, len(vector), draw).to(vector) @ vector for first, end in blocks(rows, len(vector))
        ]
        return torch.cat(parts) / sqrt(rows)

    def lift(self, content: Tensor, size: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        total = content.new_zeros(size)
        for first, end in blocks(len(content), size):
            total += content[first:end] @ self.entries(end - first, size, draw).to(content)
        return total / sqrt(len(content))

    def entries(self, rows: int, size: int, draw: Generator) -> Tensor:
        """The next rows (rows, size), of variance 1."""
        return torch.randn(rows, size, generator=draw)

    def moment(self, size: int) -> float:
        """E|R^T R x|^2 / |x|^2."""
        return (size + self.rows(size) + 1) / self.rows(size)


class Rademacher(Gaussian):
    """Entries plus or minus 1/sqrt(b): the AMS sketch of Alon, Matias and Szegedy (1996)."""

    def entries(self, rows: int, size: int, draw: Generator) -> Tensor:
        """The next rows (rows, size), of variance 1."""
        return signs(rows * size, draw).view(rows, size)

    def moment(self, size: int) -> float:
        """E|R^T R x|^2 / |x|^2."""
        return Sketch.moment(self, size)


class CountSketch(Sketch):
    """Every number is added, with a random sign, to one random place: Charikar, Chen and Farach-Colton (2002). O(d)."""

    def sketch(self, vector: Tensor, rows: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        place, sign = (part.to(vector.device) for part in hashes(len(vector), rows, draw))
        if launches(vector):
            return count_table(vector[None], place[None], sign[None], rows)[0, 0]
        return vector.new_zeros(rows).index_add_(0, place, sign * vector)

    def lift(self, content: Tensor, size: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        place, sign = (part.to(content.device) for part in hashes(size, len(content), draw))
        return sign * content[place]


@dataclass(frozen=True, kw_only=True)
class SRHT(Sketch):
    """Subsampled randomised Hadamard transform, sqrt(1/b) S H D: O(d log d), and R^T R = I exactly with `ratio` 1.

    D are random signs, H a Hadamard matrix of the least order above d, `ratio` the part of its rows that S takes, with
    or without replacement. Ailon and Chazelle (2006); Tropp (2011).
    """

    replacement: bool = False

    def rows(self, size: int) -> int:
        """B, of the padded d."""
        return max(1, round(self.ratio * padded(size)))

    def sketch(self, vector: Tensor, rows: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        full = padded(len(vector))
        sign, taken = (part.to(vector.device) for part in self._drawn(full, rows, draw))
        if launches(vector):
            return srht(vector[None], sign, taken)[0]
        return transformed(sign * pad(vector, (0, full - len(vector))))[taken] / sqrt(rows)

    def lift(self, content: Tensor, size: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        full, rows = padded(size), len(content)
        sign, taken = (part.to(content.device) for part in self._drawn(full, rows, draw))
        if launches(content):
            return srht_lift(content[None], sign, taken, size)[0]
        return (sign * transformed(content.new_zeros(full).index_add_(0, taken, content)))[:size] / sqrt(rows)

    def _drawn(self, full: int, rows: int, draw: Generator) -> tuple[Tensor, Tensor]:
        """D (full,), and the rows that S takes (rows,)."""
        return signs(full, draw), self._taken(full, rows, draw)

    def _taken(self, full: int, rows: int, draw: Generator) -> Tensor:
        return torch.randint(full, (rows,), generator=draw) if self.replacement else some(full, rows, draw)

    def moment(self, size: int) -> float:
        """E|R^T R x|^2 / |x|^2: d/b without replacement where nothing is padded."""
        full, rows = padded(size), self.rows(size)
        if self.replacement or full == 1:
            return 1 + (size - 1) / rows
        return 1 + (size - 1) * (full / rows - 1) / (full - 1)


class RandK(Sketch):
    """So many random coordinates, scaled up: what every sketch has to be compared with."""

    def sketch(self, vector: Tensor, rows: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        return vector[some(len(vector), rows, draw).to(vector.device)] * sqrt(len(vector) / rows)

    def lift(self, content: Tensor, size: int, draw: Generator) -> Tensor:
        """See `Sketch`."""
        taken = some(size, len(content), draw).to(content.device)
        return content.new_zeros(size).index_copy_(0, taken, content * sqrt(size / len(content)))

    def moment(self, size: int) -> float:
        """E|R^T R x|^2 / |x|^2."""
        return size / self.rows(size)


EIGHT_SIGNS = (torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1).float() * 2 - 1
"""Of the bits of every byte."""


def signs(count: int, draw: Generator) -> Tensor:
    """1 or -1, float32 (count,): 64 of one random number, which is four times as fast as one of each."""
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // 64),), generator=draw)
    return EIGHT_SIGNS.index_select(0, words.view(torch.uint8).int()).flatten()[:count]


def hashes(size: int, rows: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """For each of `size` numbers a place among `rows`, and a sign."""
    return torch.randint(rows, (size,), generator=draw), signs(size, draw)


SMALL = 10_000


def some(size: int, count: int, draw: Generator) -> Tensor:
    """So many of `size` places, without replacement, in ascending order.

    Of many places, a few more than that are drawn with replacement, and of the distinct ones some are left out: that
    takes a third of the time of a permutation where a tenth is wanted.
    """
    if 2 * count > size >= SMALL:
        return _without(torch.arange(size), size - count, draw)
    if size < SMALL:
        return torch.randperm(size, generator=draw)[:count].sort().values
    tries = int(-size * log1p(-count / size) + 10 * sqrt(count)) + 10
    distinct = torch.randint(size, (tries,), generator=draw).unique()
    if len(distinct) < count:  # ten standard deviations below what is to be expected
        return torch.randperm(size, generator=draw)[:count].sort().values
    return _without(distinct, len(distinct) - count, draw)


def _without(places: Tensor, count: int, draw: Generator) -> Tensor:
    """All but so many of these, drawn without replacement."""
    keep = torch.ones(len(places), dtype=torch.bool)
    keep[some(len(places), count, draw)] = False
    return places[keep]
