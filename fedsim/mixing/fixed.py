"""Mixings that are the same in every round."""

from __future__ import annotations

import csv
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedsim.errors import ScenarioError
from fedsim.fleet.reading import find
from fedsim.mixing.mixing import Mixing, Row, alike

TOLERANCE = 1e-9
"""How far from 1 a sum of the user's weights may be."""


@dataclass(frozen=True, kw_only=True)
class Fixed(Mixing):
    """One matrix W, made once."""

    @abstractmethod
    def matrix_rows(self) -> Sequence[Row]:
        """The rows of W."""

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return self.matrix_rows()

    def rows(self, round: int) -> Sequence[Row]:
        """The rows of W, whatever the round."""
        return self._rows

    @property
    def doubly(self) -> bool:
        """Whether the columns of this W sum to 1, to within 1e-9."""
        columns = [0.0] * self.clients
        for row in self._rows:
            for peer, weight in row.items():
                columns[peer] += weight
        return all(abs(total - 1) <= TOLERANCE for total in columns)


@dataclass(frozen=True, kw_only=True)
class Metropolis(Fixed):
    """The Metropolis-Hastings weights of a graph: W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, where d are degrees.

    What is left of a row is the peer's own weight. W is symmetric, so it is doubly stochastic on every graph
    (Xiao, Boyd and Lall, IPSN 2005).
    """

    graph: Any = "network"
    """An `Overlay`; a scenario that names none means the network's own links."""

    def matrix_rows(self) -> Sequence[Row]:
        """A row for each node."""
        graph = self.graph.graph()
        degree = dict(graph.degree)
        rows = []
        for peer in range(self.clients):
            row = {other: 1 / (1 + max(degree[peer], degree[other])) for other in graph[peer]}
            row[peer] = 1 - math.fsum(row.values())
            rows.append(dict(sorted(row.items())))
        return rows


@dataclass(frozen=True, kw_only=True)
class Uniform(Fixed):
    """A peer and its neighbours count alike: W_ij = 1 / (1 + d_i). Doubly stochastic where all degrees are equal."""

    graph: Any = "network"
    """An `Overlay`; a scenario that names none means the network's own links."""

    def matrix_rows(self) -> Sequence[Row]:
        """A row for each node."""
        graph = self.graph.graph()
        return [alike(peer, graph[peer]) for peer in range(self.clients)]


@dataclass(frozen=True, kw_only=True)
class Nobody(Fixed):
    """Nobody hears anybody: local training only."""

    def matrix_rows(self) -> Sequence[Row]:
        """The identity."""
        return [{peer: 1.0} for peer in range(self.clients)]


@dataclass(frozen=True, kw_only=True)
class Average(Fixed):
    """Everybody hears everybody, and all count alike: W = 11'/m, an all-reduce in every round."""

    def matrix_rows(self) -> Sequence[Row]:
        """One row, which is everybody's."""
        return [alike(0, range(self.clients))] * self.clients


@dataclass(frozen=True, kw_only=True)
class Weights(Fixed):
    """The user's own matrix: one row for each peer, of weights that are not negative and sum to 1 (to within 1e-9).

    `folders` is given by the run: a relative path is also looked up there.
    """

    file: Path | None = None
    """CSV without a header: a line for each row."""
    matrix: Sequence[Sequence[float]] | None = None
    folders: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if (self.file is None) == (self.matrix is None):
            raise ValueError("needs either a file or a matrix")
        check(self._table, self.clients)

    @cached_property
    def _table(self) -> Sequence[Sequence[float]]:
        return self.matrix if self.matrix is not None else read(find(self.file or Path(), (Path(), *self.folders)))

    def matrix_rows(self) -> Sequence[Row]:
        """What is not 0, and each peer's own weight."""
        return [
            {other: weight for other, weight in enumerate(row) if weight or other == peer}
            for peer, row in enumerate(self._table)
        ]


def check(table: Sequence[Sequence[float]], clients: int) -> None:
    """ValueError, naming the row, unless it is `clients` rows of as many weights >= 0 that sum to 1."""
    if len(table) != clients:
        raise ValueError(f"has {len(table)} rows for {clients} clients: expected as many")
    for number, row in enumerate(table):
        if len(row) != clients:
            raise ValueError(f"row {number} has {len(row)} weights for {clients} clients: expected as many")
        for weight in row:
            if not 0 <= weight < math.inf:
                raise ValueError(f"row {number} has the weight {weight}: expected numbers of at least 0")
        if abs(math.fsum(row) - 1) > TOLERANCE:
            raise ValueError(f"row {number} sums to {math.fsum(row)!r}: expected 1")


def read(path: Path) -> list[list[float]]:
    """A CSV file of numbers. ScenarioError, naming the line, where something is no number."""
    table = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.reader(file), 1):
            try:
                table.append([float(cell) for cell in cells])
            except ValueError as error:
                raise ScenarioError(f"{path}, line {number}: {error}") from None
    return [row for row in table if row]
