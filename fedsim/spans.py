"""What everybody did when: a trace, told as spans of time."""

from __future__ import annotations

import numpy as np
import pandas as pd

PHASES = ("download", "train", "upload")
BEGINS = {"start": "download", "train": "train", "upload": "upload"}
"""Which phase an event begins."""


def spans(trace: pd.DataFrame) -> pd.DataFrame:
    """One row a span, in the order of their beginnings.

    `client`, `phase`, `begin` and `end` (microseconds), `version` (that it works on), `nbytes` that travelled, how it
    `ended` ("done", "lost", or "open" where the trace ends) and the `peer` that a message goes to (-1: a server).

    A client's phases end with its next event. Among peers a message is an upload of its own; a training ends with its
    peer's next event, as the trace does not tell when it is over, so that it may have been shorter.
    """
    last = int(trace.time.max()) if len(trace) else 0
    served = bool((trace.kind == "start").any())
    parts = [_phases(trace, last)] if served else [_trainings(trace, last), _messages(trace, last)]
    return pd.concat(parts, ignore_index=True).sort_values("begin", kind="stable", ignore_index=True)


def _phases(trace: pd.DataFrame, last: int) -> pd.DataFrame:
    """Those of a server's clients."""
    rows = trace[trace.kind.isin([*BEGINS, "arrive", "lost"])].sort_values("client", kind="stable")
    return _until_next(rows, rows.kind.isin(list(BEGINS)).to_numpy(), last)


def _trainings(trace: pd.DataFrame, last: int) -> pd.DataFrame:
    """Those of peers. What happens at the instant at which one begins does not end it."""
    rows = trace[trace.kind.isin(["train", "upload", "version"])].sort_values("client", kind="stable")
    begun = rows[rows.kind == "train"].set_index(["client", "time"]).index
    at_once = pd.MultiIndex.from_frame(rows[["client", "time"]]).isin(begun) & (rows.kind != "train").to_numpy()
    rows = rows[~at_once]
    return _until_next(rows, (rows.kind == "train").to_numpy(), last).assign(nbytes=0)


def _until_next(rows: pd.DataFrame, begins: np.ndarray, last: int) -> pd.DataFrame:
    """Spans from the rows that begin one to the same client's following row; `rows` are sorted by client."""
    client, time, kind = rows.client.to_numpy(), rows.time.to_numpy(), rows.kind.astype(str).to_numpy()
    nbytes = rows.nbytes.to_numpy()
    followed = np.append(client[1:] == client[:-1], False)
    after = np.minimum(np.arange(len(rows)) + 1, max(0, len(rows) - 1))
    ended = np.where(followed, np.where(kind[after] == "lost", "lost", "done"), "open")
    found = pd.DataFrame({
        "client": client, "phase": [BEGINS.get(one, "") for one in kind], "begin": time,
        "end": np.where(followed, time[after], last), "version": rows.version.to_numpy(),
        "nbytes": np.where(followed, nbytes[after], 0), "ended": ended, "peer": -1,
    })  # fmt: skip
    return found[begins]


def _messages(trace: pd.DataFrame, last: int) -> pd.DataFrame:
    """Those among peers: the n-th of a size that goes from one to another in a round arrives as the n-th of these."""
    sent = trace[trace.kind.isin(["upload", "arrive"]) & (trace.peer >= 0)]
    keys = ["client", "peer", "version", "nbytes"]
    ends = {kind: sent[sent.kind == kind] for kind in ("upload", "arrive")}
    numbered = [ends[kind].assign(turn=ends[kind].groupby(keys).cumcount()) for kind in ("upload", "arrive")]
    both = numbered[0].merge(numbered[1], how="left", on=[*keys, "turn"], suffixes=("", "_arrived"))
    arrived = both.time_arrived.notna()
    return pd.DataFrame({
        "client": both.client, "phase": "upload", "begin": both.time,
        "end": both.time_arrived.fillna(last).astype(np.int64), "version": both.version,
        "nbytes": both.nbytes.where(arrived, 0), "ended": np.where(arrived, "done", "open"), "peer": both.peer,
    })  # fmt: skip


def presence(trace: pd.DataFrame) -> pd.DataFrame:
    """When clients were there: `client`, `begin`, `end` (microseconds), in order of coming."""
    last = int(trace.time.max()) if len(trace) else 0
    rows = trace[trace.kind.isin(["join", "leave"])].sort_values("client", kind="stable")
    found = _until_next(rows, (rows.kind == "join").to_numpy(), last)
    return found[["client", "begin", "end"]].sort_values("begin", kind="stable", ignore_index=True)
