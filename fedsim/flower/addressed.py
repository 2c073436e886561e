"""The global random state that apps draw from, at an address for as long as they do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fedsim.rng import key


@contextmanager
def addressed(seed: int, *name: object) -> Iterator[None]:
    """Python's, numpy's and torch's (CPU) global generators begin here by this name, and are put back afterwards.

    So what an app draws in one call depends on neither turn nor company.

    >>> with addressed(1, "client", 3):
    ...     first = random.random(), np.random.rand()
    >>> with addressed(1, "client", 3):
    ...     first == (random.random(), np.random.rand())
    True
    """
    start = key(seed, "app", *name)
    legacy = np.random.RandomState(np.random.MT19937(start))  # what apps use is not ours to choose
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.setstate(random.Random(start).getstate())
    np.random.set_state(legacy.get_state())  # noqa: NPY002
    torch.set_rng_state(torch.Generator().manual_seed(start % 2**63).get_state())
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
