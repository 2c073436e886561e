"""What tests of gradient codes share: a game in which a pattern says who straggles, on gradients of random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from fedsim.coding import Code, Combination
from fedsim.rng import stream

SIZE = 7


def gradients(job: int, chunks: int) -> np.ndarray:
    """Of a job's chunks, float64 (chunks, SIZE)."""
    return stream(5, "gradients", job).standard_normal((chunks, SIZE))


def message(combination: Combination, of_chunks: np.ndarray) -> np.ndarray:
    """What a worker sends."""
    return np.array(combination.coefficients) @ of_chunks[list(combination.chunks)]


def decoded(code: Code, job: int) -> np.ndarray:
    """The gradient that the master gets, (SIZE,), from messages alone."""
    of_chunks = gradients(job, len(code.chunks))
    return sum(weight * message(combination, of_chunks) for combination, weight in code.decode(job).items())


def error(code: Code, job: int) -> float:
    """How far that is from the uncoded gradient."""
    whole = gradients(job, len(code.chunks)).sum(axis=0)
    return float(np.abs(decoded(code, job) - whole).max())


def play(code: Code, pattern: Sequence[np.ndarray], conforming: bool = True) -> dict[int, tuple[int, float]]:
    """Let the pattern happen, and whoever is missing in it; for each job the round it was decoded in, and the error.

    Who has nothing to do does not straggle, whatever the pattern says.
    """
    found = {}
    for round in range((code.jobs or 0) + code.delay):
        for worker, tasks in enumerate(code.assign(round)):
            if tasks and not (round < len(pattern) and pattern[round][worker]):
                code.arrived(worker, tasks)
        assert not conforming or code.conforms(), f"round {round}"
        for job in code.end():
            found[job] = (round, error(code, job))
            code.forget(job)
    return found


def subsets(workers: int, most: int) -> Iterator[np.ndarray]:
    """Everybody who may straggle together: bool (workers,)."""
    for count in range(most + 1):
        for late in combinations(range(workers), count):
            mask = np.zeros(workers, dtype=bool)
            mask[list(late)] = True
            yield mask
