"""One run as the sections of a page: what is there is shown, and what is not there yet is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedsim.bill import JOULES, Rates, bill, usage
from fedsim.drawing import ACCURACIES, Portrait
from fedsim.errors import ScenarioError
from fedsim.report.activity import counts, timeline
from fedsim.report.chart import Chart, Column, Section, Table, figure
from fedsim.report.curves import curves, metrics
from fedsim.report.explained import Explained
from fedsim.report.portrayed import network
from fedsim.results import Run
from fedsim.spans import presence, spans
from fedsim.terminal import METRICS, clock, copies, epsilons, traffic
from fedsim.traffic import Federation
from fedsim.trials import Algorithm
from fedsim.units import SECOND
from fedsim.waits import Crowd, waits

MOST_METRICS = 12
"""Beside the first so many others have a chart."""
PEERS_NOTE = ("The trace does not tell when a peer's training ends: it is drawn until the peer's next event, so it "
              "may have been shorter, and its energy less.")  # fmt: skip
SECURE_NOTE = "Rounds are masked: the trace does not tell who was the last in a step, so that no client is named."


@dataclass(frozen=True)
class View:
    """What is to be told of a run."""

    run: Run
    rates: Rates
    wanted: Sequence[int] = ()
    """Clients whose spans are to be there, however many others have some."""

    @cached_property
    def status(self) -> tuple[str, str]:
        """In a word, and what else is to say: why it failed, or that this is not the end."""
        if self.run.finished:
            return "finished", ""
        if said := self.run.error:
            return "failed", f"The run failed, and this is what had happened before. {said['type']}: {said['message']}"
        return "unfinished", "This run is not over: it still goes on, or it was stopped. This is what had happened."

    @cached_property
    def _rows(self) -> pd.DataFrame:
        """The metrics table; without rows while there is none."""
        try:
            return self.run.metrics
        except ScenarioError:
            if self.run.finished:
                raise
            return pd.DataFrame()

    @cached_property
    def _trace(self) -> pd.DataFrame:
        return self.run.trace

    @cached_property
    def _spans(self) -> pd.DataFrame:
        return spans(self._trace)

    @cached_property
    def _links(self) -> pd.DataFrame | None:
        try:
            return self.run.links
        except ScenarioError:
            return None

    @property
    def _peers(self) -> bool:
        return "peers" in self.run.scenario

    @property
    def _step(self) -> str:
        """What a version is called here."""
        return "round" if self._peers else "job" if "coding" in self.run.scenario else "version"

    @cached_property
    def _federation(self) -> Federation:
        return Federation.of(self.run.scenario)

    @cached_property
    def _seconds(self) -> float:
        """How far virtual time has come."""
        measured = float(self._rows.time_s.max()) if len(self._rows) else 0.0
        return max(measured, float(self._trace.time.max()) / SECOND if len(self._trace) else 0.0)

    @cached_property
    def _explained(self) -> Explained:
        links = self._links
        crowd = None if links is None else Crowd(self._spans, links, self._federation)
        secure = "secure" in self.run.scenario.get("wire", {})
        known = waits(self._trace)
        return Explained(known.iloc[:0] if secure else known, self._spans, crowd, self._peers)

    @cached_property
    def _usage(self) -> pd.DataFrame:
        return usage(self._spans, range(self._federation.clients), self.rates)

    def sections(self) -> Iterator[Section]:
        """All of the page, in order."""
        yield Section("At a glance", facts=self.facts(), note=self._disclosed)
        if len(self._rows):
            yield self.measured()
        if len(self._trace):
            yield self.activity()
            yield self.time()
            yield self.fairness()
            if self._links is not None and len(self._rows):
                yield Section("Network", [network(Portrait(self.run))])
            yield self.clients()
            yield self.bill()
        yield self.receipt()

    def facts(self) -> list[tuple[str, str]]:
        """What is read first."""
        if not len(self._rows):
            return [("measurements", "none yet")]
        last = self._rows.iloc[-1]
        judged = [(name.replace("_", " "), f"{last[name]:.4{METRICS[name]}}") for name in METRICS if name in last]
        stale = self._trace.staleness[self._trace.kind == "arrive"]
        return [
            *judged, ("virtual time", clock(last.time_s)), (f"{self._step}s", f"{last.version:.0f}"),
            ("updates heard", f"{last.updates:.0f}"), ("lost", f"{last.lost:.0f}"),
            ("traffic", traffic(last.bytes_down + last.bytes_up)),
            ("mean staleness", f"{stale.mean():.2f}" if len(stale) else "-"),
        ]  # fmt: skip

    @property
    def _disclosed(self) -> str:
        """What a run says of privacy, and of raw data that have left their owners."""
        known = [self.run] if len(self._rows) else []
        return "; ".join(line.removeprefix(f"{self.run.label}: ") for line in [*epsilons(known), *copies(known)])

    def measured(self) -> Section:
        """Metrics by what they cost."""
        own = [Algorithm(self.run.label, {0: self.run})]
        first, *others = metrics(own)
        more = [chart for name in others[:MOST_METRICS] for chart in curves(own, name, ["time_s"])]
        return Section("What was learned" if first != "updates" else "What was heard", [*curves(own, first), *more])

    def activity(self) -> Section:
        """Who does what when."""
        here = presence(self._trace)
        here = here.loc[here.client < self._federation.clients]
        own = self._spans.loc[self._spans.client < self._federation.clients]
        first = [*self.wanted, *map(int, self._explained.by_client.index)]
        drawn = timeline(self._spans, range(self._federation.clients + self._federation.edges), first,
                         self._seconds) | {"own": self._federation.clients}  # fmt: skip
        note = PEERS_NOTE if self._peers else ""
        charts = [] if self._peers else [counts(own, here, self._seconds)]
        return Section("The fleet in time", charts, note=note, timeline=drawn)

    def time(self) -> Section:
        """Where it went."""
        if "secure" in self.run.scenario.get("wire", {}):
            return Section("Where time went", note=SECURE_NOTE)
        told = self._explained
        tables = [told.table(self._step)] if len(told.waits) else []
        note = "" if told.crowd else "Who shared links is known when the run is over."
        return Section("Where time went", told.charts(self._step), tables, note)

    def fairness(self) -> Section:
        """How old updates were, and how often clients took part."""
        arrived = self._trace.loc[self._trace.kind == "arrive"]
        trained = self._trace.loc[(self._trace.kind == "train") & (self._trace.client < self._federation.clients)]
        often = trained.client.value_counts().reindex(range(self._federation.clients), fill_value=0)
        stale = [] if self._peers or "coding" in self.run.scenario else [
            _histogram("staleness of updates", arrived.staleness, "versions behind", "updates")]  # fmt: skip
        return Section("Staleness and participation", [*stale, _histogram(
            "participation", often, "local trainings of a client", "clients")])  # fmt: skip

    def clients(self) -> Section:
        """A row a client."""
        used, trace = self._usage, self._trace
        arrived = trace.loc[trace.kind == "arrive"].groupby("client")
        often = {kind: trace.client[trace.kind == kind].value_counts() for kind in ("train", "arrive", "lost")}
        waited = self._explained.by_client
        table = used.assign(
            trainings=often["train"], heard=often["arrive"], lost=often["lost"], staleness=arrived.staleness.mean(),
            often=waited.often, waited=waited.seconds, accuracy=self._accuracies(),
        )  # fmt: skip
        columns = {
            "trainings": "whole", "heard": "whole", "lost": "whole", "staleness": "number", "download": "time",
            "train": "time", "upload": "time", "down": "bytes", "up": "bytes", "joules": "energy", "money": "money",
            "often": "whole", "waited": "time", "accuracy": "number",
        }  # fmt: skip
        known = table.columns[table.notna().any()]
        shown = [name for name in columns if name in known]
        filled = table.fillna({name: 0 for name in columns if name not in ("staleness", "accuracy")})
        rows = [[client, *(None if pd.isna(value) else value for value in values)]
                for client, *values in filled[shown].astype(object).itertuples()]  # fmt: skip
        names = {"joules": "energy", "often": "last for", "waited": "waited for"}
        found = [Column("client", "id"), *(Column(names.get(name, name), columns[name]) for name in shown)]
        return Section("Clients", tables=[Table(found, rows, search="client number, or 20-40")])

    def _accuracies(self) -> pd.Series:
        """The last that was measured of each client; none where nothing was."""
        known = self.run.clients
        name = next((name for name in ACCURACIES if known is not None and name in known), None)
        last = {} if known is None or name is None else dict(zip(known.client, known[name], strict=True))
        return pd.Series(last, dtype=float)

    def bill(self) -> Section:
        """What it cost."""
        last = self._rows.iloc[-1] if len(self._rows) else pd.Series({"bytes_down": 0.0, "bytes_up": 0.0})
        lines = bill(self._usage, self._seconds, last.bytes_down, last.bytes_up, self.rates, not self._peers)
        units = {"s": clock, "B": traffic, "J": _energy, "money": "{:.4g}".format}
        rows = [[line.item, units[line.unit](line.amount), line.source] for line in lines]
        rates = ", ".join(f"{name} {value:g} ({self.rates.source(name)})" for name, value in vars(self.rates).items()
                          if name != "given")  # fmt: skip
        return Section("Bill", tables=[Table([Column("item"), Column("amount", "right"), Column("source")], rows)],
                       note=f"Seconds and bytes are counted. Energy and money depend on rates: {rates}. "
                       "Synthetic ones are nobody's measurements; --rate NAME=VALUE names others.")  # fmt: skip

    def receipt(self) -> Section:
        """What was run on what, and the scenario."""
        rows = [[name, value] for name, value in _flat(self.run.receipt)]
        tables = [Table([Column("what"), Column("value", "mono")], rows)] if rows else []
        note = "" if rows else "A receipt is written when a run has come to its end."
        return Section("Receipt", tables=tables, note=note,
                       pre=yaml.safe_dump(self.run.scenario, sort_keys=False, allow_unicode=True))  # fmt: skip


def _histogram(title: str, values: pd.Series, x: str, y: str) -> Chart:
    """Of whole numbers, a bar each while they are few."""
    numbers = values.to_numpy()
    high = int(numbers.max(initial=0)) + 1
    width = max(1, -(-high // 60))
    heights, edges = np.histogram(numbers, bins=np.arange(0, high + width, width) - 0.5)
    middles = (edges[1:] + edges[:-1]) / 2
    note = f"mean {numbers.mean():.3g}" if len(numbers) else "none yet"
    bars = {"type": "bar", "x": middles, "y": heights, "marker": {"color": "#2f6fde"}, "width": 0.9 * width}
    ticks = {"dtick": 1} if high <= 12 else {}
    return Chart(title, figure([bars], x, y, showlegend=False, xaxis=ticks), note)


def _energy(joules: float) -> str:
    return f"{joules / JOULES:.4g} kWh" if joules >= JOULES / 100 else f"{joules:.4g} J"


def _flat(values: Any, path: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Nested facts, each with its whole name."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _flat(value, (*path, str(name)))
    else:
        yield " ".join(path), str(values)
