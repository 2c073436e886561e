"""Matrices of gradient codes: row i says with which coefficients worker i adds up which chunks' gradients."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedsim.rng import stream

Kind = Literal["cyclic", "repetition"]


def coefficients(kind: Kind, workers: int, stragglers: int, seed: int) -> np.ndarray:
    """Of a code that survives any so many stragglers, with as many chunks as workers: float64 (workers, chunks).

    Tandon, Lei, Dimakis and Karampatziakis, Gradient Coding (ICML 2017). Every row has `stragglers` + 1 entries that
    are not zero.

    Raises:
        ValueError: fewer workers than that, or a repetition code whose groups do not divide them.
    """
    if not 0 <= stragglers < workers:
        raise ValueError(f"a code of {workers} workers survives 0 to {workers - 1} stragglers, not {stragglers}")
    if kind == "cyclic":
        return cyclic(workers, stragglers, seed)
    if workers % (stragglers + 1):
        raise ValueError(f"a repetition code needs stragglers + 1 = {stragglers + 1} to divide the {workers} workers")
    return np.kron(np.eye(workers // (stragglers + 1)), np.ones((stragglers + 1, stragglers + 1)))


def cyclic(workers: int, stragglers: int, seed: int) -> np.ndarray:
    """Worker i adds up chunks i, i + 1, ..., i + s modulo n; Tandon et al., Algorithm 2.

    A random H (s, n), whose rows sum to 0, has a null space of dimension n - s that holds the all-ones vector. Rows
    with a cyclic support that lie in it span it whenever n - s of them are left. Where n = s + 1 it is that vector.

    >>> cyclic(3, 1, seed=0) @ [1, 1, 1] != 0
    array([ True,  True,  True])
    """
    if stragglers == 0:
        return np.eye(workers)
    matrix = np.zeros((workers, workers))
    null = stream(seed, "gradient code", workers, stragglers).standard_normal((stragglers, workers))
    null[:, -1] = -null[:, :-1].sum(axis=1)
    for worker in range(workers):
        others = (worker + 1 + np.arange(stragglers)) % workers
        matrix[worker, worker] = 1.0
        matrix[worker, others] = np.linalg.solve(null[:, others], -null[:, worker])
    return matrix


def bernoulli(workers: int, mean: int, seed: int) -> np.ndarray:
    """Every chunk lies with every worker by chance, with `mean` on average: float64 (workers, workers) of 0 and 1.

    Bernoulli gradient code: Charles, Papailiopoulos and Ellenberg, Approximate Gradient Coding via Sparse Random Graphs
    (2017). A chunk that would lie with nobody is given to the worker of its number.
    """
    drawn = stream(seed, "bernoulli code", workers, mean).random((workers, workers)) < mean / workers
    return (drawn | np.diag(~drawn.any(axis=0))).astype(float)


def decoding(matrix: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """The combination of the rows that were heard that comes nearest to the all-ones vector: float64 (heard,).

    Least squares of the smallest norm, in float64.
    """
    return np.linalg.lstsq(matrix[heard].T, np.ones(matrix.shape[1]), rcond=None)[0]
