"""Large batches: how much of what they lose is steps, and how much is the statistics of BatchNorm."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, legend_above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Train longer: small and large batches, by steps, learning rate and Ghost Batch Normalization",
    "Setting: ours; the paper (Hoffer et al., NeurIPS 2017) trains one model on images. FedAvg, 10 clients, digits "
    "shared out evenly, an MLP 64-128-128-10 with BatchNorm, 30 rounds, plain SGD. 'small': 8 steps a round of 16 "
    "examples; 'large': 1 step of 128; 'rate': times sqrt(8); 'ghosts': of 16; 'long': 8 steps of 128, so as many as "
    "small. Beside the paper: no momentum, no clipped gradients, a constant rate, statistics estimated anew before a "
    "measurement. Bounds after a pilot of one other seed at both rates. Full: ten seeds for five.",
)
RATES = (0.02, 0.1)
SEEDS = FIGURE.seeds(5, full=10)
GHOSTS = ("model.mlp={hidden: [128, 128], norm: ghost, ghost: 16}",)
KINDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "small": (16, 8, ()),
    "large": (128, 1, ()),
    "large, rate": (128, 1, ()),
    "large, rate, ghosts": (128, 1, GHOSTS),
    "large, rate, long": (128, 8, ()),
    "large, rate, long, ghosts": (128, 8, GHOSTS),
}
"""Batch, steps a round, and what else differs."""

Key = tuple[str, float, int]
Runs = dict[Key, fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms: dict[Key, tuple[str, ...]] = {
        (kind, rate, seed): (*overrides(kind, rate), f"seed={seed}")
        for kind in KINDS
        for rate in RATES
        for seed in SEEDS
    }
    for seed in SEEDS:
        arms["start", 0.0, seed] = ("until.versions=1", "local.optimizer.sgd.lr=1e-12", f"seed={seed}")
    runs = FIGURE.runs("ghost_norm.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def overrides(kind: str, rate: float) -> tuple[str, ...]:
    """The paper's rule for the rate: sqrt(large / small) times the small batch's."""
    batch, steps, others = KINDS[kind]
    factor = np.sqrt(batch / KINDS["small"][0]) if "rate" in kind else 1.0
    return f"local.batch={batch}", f"local.steps={steps}", f"local.optimizer.sgd.lr={rate * factor:.6g}", *others


def last(runs: Runs, kind: str, rate: float) -> np.ndarray:
    """Accuracy in the end, seed by seed."""
    return np.array([runs[kind, rate, seed].metrics.accuracy.iloc[-1] for seed in SEEDS])


def distance(runs: Runs, kind: str, rate: float) -> np.ndarray:
    """How far the parameters have come from where they began, seed by seed."""
    pairs = [(runs[kind, rate, seed].weights, runs["start", 0.0, seed].weights) for seed in SEEDS]
    return np.sqrt([sum(np.square(end[name] - start[name]).sum() for name in start) for end, start in pairs])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    low, high = RATES
    small, large, rate, ghosts, long, both = (last(runs, kind, low) for kind in KINDS)
    FIGURE.judge(
        above(f"rate {low}: accuracy that large batches lose", (small - large).tolist(), 0.03),
        above("of this the rate gives back", (rate - large).tolist(), 0.02),
        above("more steps add to that", (long - rate).tolist(), 0.01),
        above("with as many steps as small batches, large ones lose nothing: the difference",
              (long - small).tolist(), -0.005),
        above("ghosts add to the rate", (ghosts - rate).tolist(), 0.0),
        above("ghosts add to rate and steps", (both - long).tolist(), 0.0),
    )  # fmt: skip
    far = [distance(runs, kind, low) for kind in ("large", "large, rate", "large, rate, long")]
    FIGURE.judge(
        above("distance from the start: rate over none", (far[1] / far[0]).tolist(), 1.5),
        above("distance from the start: eight times the steps over few", (far[2] / far[1]).tolist(), 1.5),
    )
    small, large, rate, ghosts, *_ = (last(runs, kind, high) for kind in KINDS)
    FIGURE.judge(
        above(f"rate {high}: accuracy that large batches lose", (small - large).tolist(), 0.005),
        above("the rate alone gives it back there: the difference to small batches", (rate - small).tolist(), -0.005),
        above("ghosts add to the rate there", (ghosts - rate).tolist(), 0.0),
    )


def draw(runs: Runs) -> Drawing:
    """Accuracy by kind, loss by steps, distance by steps."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.5))
    low, high = RATES
    for place, (kind, (_, steps, _)) in enumerate(KINDS.items()):
        for rate, marker in ((low, "o"), (high, "x")):
            heights = place + np.linspace(-0.2, 0.2, len(SEEDS))
            panels[0].plot(last(runs, kind, rate), heights, marker, color=f"C{place}")
        rows = [runs[kind, low, seed].metrics for seed in SEEDS]
        losses = np.mean([row.train_loss for row in rows], axis=0)
        panels[1].plot(rows[0].version * steps, losses, ".-", color=f"C{place}", label=kind, linewidth=0.9)
        rounds = runs[kind, low, SEEDS[0]].metrics.version.iloc[-1]
        far = distance(runs, kind, low)
        where = [rounds * steps * 1.06 ** (place - 2)] * len(far)
        panels[2].plot(where, far, "o", color=f"C{place}")
    panels[0].set(yticks=range(len(KINDS)), yticklabels=list(KINDS), xlabel="test accuracy", ylim=(5.5, -0.5),
                  title=f"o: rate {low}, x: rate {high}; a mark a seed")  # fmt: skip
    panels[1].set(xlabel="steps of a client", ylabel="training loss", yscale="log", title=f"rate {low}, means")
    legend_above(drawing, panels[1])
    panels[2].set(xlabel="steps of a client (spread a little)", ylabel="distance from the start", xscale="log",
                  title=f"rate {low}")  # fmt: skip
    panels[2].set_xticks([30, 60, 120, 240], ["30", "60", "120", "240"])
    panels[2].set_xticks([], minor=True)
    return drawing


if __name__ == "__main__":
    main()
