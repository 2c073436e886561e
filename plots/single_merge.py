"""Sparse gossip and one global merge: accuracy of the agents and of what they would be if they were merged."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing
from merges import Runs, runs_of

from fedsim.style import PAGE

FIGURE = Figure(
    "A single global merge: accuracy against rounds, time and bytes",
    "Setting: ours, after Zhu et al., ICLR 2026: Fashion-MNIST for Tiny-ImageNet, a CNN of 20,538 parameters with"
    " GroupNorm for ResNet-18, 16 agents, 100 rounds of 20 steps, batch 32, no label smoothing, no clamped "
    "gradients, float32; theirs are pulls with R = 0.2, mixes of classes ~ Dir(0.1) drawn anew each round, SGD "
    "0.01, momentum 0.9 kept, weight decay. Links are synthetic. "
    "Quick: 20 rounds. Full: their ResNet-18, 32 agents, 300 rounds of "
    "100 steps, batch 128, on CIFAR-10.",
)
ARMS = ("gossip, R = 0.2", "no gossip, R = 0", "all-reduce each round", "gossip on a ring")


def main() -> None:
    """Run, judge, draw."""
    runs = runs_of(FIGURE, ARMS)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, name: str, column: str, place: int = -1) -> np.ndarray:
    """A column at the end, or at another place, seed by seed."""
    return np.array([rows[column].iloc[place] for rows in runs[name]])


def judge(runs: Runs) -> None:
    """Bounds set after one run of the first arm, before all others.

    The first runs showed that agents were measured before or after mixing as the clock would have it, and that the gap
    of the merged agents themselves, which is 0, had been judged; all was run anew after that.
    """
    gossip, alone, dense, _ = ARMS
    jump = last(runs, gossip, "accuracy") - last(runs, gossip, "accuracy", -2)
    held = [rows.gap[rows.version.between(10, rows.version.iloc[-1] - 1)].min() for rows in runs[gossip]]
    better = last(runs, gossip, "merged_accuracy") - last(runs, alone, "merged_accuracy")
    behind = last(runs, dense, "accuracy") - last(runs, gossip, "accuracy")
    cheaper = last(runs, dense, "bytes_up") / last(runs, gossip, "bytes_up")
    FIGURE.judge(
        above("the one merge lifts the agents' accuracy: last less last but one", jump, 0.05),
        above("from round 10 on the agents could have been merged with gain: least gap", held, 0.0),
        above("without gossip the merge is worth less: difference of merged accuracies", better, 0.02),
        above("one merge comes near an all-reduce in each round: 0.05 less its lead", 0.05 - behind, 0.0),
        above("for an eighth of its bytes or less: ratio", cheaper, 8.0),
    )


def draw(runs: Runs) -> Drawing:
    """Agents' mean accuracy (full) and the merged model's (dotted), each seed a line."""
    drawing, panels = plt.subplots(2, 2, figsize=(PAGE, 4.9), sharey=True)
    axes = {"version": "rounds", "time_s": "virtual seconds", "bytes_up": "bytes sent by all agents"}
    for panel, (column, label) in zip(panels.flat, axes.items(), strict=False):
        for name in ARMS:
            lines(panel, runs, name, column, "accuracy")
        panel.set(xlabel=label, ylabel="mean accuracy of the agents")
    panels[1, 0].set(xscale="log", xlim=(1e6, None))
    for name in ARMS[:2]:
        lines(panels[1, 1], runs, name, "version", "accuracy")
        lines(panels[1, 1], runs, name, "version", "merged_accuracy", linestyle=":")
    panels[1, 1].set(xlabel="rounds", ylabel="accuracy", title="agents (full), if merged (dotted)")
    panels[0, 0].legend()
    return drawing


def lines(panel: plt.Axes, runs: Runs, name: str, x: str, y: str, **style: str) -> None:
    """A line for each seed, always in the arm's own colour."""
    for seed, rows in enumerate(runs[name]):
        panel.plot(
            rows[x],
            rows[y],
            color=f"C{ARMS.index(name)}",
            alpha=0.7,
            label=None if seed else name,
            **style,
        )


if __name__ == "__main__":
    main()
