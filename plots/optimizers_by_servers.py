"""Local optimizers by servers: which is ahead at equal time, what it remembers and what it sends."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.intervals import mean_and_half
from fedsim.style import COLOURS, PAGE

FIGURE = Figure(
    "Local optimizers by servers: accuracy by time, state and traffic on non-IID Fashion-MNIST",
    "Setting: ours, scenarios/optimizers_by_servers.yaml: 30 of FedScale's phones, half of them in every round, the "
    "others in one of four; 6000 pictures of Fashion-MNIST by Dirichlet(0.3), 1000 for tests, MLP 784-32-10, two hours "
    "of virtual time, what an optimizer remembers stays with its client. One rate for each optimizer, the best on "
    "seed 100 by the mean of the three servers' final accuracies: SGD with and without ghosts of 0.03, 0.1, 0.3, 1; "
    "AdamW and FRUGAL of 0.0003, 0.001, 0.003, 0.01; CLASSP (power 1, threshold 1e-5) of 0.01, 0.03, 0.1, 0.3; AdamW's "
    "is the highest of its grid, by 0.003 in accuracy. GBN: SGD on batches of 128 for 32, normalised 32 by 32, as in "
    "plots/ghost_norm.py, 3 steps a round, about as many examples; of 0.06, 0.2, 0.6, 2 and of 3 or 10 steps the best "
    "on seed 100, the paper's sqrt(4) times SGD's rate. BatchNorm is beside it at SGD's own rate and batch. A step "
    "under ghosts takes twice the time. Final accuracies are means of the last 20 minutes, bars 95 % intervals over "
    "three seeds, bands from the least to the greatest of them; traffic: a mark for each seed, hollow for what "
    "it sends in all; who never reached the accuracy has no other. Bounds set after that pilot, "
    "before the runs that are judged. Quick: one hour. Full: ten seeds.",
)
GOAL = 0.7
"""The accuracy that traffic is asked for."""
LAST = 6
"""How many measurements a final accuracy is the mean of, four minutes apart."""
MARKS = {"FedAvg": "o", "FedStale": "s", "FedBuff": "^"}
OPTIMIZERS = ("SGD", "AdamW", "FRUGAL", "CLASSP", "SGD with ghosts", "SGD with BatchNorm", "GBN")
COLOUR: dict[str, str] = dict(zip(OPTIMIZERS, COLOURS, strict=True))


def main() -> None:
    """Run, judge, draw."""
    seeds = f"compare.seed={list(FIGURE.seeds(3, full=10))}"
    run = FIGURE.grid("optimizers_by_servers.yaml", seeds, *FIGURE.sized(quick=["until.time=1 h"]))
    judge(run)
    FIGURE.end(lambda: draw(run))


def curves(run: fedsim.Run, optimizer: str, server: str) -> list[pd.DataFrame]:
    """Measurements in time, seed by seed."""
    where = run.coordinates.items()
    here = {label for label, at in where if (at["optimizer"], at["server"]) == (optimizer, server)}
    return [arm.metrics for arm in run.arms if arm.label in here]


def last(run: fedsim.Run, optimizer: str, server: str) -> np.ndarray:
    """Accuracy in the end, seed by seed."""
    return np.array([curve.accuracy.iloc[-LAST:].mean() for curve in curves(run, optimizer, server)])


def sent(curve: pd.DataFrame) -> pd.Series:
    """Megabytes so far, both ways."""
    return (curve.bytes_up + curve.bytes_down) / 1e6


def price(run: fedsim.Run, optimizer: str, server: str) -> list[float]:
    """Megabytes sent until the accuracy is the goal's, seed by seed; infinite if it never is."""
    return [float(sent(curve)[curve.accuracy >= GOAL].min()) if (curve.accuracy >= GOAL).any() else np.inf
            for curve in curves(run, optimizer, server)]  # fmt: skip


def state(run: fedsim.Run, optimizer: str) -> int:
    """Bytes that a client's optimizer remembers."""
    here = [arm for arm in run.arms if run.coordinates[arm.label]["optimizer"] == optimizer]
    return here[0].receipt["optimizer_state_bytes"]


def gain(run: fedsim.Run, less: tuple[str, str], more: tuple[str, str]) -> list[float]:
    """Final accuracy of the second optimizer and server less that of the first, seed by seed."""
    return (last(run, *more) - last(run, *less)).tolist()


def judge(run: fedsim.Run) -> None:
    """Bounds as in the setting."""
    memory_saved = state(run, "AdamW") / state(run, "FRUGAL")
    FIGURE.judge(above("AdamW's bytes of state over FRUGAL's (one model, no seeds)", [memory_saved], 3.0))
    for server in ("FedAvg", "FedStale"):
        kept = gain(run, ("AdamW", server), ("FRUGAL", server))
        FIGURE.judge(above(f"{server}: FRUGAL keeps AdamW's accuracy; the difference", kept, -0.03))
    lost = gain(run, ("FRUGAL", "FedBuff"), ("AdamW", "FedBuff"))
    FIGURE.judge(above("FedBuff: accuracy that FRUGAL loses to AdamW", lost, 0.01))
    for server in MARKS:
        slow = gain(run, ("SGD with ghosts", server), ("SGD", server))
        FIGURE.judge(above(f"{server}: SGD's accuracy at equal time less that with ghosts", slow, 0.01))
        behind = gain(run, ("CLASSP", server), ("SGD", server))
        FIGURE.judge(above(f"{server}, one task: SGD's accuracy less CLASSP's", behind, 0.04))
    normalised(run)
    for optimizer in ("SGD", "AdamW"):
        ahead = gain(run, (optimizer, "FedAvg"), (optimizer, "FedBuff"))
        FIGURE.judge(above(f"{optimizer}: FedBuff's accuracy at equal time less FedAvg's", ahead, 0.01))
    near = [0.03 - abs(gained) for gained in gain(run, ("SGD", "FedAvg"), ("SGD", "FedStale"))]
    FIGURE.judge(above("SGD: 0.03 less the distance of FedStale from FedAvg", near, 0.0))
    ratios = np.divide(price(run, "AdamW", "FedBuff"), price(run, "AdamW", "FedAvg")).tolist()
    FIGURE.judge(above(f"AdamW: FedBuff's traffic until {GOAL} over FedAvg's", ratios, 1.2))


