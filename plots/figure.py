"""What every figure shares: its runs, computed side by side; its verdicts, by bounds set beforehand; its looks.

A script states its claims with their bounds, asks for its runs, judges, draws, and ends with exit code 1 if a claim has
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from textwrap import fill
from typing import TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from rich.console import Console
from rich.progress import Progress

import fedsim
from fedsim.intervals import mean_and_half
from fedsim.style import LOOKS, SMALL

K = TypeVar("K", bound=Hashable)
Told = Callable[[int, int], None]
"""How many runs are done, of how many."""
SCENARIOS = Path(__file__).parent.parent / "scenarios"

plt.rcParams.update(LOOKS)


@dataclass(frozen=True)
class Verdict:
    """What has become of a claim: PASS, FAIL or INCONCLUSIVE."""

    claim: str
    outcome: str
    figures: str


def counted(seeds: int) -> str:
    """So many seeds, in words.

    >>> counted(1), counted(5)
    ('1 seed', '5 seeds')
    """
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def legend_above(drawing: Drawing, panel: Axes, columns: int = 6, side: str = "center") -> None:
    """What a panel's colours stand for, over all panels, where it covers nothing."""
    drawing.legend(*panel.get_legend_handles_labels(), loc=f"outside upper {side}", ncols=columns)


def above(claim: str, values: Sequence[float], least: float) -> Verdict:
    """Judge that a mean lies above a bound, from one value a seed.

    PASS if the whole 95 % confidence interval lies above it, FAIL if the whole interval lies below, else INCONCLUSIVE.
    Without spread (all values equal, or one value) the interval is a point; the verdict says how many values there are.
    """
    mean, half = mean_and_half(values)
    outcome = "PASS" if mean - half > least else "FAIL" if mean + half < least or not half else "INCONCLUSIVE"
    return Verdict(claim, outcome, f"{mean:.4g} +- {half:.2g} over {counted(len(values))}, bound {least:g}")


def deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation over seeds, the first axis; 0 of a single one."""
    return values.std(0, ddof=min(1, len(values) - 1))


@dataclass
class Figure:
    """One figure, from its command line to its verdicts."""

    title: str
    setting: str
    """Whose setting it is, and what deviates from the paper's."""
    verdicts: list[Verdict] = field(default_factory=list)

    def __post_init__(self) -> None:
        parser = argparse.ArgumentParser(description=f"{self.title}\n\n{self.setting}",
                                         formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        size = parser.add_mutually_exclusive_group()
        size.add_argument("--full", action="store_true", help="the paper's size; hours instead of minutes")
        size.add_argument(
            "--quick", action="store_true", help="one seed: verdicts without intervals; where it is also smaller, none"
        )
        parser.add_argument(
            "--redraw", action="store_true", help="draw and judge the runs of last time, and run nothing"
        )
        parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time")
        parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of pictures and runs")
        parser.add_argument("--data", type=Path, default=None, help="where to look for data first")
        self.options = parser.parse_args()
        self.console = Console()
        self.full: bool = self.options.full
        self.quick: bool = self.options.quick
        self.smaller = False
        """Than what bounds were set for."""
        self.stem = Path(sys.argv[0]).stem
        self.folder: Path = self.options.out / "runs" / self.stem
        self.asked: list[dict[str, list]] = []
        """What was run so far, scenarios with overrides, and where."""

    def seeds(self, count: int, full: int | None = None, first: int = 0) -> range:
        """So many, from the first on; at the full size `full` if that differs, at the quick one a single seed."""
        return range(first, first + (1 if self.quick else full if full and self.full else count))

    def sized(self, full: Sequence[str] = (), quick: Sequence[str] = ()) -> Sequence[str]:
        """The overrides of the size that is asked for; none of the one in between, which is the scenario's own.

        What is made smaller is not judged: bounds were not set for it.
        """
        self.smaller = self.quick and bool(quick)
        return full if self.full else quick if self.quick else ()

    def runs(self, scenario: str, arms: Mapping[K, Sequence[str]]) -> dict[K, fedsim.Run]:
        """Run a scenario once for each arm, with the arm's overrides."""
        work = [[str(SCENARIOS / scenario), *overrides] for overrides in arms.values()]
        return dict(zip(arms, self._computed(work, self._side_by_side), strict=True))

    def grid(self, scenario: str, *overrides: str) -> fedsim.Run:
        """Run all combinations of a scenario's axes, side by side; the folder that holds them."""
        [run] = self._computed([[str(SCENARIOS / scenario), *overrides]], self._swept)
        return run

    def _computed(
        self, work: list[list[str]], compute: Callable[[list[list[str]], Told], list[Path]]
    ) -> list[fedsim.Run]:
        """Runs, which are computed with a bar that is told how many are done; or those of last time."""
        self.console.print(f"[bold]{self.title}[/]\n{self.setting}", highlight=False)
        known, turn = self.folder.with_suffix(".json"), len(self.asked)
        if self.options.redraw:
            self.asked = json.loads(known.read_text())[: turn + 1] if known.exists() else []
            if [each["work"] for each in self.asked[turn:]] != [work]:
                sys.exit(f"{known}: expected these runs, to draw them again; without --redraw they are computed")
        else:
            with Progress(console=self.console) as bar:
                task = bar.add_task(Path(work[0][0]).name, total=None)
                paths = compute(work, lambda done, total: bar.update(task, completed=done, total=total))
            self.asked.append({"work": work, "paths": [os.path.relpath(path, self.folder) for path in paths]})
            known.write_text(json.dumps(self.asked) + "\n")
        return [fedsim.load(self.folder / path) for path in self.asked[turn]["paths"]]

    def _swept(self, work: list[list[str]], told: Told) -> list[Path]:
        run = fedsim.run(*work[0], data=self.options.data, out=self.folder, picture=False,
                         workers=self.options.workers, finished=lambda _, done, total: told(done, total))  # fmt: skip
        return [run.path]

    def _side_by_side(self, work: list[list[str]], told: Told) -> list[Path]:
        left = max(1, self.options.workers // len(work))  # for a run's own arms
        with ProcessPoolExecutor(self.options.workers, get_context("spawn"), _alone) as pool:
            pending = [pool.submit(_run, self.folder, self.options.data, left, *each) for each in work]
            for done, future in enumerate(as_completed(pending), 1):
                future.result()
                told(done, len(work))
            return [future.result() for future in pending]

    def judge(self, *verdicts: Verdict) -> None:
        """Add verdicts."""
        if self.smaller:
            verdicts = tuple(
                replace(one, outcome="INCONCLUSIVE", figures=f"{one.figures}, of a size that it was not set for")
                for one in verdicts
            )
        self.verdicts += verdicts

    def end(self, draw: Callable[[], Drawing]) -> None:
        """Draw, print the verdicts, write them beside the picture, and leave with 1 if one of them is FAIL."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        drawing = draw()
        drawing.text(0.01, -0.01, fill(self.setting, 165), fontsize=SMALL, color="#555555", va="top")
        for kind in ("png", "pdf"):
            drawing.savefig(self.options.out / f"{self.stem}.{kind}")
        told = {"title": self.title, "setting": self.setting, "verdicts": [asdict(one) for one in self.verdicts]}
        (self.options.out / f"{self.stem}.json").write_text(json.dumps(told, indent=2) + "\n")
        self.console.print(f"{self.options.out / self.stem}.png")
        for verdict in self.verdicts:
            colour = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}[verdict.outcome]
            self.console.print(f"[{colour}]{verdict.outcome}[/] {verdict.claim}: {verdict.figures}", highlight=False)
        sys.exit(any(verdict.outcome == "FAIL" for verdict in self.verdicts))


def _alone() -> None:
    """Workers share the machine's cores: one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(folder: Path, data: Path | None, workers: int, scenario: str, *overrides: str) -> Path:
    return fedsim.run(scenario, *overrides, data=data, out=folder, picture=False, workers=workers).path
