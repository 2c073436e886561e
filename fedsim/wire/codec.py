"""What travels in place of a vector: a codec writes it as a message and reads it back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedsim.rng import key

Message = tuple[Tensor, ...]
"""What is really sent, in the types in which it is sent."""
Ratio = Annotated[float, Field(gt=0, le=1)]

FLOAT, INDEX = 4, 4
"""Bytes of a number, and of a place in a vector."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Where a message's randomness comes from: its address, never a turn. Both sides know it, so no seed travels."""

    seed: int
    version: int
    """The server version that the client started from."""
    client: int = 0
    ordinal: int = 0
    """The client's n-th training."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What a codec keeps at the client from one message to the next; it may write to it."""

    def shared(self, *name: object) -> Generator:
        """The same for all who start from one version."""
        return generator(self.seed, "wire", *name, self.version)

    def own(self, *name: object) -> Generator:
        """Another for every message."""
        return generator(self.seed, "wire", *name, self.client, self.ordinal)

    def fixed(self, *name: object) -> Generator:
        """Always the same."""
        return generator(self.seed, "wire", *name)


def generator(seed: int, *name: object) -> Generator:
    """Torch's random stream that belongs to a name."""
    return Generator().manual_seed(key(seed, *name) % 2**63)


def normal(like: Tensor, draw: Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape and type, where it is; drawn on the CPU, so the same everywhere."""
    return torch.randn(like.shape, generator=draw, dtype=like.dtype).to(like.device)


class Codec(ABC):
    """Vectors (d,) to messages and back.

    Of a `linear` codec messages can be added up: the sum's vector is the sum of the vectors.
    """

    linear: ClassVar[bool] = False
    feedback: bool = False
    """Whether the client adds to its next vector what this message has lost of the last (error feedback)."""

    @abstractmethod
    def nbytes(self, size: int) -> int:
        """Bytes of the message of a vector of `size` numbers, whatever they are."""

    def step_bytes(self, size: int) -> int:
        """Bytes that tell clients of a server step, where they need not be sent models."""
        return self.nbytes(size)

    @abstractmethod
    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """The message of a vector (d,)."""

    @abstractmethod
    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """The vector (size,) that the other side makes of it, in float32."""

    def moment(self, size: int) -> float | None:
        """E|decode(encode(x))|^2 / |x|^2 of an unbiased codec, or a bound of it; None: it is biased, or unknown.

        Of gradient descent with messages in place of gradients, steps up to 1 / moment times the usual ones are safe.
        """
        return None


def serialised(message: Message) -> bytes:
    """The bytes that travel: both sides know types and shapes."""
    return b"".join(part.contiguous().cpu().numpy().tobytes() for part in message)


class Plain(Codec):
    """Every number as float32."""

    linear: ClassVar[bool] = True

    def nbytes(self, size: int) -> int:
        """Four a number."""
        return FLOAT * size

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """As it is."""
        return (vector.float(),)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """As it was."""
        return message[0]

    def moment(self, size: int) -> float:
        """Nothing is lost."""
        return 1.0


class Verbatim(Plain):
    """Every number in the type that it has: where there is no wire to speak of."""

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Itself."""
        return (vector,)


def packed(numbers: Tensor, bits: int) -> Tensor:
    """Whole numbers in [0, 2 ** bits), bits <= 8, without gaps between them: uint8, the last byte filled up with zeros.

    >>> packed(torch.tensor([1, 0, 1]), bits=1), packed(torch.tensor([5, 2, 7]), bits=3)
    (tensor([160], dtype=torch.uint8), tensor([171, 128], dtype=torch.uint8))
    """
    ones = (numbers.to(torch.uint8).unsqueeze(1) >> descending(bits, numbers.device) & 1).flatten()
    ones = torch.nn.functional.pad(ones, (0, -len(ones) % 8)).view(-1, 8)
    return (ones << descending(8, numbers.device)).sum(1, dtype=torch.uint8)


def unpacked(content: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `packed`: uint8 (count,)."""
    ones = (content.unsqueeze(1) >> descending(8, content.device) & 1).flatten()[: count * bits]
    return (ones.view(count, bits) << descending(bits, content.device)).sum(1, dtype=torch.uint8)


def descending(bits: int, device: torch.device) -> Tensor:
    """Places of bits, the highest first: uint8."""
    return torch.arange(bits - 1, -1, -1, device=device).to(torch.uint8)


def packed_bytes(count: int, bits: int) -> int:
    """How long that is."""
    return -(-count * bits // 8)


def blocks(rows: int, columns: int, cells: int = 2**22) -> Iterable[tuple[int, int]]:
    """Rows of a matrix from where to where, as many at a time as have so many cells.

    >>> list(blocks(5, columns=4, cells=8))
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, cells // max(1, columns))
    return ((first, min(first + step, rows)) for first in range(0, rows, step))
