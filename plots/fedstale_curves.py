"""FedAvg, FedVARP and FedStale on MNIST with swapped labels, participation known and estimated: accuracy by rounds."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

from fedsim.style import PAGE

FIGURE = Figure(
    "FedStale: accuracy against rounds",
    "Setting: as plots/fedstale_mnist.py, all labels swapped, chance 0.05 for half of the clients, 400 rounds. "
    "Full: McMahan et al.'s CNN, lr 0.005, 4000 rounds.",
)
BETAS = {0.0: "FedAvg", 0.5: "FedStale 0.5", 1.0: "FedVARP"}
KNOWN = {"true": "known", "false": "estimated"}
SEEDS = len(FIGURE.seeds(5))
FULL = ("model=cnn_mnist", "local.optimizer.sgd.lr=0.005", "until.versions=4000")

Curves = dict[tuple[float, str], list[pd.DataFrame]]


def main() -> None:
    """Run, judge, draw."""
    arms = {seed: (f"seed={seed}", *FIGURE.sized(FULL)) for seed in range(SEEDS)}
    curves: Curves = {}
    for run in FIGURE.runs("fedstale_curves.yaml", arms).values():
        for (known, beta), arm in zip(product(KNOWN, BETAS), run.arms, strict=True):
            curves.setdefault((beta, known), []).append(arm.metrics)
    judge(curves)
    FIGURE.end(lambda: draw(curves))


def tail(curves: Curves, beta: float, known: str, column: str, of: str = "mean") -> np.ndarray:
    """Mean or deviation of a column over the last half of the run, seed by seed."""
    return np.array([getattr(rows[column].iloc[len(rows) // 2 :], of)() for rows in curves[beta, known]])


def judge(curves: Curves) -> None:
    """Bounds set before the first run."""
    for known, word in KNOWN.items():
        losses = {beta: tail(curves, beta, known, "loss") for beta in BETAS}
        swing = {beta: tail(curves, beta, known, "loss", "std") for beta in BETAS}
        FIGURE.judge(
            above(f"{word} participation: FedStale's loss below FedAvg's, share", 1 - losses[0.5] / losses[0.0], 0.0),
            above(f"{word} participation: FedStale's loss below FedVARP's, share", 1 - losses[0.5] / losses[1.0], 0.0),
            above(f"{word} participation: FedStale swings less than FedAvg, share", 1 - swing[0.5] / swing[0.0], 0.0),
        )
    loss = {known: tail(curves, 0.5, known, "loss") for known in KNOWN}
    cost = loss["false"] / loss["true"] - 1
    FIGURE.judge(above("estimating participation costs FedStale less than 5 % of its loss: distance", 0.05 - cost, 0.0))


def draw(curves: Curves) -> Drawing:
    """Accuracy and loss against rounds; full lines where participation is known."""
    drawing, panels = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    for panel, column in zip(panels, ("accuracy", "loss"), strict=True):
        for (beta, known), rows in curves.items():
            mean = pd.concat([frame.set_index("version")[column] for frame in rows], axis=1).sort_index().interpolate()
            panel.plot(mean.index, mean.mean(axis=1), color=f"C{list(BETAS).index(beta)}",
                       linestyle="-" if known == "true" else ":", label=f"{BETAS[beta]}, {KNOWN[known]}")  # fmt: skip
        panel.set(xlabel="rounds", ylabel=f"{column} on the clients' own tests")
    panels[1].set(yscale="log")
    panels[0].set(ylim=(0.5, None), title=f"mean of {counted(SEEDS)}")
    panels[0].legend()
    return drawing


if __name__ == "__main__":
    main()
