"""Sharpness-aware minimisation among clients: how flat the loss is around what they learn, and what it costs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "SAM among clients with unlike classes: sharpness and loss by radius, by rounds and by time",
    "Setting: ours; the papers (Foret et al., ICLR 2021; Qu et al., ICML 2022) train convolutional networks. FedAvg, "
    "5 of 10 clients, digits by Dirichlet(0.2), an MLP 64-64-10, 60 rounds of 10 local steps of SGD (lr 0.1, batch "
    "32). A step of SAM costs two gradients, so that SGD with 120 rounds takes a little more time than SAM with 60. "
    "Sharpness: training loss 0.05 up its gradient less that at the model, on 1000 examples. Bounds after a pilot of "
    "one other seed. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
PLAIN = "local.source=backpropagation"
ARMS = {
    "SGD": (PLAIN,),
    "SGD, 120 rounds": (PLAIN, "until.versions=120"),
    "SAM 0.05": ("local.source.sam.radius=0.05",),
    "SAM 0.1": ("local.source.sam.radius=0.1",),
    "SAM 0.3": ("local.source.sam.radius=0.3",),
    "SAM 1": ("local.source.sam.radius=1.0",),
}

Runs = dict[tuple[str, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    runs = FIGURE.runs("sam.yaml", {(arm, seed): (*said, f"seed={seed}")
                                    for arm, said in ARMS.items() for seed in SEEDS})  # fmt: skip
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, column: str, arm: str) -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[arm, seed].metrics[column].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    flatter = last(runs, "sharpness", "SGD") / last(runs, "sharpness", "SAM 0.3")
    in_time = last(runs, "sharpness", "SGD, 120 rounds") / last(runs, "sharpness", "SAM 0.3")
    saved = last(runs, "loss", "SGD") - last(runs, "loss", "SAM 0.3")
    gained = last(runs, "accuracy", "SAM 0.3") - last(runs, "accuracy", "SGD, 120 rounds")
    broken = last(runs, "accuracy", "SGD") - last(runs, "accuracy", "SAM 1")
    FIGURE.judge(
        above("radius 0.3: flatter than SGD after as many rounds, times", flatter.tolist(), 1.2),
        above("radius 0.3: flatter than SGD in as much time, times", in_time.tolist(), 1.0),
        above("radius 0.3: test loss saved after as many rounds", saved.tolist(), 0.0),
        above("radius 0.3: accuracy gained over SGD in as much time", gained.tolist(), 0.0),
        above("radius 1: accuracy lost", broken.tolist(), 0.3),
    )


def draw(runs: Runs) -> Drawing:
    """Sharpness against training loss along the runs, and accuracy by time."""
    drawing, (paths, curves) = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    for place, arm in enumerate(arm for arm in ARMS if arm != "SGD"):
        rows = [runs[arm, seed].metrics for seed in SEEDS]
        loss, sharpness, accuracy = (np.mean([each[column] for each in rows], axis=0)
                                     for column in ("train_loss", "sharpness", "accuracy"))  # fmt: skip
        if arm != "SAM 1":  # which learns nothing
            paths.plot(loss[1:], sharpness[1:], ".-", color=f"C{place}", label=arm, linewidth=0.9)
        curves.plot(rows[0].time_s, accuracy, color=f"C{place}", label=arm)
    paths.set(xlabel="training loss", ylabel="sharpness", xscale="log", yscale="log",
              title="along the runs; means of seeds")  # fmt: skip
    paths.invert_xaxis()
    for axis, places in ((paths.xaxis, (2, 1, 0.5, 0.25)), (paths.yaxis, (0.02, 0.03, 0.05))):
        axis.set_ticks(places, map(str, places))
        axis.set_ticks([], minor=True)
    curves.set(xlabel="virtual time (s)", ylabel="test accuracy")
    curves.legend()
    return drawing


if __name__ == "__main__":
    main()
