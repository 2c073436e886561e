"""Messages as secure aggregation needs them: whole numbers whose sum is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.units import Probability
from fedsim.wire.codec import Codec, Draw, Message
from fedsim.wire.fixed_point import FixedPoint


@dataclass(frozen=True)
class Secure:
    """The server learns the sum of a round's messages and no single one: Bonawitz et al. (CCS 2017).

    Numbers up to `bound` are rounded to `bits` bits. Up to so many clients may drop out that a `threshold` of those who
    have begun a round is left; with fewer the round comes to nothing.
    """

    bound: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    bits: Annotated[int, Field(ge=2, le=53)] = 16
    threshold: Annotated[Probability, Field(gt=0)] = 0.6


@dataclass(frozen=True)
class Masked(Codec):
    """Another linear codec's message in fixed point, as it lies under the masks; these cancel in the sum.

    What is read of one message is what the sum holds of it: the rounding of it.
    """

    inner: Codec
    rule: FixedPoint
    linear: ClassVar[bool] = True

    def nbytes(self, size: int) -> int:
        """Words in place of floats."""
        return self.rule.nbytes(self.inner.nbytes(size) // 4)

    def step_bytes(self, size: int) -> int:
        """The server's own steps are not masked."""
        return self.inner.step_bytes(size)

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Levels, modulo 2^32 or 2^64, as signed words."""
        [content] = self.inner.encode(vector, draw)
        levels = torch.from_numpy(self.rule.encode(content.cpu().numpy()).view("int64")).to(content.device)
        return (levels.int() if self.rule.word == 4 else levels,)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """The rounded message, read by the other codec."""
        content = torch.from_numpy(self.rule.decode(message[0].long().cpu().numpy().view("uint64"))).float()
        return self.inner.decode((content.to(message[0].device),), size, draw)

    def moment(self, size: int) -> float | None:
        """As without masks, but for rounding."""
        return self.inner.moment(size)
