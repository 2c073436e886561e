"""Sequential gradient coding: loss against time while four models are trained in turn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, counted, legend_above
from matplotlib.figure import Figure as Drawing

from fedsim.style import PAGE

FIGURE = Figure(
    "Sequential gradient coding: four models trained in turn on MNIST",
    "Setting: after Krishnan, Ebrahimi & Khisti, ICLR 2023: their CNN, Adam, four models, mu = 1. Ours: 16 workers "
    "for 256 with the same ratios of stragglers to workers, batch 512 for 4096, lr 0.001 for 0.0001, 60 iterations a "
    "model for 120, 8,192 training and 1,000 test images, the loss is the test loss, averaged over the models; "
    "stragglers are a Gilbert-Elliott model with few workers that are often slow, fitted to public recordings of AWS "
    "Lambda, and the workers' times come from these too. "
    "Quick: 20 iterations a model. Full: batch 4096, 120 iterations, lr 0.0001, all images.",
)
ARMS = {"uncoded": "C0", "the 2 slowest ignored": "C4", "GC": "C1", "SR-SGC": "C2", "M-SGC": "C3"}
EXACT = ("GC", "SR-SGC", "M-SGC")
SEEDS = len(FIGURE.seeds(3))
FULL = ("local.batch=256", "until.versions=480", "local.optimizer={adam: {lr: 0.0001}}",
        "data={mnist: {partition: iid}}", "fleet.devices.constant.per_example=546 us")  # fmt: skip
QUICK = ("until.versions=80",)

Runs = dict[str, list[pd.DataFrame]]


def main() -> None:
    """Run, judge, draw."""
    arms = {seed: (f"seed={seed}", *FIGURE.sized(FULL, QUICK)) for seed in range(SEEDS)}
    runs: Runs = {arm: [] for arm in ARMS}
    for run in FIGURE.runs("sgc_training.yaml", arms).values():
        for arm, found in zip(ARMS, run.arms, strict=True):
            runs[arm].append(found.metrics)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def ends(runs: list[pd.DataFrame], column: str) -> np.ndarray:
    """What each seed ends with."""
    return np.array([rows[column].iloc[-1] for rows in runs])


def judge(runs: Runs) -> None:
    """Bounds set before the runs: an exact code gets the same models, but for rounding, and gets them sooner."""
    for arm in EXACT:
        apart = np.abs(ends(runs[arm], "loss") / ends(runs["uncoded"], "loss") - 1)
        FIGURE.judge(above(f"{arm} ends with the uncoded loss: 0.01 less the relative difference", 0.01 - apart, 0.0))
        saved = 1 - ends(runs[arm], "time_s") / ends(runs["uncoded"], "time_s")
        FIGURE.judge(above(f"{arm} is there sooner: saved part of the time", saved.tolist(), 0.0))
    saved = 1 - ends(runs["M-SGC"], "time_s") / ends(runs["GC"], "time_s")
    FIGURE.judge(above("M-SGC is there sooner than GC: saved part of the time", saved.tolist(), 0.0))
    worse = ends(runs["the 2 slowest ignored"], "loss") - ends(runs["M-SGC"], "loss")
    FIGURE.judge(above("after as many gradients, ignoring the slowest has the higher loss", worse.tolist(), 0.0))


def draw(runs: Runs) -> Drawing:
    """Loss against time, against gradients, and accuracy against time."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.5))
    axes = (("time_s", "loss"), ("version", "loss"), ("time_s", "accuracy"))
    for panel, (x, y) in zip(panels, axes, strict=True):
        for arm, colour in ARMS.items():
            for number, rows in enumerate(runs[arm]):
                panel.plot(rows[x], rows[y], color=colour, linewidth=0.9, label=None if number else arm)
        panel.set(xlabel={"time_s": "virtual time (s)", "version": "gradients, of all models"}[x],
                  ylabel=f"test {y}, mean of four models")  # fmt: skip
    for panel in panels[:2]:
        panel.set_yscale("log")
    legend_above(drawing, panels[0])
    panels[0].set_title(f"{counted(SEEDS)}")
    return drawing


if __name__ == "__main__":
    main()
