"""Every number, in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal

import torch
from fedsim_kernels.dequantise import dequantise
from fedsim_kernels.language import launches
from fedsim_kernels.quantise import quantise
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from fedsim.wire.codec import FLOAT, Codec, Draw, Message, packed, packed_bytes, unpacked

Count = Annotated[int, Field(ge=1)]


class Float16(Codec):
    """Half precision; what lies beyond 65,504 is refused by the server as infinite."""

    feedback: bool = False

    def nbytes(self, size: int) -> int:
        """Two a number."""
        return 2 * size

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Rounded to the nearest."""
        return (vector.half(),)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """In float32."""
        return message[0].float()


@dataclass(frozen=True, kw_only=True)
class QSGD(Codec):
    """Numbers over their bucket's norm, rounded at random to one of `levels` steps: unbiased.

    Alistarh et al., QSGD (NeurIPS 2017), with numbers of a fixed width in place of Elias codes. A bucket is 2-norm and
    so many numbers.
    """

    levels: Annotated[int, Field(ge=1, le=127)] = 7
    bucket: Count = 512

    @property
    def bits(self) -> int:
        """Of a number, with its sign."""
        return (2 * self.levels).bit_length()

    def nbytes(self, size: int) -> int:
        """A norm a bucket, and the numbers."""
        return FLOAT * -(-size // self.bucket) + packed_bytes(size, self.bits)

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Norms, and packed steps."""
        uniform = torch.rand(-(-len(vector) // self.bucket), self.bucket, generator=draw.own("QSGD")).to(vector.device)
        if launches(vector):
            chances = uniform.view(1, -1)[:, : len(vector)]
            [norms], [steps] = quantise(vector[None], chances, self.levels, self.bucket)
            return norms, packed(steps, self.bits)
        rows = pad(vector.float(), (0, -len(vector) % self.bucket)).view(-1, self.bucket)
        norms = rows.norm(dim=1)
        exact = rows / norms.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1) * self.levels
        floor = exact.floor()
        steps = floor + (uniform < exact - floor)
        return norms, packed(steps.flatten()[: len(vector)] + self.levels, self.bits)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """Steps times norms."""
        norms, content = message
        steps = unpacked(content, self.bits, size)
        return dequantise(norms[None], steps[None], self.levels, self.bucket)[0]

    def moment(self, size: int) -> float:
        """Not above this."""
        bucket = min(size, self.bucket)
        return 1 + min(bucket / self.levels**2, sqrt(bucket) / self.levels)


@dataclass(frozen=True, kw_only=True)
class Sign(Codec):
    """Signs alone, a bit each, times their mean size, or `plain`; what is lost is added to the next message.

    signSGD (Bernstein et al., ICML 2018), whose error feedback is Karimireddy et al.'s (ICML 2019).
    """

    scale: Literal["mean", "plain"] = "mean"
    feedback: bool = True  # type: ignore[misc]

    def nbytes(self, size: int) -> int:
        """A bit a number, and perhaps the mean."""
        return packed_bytes(size, 1) + (FLOAT if self.scale == "mean" else 0)

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Packed signs (zero counts as positive), and perhaps the mean."""
        content = packed(vector >= 0, 1)
        return (content, vector.abs().mean().float()) if self.scale == "mean" else (content,)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """Plus or minus the mean, or 1."""
        sign = unpacked(message[0], 1, size).float().mul_(2).sub_(1)
        return sign * message[1] if self.scale == "mean" else sign
