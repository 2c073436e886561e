"""Tables and traces on disk: found in the data folders; a bad cell is named by file, line and column."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedsim.errors import DataMissing, ScenarioError

T = TypeVar("T")


def find(path: Path, folders: Sequence[Path], origin: str = "") -> Path:
    """The first file of that name below one of the folders; DataMissing (with its `origin`) where there is none."""
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    searched = ", ".join(map(str, folders)) or "none is known"
    raise DataMissing(f"{path} is in no data folder (searched: {searched})" + (f"; {origin}" if origin else ""))


def above_zero(text: str) -> float:
    """A finite number above zero.

    >>> above_zero("-1")
    Traceback (most recent call last):
    ValueError: expected a number above zero, not '-1'
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"expected a number above zero, not {text!r}")
    return value


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a CSV file, which knows where it stands."""

    path: Path
    line: int
    cells: dict[str, str]

    def wrong(self, column: str, why: object) -> ScenarioError:
        """What to raise about a cell."""
        return ScenarioError(f"{self.path}, line {self.line}, column {column}: {why}")

    def read(self, column: str, parse: Callable[[str], T]) -> T:
        """The cell's value; `parse` refuses a text by ValueError."""
        try:
            return parse(self.cells[column])
        except ValueError as error:
            raise self.wrong(column, error) from None


def rows(path: Path, needed: Sequence[str] = ()) -> list[Row]:
    """All lines of a CSV file below its header, at least one; every needed column is there. ScenarioError otherwise."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            _check_header(path, header, needed)
            table = [_row(path, lines.line_num, header, cells) for cells in lines if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{path} cannot be read as CSV: {error}") from None
    if not table:
        raise ScenarioError(f"{path} has no line below its header")
    return table


def _check_header(path: Path, header: list[str], needed: Sequence[str]) -> None:
    missing = [column for column in needed if column not in header]
    if missing:
        raise ScenarioError(f"{path}, line 1: no column {missing[0]}; its columns are: {', '.join(header) or 'none'}")
    if len(set(header)) < len(header):
        raise ScenarioError(f"{path}, line 1: two columns have the same name")


def _row(path: Path, line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise ScenarioError(f"{path}, line {line}: {len(cells)} cells under {len(header)} columns")
    return Row(path, line, dict(zip(header, map(str.strip, cells), strict=True)))
