"""Dataset distillation as one-shot federated learning: curricula of crops, and accuracy by bytes beside FedAvg."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "CDA: distilled images in place of models",
    "Setting: ours, on digits, with an MLP 64-64-64-10 with BatchNorm; the paper (Yin and Shen, 2311.18838) distils "
    "ImageNet. 200 local steps of Adam, then 300 of recovery: 10 images a class for each client, all in one batch, "
    "weight of statistics 0.1, rolled by one pixel at most, not mirrored; soft labels of 16 crops of an image, each at "
    "least 0.3 of it. Curricula: one client alone. Federated: five clients; FedAvg takes the same local steps in each "
    "round. The server's training takes no time. Bounds after a pilot of two other seeds. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
ROUNDS = 6
CURRICULA = {"cosine": "CDA, cosine", "linear": "CDA, linear", "none": "whole images", "reverse": "cosine, reversed",
             "constant": "SRe2L, constant"}  # fmt: skip
SKEWS = (0.3, 0.1)
FEDAVG = ["aggregator={fedavg: {cohort: all}}", f"until.versions={ROUNDS}"]
SERVERS = {"CDA, one round": [], "FedAvg": FEDAVG}

Runs = dict[tuple[str, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(kind, seed): (f"seed={seed}", "fleet.clients=1", f"aggregator.cda.recover.curriculum.kind={kind}")
            for kind in CURRICULA for seed in SEEDS}  # fmt: skip
    arms |= {(f"{name} {alpha}", seed): (f"seed={seed}", f"data.digits.partition.dirichlet.alpha={alpha}", *changes)
             for name, changes in SERVERS.items() for alpha in SKEWS for seed in SEEDS}  # fmt: skip
    runs = FIGURE.runs("cda.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def by_rounds(runs: Runs, arm: str, column: str = "accuracy") -> np.ndarray:
    """What was measured after 0, 1, ... rounds, (seeds, rounds + 1)."""
    return np.stack([runs[arm, seed].metrics.groupby("version")[column].last().to_numpy() for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    cosine = by_rounds(runs, "cosine")[:, 1]
    FIGURE.judge(above("cosine: accuracy", cosine.tolist(), 0.8))
    for kind in ("linear", "none", "reverse", "constant"):
        gained = cosine - by_rounds(runs, kind)[:, 1]
        FIGURE.judge(above(f"cosine over {CURRICULA[kind]}: accuracy gained", gained.tolist(), 0.0))
    lost = {}
    for alpha in SKEWS:
        cda, fedavg = (by_rounds(runs, f"{name} {alpha}") for name in SERVERS)
        FIGURE.judge(
            above(f"Dirichlet({alpha:g}): CDA over FedAvg's first round", (cda[:, 1] - fedavg[:, 1]).tolist(), 0.0),
            above(
                f"Dirichlet({alpha:g}): FedAvg's {ROUNDS} rounds over CDA", (fedavg[:, -1] - cda[:, 1]).tolist(), 0.03
            ),
        )
        lost[alpha] = cda[:, 1], fedavg[:, 1]
    kept = [before - after for before, after in zip(*lost.values(), strict=True)]
    FIGURE.judge(above("skew costs CDA less than FedAvg's first round, by", (kept[1] - kept[0]).tolist(), 0.0))


def draw(runs: Runs) -> Drawing:
    """Curricula, a mark a seed; accuracy by bytes, at two skews."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3), width_ratios=(1.2, 1, 1))
    for place, kind in enumerate(CURRICULA):
        found = by_rounds(runs, kind)[:, 1]
        panels[0].plot(found, place + np.linspace(-0.2, 0.2, len(SEEDS)), "o", color=f"C{place}")
        panels[0].plot([found.mean()] * 2, [place - 0.35, place + 0.35], color=f"C{place}")
    panels[0].set(yticks=range(len(CURRICULA)), yticklabels=CURRICULA.values(), xlabel="test accuracy of the student",
                  title="one client: curricula; a mark a seed, their mean")  # fmt: skip
    panels[0].invert_yaxis()
    for panel, alpha in zip(panels[1:], SKEWS, strict=True):
        for place, name in enumerate(SERVERS):
            arm = f"{name} {alpha}"
            accuracy = by_rounds(runs, arm)[:, 1:]
            end, rounds = runs[arm, SEEDS[0]].metrics.iloc[-1], accuracy.shape[1]
            carried = (end.bytes_up + end.bytes_down) / 1e3 * np.arange(1, rounds + 1) / rounds
            rows = pd.DataFrame(accuracy).agg(["mean", "min", "max"])
            spread = [rows.loc["mean"] - rows.loc["min"], rows.loc["max"] - rows.loc["mean"]]
            panel.errorbar(carried, rows.loc["mean"], spread, fmt="o-", color=f"C{place}", label=name, capsize=2)
        panel.set(xlabel="kB up and down", xlim=(0, None), ylim=(0.5, 1), title=f"five clients, Dirichlet({alpha:g})")
        panel.legend(loc="lower right")
    panels[1].set_ylabel("test accuracy; mean and range over seeds")
    return drawing


if __name__ == "__main__":
    main()
