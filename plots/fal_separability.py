"""Federated adversarial learning: robust training loss by the data's separation and by local steps."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Federated adversarial learning: does separability speed convergence?",
    "Setting: that of the theory of Li, Song & Yang, ICML 2023 (two-layer ReLU, fixed signs and biases, gamma-"
    "separable points on the unit sphere), whose own experiment is not known; all numbers are ours: width 512, 5 "
    "clients of 5 pairs of points with opposite labels gamma apart in 32 dimensions, half the squared error, PGD of 5"
    " steps within 0.03 in the 2-norm at every local step; the robust loss is that of a stronger attack, its minimum "
    "over rounds is judged. 'unlike': every client has one label alone, but for one. Full: width 4096, ten seeds.",
)
GAMMAS = (0.125, 0.25, 0.5, 1.0)
STEPS = (1, 5, 20)
SEEDS = len(FIGURE.seeds(5, full=10))

Key = tuple[str, float, int]


def main() -> None:
    """Run, judge, draw."""
    size = FIGURE.sized(("model.two_layer_relu.width=4096",))
    arms: dict[Key, tuple[str, ...]] = {}
    for seed in range(SEEDS):
        for gamma in GAMMAS:
            arms["gamma", gamma, seed] = (f"data.separated.gamma={gamma}", f"seed={seed}", *size)
        for steps in STEPS:
            arms["steps", steps, seed] = (f"local.steps={steps}", f"seed={seed}", *size)
        arms["unlike", 0.0, seed] = ("data.separated.mixed=false", f"seed={seed}", *size)
    runs = FIGURE.runs("fal_separability.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def lowest(runs: dict[Key, fedsim.Run], kind: str, value: float) -> np.ndarray:
    """The least robust training loss over all rounds as a part of the first one, seed by seed."""
    losses = [runs[kind, value, seed].metrics.train_robust_loss for seed in range(SEEDS)]
    return np.array([loss.min() / loss.iloc[0] for loss in losses])


def judge(runs: dict[Key, fedsim.Run]) -> None:
    """Bounds set after a pilot of one seed and two gammas, before the runs that are judged."""
    for less, more in pairwise(GAMMAS):
        gain = lowest(runs, "gamma", less) - lowest(runs, "gamma", more)
        FIGURE.judge(above(f"gamma {more} is ahead of {less} after 200 rounds: robust loss less", gain.tolist(), 0.0))
    for few, many in pairwise(STEPS):
        gain = lowest(runs, "steps", few) - lowest(runs, "steps", many)
        FIGURE.judge(above(f"{many} local steps are ahead of {few}: robust loss less", gain.tolist(), 0.0))
    gain = lowest(runs, "unlike", 0.0) - lowest(runs, "steps", 5)
    FIGURE.judge(above("clients that are alike are ahead of unlike ones: robust loss less", gain.tolist(), 0.0))


def draw(runs: dict[Key, fedsim.Run]) -> Drawing:
    """Robust training loss by rounds."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3), sharey=True)
    shown = (
        ("gamma", [(("gamma", gamma), f"gamma {gamma}") for gamma in GAMMAS]),
        ("local steps, gamma 0.5", [(("steps", steps), f"K = {steps}") for steps in STEPS]),
        ("clients, gamma 0.5", [(("steps", 5), "alike"), (("unlike", 0.0), "unlike")]),
    )
    for panel, (title, curves) in zip(panels, shown, strict=True):
        for place, ((kind, value), label) in enumerate(curves):
            for seed in range(SEEDS):
                rows = runs[kind, value, seed].metrics
                panel.plot(rows.version, rows.train_robust_loss, color=f"C{place}", linewidth=0.8,
                           label=None if seed else label)  # fmt: skip
        panel.set(xlabel="rounds", title=title, yscale="log")
        panel.legend()
    panels[0].set(ylabel=f"robust training loss, {counted(SEEDS)}")
    return drawing


if __name__ == "__main__":
    main()
