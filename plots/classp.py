"""CLASSP: two tasks in turn, and what is left of the first."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "CLASSP: what is left of a first task after a second",
    "Setting: ours; the paper (Ludwig, 2024) learns MNIST and then Fashion-MNIST on one machine. FedAvg, 10 clients, "
    "an MLP 64-64-10; 30 rounds of 10 local steps on the digits, then 30 on the digits with permuted pixels; what an "
    "optimizer remembers stays with its client. Every rule at each seed's best of four rates, by the mean of both "
    "accuracies at the end. Two phases: S is gathered without decay in the first task. The published class is its "
    "code, without a threshold. 'SGD, falling': its rate falls linearly to 0 over the run. Full: ten seeds for five.",
)
SEEDS = len(FIGURE.seeds(5, full=10))
RULES = {
    "SGD": ("sgd: {", (0.05, 0.1, 0.2, 0.4)),
    "SGD, falling": ("sgd: {", (0.05, 0.1, 0.2, 0.4)),
    "Adam": ("adam: {", (0.0003, 0.001, 0.003, 0.01)),
    "Adagrad": ("adagrad: {", (0.01, 0.03, 0.1, 0.3)),
    "CLASSP": ("classp: {threshold: 0.0, ", (0.1, 0.2, 0.4, 0.8)),
    "CLASSP, threshold 1e-5": ("classp: {threshold: 1.0e-5, ", (0.1, 0.2, 0.4, 0.8)),
    "CLASSP, threshold 1e-3": ("classp: {threshold: 1.0e-3, ", (0.1, 0.2, 0.4, 0.8)),
    "published, two phases": ("classp: {gate: committed, plain: 30, ", (0.1, 0.2, 0.4, 0.8)),
    "CLASSP 1e-5, two phases": ("classp: {threshold: 1.0e-5, plain: 30, ", (0.1, 0.2, 0.4, 0.8)),
}

Runs = dict[tuple[str, float, int], fedsim.Run]
Curves = dict[str, list[pd.DataFrame]]
"""Of each rule at its best rate, seed by seed: accuracy on task 0 and task 1, by version."""


def main() -> None:
    """Run, judge, draw."""
    arms = {(rule, rate, seed): (f"local.optimizer={{{said}lr: {rate}}}}}", f"seed={seed}",
                                 *(["local.schedule=linear"] if rule == "SGD, falling" else []))
            for rule, (said, rates) in RULES.items() for rate in rates for seed in range(SEEDS)}  # fmt: skip
    runs = FIGURE.runs("classp.yaml", arms)
    curves = {rule: [best(runs, rule, seed) for seed in range(SEEDS)] for rule in RULES}
    judge(curves)
    FIGURE.end(lambda: draw(curves))


def accuracies(run: fedsim.Run) -> pd.DataFrame:
    """On task 0 and task 1, by version."""
    assert run.clients is not None
    return run.clients.assign(task=run.clients.client % 2).pivot_table("accuracy", "version", "task")


def best(runs: Runs, rule: str, seed: int) -> pd.DataFrame:
    """At the rate that ends best on both."""
    return max((accuracies(runs[rule, rate, seed]) for rate in RULES[rule][1]), key=lambda rows: rows.iloc[-1].mean())


def ends(curves: Curves, rule: str) -> np.ndarray:
    """Accuracies at the end, (seeds, 3): on the first task, on the second, and their mean."""
    rows = np.array([rows.iloc[-1] for rows in curves[rule]])
    return np.column_stack([rows, rows.mean(1)])


def judge(curves: Curves) -> None:
    """Bounds set after a pilot of one other seed at a rate or two, before the runs that are judged."""
    published = ends(curves, "published, two phases")
    for other, least in (("SGD", 0.03), ("SGD, falling", 0.0), ("Adam", 0.03), ("Adagrad", 0.02), ("CLASSP", 0.01)):
        gain = published[:, 2] - ends(curves, other)[:, 2]
        FIGURE.judge(above(f"the published class in two phases over {other}: mean accuracy", gain.tolist(), least))
    sgd, plain = ends(curves, "SGD"), ends(curves, "CLASSP")
    FIGURE.judge(above("it keeps more of the first task than SGD", (published - sgd)[:, 0].tolist(), 0.08),
                 above("and learns the second nearly as well", (published - sgd)[:, 1].tolist(), -0.03))  # fmt: skip
    FIGURE.judge(above("the paper's rule without threshold over SGD", (plain - sgd)[:, 2].tolist(), 0.01))
    little = ends(curves, "CLASSP, threshold 1e-5") - plain
    FIGURE.judge(above("a threshold of 1e-5 gains no more than 0.02: 0.02 less it", (0.02 - little[:, 2]).tolist(), 0))
    much = plain - ends(curves, "CLASSP, threshold 1e-3")
    FIGURE.judge(above("a threshold of 1e-3 costs", much[:, 2].tolist(), 0.05))


def draw(curves: Curves) -> Drawing:
    """Both tasks by rounds, and where each rule ends."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3))
    for place, rule in enumerate(RULES):
        style, colour = "--" if place > 6 else "-", f"C{place % 7}"
        for task in (0, 1):
            mean = np.mean([rows[task] for rows in curves[rule]], axis=0)
            panels[task].plot(curves[rule][0].index, mean, style, color=colour)
        found = ends(curves, rule)
        panels[2].plot(found[:, 1], found[:, 0], "s" if place > 6 else "o", color=colour, label=rule)
    for task, name in enumerate(("first", "second")):
        panels[task].axvline(30, color="grey", linewidth=0.5)
        panels[task].set(xlabel="rounds", ylabel="test accuracy", title=f"on the {name} task, mean of {counted(SEEDS)}")
    panels[2].set(xlabel="accuracy on the second task", ylabel="on the first", title="at the end, each seed")
    panels[2].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return drawing


if __name__ == "__main__":
    main()
