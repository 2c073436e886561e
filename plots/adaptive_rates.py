"""Schedules, refined schedules and rates by curvature, among clients: what carries over, and what does not."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted, legend_above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "How long local steps should be: schedules, refinement (2310.07831) and DAL (2302.01952) in FedAvg",
    "Setting: ours, as the papers' are not federated: digits, 4 clients by Dirichlet(1), 20 rounds of 50 steps of "
    "SGD, batch 8, logistic regression (rates 1, 3, 10) and an MLP 64-64-10 (0.1, 0.3, 1); each schedule is judged at"
    " its best rate, seed by seed, by the training loss in the end. A client refines each training by its last one. "
    "DAL: the MLP, whole clients as batches, 10 rounds; a step of DAL costs 3.67 gradients, so that at equal time it "
    "has about a quarter of the steps. Claims are the papers', or were found in a pilot of one other seed; bounds "
    "were set before the runs that are judged. Full: ten seeds.",
)
MODELS = {"logistic": ("logistic", (1.0, 3.0, 10.0)), "MLP": ("{mlp: {hidden: [64]}}", (0.1, 0.3, 1.0))}
SCHEDULES = {
    "constant": "constant",
    "linear, run": "linear",
    "linear, round": "{linear: {over: round}}",
    "refined": "refined",
    "refined, tau 1": "{refined: {tau: 1}}",
}
WHOLE = ("model={mlp: {hidden: [64]}}", "local.batch=1500", "until.versions=10", "evaluate.every=24 s")
SOURCES = {
    **{f"rate {rate}": (f"local.optimizer.sgd.lr={rate}",) for rate in ("0.1", "1", "3")},
    **{f"DAL {power}": (f"local.control={{dal: {{power: {power}}}}}",) for power in ("0.5", "1", "1.2")},
}
SEEDS = FIGURE.seeds(5, full=10)

Key = tuple[str, str, float, int]


def main() -> None:
    """Run, judge, draw."""
    arms: dict[Key, tuple[str, ...]] = {}
    for seed in SEEDS:
        for name, (model, rates) in MODELS.items():
            for schedule, said in SCHEDULES.items():
                for rate in rates:
                    arms[name, schedule, rate, seed] = (
                        f"model={model}", f"local.schedule={said}", f"local.optimizer.sgd.lr={rate}", f"seed={seed}"
                    )  # fmt: skip
        for source, overrides in SOURCES.items():
            arms["whole", source, 0.0, seed] = (*WHOLE, *overrides, f"seed={seed}")
    runs = FIGURE.runs("adaptive_rates.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def loss(runs: dict[Key, fedsim.Run], model: str, name: str, rate: float = 0.0) -> np.ndarray:
    """Of training in the end, seed by seed."""
    return np.array([runs[model, name, rate, seed].metrics.train_loss.iloc[-1] for seed in SEEDS])


def best(runs: dict[Key, fedsim.Run], model: str, schedule: str) -> np.ndarray:
    """At the best rate of each seed."""
    return np.min([loss(runs, model, schedule, rate) for rate in MODELS[model][1]], axis=0)


def judge(runs: dict[Key, fedsim.Run]) -> None:
    """Bounds as in the setting."""
    convex = {name: best(runs, "logistic", name) for name in SCHEDULES}
    deep = {name: best(runs, "MLP", name) for name in SCHEDULES}
    whole = {name: loss(runs, "whole", name) for name in SOURCES}
    claim("logistic: linear over the run is ahead of constant (the paper's order)",
          convex["constant"] - convex["linear, run"], 0.0)  # fmt: skip
    claim("logistic: refined is at most 0.01 behind linear over the round (the paper's)",
          0.01 - convex["refined"] + convex["linear, round"], 0.0)  # fmt: skip
    claim(
        "logistic: refined is better off with a median over the round",
        convex["refined"] - convex["refined, tau 1"],
        0.01,
    )
    claim("MLP: refined is behind linear over the round", deep["refined"] - deep["linear, round"], 0.02)
    claim("MLP: linear over the round bears rate 1, constant does not",
          loss(runs, "MLP", "constant", 1.0) - loss(runs, "MLP", "linear, round", 1.0), 0.5)  # fmt: skip
    fixed = np.min([whole[name] for name in ("rate 0.1", "rate 1", "rate 3")], axis=0)
    claim("DAL 1 is ahead of the best of three rates (as in central training)", fixed - whole["DAL 1"], 0.0)
    claim("DAL 1 is ahead of rate 0.1", whole["rate 0.1"] - whole["DAL 1"], 0.1)
    claim("DAL 1 learns where rate 3 fails", whole["rate 3"] - whole["DAL 1"], 1.0)
    claim("DAL 0.5 is ahead of DAL 1", whole["DAL 1"] - whole["DAL 0.5"], 0.005)
    claim("DAL 0.5 is ahead of the best of three rates", fixed - whole["DAL 0.5"], 0.005)


def claim(words: str, gain: np.ndarray, least: float) -> None:
    """That training loss is less by more than `least`."""
    FIGURE.judge(above(f"{words}: training loss", gain.tolist(), least))


def draw(runs: dict[Key, fedsim.Run]) -> Drawing:
    """Loss by rate for each schedule, and by rounds for DAL."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.7))
    for panel, (model, (_, rates)) in zip(panels, MODELS.items(), strict=False):
        for place, schedule in enumerate(SCHEDULES):
            cells = np.array([loss(runs, model, schedule, rate) for rate in rates])
            panel.errorbar(rates, cells.mean(1), [cells.mean(1) - cells.min(1), cells.max(1) - cells.mean(1)],
                           color=f"C{place}", label=schedule, marker="o", markersize=3)  # fmt: skip
        panel.set(xscale="log", yscale="log", xlabel="learning rate", title=f"{model}: schedules")
    for place, source in enumerate(SOURCES):
        for seed in SEEDS:
            rows = runs["whole", source, 0.0, seed].metrics
            panels[2].plot(
                rows.version, rows.train_loss, color=f"C{place}", linewidth=0.8, label=None if seed else source
            )
    panels[2].set(yscale="log", xlabel="rounds", title="MLP, whole clients: rates by curvature")
    legend_above(drawing, panels[0], columns=3, side="left")
    legend_above(drawing, panels[2], columns=3, side="right")
    panels[0].set(ylabel=f"training loss in the end, {counted(len(SEEDS))}")
    return drawing


if __name__ == "__main__":
    main()
