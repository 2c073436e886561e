"""FedFix on Shakespeare: training loss against time for FedAvg, asynchronous FedAvg, FedFix and FedBuff."""

from __future__ import annotations

from figure import Figure
from loss_against_time import show

FIGURE = Figure(
    "FedFix on Shakespeare: training loss against time",
    "Setting: the paper's 20 clients, momentum 0.9, server lr 1, hardware F-0 and F-80; but 20 roles of the tiny "
    "corpus, an LSTM layer of 32, 5 local steps of batches of 32 and 10 s in place of LEAF's users, two layers of 100, "
    "10 steps of 64 and 5000 s; the better of two lr is kept for every rule, by the mean loss over the last quarter of "
    "the run. Full: two layers of 100, windows of 80, 10 steps of 64, 5000 s.",
)
FULL = ("model={char_lstm: {hidden: 100, layers: 2}}", "data={shakespeare: {roles: 20}}", "local.steps=10",
        "local.batch=64", "until.time=5000 s", "evaluate.every=20 s")  # fmt: skip


if __name__ == "__main__":
    show(FIGURE, "fedfix_shakespeare.yaml", (0.05, 0.2), 3, *FIGURE.sized(FULL))