def normalised(run: fedsim.Run) -> None:
    """What normalising does in small batches and, by ghosts, in large ones."""
    for server in ("FedAvg", "FedStale"):
        won = gain(run, ("SGD", server), ("GBN", server))
        FIGURE.judge(above(f"{server}: GBN's accuracy less SGD's", won, 0.005))
        large = gain(run, ("GBN", server), ("SGD with BatchNorm", server))
        FIGURE.judge(
            above(f"{server}: accuracy that small batches with BatchNorm gain over GBN's large ones", large, 0.01)
        )
    near = [0.02 - abs(gained) for gained in gain(run, ("SGD", "FedBuff"), ("GBN", "FedBuff"))]
    FIGURE.judge(above("FedBuff: 0.02 less the distance of GBN from SGD", near, 0.0))


def draw(run: fedsim.Run) -> Drawing:
    """Above accuracy by time, a panel a server; below, of each optimizer, where it ends and what that takes."""
    drawing, ((*above_all,), (*below,)) = plt.subplots(2, 3, figsize=(PAGE, 4.1),
                                                       height_ratios=(1.25, 1))  # fmt: skip
    for panel, server in zip(above_all, MARKS, strict=True):
        by_time(run, panel, server)
    above_all[0].set_ylabel("test accuracy")
    for place, optimizer in enumerate(COLOUR):
        memory(below[1], place, state(run, optimizer) / 1000, COLOUR[optimizer])
        for shift, server in zip((-0.22, 0, 0.22), MARKS, strict=True):
            ending(below[0], place + shift, last(run, optimizer, server), optimizer, server)
            traffic(below[2], place + shift, run, optimizer, server)
    finish(below)
    return drawing


def by_time(run: fedsim.Run, panel: Axes, server: str) -> None:
    """Curves of all optimizers: means of the seeds, and all that lies between them."""
    for optimizer, colour in COLOUR.items():
        found = curves(run, optimizer, server)
        hours = found[0].time_s / 3600
        accuracy = np.array([curve.accuracy for curve in found])
        panel.plot(hours, accuracy.mean(0), color=colour, label=optimizer, linewidth=1.6)
        panel.fill_between(hours, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.13, linewidth=0)
    panel.set(xlabel="virtual time, hours", title=server, ylim=(0.2, 0.9), xlim=(0, 2), xticks=(0, 0.5, 1, 1.5, 2))
    if server == "FedAvg":
        panel.legend(loc="lower right")


def ending(panel: Axes, y: float, values: np.ndarray, optimizer: str, server: str) -> None:
    """A mean and its interval."""
    mean, half = mean_and_half(values.tolist())
    panel.errorbar(mean, y, xerr=half, fmt=MARKS[server], color=COLOUR[optimizer], elinewidth=1)


def memory(panel: Axes, y: float, kilobytes: float, colour: str) -> None:
    """A bar and its number."""
    panel.barh(y, kilobytes, 0.55, color=colour)
    panel.annotate(f"{kilobytes:.0f} kB" if kilobytes else "none", (kilobytes, y), (4, 0),
                   textcoords="offset points", va="center")  # fmt: skip


def traffic(panel: Axes, y: float, run: fedsim.Run, optimizer: str, server: str) -> None:
    """A mark for each seed that reaches the goal, and hollow ones for what was sent in all."""
    found = curves(run, optimizer, server)
    look = {"color": COLOUR[optimizer], "marker": MARKS[server], "linestyle": "none", "markersize": 5}
    reached = [value for value in price(run, optimizer, server) if np.isfinite(value)]
    panel.plot(reached, [y] * len(reached), **look, alpha=0.7)
    panel.plot([sent(curve).iloc[-1] for curve in found], [y] * len(found), **look, fillstyle="none")


def finish(panels: list[Axes]) -> None:
    """Titles, names and the key to the marks of the lower row."""
    titles = (
        "test accuracy after two hours",
        "optimizer state of a client",
        f"sent until {GOAL} (hollow: in all)",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
        panel.set_yticks(range(len(COLOUR)), list(COLOUR) if panel is panels[0] else [])
        panel.invert_yaxis()
        panel.grid(visible=False, axis="y")
    for server, mark in MARKS.items():
        panels[0].plot([], [], mark, color="grey", label=server)
    panels[0].legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1), handletextpad=0)
    panels[1].margins(x=0.15)
    panels[1].set_xlabel("kB")
    panels[2].set(xscale="log", xlabel="MB, all clients, both ways", xticks=(10, 20, 50, 100, 200, 500))
    panels[2].xaxis.set_major_formatter("{x:.0f}")
    panels[2].xaxis.set_minor_formatter("")


if __name__ == "__main__":
    main()
