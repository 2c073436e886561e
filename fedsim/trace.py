"""What happened when: one row an event, kept in columns, written in parts that are never half a row."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KINDS = ("join", "leave", "start", "train", "upload", "arrive", "lost", "version",
         "unasked", "misshapen", "infinite")  # fmt: skip
"""Came, went; began its download, its local steps, its upload; was heard; failed; the server stepped.

The last three are updates that the server refused: nobody had asked (or it had come already), wrong shape, numbers
that are not finite.
"""
JOIN, LEAVE, START, TRAIN, UPLOAD, ARRIVE, LOST, VERSION, UNASKED, *_ = range(len(KINDS))

COLUMNS = ("time", "kind", "client", "version", "nbytes", "staleness", "peer")
"""Microseconds; index into KINDS; client id (-1: the server); its version; bytes that travel; versions; the other end.

Among peers a version is a number of rounds, `upload` and `arrive` are the ends of one message, and `peer` hears it.
"""

PART_CELLS = 200_000 * len(COLUMNS)
PART_SECONDS = 2.0


class Trace:
    """Records events; with a folder it also writes them there, part by part, so that they can be read meanwhile."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.count = 0
        self._cells = array(
            "q"
        )  # numbers and not objects: less to keep, and nothing for the garbage collector to visit
        self._parts = 0
        self._hash = hashlib.sha256()
        self._written = monotonic()
        if folder is not None:
            folder.mkdir(parents=True)

    def add(
        self, time: int, kind: int, client: int, version: int, nbytes: int = 0, staleness: int = 0, peer: int = -1
    ) -> None:
        """One event, in the order of COLUMNS."""
        self._cells.extend((time, kind, client, version, nbytes, staleness, peer))
        if len(self._cells) >= PART_CELLS:
            self.flush()

    def refresh(self) -> None:
        """Write what there is if the last part is old: how often only decides how fresh a reader's view is."""
        if self.folder is not None and monotonic() - self._written > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Close the present part."""
        if not self._cells:
            return
        rows = np.array(self._cells, dtype=np.int64).reshape(-1, len(COLUMNS))
        self._cells = array("q")
        self.count += len(rows)
        self._hash.update(rows.tobytes())
        self._written = monotonic()
        if self.folder is not None:
            name = f"part-{self._parts:05d}.parquet"
            unfinished = self.folder / f".{name}"  # readers of the folder pass over what begins with a dot
            pq.write_table(_table(rows), unfinished)
            unfinished.rename(self.folder / name)
        self._parts += 1

    def digest(self) -> str:
        """SHA-256 of all rows as little-endian int64, however they were cut into parts."""
        self.flush()
        return self._hash.hexdigest()


def _table(rows: np.ndarray) -> pa.Table:
    kind = pa.DictionaryArray.from_arrays(pa.array(rows[:, 1].astype(np.int8)), pa.array(KINDS))
    columns = [kind if name == "kind" else pa.array(rows[:, i]) for i, name in enumerate(COLUMNS)]
    return pa.Table.from_arrays(columns, names=list(COLUMNS))


def read(folder: Path) -> pa.Table:
    """All parts written so far, as one table."""
    parts: Sequence[Path] = sorted(folder.glob("part-*.parquet"))
    return (
        pa.concat_tables([pq.read_table(part) for part in parts])
        if parts
        else _table(np.empty((0, len(COLUMNS)), np.int64))
    )
