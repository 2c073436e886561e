"""Which of a block's numbers move, where some are frozen."""

from __future__ import annotations

from fedsim_kernels.language import constexpr, jit, tl

WARPS = 8
"""So that a thread has four numbers of a block of 1024, 16 bytes: the widest that memory is read in."""


@jit
def moving(frozen, size, step, BLOCK: constexpr):
    """A block's numbers (BLOCK / 4, 4), in fours; which of them are frozen; and those fours in which any is not.

    Fours are read and written whole, as memory is faster so than number by number: what is frozen is written as it was.
    """
    fours = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    numbers = fours[:, None] * 4 + tl.arange(0, 4)[None, :]
    stays = tl.load(frozen + numbers * step, mask=numbers < size, other=1).to(tl.int32)
    return numbers, stays != 0, (numbers < size) & (tl.min(stays, 1) == 0)[:, None]
