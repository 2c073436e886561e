"""A fleet fitted to what devices were seen to do: how fast each computes and talks, and how much longer it may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedsim.errors import ScenarioError
from fedsim.rng import stream
from fedsim.spans import PHASES, spans
from fedsim.units import SECOND

UNMEASURABLE = 1e-6
"""Seconds; the clock tells nothing shorter."""
ENDS = ("arrive", "lost")
"""How the trace calls the end of a task."""


def tasks(trace: pd.DataFrame) -> pd.DataFrame:
    """One row a task that has come to its end, in the order of their beginnings.

    `client`, `version` (that it has started from), `begin` and `end` (seconds), how long its `download`, `train` and
    `upload` took (seconds), and the bytes `down` and `up`.
    """
    seen = spans(trace)
    seen = seen.loc[seen.peer < 0]
    attempt = (seen.phase == "download").groupby(seen.client).cumsum()
    seen = seen.assign(seconds=(seen.end - seen.begin) / SECOND, attempt=attempt)
    wide = seen.loc[seen.ended == "done"].pivot(index=["client", "version", "attempt"], columns="phase",
                                                values=["seconds", "nbytes", "begin", "end"])  # fmt: skip
    if set(PHASES) - set(wide.columns.get_level_values(1)) or (wide := wide.dropna()).empty:
        return pd.DataFrame(columns=["client", "version", "begin", "end", *PHASES, "down", "up"])
    found = pd.DataFrame({
        "begin": wide["begin", "download"] / SECOND, "end": wide["end", "upload"] / SECOND,
        **{phase: wide["seconds", phase] for phase in PHASES},
        "down": wide["nbytes", "download"], "up": wide["nbytes", "upload"],
    })  # fmt: skip
    found = found.reset_index().drop(columns="attempt")
    return found.sort_values(["begin", "client"], ignore_index=True)


@dataclass(frozen=True)
class Fit:
    """What a fleet was found to be."""

    devices: pd.DataFrame
    """A row a client: `seconds_per_example`, `down` and `up` (bytes/s), each the best that was seen."""
    late: Mapping[int, np.ndarray]
    """How much longer than that each client's tasks took, from start to end, in seconds."""

    @classmethod
    def of(cls, seen: pd.DataFrame, clients: int) -> Fit:
        """Fit to `tasks` with a column `examples`, that each has looked at.

        ScenarioError if some client has none: nothing is known of it.
        """
        missing = sorted(set(range(clients)) - set(seen.client))
        if missing:
            raise ScenarioError(f"clients {missing} have finished no task in what is fitted to, so their devices are "
                                "not known: expected one task of each at least")  # fmt: skip
        seen = seen.assign(**{phase: seen[phase].clip(lower=UNMEASURABLE) for phase in PHASES})
        best = seen.assign(pace=seen.train / seen.examples, down=seen.down / seen.download, up=seen.up / seen.upload)
        own = best.groupby("client").agg(seconds_per_example=("pace", "min"), down=("down", "max"), up=("up", "max"))
        return cls(own, {}).delayed(seen)

    def delayed(self, seen: pd.DataFrame) -> Fit:
        """The same devices, as late as they were in these `tasks`: that also depends on how many start at once.

        Who has none of these is as late as before.
        """
        known = self.devices.loc[seen.client].set_index(seen.index)
        usual = seen.down / known.down + seen.examples * known.seconds_per_example + seen.up / known.up
        late = (seen.end - seen.begin - usual).clip(lower=0)
        return replace(
            self, late={**self.late, **{client: own.to_numpy() for client, own in late.groupby(seen.client)}}
        )

    def write(self, folder: Path, trainings: int, seed: int, replica: int) -> tuple[Path, Path]:
        """Two tables that scenarios can name: devices, and delays of so many trainings each.

        Delays are drawn from those seen, client by client; each replica draws its own.
        """
        devices, delays = folder / "devices.csv", folder / f"delays-{replica}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        rates = {way: [f"{rate} B/s" for rate in self.devices[way]] for way in ("down", "up")}
        pace = self.devices.seconds_per_example * 1e3
        pd.DataFrame({"name": self.devices.index, **rates, "ms_per_example": pace}).to_csv(devices, index=False)
        drawn = {
            f"client {client}": stream(seed, "delays", replica, client).choice(late, trainings) + UNMEASURABLE
            for client, late in self.late.items()
        }
        pd.DataFrame(drawn).to_csv(delays, index=False)
        return devices, delays


def fitted(scenario: Mapping[str, Any], devices: Path, delays: Path) -> dict[str, Any]:
    """The scenario on a fleet of these tables, everybody always there, and no network but the devices' own links."""
    fleet = {
        "clients": scenario["fleet"]["clients"],
        "devices": {"csv": {"path": str(devices.resolve())}},
        "stragglers": {"trace": {"path": str(delays.resolve()), "use": "delay", "order": "recorded"}},
    }
    free = {"star": {"latency": "0 s", "server_up": "unlimited", "server_down": "unlimited"}}
    return {key: value for key, value in scenario.items() if key != "links"} | {"fleet": fleet, "network": free}


def halves(seen: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """The tasks that had ended when half of the time was over, and that time in seconds."""
    middle = float(seen.end.max()) / 2 if len(seen) else 0.0
    return seen.loc[seen.end <= middle], middle


def rounds(trace: pd.DataFrame) -> pd.Series:
    """Seconds from each round's end to the next, by its number; the first counts from the start.

    A round is as many tasks that ended as were ever under way at once: of synchronous algorithms a version. Where the
    server takes each update by itself, or by its clock, the time between two of its versions tells whose turn it is and
    not how fast anybody is.
    """
    seen = trace[trace.kind.isin(("start", *ENDS)) & (trace.client >= 0)]
    over = seen.kind.isin(ENDS)
    at_once = int(np.where(over, -1, 1).cumsum().max(initial=1))
    times = seen.time[over].to_numpy()[at_once - 1 :: at_once] / SECOND
    return pd.Series(np.diff(times, prepend=0.0), index=range(1, len(times) + 1), name="seconds")


def at_work(scenarios: Sequence[Mapping[str, Any]]) -> int:
    """The clients that all of these have. ScenarioError if they differ: then their devices are not the same."""
    counts = {scenario["fleet"]["clients"] for scenario in scenarios}
    if len(counts) != 1:
        said = ", ".join(map(str, sorted(counts)))
        raise ScenarioError(f"these runs have {said} clients: expected as many in all, for their devices are fitted")
    return counts.pop()
