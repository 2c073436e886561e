"""Products with Hadamard matrices in O(d log d), without the matrix."""

from __future__ import annotations

from functools import cache

import torch
from fedsim_kernels.hadamard import hadamard
from fedsim_kernels.language import launches
from torch import Tensor

RADIX = 6
"""Powers of two taken at once, as one matrix product. Of 3 to 8, 6 was the fastest for 2 ** 20 and 2 ** 24 numbers: the
latter take as long as four copies of them, where additions and subtractions two by two take 25.
"""


def padded(size: int) -> int:
    """The least power of two that is not below.

    >>> padded(1), padded(5), padded(64)
    (1, 8, 64)
    """
    return 1 << max(0, size - 1).bit_length()


@cache
def matrix(power: int) -> Tensor:
    """Sylvester's, of order 2 ** power, with entries 1 and -1.

    >>> matrix(1)
    tensor([[ 1.,  1.],
            [ 1., -1.]])
    """
    if power == 0:
        return torch.ones(1, 1)
    half = matrix(power - 1)
    return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)])


def transformed(vector: Tensor) -> Tensor:
    """H x for a vector (d,), d a power of two; H is not normalised, so that H H x = d x."""
    if launches(vector):
        return hadamard(vector[None])[0]
    left, stride = len(vector).bit_length() - 1, 1
    while left:
        power = min(RADIX, left)
        factor = matrix(power).to(vector)
        if stride == 1:
            vector = (vector.view(-1, 2**power) @ factor).flatten()
        else:
            vector = torch.matmul(factor, vector.view(-1, 2**power, stride)).flatten()
        left, stride = left - power, stride << power
    return vector
