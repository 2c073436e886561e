"""ODICE: what clients learn from recorded walks, by the gradient of the backward residual."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "ODICE among clients: orthogonal, true and semi-gradient on recorded walks",
    "Setting: ours, a synthetic grid; the paper (Mao et al., ICLR 2024) learns locomotion and mazes. 7 x 7 cells, one "
    "of 49 inputs is 1, one linear layer for V and the policy; 300 walks, of which 15 % are as short as can be and the "
    "others random with at most 20 moves; each move's reward is -1. FedAvg, 10 clients, 120 rounds of 20 local steps "
    "of Adam (lr 0.01, kept), lambda 0.6, eta 1, gamma 0.99; V' follows by 0.05 a step, the paper's code by 0.005. "
    "Extra moves over the shortest way by the likeliest moves, mean over all cells. Moves are weighted as in the paper "
    "(y / 2 + 1) or in its code (y). Bounds after a pilot of one other seed, five settings. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
PLAIN = "local.source=backpropagation"
RULES = {
    "orthogonal": (),
    "true gradient": (PLAIN,),
    "semi-gradient": (PLAIN, "local.objective.odice.eta=0"),
}
ALONE = "orthogonal, a tenth of the walks, one client"
LONE = ("fleet.clients=1", "data.grid_world.walks=30")
WEIGHTS = ("paper", "code")

Runs = dict[tuple[str, str, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    said = {(rule, kind): (*rest, f"local.objective.odice.weights={kind}")
            for rule, rest in RULES.items() for kind in WEIGHTS} | {(ALONE, "paper"): LONE}  # fmt: skip
    arms = {(*arm, seed): (*rest, f"seed={seed}") for arm, rest in said.items() for seed in SEEDS}
    runs = FIGURE.runs("odice.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, rule: str, kind: str, column: str = "extra_steps") -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[rule, kind, seed].metrics[column].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    for kind in WEIGHTS:
        own = last(runs, "orthogonal", kind)
        for other in ("true gradient", "semi-gradient"):
            saved = last(runs, other, kind) - own
            FIGURE.judge(above(f"weights of the {kind}: moves saved over the {other}", saved.tolist(), 0.0))
    arrived = last(runs, "orthogonal", "paper", "arrived")
    together = last(runs, ALONE, "paper") - last(runs, "orthogonal", "paper")
    FIGURE.judge(
        above("share of cells from which ODICE arrives", arrived.tolist(), 0.9),
        above("moves saved over one client with its own walks", together.tolist(), 0.0),
    )


def draw(runs: Runs) -> Drawing:
    """Extra moves by rounds, for either weight of moves."""
    drawing, panels = plt.subplots(1, 2, figsize=(PAGE, 2.7), sharey=True)
    for panel, kind in zip(panels, WEIGHTS, strict=True):
        for place, rule in enumerate(rule for rule in (*RULES, ALONE) if (rule, kind, 0) in runs):
            rows = [runs[rule, kind, seed].metrics for seed in SEEDS]
            mean = np.mean([each.extra_steps for each in rows], axis=0)
            panel.plot(rows[0].version, mean, color=f"C{place}", label=rule)
            for each in rows:
                panel.plot(each.version, each.extra_steps, color=f"C{place}", linewidth=0.4, alpha=0.5)
        panel.set(xlabel="rounds", title=f"moves weighted as in the {kind}")
    panels[0].set(ylabel="extra moves (thin: a seed, thick: mean)")
    panels[0].legend()
    return drawing


if __name__ == "__main__":
    main()
