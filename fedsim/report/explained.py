"""Where time went: what versions waited for, in a chart, by client, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fedsim.report.chart import PHASE_COLOURS, Chart, Column, Table, figure
from fedsim.spans import PHASES
from fedsim.terminal import clock
from fedsim.traffic import SERVER_NUMBER
from fedsim.units import SECOND
from fedsim.waits import NOBODY, Crowd

PARTS = ("before", *PHASES)
WORDS = {"download": "download", "train": "training", "upload": "upload"}
MOST_BARS = 120
MOST_EXPLAINED = 400
"""The longest waits get a sentence."""
MOST_NAMED = 4
NEARLY = 0.95
"""Of a wait: it is not said that the rest was spent otherwise."""
TOP = 15


@dataclass(frozen=True)
class Explained:
    """The waits of one run, with all that its sentences need."""

    waits: pd.DataFrame
    spans: pd.DataFrame
    crowd: Crowd | None
    """None while nobody knows the links."""
    peers: bool

    @property
    def own(self) -> pd.DataFrame:
        """Those of the server above all, or of all peers."""
        return self.waits if self.peers else self.waits.loc[self.waits.server == SERVER_NUMBER]

    @cached_property
    def by_client(self) -> pd.DataFrame:
        """Seconds that versions have waited for each client, by part, and how `often`; the longest first."""
        told = self.waits.loc[self.waits.client != NOBODY]
        seconds = told.groupby("client")[list(PARTS)].sum() / SECOND
        found = seconds.assign(often=told.client.value_counts(), seconds=seconds.sum(axis=1))
        return found.sort_values("seconds", ascending=False, kind="stable")

    def charts(self, name: str) -> list[Chart]:
        """By version, and by client."""
        return [self._by_version(name), self._top()] if len(self.own) else []

    def _by_version(self, name: str) -> Chart:
        own = self.own
        several = -(-len(own) // MOST_BARS)
        begins = np.arange(0, len(own), several)
        sums = np.add.reduceat(own[["version", *PARTS]].to_numpy(dtype=float), begins, axis=0)
        versions, *spent = (sums / np.diff(begins, append=len(own))[:, None]).T
        style = {"type": "bar", "x": versions, "width": 0.92 * several, "hovertemplate": "%{y:.3g} s"}
        traces = [style | {"y": mean / SECOND, "name": _legend(part), "marker": {"color": PHASE_COLOURS[part]}}
                  for part, mean in zip(PARTS, spent, strict=True)]  # fmt: skip
        note = f"each bar is the mean of {several} {name}s" if several > 1 else ""
        drawn = figure(traces, name, "waited (s)", barmode="stack", hovermode="x unified")
        return Chart(f"what each {name} waited for", drawn, note)

    def _top(self) -> Chart:
        top = self.by_client.head(TOP)[::-1]
        names = [self.name(client) for client in top.index]
        style = {"type": "bar", "orientation": "h", "hovertemplate": "%{x:.3g} s"}
        traces = [style | {"y": names, "x": list(top[part]), "name": _legend(part),
                           "marker": {"color": PHASE_COLOURS[part]}} for part in PARTS]  # fmt: skip
        drawn = figure(traces, "waited (s)", "", barmode="stack", hovermode="y unified")
        return Chart("for whom", drawn)

    def name(self, number: int) -> str:
        """Of a client, a peer or an edge."""
        node = self.crowd.federation.node(int(number)) if self.crowd else str(number)
        return node if not node.isdigit() else f"{'peer' if self.peers else 'client'} {node}"

    def table(self, name: str) -> Table:
        """The longest waits in words, in order of time."""
        longest = (self.waits.time - self.waits.since).nlargest(MOST_EXPLAINED).index.sort_values()
        chosen = self.waits.loc[longest].to_dict("records")
        edges = not self.peers and self.waits.server.nunique() > 1
        rows = [[wait["version"], *([self.name(wait["server"])] if edges else []), wait["time"] / SECOND,
                 (wait["time"] - wait["since"]) / SECOND, *(wait[part] / SECOND for part in PHASES),
                 self.sentence(wait, name)] for wait in chosen]  # fmt: skip
        columns = [Column(name, "whole"), *([Column("of")] if edges else []), Column("at", "time"),
                   Column("waited", "time"), *(Column(WORDS[part], "time") for part in PHASES),
                   Column("why")]  # fmt: skip
        note = f"the {MOST_EXPLAINED} longest of {len(self.waits)}" if len(self.waits) > MOST_EXPLAINED else ""
        return Table(columns, rows, note, search="version, client, upload, ...")

    def sentence(self, wait: dict[str, Any], name: str) -> str:
        """What a version waited for; of transfers with whom links were shared, if that made them longer."""
        began = f"{name} {wait['version']} waited {clock((wait['time'] - wait['since']) / SECOND)}"
        who = self.name(wait["client"])
        if wait["cause"] == "clock":
            return f"{began} until its time was up, not for an arrival"
        if wait["cause"] == "loss":
            return f"{began} until {who} was lost"
        if wait["cause"] == "training":
            return f"{began} for {who}'s own work"
        part = max(PARTS, key=lambda part: wait[part])
        if part == "before":
            return f"{began}, mostly until {who} began"
        message = f"message to {self.name(wait['server'])}" if self.peers else WORDS[part]
        share = "" if wait[part] >= NEARLY * (wait["time"] - wait["since"]) else f", {clock(wait[part] / SECOND)} of it"
        upload = "" if part == "upload" else self._crowded(wait, "upload", "; its upload was")
        return f"{began}{share} for {who}'s {message}{self._crowded(wait, part)}{upload}"

    def _crowded(self, wait: dict[str, Any], part: str, begin: str = "") -> str:
        """Who shared links with a transfer that took longer than it would have taken alone."""
        if self.crowd is None or part == "train":
            return ""
        peer = wait["server"] if self.peers else -1
        span = self._span(wait, part, peer)
        alone = self.crowd.alone(wait["client"], part, span["nbytes"], peer)
        sharers = self.crowd.sharers(wait["client"], part, span["begin"], span["end"], peer)
        if span["end"] - span["begin"] <= alone + 1 or not sharers:
            return ""
        return f"{begin} on a link shared with {_listed(sharers)}; alone it takes {clock(alone / SECOND)}"

    def _span(self, wait: dict[str, Any], part: str, peer: int) -> dict[str, Any]:
        places = self._places[wait["client"], part, peer]
        begun = self.spans.begin.to_numpy()[places] < wait["time"]
        return self.spans.iloc[places[begun][-1]].to_dict()

    @cached_property
    def _places(self) -> dict[Any, np.ndarray]:
        return self.spans.groupby(["client", "phase", "peer"]).indices


def _legend(part: str) -> str:
    return "before, or by the clock" if part == "before" else WORDS[part]


def _listed(numbers: Sequence[int]) -> str:
    named = [str(number) for number in numbers[:MOST_NAMED]]
    rest = len(numbers) - len(named)
    words = [*named, f"{rest} others"] if rest else named
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
