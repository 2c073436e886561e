"""BO-REP: clients find out which of their labels are wrong, by what they do to a few that are right."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Hyper-cleaning across clients: BO-REP against FedAvg on noisy labels",
    "Setting: ours; the paper (Hao, Gong & Liu, ICLR 2024) cleans Sentiment140 with a recurrent network on one "
    "machine, at noise 0.3. Softmax regression on digits, FedAvg of 10 clients, 40 rounds of 20 steps; each client "
    "has about 124 examples with wrong labels among them, and 20 clean ones, which FedAvg does not use; BO-REP's "
    "first 60 steps are plain, then the model moves every 2 or 5 steps. beta 0.9 as in the paper's code, eta and nu "
    "0.1, one plain step a period. Accuracy on the test set, AUC of weights for clean against noisy examples within "
    "each client, means over clients. Bounds after a pilot of one other seed. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
NOISE = (0.3, 0.5)
RULES = {
    "FedAvg": ("local.source=backpropagation", "local.probe=null"),
    "BO-REP, I = 2": ("local.source.borep.every=2",),
    "BO-REP, I = 5": ("local.source.borep.every=5",),
}
Runs = dict[tuple[str, float, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(rule, noise, seed): (*said, f"data.digits.partition.noisy.share={noise}", f"seed={seed}")
            for (rule, said), noise, seed in product(RULES.items(), NOISE, SEEDS)}  # fmt: skip
    runs = FIGURE.runs("cleaning.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def accuracy(runs: Runs, rule: str, noise: float) -> np.ndarray:
    """In the end, seed by seed."""
    return np.array([runs[rule, noise, seed].metrics.accuracy.iloc[-1] for seed in SEEDS])


def told(runs: Runs, rule: str, noise: float, column: str) -> np.ndarray:
    """What weights say after each round, means over clients: (seeds, rounds)."""
    return np.array([by_round(runs[rule, noise, seed], column) for seed in SEEDS])


def by_round(run: fedsim.Run, column: str) -> np.ndarray:
    """After the last step of each round."""
    assert run.probes is not None
    ends = run.probes[run.probes.step == run.probes.step.max()]
    return ends.pivot_table(column, "version").to_numpy()[:, 0]


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    _, often, seldom = RULES
    for noise, least in zip(NOISE, (0.7, 0.75), strict=True):
        for rule in (often, seldom):
            FIGURE.judge(above(f"noise {noise}, {rule}: AUC", told(runs, rule, noise, "auc")[:, -1].tolist(), least))
    for rule in (often, seldom):
        apart = (told(runs, rule, 0.5, "clean_weight") - told(runs, rule, 0.5, "noisy_weight"))[:, -1]
        gain = accuracy(runs, rule, 0.5) - accuracy(runs, "FedAvg", 0.5)
        FIGURE.judge(above(f"noise 0.5, {rule}: mean weight of clean over noisy", apart.tolist(), 0.4),
                     above(f"noise 0.5, {rule} over FedAvg: accuracy", gain.tolist(), 0.03))  # fmt: skip
    behind = accuracy(runs, often, 0.5) - accuracy(runs, seldom, 0.5)
    FIGURE.judge(above("noise 0.5: I = 5 is no more than 0.02 behind I = 2: 0.02 less it", (0.02 - behind).tolist(), 0))
    gain = accuracy(runs, often, 0.3) - accuracy(runs, "FedAvg", 0.3)
    FIGURE.judge(above("noise 0.3, I = 2 over FedAvg: accuracy", gain.tolist(), 0.01))


def draw(runs: Runs) -> Drawing:
    """Accuracy and AUC by rounds, and weights in the end."""
    drawing, grid = plt.subplots(2, 2, figsize=(PAGE, 4.6))
    panels = grid.ravel()
    for place, rule in enumerate(RULES):
        for panel, noise in zip(panels, NOISE, strict=False):
            each = [runs[rule, noise, seed].metrics for seed in SEEDS]
            panel.plot(each[0].version, np.mean([rows.accuracy for rows in each], 0), color=f"C{place}", label=rule)
            panel.set(xlabel="rounds", ylabel="test accuracy", title=f"noise {noise}: mean of {counted(len(SEEDS))}",
                      ylim=(0.75, 0.97))  # fmt: skip
    panels[0].legend(loc="lower right")
    for (place, rule), (noise, style) in product(list(enumerate(RULES))[1:], zip(NOISE, ("--", "-"), strict=True)):
        mean = told(runs, rule, noise, "auc").mean(0)
        panels[2].plot(np.arange(len(mean)) + 1, mean, style, color=f"C{place}", label=f"{rule}, noise {noise}")
    panels[2].set(xlabel="rounds", ylabel="AUC of weights", title="clean against noisy", ylim=(0.45, 1))
    panels[2].legend(loc="lower right")
    rows = list(product(list(enumerate(RULES))[1:], NOISE))
    for height, ((place, rule), noise) in enumerate(rows):
        for column, mark in (("noisy_weight", "x"), ("clean_weight", "o")):
            found = told(runs, rule, noise, column)[:, -1]
            panels[3].plot(found, height + np.linspace(-0.15, 0.15, len(found)), mark, color=f"C{place}")
    panels[3].set(yticks=range(len(rows)), yticklabels=[f"{rule[8:]}, {noise}" for (_, rule), noise in rows],
                  xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5), xlabel="mean weight of noisy (x) and clean (o)",
                  title="in the end; a mark a seed")  # fmt: skip
    return drawing


if __name__ == "__main__":
    main()
