"""Two tasks of one trunk whose gradients conflict, and what combiners make of them: PCGrad, CAGrad, GCond."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Conflicting tasks of one client: the sum of their gradients, PCGrad, CAGrad, GCond",
    "Setting: ours; the papers train other networks on one machine. FedAvg, 10 clients, digits by Dirichlet(1), 40 "
    "rounds of 10 local steps of AdamW (lr 0.003), a GELU trunk 64-32-12 with two heads: cross-entropy, and 20 x the "
    "mean squared error of the example given back. GCond has a momentum of its own (0.85) and AdamW's first is 0; "
    "the others have AdamW's at 0.85, both 0.95 for the second. 'its momentum alone' is GCond that never projects "
    "(thresholds at -1). 'own batches': each loss learns from half of the batch, at the price of one loss. Bounds "
    "after a pilot of one other seed, three settings. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
IDLE = "{gcond: {critical: -1.0, main: -0.9999, weak: -0.999}}"
RULES = {
    "sum": (0.85, ""),
    "PCGrad": (0.85, "{combined: {combiner: pcgrad}}"),
    "CAGrad": (0.85, "{combined: {combiner: cagrad}}"),
    "GCond": (0.0, "{combined: {combiner: gcond}}"),
    "its momentum alone": (0.0, f"{{combined: {{combiner: {IDLE}}}}}"),
    "GCond, own batches": (0.0, "{combined: {combiner: gcond, batches: own}}"),
    "its momentum alone, own batches": (0.0, f"{{combined: {{combiner: {IDLE}, batches: own}}}}"),
}
"""AdamW's first coefficient, and where gradients come from."""

Runs = dict[tuple[str, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(rule, seed): (f"local.optimizer={{adamw: {{lr: 0.003, betas: [{beta}, 0.95]}}}}", f"seed={seed}",
                           *([f"local.source={source}"] if source else []))
            for rule, (beta, source) in RULES.items() for seed in SEEDS}  # fmt: skip
    runs = FIGURE.runs("combined.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, column: str, rule: str) -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[rule, seed].metrics[column].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    for rule, other in (("PCGrad", "sum"), ("CAGrad", "sum"), ("GCond", "sum"), ("GCond, own batches", "sum"),
                        ("GCond", "its momentum alone")):  # fmt: skip
        gained = last(runs, "accuracy", rule) - last(runs, "accuracy", other)
        nearer = last(runs, "reconstruction_error", other) - last(runs, "reconstruction_error", rule)
        FIGURE.judge(
            above(f"{rule} for {other}: accuracy gained", gained.tolist(), 0.0),
            above(f"{rule} for {other}: error of pictures that is saved", nearer.tolist(), 0.0),
        )


def draw(runs: Runs) -> Drawing:
    """Both tasks in the end, and accuracy by virtual time."""
    drawing, (ends, curves) = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    for place, rule in enumerate(RULES):
        style = {"color": f"C{place}", "label": rule}
        ends.plot(last(runs, "reconstruction_error", rule), last(runs, "accuracy", rule), "o", **style)
        rows = [runs[rule, seed].metrics for seed in SEEDS]
        curves.plot(rows[0].time_s, np.mean([each.accuracy for each in rows], axis=0), **style)
    ends.set(xlabel="mean squared error of pictures", ylabel="test accuracy", title="in the end; a mark a seed")
    curves.set(xlabel="virtual time (s)", ylabel="test accuracy, mean of seeds", title="a loss more costs time")
    curves.legend()
    return drawing


if __name__ == "__main__":
    main()
