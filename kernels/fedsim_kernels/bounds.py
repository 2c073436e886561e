"""Bounds that let NaN through, as torch's do; Triton's own do not on a GPU, but do when interpreted."""

from __future__ import annotations

from fedsim_kernels.language import jit, tl


@jit
def clamped(number, low, high):
    """Within [low, high]."""
    return at_least(tl.minimum(number, high, propagate_nan=tl.PropagateNan.ALL), low)


@jit
def at_least(number, low):
    """The greater of both."""
    return tl.maximum(number, low, propagate_nan=tl.PropagateNan.ALL)
