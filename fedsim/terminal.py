"""What a terminal shows of a run: one bar while it goes on, a table when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fedsim.coding.tuning import Candidate
from fedsim.progress import Progress
from fedsim.results import Run
from fedsim.summary import Line

ROWS = 6
"""So many measurements of each run, spread over its length, are shown."""

METRICS = {"accuracy": "f", "loss": "g", "merged_accuracy": "f"}
"""What models are judged by, the first that there is before the others; written in this format."""

REFRESH_SECONDS = 0.1


def clock(seconds: float) -> str:
    """Virtual time as people say it.

    >>> clock(42), clock(95), clock(5_000), clock(400_000)
    ('42.0 s', '1.6 min', '1.4 h', '4.6 d')
    """
    for unit, scale in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.1f} s"


def traffic(nbytes: float) -> str:
    """Bytes as people say them.

    >>> traffic(0), traffic(12_345), traffic(7_800_000_000)
    ('0 B', '12.3 kB', '7.8 GB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes:.0f} B"


class ProgressBar:
    """One bar for all arms of a run: virtual time, real time, version, metric, traffic, time to go."""

    def __init__(self, console: Console, arms: int):
        self.arms = arms
        self.labels: list[str] = []
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[state]}"), TimeElapsedColumn(), TextColumn("to go"), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("preparing", total=1.0, state="")
        self.shown = 0.0

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def finished(self, label: str, done: int, total: int) -> None:
        """One of the arms is over."""
        self.bar.update(self.task, completed=done / total, description=label)

    def watch(self, label: str, progress: Progress, now: int) -> None:
        """Show how far it is."""
        if label not in self.labels:
            self.labels.append(label)
        if monotonic() - self.shown < REFRESH_SECONDS:
            return
        self.shown = monotonic()
        done = (len(self.labels) - 1 + progress.until.share(progress, now)) / self.arms
        self.bar.update(self.task, completed=done, description=label, state=_state(progress, now))


def _state(progress: Progress, now: int) -> str:
    last = progress.rows[-1] if progress.rows else {}
    metric = next((f" {name} {last[name]:.3{METRICS[name]}}" for name in METRICS if name in last), "")
    return f"{clock(now / 1e6)} v{progress.version}{metric} {traffic(progress.down + progress.up)}"


def table(runs: Sequence[Run]) -> Table:
    """Metric against virtual time, updates, traffic and staleness."""
    shown = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    frames = [run.metrics for run in runs]
    metrics = [name for name in METRICS if any(name in frame for frame in frames)]
    for column in ("run", "time", "versions", "updates", "lost", "traffic", "staleness", *metrics):
        shown.add_column(column.removesuffix("_accuracy"), justify="left" if column == "run" else "right", no_wrap=True)
    for run, frame in zip(runs, frames, strict=True):
        for row in _spread(frame).to_dict("records"):
            shown.add_row(
                run.label, clock(row["time_s"]), f"{row['version']:.0f}", f"{row['updates']:.0f}", f"{row['lost']:.0f}",
                traffic(row["bytes_down"] + row["bytes_up"]), f"{row['staleness']:.2f}",
                *(f"{row[name]:.4{METRICS[name]}}" if name in row else "" for name in metrics),
            )  # fmt: skip
        shown.add_row()
    return shown


def summed(lines: Sequence[Line]) -> Table:
    """A line a combination: mean and half its 95 % interval over the seeds, where there are several."""
    shown = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    metrics = [name for name in METRICS if any(line.last(name) for line in lines)]
    for column in (*lines[0].at, "runs", "failed", "time", "updates", *metrics):
        shown.add_column(column, justify="left" if column in lines[0].at else "right", overflow="fold")
    for line in lines:
        time, updates = line.mean("time_s"), line.mean("updates")
        shown.add_row(
            *line.at.values(), f"{len(line.runs)}", f"{len(line.runs) - len(line.finished)}",
            "" if time is None else clock(time), "" if updates is None else f"{updates:.0f}",
            *(_interval(line, name) for name in metrics),
        )  # fmt: skip
    return shown


def _interval(line: Line, metric: str) -> str:
    found, form = line.interval(metric), METRICS[metric]
    if found is None:
        return ""
    mean = f"{found[0]:.4{form}}"
    return mean if len(line.last(metric)) == 1 else f"{mean} ±{found[1]:.2g}"


def candidates(best: Sequence[Candidate], jobs: int) -> Table:
    """Codes and what they take for so many gradients, the fastest first; gains are against waiting for everybody."""
    shown = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in ("code", "parameters", "load", "copies", f"{jobs} jobs", "gain", "waited"):
        shown.add_column(column, justify="left" if column in ("code", "parameters") else "right", no_wrap=True)
    plain = next(candidate.seconds for candidate in best if candidate.name == "uncoded")
    for one in best:
        parameters = ", ".join(f"{name} {value}" for name, value in one.arguments.items())
        gain = f"{one.seconds / plain - 1:+.1%}"
        cells = (f"{one.load:.5f}", f"{one.copies:.2f}", clock(one.seconds), gain, f"{one.waited_out}")
        shown.add_row(one.name, parameters, *cells)
    return shown


def copies(runs: Sequence[Run]) -> list[str]:
    """How many copies of the raw data have left their owners in each run of a code."""
    coded = [(run.label, run.metrics.iloc[-1]) for run in runs if "copies" in run.metrics]
    return [
        f"{label}: {row.copies:.2f} copies of the raw data left their owners; {row.straggled:.0f} answers were done "
        f"without, {row.waited_out:.0f} of {row.rounds:.0f} rounds were waited out"
        for label, row in coded
    ]


def epsilons(runs: Sequence[Run]) -> list[str]:
    """What each run with clipping has disclosed, or why nobody can say."""
    told = [(f"{run.label}, {who}", said) for run in runs for who, said in run.receipt.get("privacy", {}).items()]
    return [
        f"{label}: {said['refused']}" if "refused" in said else
        f"{label}: epsilon {said['epsilon']:.4g} at delta {said['delta']:g} after {said['rounds']} releases, "
        f"{said['scope']} (sampling: {said['sampling']}; {said['adjacent']})"
        for label, said in told
    ]  # fmt: skip


def _spread(frame: pd.DataFrame) -> pd.DataFrame:
    places = [round(step * (len(frame) - 1) / (ROWS - 1)) for step in range(ROWS)]
    return frame.iloc[sorted(set(places))]


def verdict(runs: Sequence[Run]) -> list[str]:
    """When each run reached the best accuracy (without classes: loss) that all of them reach, the soonest first."""
    shared = [name for name in METRICS if all(name in run.metrics for run in runs)]
    if len(runs) < 2 or not shared:
        return []
    metric, sign = shared[0], 1 if shared[0] == "accuracy" else -1
    target = min((sign * run.metrics[metric]).max() for run in runs)
    firsts = [(run, run.metrics[sign * run.metrics[metric] >= target].iloc[0]) for run in runs]
    firsts.sort(key=lambda pair: pair[1].time_s)
    reached = f"{metric} {sign * target:.3{METRICS[metric]}}"
    return [
        f"{run.label} reached {reached} after {clock(row.time_s)}, {row.updates:.0f} updates and "
        f"{traffic(row.bytes_down + row.bytes_up)}"
        for run, row in firsts
    ]
