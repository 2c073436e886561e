"""A comparison of algorithms over seeds, as people look at it: tables and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from fedsim.errors import ScenarioError
from fedsim.picture import SIZES, TIMES, unit_for
from fedsim.reaching import END, Outcome, outcomes
from fedsim.significance import Difference, differences
from fedsim.style import COLOURS, LOOKS, PAGE, SMALL
from fedsim.terminal import clock, traffic
from fedsim.trials import algorithms, gathered

WRITE = {"time": clock, "bytes": traffic, "versions": "{:.4g}".format, END: "{:.4f}".format}


@dataclass(frozen=True)
class Contest:
    """Algorithms, what each came to, and how sure it is that they differ."""

    metric: str
    target: float | None
    outcomes: Sequence[Outcome]
    differences: Sequence[Difference]

    @classmethod
    def of(cls, paths: Sequence[Path | str], metric: str, target: float | None, baseline: str | None = None) -> Contest:
        """Of run folders; runs that differ in their seed alone are one algorithm. ScenarioError if there is but one."""
        every = algorithms(gathered(paths))
        if len(every) < 2:
            raise ScenarioError(f"{', '.join(map(str, paths))}: expected two algorithms or more, whatever their seeds")
        found = outcomes(every, metric, target)
        return cls(metric, target, found, differences(found, baseline))

    def title(self, measure: str) -> str:
        """What a measure says."""
        return f"{self.metric} {END}" if measure == END else f"{measure} to {self.goal}"

    @property
    def goal(self) -> str:
        """The target."""
        return f"{self.metric} {self.target:g}"

    def measures(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(outcome.measure for outcome in self.outcomes))

    def tables(self) -> list[Table]:
        """For a terminal: what each algorithm came to; and every two of them."""
        return [self._ends(), self._pairs()]

    def _ends(self) -> Table:
        labels = list(dict.fromkeys(outcome.label for outcome in self.outcomes))
        known = {(outcome.label, outcome.measure): outcome for outcome in self.outcomes}
        rows = [(label, str(len(known[label, END].values)), *(written(known[label, measure])
                 for measure in self.measures())) for label in labels]  # fmt: skip
        costs = "" if self.target is None else f"; what reaching {self.goal} costs"
        return _table(f"means over seeds, and half their 95 % intervals: {self.metric} {END}{costs}",
                      ("algorithm", "seeds", *self.measures()), rows)  # fmt: skip

    def _pairs(self) -> Table:
        rows = [(one.second, one.first, one.measure, effect(one), _number(one.test.size, "{:+.2f}"),
                 one.test.method, _number(one.test.p, "{:.3g}"), _number(one.adjusted, "{:.3g}"))
                for one in self.differences]  # fmt: skip
        title = f"{len(rows)} comparisons; p by Holm is corrected for all of them"
        return _table(title, ("algorithm", "against", "in", "by (95 % interval)", "d", "test", "p", "p, Holm"), rows)

    def json(self) -> dict[str, Any]:
        """All of it, as plain data; what is not known is null."""
        ends = [{"label": one.label, "measure": one.measure, "mean": one.mean, "half": one.half,
                 "values": dict(one.values), "never": sorted(one.never)} for one in self.outcomes]  # fmt: skip
        pairs = [{"measure": one.measure, "first": one.first, "second": one.second, "shared": one.shared,
                  **asdict(one.test), "adjusted": one.adjusted} for one in self.differences]  # fmt: skip
        plain = [{name: None if isinstance(value, float) and not isfinite(value) else value
                  for name, value in pair.items()} for pair in pairs]  # fmt: skip
        return {"metric": self.metric, "target": self.target, "outcomes": ends, "tests": len(pairs),
                "differences": plain}  # fmt: skip

    @rc_context(LOOKS)
    def draw(self, target: Path) -> None:
        """A panel a measure, a row an algorithm: every seed, the mean and its interval. Writes a PNG."""
        labels = list(dict.fromkeys(outcome.label for outcome in self.outcomes))
        measures = self.measures()
        figure = Figure(figsize=(PAGE, 1.0 + 0.3 * len(labels)))
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            self._panel(axes, measure, [one for one in self.outcomes if one.measure == measure])
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.5, -0.5)
        figure.supxlabel("dots: seeds; hollow: never reached it, so later than here; bars: means, 95 % intervals",
                         fontsize=SMALL, color="grey", x=0.99, ha="right")  # fmt: skip
        temporary = target.with_name(f".{target.name}.tmp")
        figure.savefig(temporary, format="png")
        temporary.rename(target)

    def _panel(self, axes: Axes, measure: str, found: Iterable[Outcome]) -> None:
        found = list(found)
        units = {"time": TIMES, "bytes": SIZES}.get(measure)
        largest = max(value for one in found for value in one.values.values())
        unit, scale = unit_for(units, largest) if units else ("", 1.0)
        for row, one in enumerate(found):
            for seed, value in one.values.items():
                late = seed in one.never
                axes.plot(value / scale, row, ">" if late else "o", color=COLOURS[0], alpha=0.6,
                          markerfacecolor="white" if late else COLOURS[0])  # fmt: skip
            if not one.never:
                bar = {"xerr": (one.half or 0.0) / scale, "fmt": "|", "color": COLOURS[-1]}
                axes.errorbar(one.mean / scale, row + 0.22, **bar)
        axes.set_xlabel(self.title(measure) + (f" ({unit})" if unit else ""))
        axes.grid(visible=False, axis="y")
        if measure != END:
            axes.set_xlim(0, None)


def written(outcome: Outcome) -> str:
    """A mean as people read it; where some runs never reached the target, in how many, and from where on."""
    write, seeds = WRITE[outcome.measure], len(outcome.values)
    if outcome.never:
        return f"above {write(outcome.mean)} (never: {len(outcome.never)} of {seeds})"
    return write(outcome.mean) + ("" if outcome.half is None else f" ±{write(outcome.half)}")


def effect(difference: Difference) -> str:
    """How much more or less it is."""
    test, form = difference.test, "{:+.4f}" if difference.measure == END else "{:.3g}x"
    if not isfinite(test.effect):
        return f"not known of {test.unknown} of {difference.shared} pairs" if test.unknown else ""
    low, high = (form.format(end) for end in (test.low, test.high))
    return form.format(test.effect) + (f" ({low} to {high})" if isfinite(test.low) else "")


def _number(value: float, form: str) -> str:
    return form.format(value) if isfinite(value) else ""


def _table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
