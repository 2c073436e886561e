"""A window of global merges, early or late: how good the agents get, and how good they are in the end."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, counted, deviation
from matplotlib.figure import Figure as Drawing
from merges import RESNET, runs_of

from fedsim.style import PAGE

FIGURE = Figure(
    "A window of global merges: peak and final accuracy by its place",
    "Setting: ours, after Zhu et al., ICLR 2026: Fashion-MNIST for CIFAR-100, a CNN of 20,538 parameters with "
    "GroupNorm for ResNet-18, 60 rounds of 20 steps, batch 32, AdamW 0.001; theirs are 16 agents, Dir(0.1), R = "
    "0.2 outside a window of a tenth of the rounds. In their public code the last round is a global merge "
    "wherever the window lies; here only in 'last'. Links are synthetic. "
    "Quick: 20 rounds. Full: ResNet-18, 100 steps, CIFAR-10.",
)
WINDOWS = ("none", "first", "at 0.25", "at 0.5", "at 0.75", "last")
FULL = (*RESNET, "local.batch=64")

Accuracies = dict[str, list[pd.Series]]


def main() -> None:
    """Run, judge, draw."""
    runs = runs_of(FIGURE, WINDOWS, FULL)
    curves = {name: [rows.set_index("version").accuracy for rows in runs[name]] for name in WINDOWS}
    judge(curves)
    FIGURE.end(lambda: draw(curves))


def final(curves: Accuracies, name: str) -> np.ndarray:
    """The last measurement, seed by seed."""
    return np.array([accuracy.iloc[-1] for accuracy in curves[name]])


def peak(curves: Accuracies, name: str) -> np.ndarray:
    """The best measurement, seed by seed."""
    return np.array([accuracy.max() for accuracy in curves[name]])


def judge(curves: Accuracies) -> None:
    """Bounds set before the first run."""
    others = np.max([final(curves, name) for name in WINDOWS[:-1]], axis=0)
    lost = peak(curves, "at 0.5") - final(curves, "at 0.5")
    left = final(curves, "first") - final(curves, "none")
    FIGURE.judge(
        above(
            "only the last window's gain is there in the end: its final accuracy less the best other",
            final(curves, "last") - others,
            0.05,
        ),
        above("training on after a window loses what it gave: peak less final at 0.5", lost, 0.05),
        above("an early window leaves next to nothing: 0.05 less its lead over none", 0.05 - left, 0.0),
    )


def draw(curves: Accuracies) -> Drawing:
    """Light bars: the peak; dark bars: the end. Beside them the curves of one seed."""
    drawing, (bars, panel) = plt.subplots(1, 2, figsize=(PAGE, 2.7), sharey=True)
    for place, name in enumerate(WINDOWS):
        for values, alpha in ((peak(curves, name), 0.35), (final(curves, name), 1.0)):
            bars.bar(place, values.mean(), yerr=deviation(values), color="C0", alpha=alpha, capsize=3)
        panel.plot(curves[name][0].index, curves[name][0], label=name)
    bars.set_xticks(range(len(WINDOWS)), WINDOWS)
    bars.set(
        xlabel="window of global merges",
        ylabel="mean accuracy of the agents",
        title=f"peak (light) and final, {counted(len(FIGURE.seeds(3)))}",
    )
    panel.set(xlabel="rounds", title="one seed")
    panel.legend()
    return drawing


if __name__ == "__main__":
    main()
