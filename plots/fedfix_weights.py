"""What asynchronous FedAvg minimises, with weights and without: federated and surrogate loss against time."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Asynchronous FedAvg: weighted against identical, on the federated and on the surrogate loss",
    "Setting: the paper's 10 clients on F-80, one local step of batches of 64, mixes of classes drawn with "
    "replacement, "
    "logistic regression on MNIST (5,000 examples); but lr 0.05 and 400 s in place of 0.001 and 200,000 s, and alpha "
    "0.1 and 10,000 without its 0. Full: lr 0.001, 20,000 s, all of MNIST.",
)
ALPHAS = (0.1, 10_000.0)
WEIGHTS = ("weighted", "identical")
"""The scenario's arms."""
SEEDS = len(FIGURE.seeds(5))
FULL = ("data.mnist.train=60000", "data.mnist.test=10000", "local.optimizer.sgd.lr=0.001", "until.time=20000 s",
        "evaluate.every=500 s")  # fmt: skip
PERIODS = np.array([1 - client / 9 * 0.8 for client in range(10)])
"""Seconds a client takes, F-80."""
SHARES = {"federated": np.full(10, 0.1), "surrogate": 1 / PERIODS / (1 / PERIODS).sum()}
"""The share of each client in the two losses: equal importance, and how often it arrives."""

Losses = dict[tuple[float, str, str], list[pd.Series]]


def main() -> None:
    """Run, judge, draw."""
    arms = {
        (alpha, seed): (f"seed={seed}", f"data.mnist.partition.with_replacement.alpha={alpha}",
                        *FIGURE.sized(FULL))
        for alpha, seed in product(ALPHAS, range(SEEDS))
    }  # fmt: skip
    runs = FIGURE.runs("fedfix_weights.yaml", arms)
    losses: Losses = {
        (alpha, weights, kind): [loss(runs[alpha, seed].arms[place], kind) for seed in range(SEEDS)]
        for alpha, (place, weights), kind in product(ALPHAS, enumerate(WEIGHTS), SHARES)
    }
    judge(losses)
    FIGURE.end(lambda: draw(losses))


def loss(run: fedsim.Run, kind: str) -> pd.Series:
    """The clients' training losses in the given shares, against virtual seconds."""
    table = run.clients.pivot(index="time_s", columns="client", values="train_loss")
    return (table * SHARES[kind]).sum(axis=1)


def last(losses: Losses, alpha: float, weights: str, kind: str) -> np.ndarray:
    """Mean over the last quarter of the run, seed by seed."""
    return np.array([loss.iloc[-len(loss) // 4 :].mean() for loss in losses[alpha, weights, kind]])


def gap(losses: Losses, alpha: float, kind: str) -> np.ndarray:
    """How much more identical weights leave of this loss, as a share of what weighted ones leave."""
    return last(losses, alpha, "identical", kind) / last(losses, alpha, "weighted", kind) - 1


def judge(losses: Losses) -> None:
    """Bounds set before the first run of all arms."""
    uneven, even = ALPHAS
    federated = gap(losses, uneven, "federated")
    FIGURE.judge(
        above("federated loss, alpha 0.1: identical above weighted, share", federated, 0.0),
        above("surrogate loss, alpha 0.1: weighted above identical, share", -gap(losses, uneven, "surrogate"), 0.0),
        above(
            "the federated gap is larger at alpha 0.1 than at 10,000", federated - gap(losses, even, "federated"), 0.0
        ),
    )


def draw(losses: Losses) -> Drawing:
    """A panel for each loss and each alpha."""
    drawing, grid = plt.subplots(2, 2, figsize=(PAGE, 4.2), sharex=True)
    panels = grid.ravel()
    for panel, (alpha, kind) in zip(panels, product(ALPHAS, SHARES), strict=True):
        for weights in WEIGHTS:
            curves = pd.concat(losses[alpha, weights, kind], axis=1)
            panel.plot(curves.index, curves.mean(axis=1), label=weights)
        panel.set(title=f"{kind} loss, alpha {alpha:g}", xlabel="virtual seconds", yscale="log")
    panels[0].set(ylabel=f"training loss, mean of {counted(SEEDS)}")
    panels[0].legend()
    return drawing


if __name__ == "__main__":
    main()
