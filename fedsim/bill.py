"""The bill of a run: seconds and bytes as they were counted; energy and money by rates that somebody has to name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from fedsim.errors import ScenarioError, nearest
from fedsim.units import SECOND

JOULES = 3.6e6
"""Of a kilowatt-hour."""
GIGABYTE = 1e9
HOUR = 3600


@dataclass(frozen=True)
class Rates:
    """What power, traffic and a server cost. Nobody has measured the defaults: all of them are synthetic."""

    training_watts: float = 4.0
    """Of a client that trains."""
    sending_watts: float = 2.0
    """Of a client that uploads."""
    receiving_watts: float = 1.0
    """Of a client that downloads."""
    kwh_price: float = 0.30
    """Of a kilowatt-hour of the clients."""
    gb_price: float = 0.05
    """Of a gigabyte that is moved, up or down."""
    server_hour_price: float = 1.0
    """Of an hour of the server; peers have none."""
    given: frozenset[str] = frozenset()
    """Which of them the user has named."""

    @classmethod
    def of(cls, said: Iterable[str]) -> Rates:
        """From `name=number` each. ScenarioError if there is no such rate, or it is no number of at least 0."""
        names = [one.name for one in fields(cls) if one.name != "given"]
        found: dict[str, float] = {}
        for one in said:
            name, _, text = one.partition("=")
            if name not in names:
                raise ScenarioError(f"--rate {one}: there is no rate {name!r}; {nearest(name, names)}")
            found[name] = _number(one, text)
        return replace(cls(), **found, given=frozenset(found))

    def source(self, *names: str) -> str:
        """Where what depends on these comes from."""
        own = [name for name in names if name in self.given]
        return "given" if len(own) == len(names) else "given and synthetic" if own else "synthetic"


def _number(said: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value < np.inf:
        raise ScenarioError(f"--rate {said}: expected a number of at least 0, such as gb_price=0.05, not {text!r}")
    return value


def usage(spans: pd.DataFrame, clients: Sequence[int], rates: Rates) -> pd.DataFrame:
    """One row a client: seconds of its `download`, `train` and `upload`, bytes `down` and `up`, `joules` and `money`.

    What was lost or under way counts as far as it came. Money is that of its energy and its traffic.
    """
    phase = spans.assign(seconds=(spans.end - spans.begin) / SECOND)
    seconds = phase.pivot_table(index="client", columns="phase", values="seconds", aggfunc="sum")
    moved = phase.pivot_table(index="client", columns="phase", values="nbytes", aggfunc="sum")
    seconds, moved = (table.reindex(index=list(clients), columns=["download", "train", "upload"]).fillna(0.0)
                      for table in (seconds, moved))  # fmt: skip
    found = seconds.assign(down=moved.download, up=moved.upload + moved.train)  # who fails may have sent a part
    watts = rates.receiving_watts, rates.training_watts, rates.sending_watts
    found["joules"] = seconds.to_numpy() @ np.array(watts)
    traffic = (found.down + found.up) / GIGABYTE * rates.gb_price
    return found.assign(money=found.joules / JOULES * rates.kwh_price + traffic)


@dataclass(frozen=True)
class Line:
    """One line of a bill."""

    item: str
    amount: float
    unit: str
    source: str


def bill(used: pd.DataFrame, seconds: float, down: float, up: float, rates: Rates, served: bool) -> list[Line]:
    """Of a run that took so many virtual seconds and moved so many bytes; `used` is what `usage` says of it."""
    joules, nbytes = float(used.joules.sum()), down + up
    energy, traffic = joules / JOULES * rates.kwh_price, nbytes / GIGABYTE * rates.gb_price
    server = seconds / HOUR * rates.server_hour_price if served else 0.0
    watts = ("training_watts", "sending_watts", "receiving_watts")
    money = [
        Line("price of the energy", energy, "money", rates.source(*watts, "kwh_price")),
        Line("price of the traffic", traffic, "money", rates.source("gb_price")),
        *([Line("price of the server", server, "money", rates.source("server_hour_price"))] if served else []),
    ]
    named = [*watts, "kwh_price", "gb_price", *(["server_hour_price"] if served else [])]
    return [
        Line("virtual time", seconds, "s", "simulated"),
        Line("clients' training", float(used.train.sum()), "s", "simulated"),
        Line("bytes down", down, "B", "counted"), Line("bytes up", up, "B", "counted"),
        Line("energy of the clients", joules, "J", rates.source(*watts)), *money,
        Line("price in all", energy + traffic + server, "money", rates.source(*named)),
    ]  # fmt: skip
