"""Matrices as products of two thin ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.vector import Layout
from fedsim.wire.codec import FLOAT, Codec, Draw, Message

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PowerSGD(Codec):
    """Of every parameter that is a matrix (of convolutions: outputs x the rest) P Q^T of rank `rank`; others whole.

    Vogels, Karimireddy and Jaggi, PowerSGD (NeurIPS 2019): one step of power iteration from the Q of the client's last
    message, P made orthogonal, and error feedback. There P is averaged over workers before Q is made; here every
    client's message stands alone. `layout` is given by the run.
    """

    layout: Layout
    rank: Annotated[int, Field(ge=1)] = 2
    feedback: bool = True  # type: ignore[misc]

    def nbytes(self, size: int) -> int:
        """P and Q where that is less than the matrix."""
        return FLOAT * sum(self._numbers(shape) for _, _, shape in self._parts())

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """All P and Q, and what is whole, one after another."""
        found: list[Tensor] = []
        for number, (first, end, shape) in enumerate(self._parts()):
            part = vector[first:end].float()
            found += self._factors(part.view(shape), f"query {number}", draw) if self._thin(shape) else [part]
        return tuple(found)

    def _factors(self, matrix: Tensor, name: str, draw: Draw) -> tuple[Tensor, Tensor]:
        query = draw.memory.get(name)
        if query is None:
            query = torch.randn(matrix.shape[1], self.rank, generator=draw.fixed("PowerSGD", name)).to(matrix.device)
        p = torch.linalg.qr(matrix @ query).Q
        q = draw.memory[name] = matrix.T @ p
        return p, q

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """All P Q^T."""
        parts, found = iter(message), []
        for _, _, shape in self._parts():
            found.append((next(parts) @ next(parts).T).flatten() if self._thin(shape) else next(parts))
        return torch.cat(found)

    def _thin(self, shape: Shape) -> bool:
        return self.rank * sum(shape) < prod(shape) and self.rank <= min(shape)

    def _numbers(self, shape: Shape) -> int:
        return self.rank * sum(shape) if self._thin(shape) else prod(shape)

    def _parts(self) -> Iterator[tuple[int, int, Shape]]:
        """Where each parameter lies, and its shape as a matrix."""
        first = 0
        for shape in self.layout.shapes:
            size = prod(shape)
            yield first, first + size, (shape[0], size // shape[0]) if len(shape) > 1 else (1, size)
            first += size
