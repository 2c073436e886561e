"""FRUGAL: what of a client's optimizer needs a memory."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted, legend_above
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "FRUGAL: bytes of optimizer state of a client against training loss",
    "Setting: ours; the paper (Zmushko et al., ICML 2025) trains language models. FedAvg, 10 clients, digits, an MLP "
    "64-128-128-10, 40 rounds of 10 local steps; moments stay with their clients, gaps of 50 steps, columns, weight "
    "decay 0.01. 'no free rule': other entries stay. GaLore is FRUGAL's svd without free rule and reset, as in the "
    "paper's code, without GaLore's own scale. The paper's rate is 0.001; the right panel gives each rule others too. "
    "Final training loss, seed by seed. Full: ten seeds for five.",
)
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
RATE = 0.001
"""The paper's."""
DENSITIES = (0.1, 0.5)
"""Beside 0 and 0.25, at that rate."""
SEEDS = len(FIGURE.seeds(5, full=10))
KINDS = {
    "AdamW": "adamw: {",
    "FRUGAL 0.25": "frugal: {gap: 50, ",
    "FRUGAL 0": "frugal: {gap: 50, density: 0.0, ",
    "FRUGAL 0.25, free part x 0.1": "frugal: {gap: 50, scale: 0.1, ",
    "no free rule, 0.25": "frugal: {gap: 50, free: none, ",
    "GaLore, 0.25": "frugal: {gap: 50, free: none, projector: svd, reset: false, ",
}

Key = tuple[str, float, int]
Runs = dict[Key, fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(kind, rate, seed): said for kind, said in KINDS.items() for rate in RATES for seed in range(SEEDS)}
    for density in DENSITIES:
        for seed in range(SEEDS):
            arms[f"FRUGAL {density}", RATE, seed] = f"frugal: {{gap: 50, density: {density}, "
            arms[f"no free rule, {density}", RATE, seed] = f"frugal: {{gap: 50, free: none, density: {density}, "
    runs = FIGURE.runs("frugal.yaml", {
        (kind, rate, seed): (f"local.optimizer={{{said}lr: {rate}}}}}", f"seed={seed}")
        for (kind, rate, seed), said in arms.items()
    })  # fmt: skip
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def losses(runs: Runs, kind: str, rate: float = RATE) -> np.ndarray:
    """The training loss at the end, seed by seed."""
    return np.array([runs[kind, rate, seed].metrics.train_loss.iloc[-1] for seed in range(SEEDS)])


def best(runs: Runs, kind: str) -> np.ndarray:
    """The same at each seed's best rate."""
    return np.min([losses(runs, kind, rate) for rate in RATES], axis=0)


def nbytes(runs: Runs, kind: str) -> int:
    """What the rule remembers of a client."""
    return runs[kind, RATE, 0].receipt["optimizer_state_bytes"]


def judge(runs: Runs) -> None:
    """Bounds set after a pilot of one other seed, before the runs that are judged."""
    adamw, none = losses(runs, "AdamW"), losses(runs, "no free rule, 0.25")
    for kind in ("FRUGAL 0.25", "FRUGAL 0"):
        closed = (none - losses(runs, kind)) / (none - adamw)
        FIGURE.judge(
            above(f"{kind} wins back most of what 0.25 without a free rule loses to AdamW", closed.tolist(), 0.8)
        )
    frugal = losses(runs, "FRUGAL 0.25")
    FIGURE.judge(above("without a free rule: loss over FRUGAL's, both 0.25", (none / frugal).tolist(), 1.5))
    galore = losses(runs, "GaLore, 0.25") / losses(runs, "FRUGAL 0")
    FIGURE.judge(above("GaLore's loss at 0.25 over FRUGAL's at 0", galore.tolist(), 1.1))
    accuracy = [runs["FRUGAL 0.25", RATE, seed].metrics.accuracy.iloc[-1] -
                runs["AdamW", RATE, seed].metrics.accuracy.iloc[-1] for seed in range(SEEDS)]  # fmt: skip
    FIGURE.judge(above("FRUGAL 0.25 keeps AdamW's test accuracy: the difference", accuracy, -0.015))
    FIGURE.judge(above("AdamW's bytes over those of FRUGAL 0.25 (one model, no seeds)",
                       [nbytes(runs, "AdamW") / nbytes(runs, "FRUGAL 0.25")], 3.0))  # fmt: skip
    for kind in ("FRUGAL 0.25", "FRUGAL 0.25, free part x 0.1"):
        ratio = best(runs, "no free rule, 0.25") / best(runs, kind)
        FIGURE.judge(
            above(f"at each one's best rate: loss without a free rule over that of {kind}", ratio.tolist(), 1.0)
        )


def draw(runs: Runs) -> Drawing:
    """Loss by rounds, by memory and by rate."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.7))
    for place, kind in enumerate(KINDS):
        rounds = [runs[kind, RATE, seed].metrics for seed in range(SEEDS)]
        panels[0].plot(rounds[0].version, np.mean([rows.train_loss for rows in rounds], axis=0), color=f"C{place}")
        means = [losses(runs, kind, rate).mean() for rate in RATES]
        panels[2].plot(RATES, means, "o-", color=f"C{place}", label=kind, markersize=3)
    by_memory(runs, panels[1])
    panels[0].set(xlabel="rounds", ylabel="training loss", yscale="log", title=f"rate {RATE}, mean of {counted(SEEDS)}")
    panels[2].set(xlabel="learning rate", ylabel="final training loss", xscale="log", yscale="log", title="by rate")
    legend_above(drawing, panels[2], columns=3)
    return drawing


def by_memory(runs: Runs, panel: Axes) -> None:
    """Final losses at the paper's rate."""
    shares = (0.1, 0.25, 0.5)
    curves = {
        "FRUGAL": ["FRUGAL 0", *(f"FRUGAL {share}" for share in shares)],
        "no free rule": [f"no free rule, {share}" for share in shares],
        "GaLore": ["GaLore, 0.25"],
        "AdamW": ["AdamW"],
    }
    for (label, kinds), colour in zip(curves.items(), ("C1", "C4", "C5", "C0"), strict=True):
        for seed in range(SEEDS):
            panel.plot([nbytes(runs, kind) / 1000 for kind in kinds], [losses(runs, kind)[seed] for kind in kinds],
                       "o-", color=colour, linewidth=0.6, markersize=3, label=None if seed else label)  # fmt: skip
    panel.set(xlabel="optimizer state of a client, kB", ylabel="final training loss", yscale="log",
              title=f"by memory, rate {RATE}")  # fmt: skip
    panel.legend()


if __name__ == "__main__":
    main()
