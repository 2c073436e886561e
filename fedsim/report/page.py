"""A report: one HTML file that holds all that it shows and asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.bill import Rates
from fedsim.errors import ExtraMissing, ScenarioError
from fedsim.report.chart import Column, Section, Table
from fedsim.report.curves import curves, measured, metrics
from fedsim.report.sim_to_real import sim_to_real
from fedsim.report.view import View
from fedsim.results import Run, load
from fedsim.terminal import METRICS, clock, traffic
from fedsim.trials import Algorithm, algorithms, gathered

if TYPE_CHECKING:
    from jinja2 import Template

    from fedsim.card import Card

HERE = Path(__file__).parent
NAME = "report.html"
MOST_RUNS = 8
"""Of so many runs a page tells everything; of more only how they compare."""


def write_report(
    paths: Sequence[Path | str],
    out: Path | None = None,
    rates: Rates | None = None,
    clients: Sequence[int] = (),
    card: Card | None = None,
) -> Path:
    """Write a page about these run folders, a comparison's arms side by side; to `out`, or into the only folder.

    Of large fleets it holds what some of the clients did, first of all of these `clients`. A card says what a fleet
    that was fitted to these runs has foretold.

    Raises:
        ScenarioError: if one is no run folder, or there are several and no `out`.
        ExtraMissing: without plotly and Jinja.
    """
    library = plotly()
    runs = gathered(paths)
    if out is None and len(paths) > 1:
        raise ScenarioError(f"--out: where to write a report on {len(paths)} run folders? expected a file")
    target = out or Path(paths[0]) / NAME
    views = [View(run, rates or Rates(), clients) for run in runs]
    first = [*([sim_to_real(card)] if card else []), *(overview(runs) if len(runs) > 1 else [])]
    text = _template().render(
        title=_title(paths, runs), library=library, style=_text("report.css"), script=_text("report.js"),
        overview=first, views=views if len(views) <= MOST_RUNS else [],
        troubled=[view for view in views if view.status[1]], few=len(views) == 1, most=MOST_RUNS, count=len(runs),
    )  # fmt: skip
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(target)
    return target


def plotly() -> str:
    """The library that draws charts, as JavaScript; else ExtraMissing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ExtraMissing("reports need plotly: pip install 'fedsim-lab[report]'") from error
    return get_plotlyjs()


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ExtraMissing("reports need jinja2: pip install 'fedsim-lab[report]'") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data"] = data
    return environment.from_string(_text("report.html"))


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def data(value: Any) -> Any:
    """As JSON inside a script element: whatever a string says, it does not end the element."""
    from markupsafe import Markup
    from plotly.utils import PlotlyJSONEncoder

    text = json.dumps(value, cls=PlotlyJSONEncoder, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _title(paths: Sequence[Path | str], runs: Sequence[Run]) -> str:
    if len(paths) > 1:
        return f"{len(runs)} runs"
    run = load(paths[0])
    return run.label if run.label == run.path.parent.name else f"{run.path.parent.parent.name}: {run.label}"


def overview(runs: Sequence[Run]) -> list[Section]:
    """How runs compare: the first metrics by what they cost, and a row a run."""
    every = algorithms([run for run in runs if _has_rows(run)])
    if not every:
        return [Section("Side by side", note="Nothing was measured yet.")]
    chosen = [name for name in metrics(every) if name in METRICS] or ["updates"]
    seeds = max(len(one.runs) for one in every)
    note = f"Lines are means over up to {seeds} seeds, bands their 95 % intervals (Student's t)." if seeds > 1 else ""
    return [Section("Side by side", [chart for name in chosen for chart in curves(every, name)], [_ends(every)], note)]


def _has_rows(run: Run) -> bool:
    path = run.path / "metrics.csv"
    return path.exists() and path.stat().st_size > 1


def _ends(every: Sequence[Algorithm]) -> Table:
    """What each run came to."""
    judged = [name for name in METRICS if any(name in frame for one in every for frame in measured(one))]
    columns = [Column("algorithm"), Column("seed", "id"), Column("time", "right"), Column("versions", "whole"),
               Column("updates", "whole"), Column("lost", "whole"), Column("traffic", "right"),
               *(Column(name.replace("_", " "), "number") for name in judged)]  # fmt: skip
    rows = [
        [one.label, seed, clock(last.time_s), int(last.version), int(last.updates), int(last.lost),
         traffic(last.bytes_down + last.bytes_up), *(float(last[name]) if name in last else None for name in judged)]
        for one in every for seed, run in one.runs.items() for last in [run.metrics.iloc[-1]]
    ]  # fmt: skip
    return Table(columns, rows, search="algorithm or seed")
