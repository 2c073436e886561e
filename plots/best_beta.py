"""The beta at which FedStale's loss is least: what its two heat maps have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from figure import deviation
from matplotlib.figure import Figure as Drawing

from fedsim.style import PAGE

Cell = tuple[float, float]
"""Data heterogeneity, and the chance of the rarer half of the clients to take part."""


def best(betas: Sequence[float], losses: np.ndarray) -> float:
    """Where the parabola through the losses is least within [0, 1]; its better end if it bends the other way.

    The variance of FedStale's step is a parabola in beta, and so nearly is the loss that it leaves.
    """
    bend, slope, _ = np.polyfit(betas, losses / losses.mean(), 2)
    return float(np.clip(-slope / (2 * bend), 0, 1)) if bend > 0 else float(losses[0] > losses[-1])


def draw(
    found: Mapping[Cell, np.ndarray], betas: Sequence[float], curves: Mapping[str, np.ndarray], rows: str, ylabel: str,
    title: str,
) -> Drawing:  # fmt: skip
    """Left: the best beta of every cell, mean over seeds. Right: losses (seeds, betas), mean and deviation."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    levels, chances = list(dict.fromkeys(h for h, _ in found)), list(dict.fromkeys(p for _, p in found))
    grid = np.array([[found[h, p].mean() for p in chances] for h in levels])
    image = left.imshow(grid, cmap="viridis", vmin=0, vmax=1, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        left.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
    left.set(xticks=range(len(chances)), xticklabels=chances, yticks=range(len(levels)), yticklabels=levels,
             xlabel="chance of the other half to take part", ylabel=rows, title="best beta")  # fmt: skip
    left.grid(False)
    drawing.colorbar(image, ax=left)
    for label, losses in curves.items():
        right.errorbar(betas, losses.mean(0), deviation(losses), marker="o", capsize=2, label=label)
    right.set(xlabel="beta (0: FedAvg, 1: FedVARP, both by inverse participation)", ylabel=ylabel, title=title)
    right.legend()
    return drawing
