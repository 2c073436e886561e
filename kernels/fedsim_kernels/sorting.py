"""Sorted in registers."""

from __future__ import annotations

from typing import Any

from fedsim_kernels.language import constexpr, jit, tl


@jit
def ascending(values, COLUMNS: constexpr, POWER: constexpr) -> Any:
    """Each column of a tile (2 ** POWER, COLUMNS): Batcher's bitonic network (1968).

    If a column lies in one thread's registers, these are minima and maxima alone. As `tl.sort`, but that takes Triton's
    interpreter many times as long.
    """
    for power in tl.static_range(1, POWER + 1):
        for step in tl.static_range(power - 1, -1, -1):
            pairs = tl.reshape(values, (1 << (POWER - step - 1), 2, COLUMNS << step))
            falls = (tl.arange(0, 1 << (POWER - step - 1)) >> (power - step - 1)) & (1 if power < POWER else 0)
            least = tl.arange(0, 2)[None, :, None] == falls[:, None, None]
            pairs = tl.where(least, tl.min(pairs, 1)[:, None, :], tl.max(pairs, 1)[:, None, :])
            values = tl.reshape(pairs, (1 << POWER, COLUMNS))
    return values
