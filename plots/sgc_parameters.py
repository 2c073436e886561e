"""Sequential gradient coding: which parameters suit which workers, by replaying recorded times under each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fedsim.style import PAGE

FIGURE = Figure(
    "Sequential gradient coding: time against load, and the choice of parameters",
    "Setting: after Krishnan, Ebrahimi & Khisti, ICLR 2023: profiles of 256 AWS Lambda workers, a line fitted to mean"
    " time against load, 80 gradients replayed for every candidate with mu = 1 and a delay below four. Ours: public "
    "recordings of theirs, of 10 to 50 rounds instead of 100 and with batch 2048 or 256 instead of 4096, for which "
    "the fitted slope is doubled where it is not said; windows up to 10; GC bears s stragglers (in the public code s "
    "- 1); where a code cannot bear who is late, the master waits until it can. Parameters are chosen on the "
    "recording that they are judged by. Full: windows up to 40.",
)
FILE = "lambda_stragglers/durations.npz"
LONG, DAY = "cnn_p_desktop_long__Canada__load{}__b2048", "cnn_p_desktop__Canada__load{}__b2048"
LOADS = (0.0, 0.25, 0.5, 0.75, 1.0)
SLOPE = 2.238
"""Seconds for 4096 examples: twice what is fitted for 2048."""
SLOPES = (0.0, 0.5, 1.119, 2.238, 4.5, 9.0)
REGIONS = {
    "Canada, 14 Sep": DAY, "Canada, 15 Sep": LONG, "Canada, 13 Sep": "cnn_p-mbp__Canada__load{}__b256",
    "London": "cnn_p-mbp__London__load{}__b256", "Sydney": "cnn_p-mbp__Sydney__load{}__b256",
    "Tokyo": "cnn_p-mbp__Tokyo__load{}__b256",
}  # fmt: skip
COLOURS = {"uncoded": "C0", "gc": "C1", "srsgc": "C2", "msgc": "C3"}
NAMES = {"uncoded": "uncoded", "gc": "GC", "srsgc": "SR-SGC", "msgc": "M-SGC"}

Tuned = tuple[dict, pd.DataFrame]


def main() -> None:
    """Tune, judge, draw."""
    FIGURE.console.print(f"[bold]{FIGURE.title}[/]\n{FIGURE.setting}", highlight=False)
    both = {load: f"{DAY},{LONG}" if load == 0 else LONG for load in LOADS}
    fitted = [tune(f"profile {name[14:-16]}", dict.fromkeys(LOADS, name)) for name in (DAY, LONG)]
    candidates = tune("all", both, SLOPE)[1]
    by_slope = {slope: tune(f"slope {slope}", {0.0: f"{DAY},{LONG}"}, slope)[1] for slope in SLOPES}
    by_region = {region: tune(region, {0.0: name}, SLOPE)[1] for region, name in REGIONS.items()}
    judge(fitted, candidates, by_slope, by_region)
    FIGURE.end(lambda: draw(fitted, candidates, by_slope, by_region))


def tune(stem: str, profiles: dict[float, str], slope: float | None = None) -> Tuned:
    """What `fedsim tune coding` says: its JSON, and the table of all candidates."""
    table = FIGURE.options.out / "runs" / FIGURE.stem / f"{stem.replace(' ', '_')}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    said = [f"{load:g}={FILE}:" + ",".join(name.format(f"{load:.3f}") for name in names.split(","))
            for load, names in profiles.items()]  # fmt: skip
    options: list[str | Path] = ["--json", "--table", table, "--window", "40" if FIGURE.full else "10"]
    options += ["--slope", str(slope)] if slope is not None else []
    options += ["--data", FIGURE.options.data] if FIGURE.options.data else []
    done = subprocess.run([sys.executable, "-m", "fedsim", "tune", "coding", *said, *options],
                          check=True, capture_output=True, text=True)  # fmt: skip
    return json.loads(done.stdout), pd.read_csv(table)


def fastest(candidates: pd.DataFrame, name: str) -> pd.Series:
    """The best candidate of a code."""
    own = candidates[candidates.name == name]
    return own.loc[own.seconds.idxmin()]


def measured(said: dict) -> np.ndarray:
    """Loads, and mean seconds of a worker: (2, profiles)."""
    return np.array([(profile["load"], profile["mean_s"]) for profile in said["profiles"]]).T


def saved(candidates: pd.DataFrame, name: str, than: str) -> float:
    """The part of the other code's time."""
    return 1 - fastest(candidates, name).seconds / fastest(candidates, than).seconds


