"""How near the simulator came to devices, as a section of a page on the runs that were recorded there."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from fedsim.report.chart import PALETTE, Chart, Column, Section, Table, figure

if TYPE_CHECKING:
    from fedsim.card import Card

NOTE = (
    "Devices were fitted to the tasks of the first half of these runs, and how late they were to each run's own; "
    "replicas of each run on them foretold the second half. A round is as many tasks as are under way at once. Error: "
    "the median over rounds of |foretold - recorded| / recorded; in 90 %: the share of rounds within the foretold "
    "interval."
)


def sim_to_real(card: Card) -> Section:
    """What `fedsim calibrate` has found."""
    ranking = "not known" if card.tau is None else f"{card.tau:.2f}"
    facts = [("error of rounds' times", f"{card.error:.1%}"), ("ranking: Kendall's tau", ranking),
             ("runs", str(len(card.lines))), ("replicas of each", str(card.replicas))]  # fmt: skip
    target = "" if card.target is None else f" to accuracy {card.target:.3g}"
    columns = [Column("run"), Column("rounds", "whole"), Column("error", "right"), Column("in 90 %", "right"),
               Column(f"time{target}: recorded", "time"), Column("simulated", "time")]  # fmt: skip
    rows = [[line.name, line.rounds, f"{line.error:.1%}", f"{line.coverage:.0%}",
             *(each if isfinite(each) else None for each in (line.recorded, line.simulated))]
            for line in card.lines]  # fmt: skip
    return Section("Sim to real", _times(card, f"time{target}"), [Table(columns, rows)], NOTE, facts=facts)


def _times(card: Card, title: str) -> list[Chart]:
    """What each run took to the target in both worlds: on the line where these agree."""
    there = [line for line in card.lines if isfinite(line.recorded) and isfinite(line.simulated)]
    if not there:
        return []
    most = max(max(line.recorded, line.simulated) for line in there)
    points = [{"type": "scatter", "mode": "markers", "x": [line.recorded], "y": [line.simulated], "name": line.name,
               "marker": {"color": PALETTE[place % len(PALETTE)], "size": 11}}
              for place, line in enumerate(there)]  # fmt: skip
    agree = {"type": "scatter", "mode": "lines", "x": [0, most], "y": [0, most], "name": "as foretold",
             "line": {"color": "#999", "dash": "dot"}}  # fmt: skip
    return [Chart(title, figure([agree, *points], "recorded (s)", "simulated (s)"))]
