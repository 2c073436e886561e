"""Sim to real: how well a fleet that was fitted to half of a recording foretells the other half, and who wins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from scipy.stats import kendalltau

from fedsim import conduct, scenario
from fedsim.calibration import Fit, at_work, fitted, halves, rounds, tasks
from fedsim.errors import ScenarioError
from fedsim.experiment import assemble
from fedsim.results import Run
from fedsim.terminal import clock

INTERVAL = (0.05, 0.95)
"""Of the foretold times of rounds, over replicas: a 90 % interval."""


@dataclass(frozen=True)
class Line:
    """What was foretold of one recorded run."""

    name: str
    rounds: int
    """So many of the second half are judged."""
    error: float
    """Median over them of |foretold - recorded| / recorded; foretold is the median over replicas."""
    coverage: float
    """Share of them within the foretold 90 % interval."""
    recorded: float
    """Seconds to the target; inf where it was not reached."""
    simulated: float
    """The same, median over replicas."""


@dataclass(frozen=True)
class Card:
    """What `fedsim calibrate` finds."""

    lines: list[Line]
    target: float | None
    """The accuracy that is timed; None: nothing was measured."""
    tau: float | None
    """Kendall's, of the ranking of runs by time to the target; None if none reached it."""
    replicas: int

    @property
    def error(self) -> float:
        """Median over runs of theirs."""
        return median(line.error for line in self.lines)

    def table(self) -> Table:
        """A line a run, and what holds for all in the title."""
        ranking = "not known" if self.tau is None else f"{self.tau:.2f}"
        shown = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", caption_justify="left",
                      caption=f"rounds: median error {self.error:.1%}; ranking: Kendall's tau {ranking}; "
                      f"{self.replicas} replicas")  # fmt: skip
        reached = "time" if self.target is None else f"time to {self.target:.3f}"
        columns = ("run", "rounds", "error", "in 90 %", f"{reached}: recorded", "simulated")
        for column in columns:
            shown.add_column(column, justify="left" if column == "run" else "right")
        for line in self.lines:
            times = [clock(each) if isfinite(each) else "never" for each in (line.recorded, line.simulated)]
            shown.add_row(line.name, str(line.rounds), f"{line.error:.1%}", f"{line.coverage:.0%}", *times)
        return shown

    def json(self) -> str:
        """For machines; what is infinite is null."""
        facts: dict[str, Any] = {**asdict(self), "error": self.error}
        facts["lines"] = [{key: None if value == inf else value for key, value in line.items()}
                          for line in facts["lines"]]  # fmt: skip
        return json.dumps(facts)


def calibrate(
    runs: Sequence[Run], out: Path, replicas: int = 20, target: float | None = None, data: Path | None = None
) -> Card:
    """Fit devices to the first half of all these runs, let replicas of each run happen on them, and compare.

    How late devices are beside their best is each run's own, of its first half.

    Args:
        runs: recorded ones of one fleet, each of one algorithm; simulated ones do too.
        out: where the fitted tables and the replicas' run folders go, and `card.json`.
        replicas: simulations of each run, which differ in the delays drawn from those seen.
        target: the accuracy that is timed; None: what every recorded run has held for half of its second half.
        data: where to look for data first.

    Raises:
        ScenarioError: if the runs are not of one fleet, or a client has done nothing in the first half.
    """
    clients = at_work([run.scenario for run in runs])
    seen = [_with_examples(run, data) for run in runs]
    fit = Fit.of(pd.concat([halves(each)[0] for each in seen], ignore_index=True), clients)
    trainings = 4 * max(Counter(each.client).most_common(1)[0][1] for each in seen if len(each))
    target = _held_accuracy(runs) if target is None else target
    lines = []
    for place, (run, each) in enumerate(zip(runs, seen, strict=True)):
        first, middle = halves(each)
        own, folder = fit.delayed(first), out / str(place)
        tables = [own.write(folder, trainings, seed=0, replica=replica) for replica in range(replicas)]
        happened = [
            conduct.run(fitted(run.scenario, *table), data=data, out=folder / f"{replica}", picture=False)
            for replica, table in enumerate(tables)
        ]
        lines.append(_line(run, happened, middle, target))
    card = Card(lines, target, _tau(lines), replicas)
    (out / "card.json").write_text(card.json())
    return card


def _with_examples(run: Run, data: Path | None) -> pd.DataFrame:
    """The run's tasks, and the `examples` that each has looked at."""
    [arm] = scenario.read(run.scenario)
    work = assemble(arm, data).work
    seen = tasks(run.trace)
    pairs = zip(seen.client, seen.version, strict=True)
    return seen.assign(examples=[work.seen_at(int(client), int(version)) for client, version in pairs])


def _line(run: Run, happened: Sequence[Run], middle: float, target: float | None) -> Line:
    recorded = rounds(run.trace)
    late = recorded.loc[recorded.cumsum() > middle]
    foretold = pd.concat([rounds(each.trace) for each in happened], axis=1).reindex(late.index).to_numpy()
    if not len(late) or np.isnan(foretold).all():
        raise ScenarioError(f"{run.path}: no round of the second half could be foretold: expected more versions")
    low, high = np.nanquantile(foretold, INTERVAL, axis=1)
    error = np.abs(np.nanmedian(foretold, axis=1) - late) / late
    reached = partial(time_to, target=target)
    return Line(
        name=run.label, rounds=len(late), error=float(np.nanmedian(error)),
        coverage=float(np.mean((low <= late) & (late <= high))),
        recorded=reached(run.metrics), simulated=median(reached(each.metrics) for each in happened),
    )  # fmt: skip


def time_to(metrics: pd.DataFrame, target: float | None) -> float:
    """Seconds until a model was measured to be so accurate; inf: never."""
    if target is None or "accuracy" not in metrics:
        return inf
    there = metrics.time_s[metrics.accuracy >= target].tolist()
    return there[0] if there else inf


def _held_accuracy(runs: Sequence[Run]) -> float | None:
    """What every run has held for a half of its second half: one lucky measurement does not make it."""
    found = [late.accuracy.median() for run in runs if "accuracy" in run.metrics
             for late in [run.metrics.loc[run.metrics.time_s > run.metrics.time_s.max() / 2]]]  # fmt: skip
    return float(min(found)) if len(found) == len(runs) else None


def _tau(lines: Sequence[Line]) -> float | None:
    """Of all runs, those last that never reached the target; None if all of a world tie."""
    if len(lines) < 2:
        return None
    tau: Any = kendalltau([one.recorded for one in lines], [one.simulated for one in lines])
    return None if np.isnan(tau.statistic) else float(tau.statistic)
