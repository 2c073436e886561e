"""Sketched first-order methods: loss against rounds and against bits."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

from fedsim.style import PAGE

FIGURE = Figure(
    "Sketching for first-order methods: loss by rounds and by bits",
    "Setting: after Song, Wang, Yu & Zhang, ICML 2023, whose experiments are not known: all settings are ours. "
    "Logistic regression with weight decay on scikit-learn's digits, d = 650, 20 clients with unequal mixes of "
    "classes, one step along the whole gradient a round. Every sketch has the bytes of b = d/4, or as said; the "
    "server's lr is one over the sketch's second moment. Fresh sketches are drawn anew for every round, fixed ones "
    "once. Links are synthetic. Quick: 400 rounds for 800. Full: ten seeds for three.",
)
MOMENTS = {"Gaussian": 5.02, "AMS": 5.01, "CountSketch": 5.01, "SRHT": 4.38, "rand-k": 4.01, "SRHT d/2": 2.36,
           "SRHT d/8": 8.39}  # fmt: skip
"""E|R^T R x|^2 / |x|^2, by the formulas."""
ARMS = ("unsketched", "SRHT, all rows", "Gaussian", "AMS", "CountSketch", "SRHT", "rand-k", "SRHT d/2", "SRHT d/8",
        "SRHT, fixed", "Gaussian, fixed", "top 5 %, feedback", "QSGD, 4 bits", "DRIVE, 1 bit")  # fmt: skip
SEEDS = len(FIGURE.seeds(3, full=10))
TARGET = 75 if FIGURE.quick else 150
"""The loss that the unsketched run has reached after so many rounds is what all are asked for."""

Runs = dict[str, list[pd.DataFrame]]


def main() -> None:
    """Run, judge, draw."""
    runs: Runs = {arm: [] for arm in ARMS}
    arms = {seed: (f"seed={seed}", *FIGURE.sized(quick=["until.versions=400"])) for seed in range(SEEDS)}
    for run in FIGURE.runs("sketches.yaml", arms).values():
        for arm, found in zip(ARMS, run.arms, strict=True):
            runs[arm].append(found.metrics)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def at(rows: pd.DataFrame, column: str, loss: float) -> float:
    """The value of a column when a loss is reached, between measurements by the logarithm of the loss; inf if never."""
    losses = np.minimum.accumulate(rows.train_loss)
    if losses.iloc[-1] > loss:
        return float("inf")
    return float(np.interp(-np.log(loss), -np.log(losses), rows[column]))


def target(runs: Runs, seed: int) -> float:
    """The loss that is asked for."""
    rows = runs["unsketched"][seed]
    return float(np.exp(np.interp(TARGET, rows.version, np.log(rows.train_loss))))


def rounds(runs: Runs, arm: str) -> list[float]:
    """How many times the unsketched run's rounds, seed by seed."""
    return [at(rows, "version", target(runs, seed)) / TARGET for seed, rows in enumerate(runs[arm])]


def bits(runs: Runs, arm: str) -> list[float]:
    """How many times the unsketched run's bytes upwards, seed by seed."""
    pairs = zip(runs[arm], runs["unsketched"], strict=True)
    return [at(rows, "bytes_up", target(runs, seed)) / at(plain, "bytes_up", target(runs, seed))
            for seed, (rows, plain) in enumerate(pairs)]  # fmt: skip


def judge(runs: Runs) -> None:
    """Bounds set after a pilot of one seed, before the runs that are judged."""
    same = [abs(rows.train_loss.iloc[-1] / plain.train_loss.iloc[-1] - 1)
            for rows, plain in zip(runs["SRHT, all rows"], runs["unsketched"], strict=True)]  # fmt: skip
    FIGURE.judge(
        above("all rows of SRHT are FedAvg: 0.001 less the relative difference", [1e-3 - x for x in same], 0.0)
    )
    for arm, moment in MOMENTS.items():
        if arm == "SRHT d/8":
            continue
        ratio = [1.5 * moment - times for times in rounds(runs, arm)]
        FIGURE.judge(above(f"{arm}: at most 1.5 moments ({moment}) times the rounds, less those taken", ratio, 0.0))
        FIGURE.judge(above(f"{arm}: no fewer bits in all than half of the unsketched ones", bits(runs, arm), 0.5))
    for arm in ("SRHT", "Gaussian"):
        worse = [fixed.train_loss.iloc[-1] / fresh.train_loss.iloc[-1]
                 for fixed, fresh in zip(runs[f"{arm}, fixed"], runs[arm], strict=True)]  # fmt: skip
        FIGURE.judge(above(f"a fixed {arm} is left behind: its loss over that of fresh ones", worse, 1.1))
    for arm in ("top 5 %, feedback", "QSGD, 4 bits", "DRIVE, 1 bit"):
        FIGURE.judge(above(f"{arm} needs less than half of the bits: 0.5 less the ratio",
                           [0.5 - ratio for ratio in bits(runs, arm)], 0.0))  # fmt: skip


COLOURS = {"unsketched": "C0", "Gaussian": "C1", "AMS": "C2", "CountSketch": "C3", "SRHT": "C4", "rand-k": "C5",
           "SRHT d/2": "C4", "SRHT d/8": "C4", "Gaussian, fixed": "C1", "SRHT, fixed": "C4", "top 5 %, feedback": "C1",
           "QSGD, 4 bits": "C2", "DRIVE, 1 bit": "C6"}  # fmt: skip
STYLES = {"SRHT d/2": ":", "SRHT d/8": "-."} | dict.fromkeys(list(COLOURS)[8:], "--")


def draw(runs: Runs) -> Drawing:
    """Loss against rounds and against bytes upwards; fixed against fresh."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.9), sharey=True)
    sketches, others = list(COLOURS)[:8], list(COLOURS)[10:]
    shown = ("version", sketches), ("bytes_up", sketches + others), ("version", ["unsketched", *list(COLOURS)[8:10],
                                                                                "Gaussian", "SRHT"])  # fmt: skip
    for panel, (column, arms) in zip(panels, shown, strict=True):
        for arm in arms:
            rows = runs[arm][0]
            panel.plot(rows[column].clip(lower=1e5 if column == "bytes_up" else 1), rows.train_loss,
                       STYLES.get(arm, "-"), color=COLOURS[arm], label=arm)  # fmt: skip
        panel.set(xscale="log", yscale="log")
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
    panels[0].set(xlabel="rounds", ylabel="training loss, first seed", title="by rounds")
    panels[1].set(xlabel="bytes upwards", title="by bytes")
    panels[2].set(xlabel="rounds", title="fixed and fresh")
    return drawing


if __name__ == "__main__":
    main()
