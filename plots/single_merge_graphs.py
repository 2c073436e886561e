"""How much gossip a single merge needs, and along which graph."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted, deviation
from matplotlib.figure import Figure as Drawing
from merges import Runs, runs_of

from fedsim.style import PAGE

FIGURE = Figure(
    "A single global merge after gossip of several kinds",
    "Setting: ours, as plots/single_merge.py with 40 rounds. Ring and exponential graph with uniform weights and "
    "R are Zhu et al.'s ablations; matching, one-peer exponential and Base-(k+1) graph are added. "
    "Quick: 20 rounds. Full: their "
    "ResNet-18, 32 agents, 300 rounds of 100 steps, batch 128, on CIFAR-10.",
)
KINDS = ("R = 0", "R = 0.05", "R = 0.2", "R = 1", "pairs 0.2", "ring", "exponential", "one peer exp.", "base 2")


def main() -> None:
    """Run, judge, draw."""
    runs = runs_of(FIGURE, KINDS)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def before(runs: Runs, kind: str) -> np.ndarray:
    """The agents' mean accuracy at the last measurement before the merge, seed by seed."""
    return np.array([rows.accuracy.iloc[-2] for rows in runs[kind]])


def after(runs: Runs, kind: str) -> np.ndarray:
    """The merged model's accuracy, seed by seed."""
    return np.array([rows.accuracy.iloc[-1] for rows in runs[kind]])


def judge(runs: Runs) -> None:
    """Bounds set before the first run."""
    merged = {kind: after(runs, kind) for kind in KINDS}
    for kind in ("R = 0.05", "R = 0.2", "R = 1"):
        FIGURE.judge(
            above(f"{kind}: the merge is better than without gossip, difference", merged[kind] - merged["R = 0"], 0.0)
        )
    behind = merged["ring"] - merged["exponential"]
    FIGURE.judge(
        above("the exponential graph is not worse than the ring: 0.01 less the ring's lead", 0.01 - behind, 0.0)
    )
    for kind in ("R = 0.2", "pairs 0.2", "ring"):
        FIGURE.judge(above(f"{kind}: the merge lifts the agents, difference", merged[kind] - before(runs, kind), 0.02))


def draw(runs: Runs) -> Drawing:
    """Accuracy before (light) and after the merge, and the bytes of all gossip."""
    drawing, (bars, traffic) = plt.subplots(2, 1, figsize=(PAGE, 5.4), sharex=True)
    for place, kind in enumerate(KINDS):
        for values, alpha in ((after(runs, kind), 0.4), (before(runs, kind), 1.0)):
            bars.bar(place, values.mean(), yerr=deviation(values), color="C0", alpha=alpha, capsize=3)
        traffic.bar(place, np.mean([rows.bytes_up.iloc[-1] for rows in runs[kind]]) / 1e6, color="C1")
    bars.set(
        ylabel="accuracy",
        title=f"agents' mean before the merge (dark), merged (light); {counted(len(FIGURE.seeds(3)))}",
    )
    traffic.set(ylabel="MB sent by all", yscale="log")
    traffic.set_xticks(range(len(KINDS)), KINDS, rotation=20)
    return drawing


if __name__ == "__main__":
    main()
