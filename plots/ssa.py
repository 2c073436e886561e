"""SSA among clients: what full and sparse attention lose to one another, and how sparse full attention has become."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, legend_above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "SSA among clients: both attentions of one model, by what it has learnt by",
    "Setting: ours; the paper (2511.20102) trains a model of a billion parameters on 8192 tokens; a query sees 16 "
    "blocks of 16. FedAvg, 3 clients, who are roles of tiny Shakespeare, 60 rounds of 5 local steps of AdamW at "
    "0.01, whose state they keep, on 16 windows of 64 characters; a transformer of 2 layers and 2 heads, width 32, of "
    "which a query sees 2 blocks of 4. On 128 test windows: losses of every next character; dropped mass is the weight "
    "that full attention has where sparse attention does not look. Bounds after a pilot of one other seed. Full: ten "
    "seeds for three.",
)
MODES = {"full": ("full", 0), "sparse": ("sparse", 0), "random": ("random", 0), "SSA": ("random", 10)}
SEEDS = FIGURE.seeds(3, full=10)
MEASURES = {"full_loss": "loss by full attention", "attention_gap": "loss by sparse minus full",
            "dropped_mass": "dropped mass", "entropy": "entropy of full attention, nats"}  # fmt: skip

Runs = dict[tuple[str, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    key = "local.objective.sparse_attention"
    arms = {(name, seed): (f"{key}.attention={attention}", f"{key}.alignment={weight}", f"seed={seed}")
            for name, (attention, weight) in MODES.items() for seed in SEEDS}  # fmt: skip
    runs = FIGURE.runs("ssa.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, mode: str, column: str) -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[mode, seed].metrics[column].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    gaps = {mode: last(runs, mode, "attention_gap") for mode in MODES}
    dropped = {mode: last(runs, mode, "dropped_mass") for mode in MODES}
    entropies = last(runs, "sparse", "entropy") - last(runs, "SSA", "entropy")
    apart = last(runs, "random", "alignment") / last(runs, "SSA", "alignment")
    worse = last(runs, "SSA", "full_loss") - last(runs, "random", "full_loss")
    FIGURE.judge(
        above("learnt by full: sparse attention loses", gaps["full"].tolist(), 0.02),
        above("SSA: gap that is left, below 0.02 by", (0.02 - abs(gaps["SSA"])).tolist(), 0.0),
        above("SSA: gap closed of full's", (gaps["full"] - abs(gaps["SSA"])).tolist(), 0.01),
        above("dropped mass: learnt by sparse over by full", (dropped["sparse"] - dropped["full"]).tolist(), 0.03),
        above("dropped mass: learnt by full over SSA", (dropped["full"] - dropped["SSA"]).tolist(), 0.0),
        above("entropy: learnt by sparse over SSA", entropies.tolist(), 0.2),
        above("distance of the two attentions: random over SSA, times", apart.tolist(), 10.0),
        above("what alignment costs: loss of SSA over random", worse.tolist(), 0.0),
    )


def draw(runs: Runs) -> Drawing:
    """Each measure by rounds, a line a seed."""
    drawing, panels = plt.subplots(1, len(MEASURES), figsize=(PAGE, 2.0))
    for panel, (column, title) in zip(panels, MEASURES.items(), strict=True):
        for place, mode in enumerate(MODES):
            for seed in SEEDS:
                rows = runs[mode, seed].metrics.drop_duplicates("version").iloc[1:]
                panel.plot(rows.version, rows[column], f"C{place}", label=mode if seed == SEEDS[0] else None)
        panel.set(xlabel="rounds", title=title)
    panels[1].axhline(0, color="black", linewidth=0.6)
    legend_above(drawing, panels[0])
    return drawing


if __name__ == "__main__":
    main()
