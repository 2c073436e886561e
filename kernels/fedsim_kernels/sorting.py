"""Sorted in registers."""

from __future__ import annotations

from typing import Any

from fedsim_kernels.language import constexpr, jit, tl


@jit
def ascending(values, ROWS: constexpr, POWER: constexpr) -> Any:
    """Each row of a tile (ROWS, 2 ** POWER): Batcher's bitonic network (1968).

    As `tl.sort`, but that takes Triton's interpreter many times as long.
    """
    for power in tl.static_range(1, POWER + 1):
        for step in tl.static_range(power - 1, -1, -1):
            pairs = tl.reshape(values, (ROWS << (POWER - step - 1), 2, 1 << step))
            falls = (tl.arange(0, ROWS << (POWER - step - 1)) >> (power - step - 1)) & (1 if power < POWER else 0)
            least = tl.arange(0, 2)[None, :, None] == falls[:, None, None]
            pairs = tl.where(least, tl.min(pairs, 1)[:, None, :], tl.max(pairs, 1)[:, None, :])
            values = tl.reshape(pairs, (ROWS, 1 << POWER))
    return values
