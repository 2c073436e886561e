"""Tiles of matrices in memory, for products of two; what lies beyond a matrix's ends is 0, and adds nothing."""

from __future__ import annotations

from fedsim_kernels.language import jit, tl


@jit
def tile(matrix, rows, columns, height, width, row, step):
    """Numbers (rows, columns) of a matrix (height, width), whose rows and columns are so far apart."""
    return tl.load(matrix + rows[:, None] * row + columns[None, :] * step,
                   mask=(rows < height)[:, None] & (columns < width)[None, :], other=0.0)  # fmt: skip


@jit
def put(matrix, numbers, rows, columns, height, width, row, step):
    """Stores them."""
    tl.store(matrix + rows[:, None] * row + columns[None, :] * step, numbers,
             mask=(rows < height)[:, None] & (columns < width)[None, :])  # fmt: skip
