"""What each version waited for: the last arrival before it, phase by phase, and who shared the links meanwhile."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from fedsim.network import Routes
from fedsim.spans import BEGINS, PHASES, spans
from fedsim.traffic import Federation, routes
from fedsim.units import SECOND

REFUSED = ("unasked", "misshapen", "infinite")
CAUSES = {"arrive": "arrival", "lost": "loss", "leave": "loss"}
"""Why a server steps at the instant at which it is told of something; else by the clock."""
NOBODY = -2
"""In place of a client where a version waited for the clock."""


def waits(trace: pd.DataFrame) -> pd.DataFrame:
    """One row a version of each server, in order; of peers one a round that all have done.

    `server` (its number in the trace; of peers the last to finish), `version`, `since` its last version and the `time`
    of this one (microseconds), the `cause` ("arrival", "loss", "clock" or, of peers, "training"), the `client` whose
    arrival, loss or training it was, and how much of the time in between was that client's `download`, `train` and
    `upload`, and how much was `before` it began. These four add up to `time` - `since`.
    """
    rows = trace.loc[~trace.kind.isin(list(REFUSED))].reset_index(drop=True)
    steps = np.flatnonzero((rows.kind == "version").to_numpy())
    return _of_servers(rows, steps) if (rows.kind == "start").any() else _of_peers(rows, _last_of_rounds(rows, steps))


def _of_servers(rows: pd.DataFrame, steps: np.ndarray) -> pd.DataFrame:
    """By what a server was told of just before it stepped, at the same instant."""
    time = rows.time.to_numpy()
    since = rows.time[steps].groupby(rows.client[steps]).shift(fill_value=0).to_numpy()
    before = rows.loc[np.maximum(steps - 1, 0)]
    cause = before.kind.astype(str).map(CAUSES).where(before.time.to_numpy() == time[steps])
    client = np.where(cause.notna(), before.client, NOBODY)
    last = {kind: _last(rows, kind, client, steps) for kind in BEGINS}
    cuts = [np.where((place >= 0) & (place >= last["start"]), time[place], time[steps]) for place in last.values()]
    return _spent(rows, steps, since, cause.fillna("clock").to_numpy(), client, cuts)


def _last_of_rounds(rows: pd.DataFrame, steps: np.ndarray) -> np.ndarray:
    """Of peers' rounds the ones with which all of them have done so many."""
    versions, peers = rows.version[steps], rows.client[rows.kind == "train"].nunique()
    return steps[(versions.groupby(versions).cumcount() == peers - 1).to_numpy()]


def _of_peers(rows: pd.DataFrame, steps: np.ndarray) -> pd.DataFrame:
    """By the message that a peer heard just before it ended its round, at the same instant; else by its training.

    Before a message is sent, its sender trains.
    """
    time, own = rows.time.to_numpy()[steps], rows.client.to_numpy()[steps]
    before = rows.iloc[np.maximum(steps - 1, 0)]
    heard = ((before.kind == "arrive") & (before.time == time) & (before.peer == own)).to_numpy()
    client = np.where(heard, before.client, own)
    messages = spans(rows).query("peer >= 0").groupby(["client", "peer", "end"]).begin.max()
    sent = messages.reindex(pd.MultiIndex.from_arrays([client, own, time])).fillna(0).to_numpy(dtype=np.int64)
    sending = np.where(heard, np.searchsorted(rows.time.to_numpy(), sent, side="right"), steps)
    begun = rows.time.to_numpy()[_last(rows, "train", client, sending)]
    cuts = [begun, begun, np.where(heard, sent, time)]
    since = np.append(0, time)[: len(time)]
    return _spent(rows, steps, since, np.where(heard, "arrival", "training"), client, cuts)


def _last(rows: pd.DataFrame, kind: str, client: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Where each client's last event of a kind before a row stands; -1 if there is none."""
    places = np.flatnonzero((rows.kind == kind).to_numpy())
    own = pd.Series(places).groupby(rows.client.to_numpy()[places]).indices
    known = [places[own.get(name, np.empty(0, np.int64))] for name in client]
    before = [np.searchsorted(each, step) for each, step in zip(known, steps, strict=True)]
    return np.array([each[n - 1] if n else -1 for each, n in zip(known, before, strict=True)], dtype=np.int64)


def _spent(
    rows: pd.DataFrame, steps: np.ndarray, since: np.ndarray, cause: np.ndarray, client: np.ndarray,
    cuts: Sequence[np.ndarray],
) -> pd.DataFrame:  # fmt: skip
    """The time before each step, cut where the client that it waited for began each phase."""
    time = rows.time.to_numpy()[steps]
    edges = [since, *(np.clip(cut, since, time) for cut in cuts), time]
    spent = {name: edges[i + 1] - edges[i] for i, name in enumerate(("before", *PHASES))}
    return pd.DataFrame({
        "server": rows.client.to_numpy()[steps], "version": rows.version.to_numpy()[steps], "since": since,
        "time": time, "cause": cause, "client": client, **spent,
    })  # fmt: skip


@dataclass(frozen=True)
class Crowd:
    """All transfers of a run, on the links that they went over."""

    spans: pd.DataFrame
    links: pd.DataFrame
    federation: Federation

    @cached_property
    def _routes(self) -> Routes:
        return routes(self.links)

    @cached_property
    def _table(self) -> dict[tuple[Hashable, Hashable], tuple[float, float]]:
        links = self.links
        pairs = zip(links.source, links.target, links.capacity, links.latency, strict=True)
        return {(source, target): (capacity, latency) for source, target, capacity, latency in pairs}

    @cached_property
    def _transfers(self) -> pd.DataFrame:
        return self.spans.loc[self.spans.phase != "train"]

    def way(self, client: int, phase: str, peer: int) -> frozenset[tuple[Hashable, Hashable]]:
        """The links of a transfer, each with its direction."""
        other = peer if peer >= 0 else int(self.federation.above(np.array([client]))[0])
        ends = (other, client) if phase == "download" else (client, other)
        return frozenset(pairwise(self._routes.path(*(self.federation.node(end) for end in ends))))

    def alone(self, client: int, phase: str, nbytes: int, peer: int = -1) -> int:
        """Microseconds that it would have taken without anybody else, its links at their best."""
        links = [self._table[link] for link in self.way(client, phase, peer)]
        rate = min((capacity for capacity, _ in links), default=np.inf)
        return round(sum(latency for _, latency in links) * SECOND) + round(nbytes / rate * SECOND)

    def sharers(self, client: int, phase: str, begin: int, end: int, peer: int = -1) -> list[int]:
        """Who else sent or received over a link of limited capacity on this way, while this was under way."""
        own = {link for link in self.way(client, phase, peer) if self._table[link][0] < np.inf}
        every = self._transfers
        meanwhile = every.loc[(every.begin < end) & (every.end > begin) & (every.client != client)]
        others = meanwhile.loc[:, ["client", "phase", "peer"]].drop_duplicates().to_dict("records")
        return sorted({other["client"] for other in others if own & self.way(**other)})
