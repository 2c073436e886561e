"""Random words that have an address: Philox, the same in torch as in Triton, to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim_kernels.language import jit, tl

FACTORS = (0xD2511F53, 0xCD9E8D57)
RAISES = (0x9E3779B9, 0xBB67AE85)
LOW = 2**32 - 1


def words(seed: int, counters: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words for each address, int64 within [0, 2^32): Philox-4x32-10.

    Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011). Equals Triton's `tl.philox`.

    Args:
        seed: the key, within [0, 2^63).
        counters: int64, of which the low 32 bits count; shapes that broadcast.

    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [hex(word) for word in map(int, words(0, (zero, zero, zero, zero)))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = (counter & LOW for counter in torch.broadcast_tensors(*counters))
    low, high = seed & LOW, seed >> 32
    for _ in range(10):
        first, second = FACTORS[0] * c0, FACTORS[1] * c2  # int64 wraps, but all 64 bits are right
        c0, c1 = ((second >> 32) & LOW) ^ c1 ^ low, second & LOW
        c2, c3 = ((first >> 32) & LOW) ^ c3 ^ high, first & LOW
        low, high = (low + RAISES[0]) & LOW, (high + RAISES[1]) & LOW
    return c0, c1, c2, c3


@jit
def spread(first, second, third, fourth):
    """Four values of each of n addresses, in turn: 4 n of them."""
    return tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))


@jit
def low_word(number):
    """Of an int64."""
    return (number & 0xFFFFFFFF).to(tl.uint32)
