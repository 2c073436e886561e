"""A trace as ui.perfetto.dev and chrome://tracing read it: a track a client, counters of versions and bytes.

The form is the Trace Event Format of Chrome (JSON object): times in whole microseconds, which is the trace's own unit.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedsim.results import Run
from fedsim.spans import presence, spans
from fedsim.traffic import SERVER_NUMBER, Federation
from fedsim.waits import NOBODY, waits

Event = dict[str, Any]
SERVERS, CLIENTS, COUNTERS = 1, 2, 3
"""Processes, as the format calls groups of tracks."""
GROUPS = {SERVERS: "servers", CLIENTS: "clients", COUNTERS: "counters"}
INSTANTS = ("join", "leave", "lost", "unasked", "misshapen", "infinite")


def write(run: Run, target: Path) -> None:
    """Write a run's trace to a file."""
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for number, event in enumerate(events(run)):
            file.write((",\n" if number else "") + json.dumps(event))
        file.write("\n]}\n")
    temporary.rename(target)


def events(run: Run) -> Iterator[Event]:
    """All events; on each track what contains others comes before them."""
    trace, federation = run.trace, Federation.of(run.scenario)
    known, told = spans(trace), waits(trace)
    if not (trace.kind == "start").any():  # peers' rounds are nobody's own
        told["server"] = SERVER_NUMBER
    yield from _names(trace.client[trace.client >= 0], told.server, federation)
    yield from _whole(_waits(told), SERVERS)
    own = known.loc[known.peer < 0]
    jobs = _jobs(own)
    yield from _whole([*_named(jobs), *_idle(jobs, presence(trace)), *_phases(own)], CLIENTS)
    yield from _messages(known.loc[known.peer >= 0])
    yield from _instants(trace)
    above = told.loc[told.server == SERVER_NUMBER]
    yield from _counter("version", above.time.tolist(), above.version.tolist())
    yield from _counter("bytes in flight", *_in_flight(known))


def _names(clients: pd.Series, servers: pd.Series, federation: Federation) -> Iterator[Event]:
    for group, name in GROUPS.items():
        yield {"ph": "M", "name": "process_name", "pid": group, "tid": 0, "args": {"name": name}}
    for group, numbers in ((CLIENTS, clients), (SERVERS, servers)):
        for number in np.unique(numbers).tolist():
            name = federation.node(number)
            shown = f"client {name}" if name.isdigit() else name
            yield {"ph": "M", "name": "thread_name", "pid": group, "tid": _track(number), "args": {"name": shown}}


def _track(number: int) -> int:
    """Tracks have numbers above 0; the server's in a trace is -1."""
    return number + 2


def _whole(found: Sequence[Event], group: int) -> Iterator[Event]:
    """Spans from beginning to end, longer ones before those that they contain."""
    for event in sorted(found, key=lambda event: (event["tid"], event["ts"], -event["dur"], event["rank"])):
        del event["rank"]
        yield {"ph": "X", "pid": group, **event}


def _span(track: int, name: str, begin: int, end: int, rank: int, **args: Any) -> Event:
    return {"tid": _track(track), "name": name, "ts": begin, "dur": end - begin, "rank": rank, "args": args}


def _waits(told: pd.DataFrame) -> list[Event]:
    """What servers and peers' rounds waited for."""
    return [_span(wait["server"], f"version {wait['version']}", wait["since"], wait["time"], 0, cause=wait["cause"],
                  **({} if wait["client"] == NOBODY else {"client": wait["client"]}))
            for wait in told.to_dict("records")]  # fmt: skip


def _jobs(own: pd.DataFrame) -> pd.DataFrame:
    """A row a training of a server's client, from the beginning of its download to its last event; peers have none."""
    ordered = own.sort_values(["client", "begin"], kind="stable")
    job = (ordered.phase == "download").to_numpy().cumsum()
    told = {"client": "first", "begin": "first", "version": "first", "end": "last", "ended": "last"}
    return ordered.loc[job > 0].groupby(job[job > 0]).agg(told)


def _named(jobs: pd.DataFrame) -> list[Event]:
    return [_span(job["client"], f"from version {job['version']}", job["begin"], job["end"], 0, ended=job["ended"])
            for job in jobs.to_dict("records")]  # fmt: skip


def _phases(own: pd.DataFrame) -> list[Event]:
    return [_span(span["client"], span["phase"], span["begin"], span["end"], 1, bytes=span["nbytes"],
                  ended=span["ended"]) for span in own.to_dict("records")]  # fmt: skip


def _idle(jobs: pd.DataFrame, here: pd.DataFrame) -> list[Event]:
    """While clients are there and have nothing to do."""
    own = {client: list(zip(rows.begin.tolist(), rows.end.tolist(), strict=True))
           for client, rows in jobs.sort_values("begin", kind="stable").groupby("client")}  # fmt: skip
    found = []
    for client, begin, end in here.itertuples(index=False):
        busy = own.get(client, [])
        for start, stop in [*busy[bisect_left(busy, (begin, -1)) :], (end, end)]:
            if begin < min(start, end):
                found.append(_span(client, "wait", begin, min(start, end), 1))
            begin = max(begin, stop)
            if begin >= end:
                break
    return found


def _messages(sent: pd.DataFrame) -> Iterator[Event]:
    """Among peers several may be under way at a time."""
    for number, span in enumerate(sent.to_dict("records")):
        shared = {"cat": "message", "id": number, "name": f"to {span['peer']}", "pid": CLIENTS,
                  "tid": _track(span["client"])}  # fmt: skip
        yield {"ph": "b", "ts": span["begin"], **shared, "args": {"bytes": span["nbytes"], "round": span["version"]}}
        yield {"ph": "e", "ts": span["end"], **shared}


def _instants(trace: pd.DataFrame) -> Iterator[Event]:
    rows: Sequence[Mapping[Any, Any]] = trace.loc[trace.kind.isin(list(INSTANTS))].to_dict("records")
    for row in rows:
        yield {"ph": "i", "s": "t", "name": row["kind"], "ts": row["time"], "pid": CLIENTS,
               "tid": _track(row["client"]), "args": {"version": row["version"]}}  # fmt: skip


def _in_flight(known: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Times, and bytes of the transfers that are under way; of what the trace does not see the end nobody knows."""
    moved = known.loc[(known.phase != "train") & (known.ended != "open")]
    times, place = np.unique(np.concatenate([moved.begin, moved.end]), return_inverse=True)
    change = np.zeros(len(times), dtype=np.int64)
    np.add.at(change, place, np.concatenate([moved.nbytes, -moved.nbytes]))
    return times.tolist(), change.cumsum().tolist()


def _counter(name: str, times: Sequence[int], values: Sequence[int]) -> Iterator[Event]:
    for time, value in zip(times, values, strict=True):
        yield {"ph": "C", "name": name, "ts": time, "pid": COUNTERS, "tid": 0, "args": {name: value}}