def judge(
    fitted: Sequence[Tuned], candidates: pd.DataFrame, by_slope: dict[float, pd.DataFrame],
    by_region: dict[str, pd.DataFrame],
) -> None:  # fmt: skip
    """Bounds set before the runs; one value each, as there is one recording."""
    for day, (said, _) in zip(("14 Sep", "15 Sep"), fitted, strict=True):
        explained = np.corrcoef(*measured(said))[0, 1] ** 2
        FIGURE.judge(above(f"{day}: mean time is linear in load, explained variance", [explained], 0.95))
    srsgc = candidates[candidates.name == "srsgc"].sort_values("load")
    ends = min(srsgc.seconds.iloc[0], srsgc.seconds.iloc[-1]) / srsgc.seconds.min()
    FIGURE.judge(above("SR-SGC's time falls and rises with load: the better end over the minimum", [ends], 1.0))
    msgc = candidates[candidates.name == "msgc"]
    FIGURE.judge(above("no M-SGC load lies below the bound: least ratio", [(msgc.load / msgc.least).min()], 1 - 1e-9))
    FIGURE.judge(above("the fastest M-SGC has less than a third of the fastest GC's load: 1/3 less the ratio",
                       [1 / 3 - fastest(candidates, "msgc").load / fastest(candidates, "gc").load], 0.0))  # fmt: skip
    gains = [saved(table, "msgc", "gc") for table in by_slope.values()]
    FIGURE.judge(above("what M-SGC saves against GC grows with the price of work: last slope less first",
                       [gains[-1] - gains[0]], 0.0))  # fmt: skip
    for region in ("Canada, 13 Sep", "Canada, 14 Sep", "Canada, 15 Sep"):
        FIGURE.judge(above(f"{region}: M-SGC is faster than GC, saving", [saved(by_region[region], "msgc", "gc")], 0.0))


def draw(
    fitted: Sequence[Tuned], candidates: pd.DataFrame, by_slope: dict[float, pd.DataFrame],
    by_region: dict[str, pd.DataFrame],
) -> Drawing:  # fmt: skip
    """Time against load; all candidates; loads against their bound; savings by the price of work and by recording."""
    drawing, grid = plt.subplots(2, 3, figsize=(PAGE, 4.6))
    *panels, rest = grid.ravel()
    rest.axis("off")
    draw_fit(panels[0], fitted)
    for name, own in candidates.groupby("name"):
        panels[1].scatter(own.load, own.seconds, s=4, color=COLOURS[str(name)], label=NAMES[str(name)], linewidths=0)
    panels[1].set(xscale="log", xlabel="load", ylabel="seconds for 80 gradients", title="every candidate")
    panels[1].legend(markerscale=3)
    draw_loads(panels[2], candidates)
    for name in ("gc", "srsgc", "msgc"):
        gains = [100 * saved(table, name, "uncoded") for table in by_slope.values()]
        panels[3].plot(list(by_slope), gains, ".-", color=COLOURS[name], label=NAMES[name])
    panels[3].set(xlabel="seconds for the whole batch", ylabel="time saved against uncoded (%)", title="price of work")
    panels[3].legend()
    for place, name in enumerate(("gc", "srsgc", "msgc")):
        gains = [100 * saved(table, name, "uncoded") for table in by_region.values()]
        panels[4].barh(np.arange(len(gains)) + 0.27 * (place - 1), gains, 0.25, color=COLOURS[name], label=NAMES[name])
    panels[4].set_yticks(range(len(by_region)), list(by_region))
    panels[4].set(xlabel="time saved against uncoded (%)", title="other recordings")
    panels[4].invert_yaxis()
    return drawing


def draw_fit(panel: Axes, fitted: Sequence[Tuned]) -> None:
    """Mean time of a worker against its load, with the line."""
    for place, (day, (said, _)) in enumerate(zip(("14 Sep", "15 Sep"), fitted, strict=True)):
        loads, means = measured(said)
        line = means.mean() + said["slope_s"] * (loads - loads.mean())
        panel.plot(loads, means, "o", color=f"C{place}")
        panel.plot(loads, line, color=f"C{place}", label=f"{day}: slope {said['slope_s']:.3f} s")
    panel.set(xlabel="load", ylabel="mean seconds of a worker", title="recorded, batch 2048")
    panel.legend()


def draw_loads(panel: Axes, candidates: pd.DataFrame) -> None:
    """M-SGC's load, and what no code can go below, by how many may straggle."""
    msgc = candidates[(candidates.name == "msgc") & (candidates.burst == 1)]
    for place, (window, own) in enumerate(msgc.groupby("window")):
        panel.plot(own.stragglers, own.load, color=f"C{place}", label=f"burst 1, window {window:.0f}")
        panel.plot(own.stragglers, own.least, ":", color=f"C{place}")
    panel.axhline(candidates[candidates.name == "uncoded"].load.iloc[0], color="grey", linewidth=0.8)
    panel.set(xlabel="stragglers borne, of 256", ylabel="load; dotted: least; grey: uncoded", title="M-SGC")
    panel.legend()


if __name__ == "__main__":
    main()
