"""FedFix on CIFAR-10: training loss against time for FedAvg, asynchronous FedAvg, FedFix and FedBuff."""

from __future__ import annotations

from figure import Figure
from loss_against_time import show

FIGURE = Figure(
    "FedFix on CIFAR-10: training loss against time",
    "Setting: the paper's 20 clients with Dirichlet 0.1 mixes of classes drawn with replacement, 10 local steps of "
    "batches of 64, momentum 0.9, server lr 1, hardware F-0 and F-80; but logistic regression on 4,000 pictures and "
    "20 s in place of a CNN, all pictures and 5000 s; the better of two lr is kept for every rule, by the mean loss "
    "over the last quarter of the run (at ten times these lr, tried first, most rules diverged and three of the four "
    "claims failed). Full: McMahan et al.'s CNN, all pictures, 5000 s.",
)
FULL = ("model=cnn_cifar", "data={cifar10: {partition: {with_replacement: {alpha: 0.1}}}}", "until.time=5000 s",
        "evaluate.every=20 s")  # fmt: skip

if __name__ == "__main__":
    show(FIGURE, "fedfix_cifar10.yaml", (0.0001, 0.0004), 3, *FIGURE.sized(FULL))
