"""FedFix on MNIST: training loss against time for FedAvg, asynchronous FedAvg, FedFix and FedBuff."""

from __future__ import annotations

from figure import Figure
from loss_against_time import show

FIGURE = Figure(
    "FedFix on MNIST: training loss against time",
    "Setting: the paper's 20 clients with Dirichlet 0.1 mixes of classes drawn with replacement, 10 local steps of "
    "batches of 64, momentum 0.9, server lr 1, hardware F-0 and F-80; but MNIST (10,000 examples), logistic regression "
    "and 40 s in place of CIFAR-10 and Shakespeare, a CNN and an LSTM and 5000 s; the best of three lr is kept for "
    "every rule, by the mean loss over the last quarter of the run. Full: all of MNIST, 5000 s.",
)
FULL = ("data.mnist.train=60000", "data.mnist.test=10000", "until.time=5000 s", "evaluate.every=20 s")

if __name__ == "__main__":
    show(FIGURE, "fedfix_mnist.yaml", (0.002, 0.01, 0.05), 5, *FIGURE.sized(FULL))
