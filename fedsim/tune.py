"""What `fedsim tune` does: search with a progress bar, and say what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from rich.console import Console
from rich.progress import Progress

from fedsim.coding.replay import Replay
from fedsim.coding.tuning import Candidate, Grid, Profile, best, read_profile, search, slope_of, without_work
from fedsim.data.folders import data_folders
from fedsim.terminal import candidates


@dataclass(frozen=True)
class Tuned:
    """All candidates, and how they were replayed."""

    profiles: list[Profile]
    grid: Grid
    replay: Replay
    tried: list[Candidate]

    @property
    def best(self) -> list[Candidate]:
        """The fastest of each code, the fastest first."""
        return best(self.tried)

    def write(self, path: Path) -> None:
        """All candidates, a row each."""
        rows = [{**asdict(one), **one.arguments} for one in self.tried]
        pd.DataFrame(rows).drop(columns="arguments").to_csv(path, index=False)

    def json(self) -> str:
        """For machines."""
        choices = [{**asdict(one), "scenario": one.scenario(self.grid, self.replay)} for one in self.best]
        profiles = [{"load": profile.load, "mean_s": profile.seconds.mean()} for profile in self.profiles]
        facts = {"profiles": profiles, "slope_s": self.replay.slope, "tried": len(self.tried)}
        return json.dumps(facts | {"best": choices})

    def show(self) -> None:
        """For people: the table, and the fastest as a scenario's key."""
        console = Console()
        rounds, workers = self.replay.seconds.shape
        console.print(f"{len(self.tried)} candidates over {rounds} recorded rounds of {workers} workers; "
                      f"the whole data take {self.replay.slope:.4g} s", highlight=False, soft_wrap=True)  # fmt: skip
        console.print(candidates(self.best, self.replay.jobs))
        chosen = self.best[0].scenario(self.grid, self.replay)
        console.print(
            yaml.safe_dump(chosen, default_flow_style=True, sort_keys=False, width=200)[1:-2], highlight=False
        )


def tune_codes(
    profiles: Sequence[str], models: int, jobs: int, mu: float, wait_out: Literal["pattern", "all"], window: int,
    slope: float | None, data: Path | None,
) -> Tuned:  # fmt: skip
    """Replay recorded times under every code.

    Raises:
        ScenarioError: if a profile cannot be read, or they do not go together.
    """
    read = [read_profile(text, data_folders(data, None)) for text in profiles]
    whole = slope_of(read) if slope is None else slope
    replay = Replay(without_work(read, whole), whole, jobs, mu, wait_out)
    grid = Grid(replay.workers, models, window)
    tried: list[Candidate] = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=grid.tries)
        for some in search(replay, grid):
            tried += some
            bar.advance(task)
    return Tuned(read, grid, replay, tried)
