"""Rotate at random, so that numbers are alike and nearly normal; then a few bits are enough for each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from math import exp, inf, pi, sqrt
from statistics import NormalDist
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import pad

from fedsim.wire.codec import FLOAT, Codec, Draw, Message, packed, packed_bytes, unpacked
from fedsim.wire.hadamard import padded, transformed
from fedsim.wire.sketches import signs

NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class EDEN(Codec):
    """A random rotation, `bits` a number by the best quantiser of normal ones, and a scale that makes it unbiased.

    Vargaftik et al., EDEN (ICML 2022); with one bit it is DRIVE (NeurIPS 2021). The rotation is a randomised Hadamard
    transform of the padded vector, another for every message.
    """

    bits: Annotated[int, Field(ge=1, le=4)] = 1

    def nbytes(self, size: int) -> int:
        """The bits of the padded vector, and the scale."""
        return packed_bytes(padded(size), self.bits) + FLOAT

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Packed levels, and |x|^2 / <R x, levels>."""
        full = padded(len(vector))
        sign = signs(full, self._randomness(draw)).to(vector.device)
        turned = transformed(sign * pad(vector.float(), (0, full - len(vector)))) / sqrt(full)
        norm = vector.double().norm()
        unit = turned * (sqrt(full) / norm.clamp_min(1e-300)).float()
        levels = torch.tensor(centroids(self.bits), device=vector.device)
        chosen = torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2)
        scale = norm.square() / (turned.double() @ levels.double()[chosen]) if norm > 0 else norm
        return packed(chosen, self.bits), scale.float()

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """Turned back."""
        content, scale = message
        full = padded(size)
        levels = torch.tensor(centroids(self.bits), device=scale.device)[unpacked(content, self.bits, full).int()]
        sign = signs(full, self._randomness(draw)).to(scale.device)
        return (sign * transformed(levels))[:size] * (scale / sqrt(full))

    def _randomness(self, draw: Draw) -> Generator:
        return draw.own("EDEN")


@cache
def centroids(bits: int) -> list[float]:
    """The 2 ** bits levels by which a standard normal number is quantised best: Lloyd (1957), Max (1960).

    >>> [round(level, 4) for level in centroids(2)]
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    count = 2**bits
    levels = [NORMAL.inv_cdf((place + 0.5) / count) for place in range(count)]
    for _ in range(2_000):
        borders = [-inf, *((low + high) / 2 for low, high in itertools.pairwise(levels)), inf]
        better = [_mean(low, high) for low, high in itertools.pairwise(borders)]
        moved = max(abs(old - new) for old, new in zip(levels, better, strict=True))
        levels = better
        if moved < 1e-12:
            break
    return levels


def _mean(low: float, high: float) -> float:
    """Of a standard normal number between two borders."""
    density = [0.0 if border in (-inf, inf) else exp(-border * border / 2) / sqrt(2 * pi) for border in (low, high)]
    return (density[0] - density[1]) / (NORMAL.cdf(high) - NORMAL.cdf(low))
