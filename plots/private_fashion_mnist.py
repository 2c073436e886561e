"""Accuracy against epsilon: client-level DP-FedAvg on Fashion-MNIST."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted, deviation
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Accuracy against privacy: DP-FedAvg on Fashion-MNIST",
    "Setting: ours. Logistic regression, 1,000 clients of 60 pictures (Dirichlet 1.0), a tenth a round by chance "
    "(Poisson sampling), 100 rounds, changes clipped to 0.5, Gaussian noise on their sum by a trusted server; epsilon"
    " at delta 1e-5 by dp-accounting (RDP), between runs with and without one client. 'sketched': SRHT of b = d/4, "
    "and what is read of a message is clipped again, as a sketch makes it longer; 'adaptive': the clip norm follows "
    "the median. Full: ten seeds for three.",
)
ARMS = ("no noise", "0.6", "1.0", "2.0", "4.0", "8.0", "sketched, 1.0", "adaptive, 1.0")
CURVE = ARMS[1:6]
SEEDS = len(FIGURE.seeds(3, full=10))

Runs = dict[str, list[fedsim.Run]]


def main() -> None:
    """Run, judge, draw."""
    runs: Runs = {arm: [] for arm in ARMS}
    for run in FIGURE.runs("private_fashion_mnist.yaml", {seed: (f"seed={seed}",) for seed in range(SEEDS)}).values():
        for arm, found in zip(ARMS, run.arms, strict=True):
            runs[arm].append(found)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def accuracy(runs: Runs, arm: str) -> np.ndarray:
    """At the end, seed by seed."""
    return np.array([run.metrics.accuracy.iloc[-1] for run in runs[arm]])


def epsilon(runs: Runs, arm: str) -> float:
    """The same for all seeds, but for how many rounds were under way."""
    return max(run.receipt["privacy"]["clients"]["epsilon"] for run in runs[arm])


def judge(runs: Runs) -> None:
    """Bounds set after a pilot of one seed, before the runs that are judged."""
    best, some = accuracy(runs, "no noise"), accuracy(runs, "1.0")
    FIGURE.judge(
        above("epsilon below 8 costs less than two points", (some - best + 0.02).tolist(), 0.0),
        above("epsilon below 0.5 costs more than five", (best - accuracy(runs, "8.0")).tolist(), 0.05),
        above("sketched by 4: six points at most", (accuracy(runs, "sketched, 1.0") - some + 0.06).tolist(), 0.0),
        above("an adaptive clip: a point at most", (accuracy(runs, "adaptive, 1.0") - some + 0.01).tolist(), 0.0),
    )
    for less, more in pairwise(CURVE):
        worse = accuracy(runs, less) - accuracy(runs, more)
        FIGURE.judge(above(f"multiplier {more} costs accuracy against {less}", worse.tolist(), 0.0))


def draw(runs: Runs) -> Drawing:
    """Accuracy against epsilon, and against rounds."""
    drawing, (curve, rounds) = plt.subplots(1, 2, figsize=(PAGE, 2.7), sharey=True)
    for arms, style, label in (
        (CURVE, "o-", "flat clip, noise by the server"),
        (ARMS[6:7], "s", ARMS[6]),
        (ARMS[7:], "^", ARMS[7]),
    ):
        means = [accuracy(runs, arm).mean() for arm in arms]
        spreads = [deviation(accuracy(runs, arm)) for arm in arms]
        curve.errorbar([epsilon(runs, arm) for arm in arms], means, spreads, fmt=style, label=label)
    curve.axhline(accuracy(runs, "no noise").mean(), linestyle=":", color="grey", label="clipped alone")
    curve.set(xscale="log", xlabel="epsilon at delta 1e-5", ylabel=f"test accuracy, mean of {counted(SEEDS)}")
    curve.legend()
    for place, arm in enumerate(ARMS):
        rows = runs[arm][0].metrics
        rounds.plot(rows.version, rows.accuracy, color=f"C{place % 7}",
                    linestyle="--" if place > 5 else "-", label=arm)  # fmt: skip
    rounds.set(xlabel="rounds, first seed")
    rounds.legend(title="noise multiplier")
    return drawing


if __name__ == "__main__":
    main()
