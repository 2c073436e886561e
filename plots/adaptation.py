"""Test-time adaptation among clients: who bears pictures that get worse, without labels."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "SAR and Tent on clients that drift: accuracy before each step, by true labels",
    "Setting: ours; the papers (Niu et al., ICLR 2023; Wang et al., ICLR 2021) adapt networks of ImageNet to its "
    "corruptions. FedAvg, 4 clients, an MLP 64-128-128-10 with a norm after each hidden layer, whose scale and "
    "shift stay with the client; 30 rounds with labels, then 30 without, 64 examples a round in batches of 16, ever "
    "less contrast and more noise: severity 1 leaves 0.6 of the contrast, 1.5 leaves 0.4. Mild: severity 1, "
    "shuffled, rate 0.1. Harsh: severity 1.5, sorted by label, rate 0.3. Reliable: SAR without its second look and "
    "its reset. Momentum begins afresh each round. Accuracies are means from the sixth round without labels on. "
    "Bounds after a pilot of one other seed. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
MILD = ("data.drifting_digits.worst=1.0", "data.drifting_digits.order=shuffled")
MILD_SORTED = ("data.drifting_digits.worst=1.0",)
BATCH = "model.mlp.norm=batch"
RULES = {
    "none": ("local.schedule.jump.factor=0",),
    "Tent": ("local.source=backpropagation",),
    "reliable": ("local.source={sar: {radius: 0, reset: 0}}",),
    "SAR": (),
}
ARMS: dict[str, tuple[str, ...]] = {
    **{f"harsh, {name}": said for name, said in RULES.items()},
    **{f"mild, {name}": (*MILD, "local.schedule.jump.factor=1", *said) for name, said in RULES.items()
       if name != "reliable"},
    "mild sorted, none": (*MILD_SORTED, *RULES["none"]),
    "mild, batch, none": (*MILD, BATCH, *RULES["none"]),
    "mild sorted, batch, none": (*MILD_SORTED, BATCH, *RULES["none"]),
}  # fmt: skip
SINCE, SETTLED = 30, 35
Runs = dict[tuple[str, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(name, seed): (*said, f"seed={seed}") for name, said in ARMS.items() for seed in SEEDS}
    runs = FIGURE.runs("adaptation.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def by_round(run: fedsim.Run, column: str = "accuracy") -> np.ndarray:
    """Means over clients and steps."""
    assert run.probes is not None
    return run.probes.pivot_table(column, "version").to_numpy()[:, 0]


def late(runs: Runs, arm: str, column: str = "accuracy") -> np.ndarray:
    """Means over all rounds in which pictures are at their worst, seed by seed."""
    return np.array([by_round(runs[arm, seed], column)[SETTLED:].mean() for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    sorting = {
        norm: late(runs, f"mild{norm}, none") - late(runs, f"mild sorted{norm}, none") for norm in ("", ", batch")
    }
    FIGURE.judge(
        above("BatchNorm: sorting by label costs", sorting[", batch"].tolist(), 0.3),
        above("LayerNorm: it costs no more than 0.05: 0.05 less it", (0.05 - sorting[""]).tolist(), 0),
    )
    for rule in ("Tent", "SAR"):
        FIGURE.judge(above(f"mild: {rule} over no adaptation",
                           (late(runs, f"mild, {rule}") - late(runs, "mild, none")).tolist(), 0.03))  # fmt: skip
    none, tent, reliable, sar = (late(runs, f"harsh, {name}") for name in RULES)
    commonest = late(runs, "harsh, Tent", "commonest") - late(runs, "harsh, SAR", "commonest")
    FIGURE.judge(
        above("harsh: Tent loses, of what no adaptation has", (none - tent).tolist(), 0.2),
        above("harsh: SAR over Tent", (sar - tent).tolist(), 0.05),
        above("harsh: SAR over reliable examples alone", (sar - reliable).tolist(), 0.01),
        above("harsh: Tent gives one answer more often than SAR, by", commonest.tolist(), 0.05),
        above("harsh: SAR over no adaptation", (sar - none).tolist(), 0),
    )


def draw(runs: Runs) -> Drawing:
    """Accuracy by rounds, mild and harsh; answers; norms."""
    drawing, grid = plt.subplots(2, 2, figsize=(PAGE, 4.6))
    panels = grid.ravel()
    for panel, kind in zip(panels, ("mild", "harsh"), strict=False):
        lines(panel, runs, kind, "accuracy")
        panel.set(title=f"{kind}: mean of {counted(len(SEEDS))}", ylabel="accuracy before each step")
    lines(panels[2], runs, "harsh", "commonest")
    panels[2].set(title="harsh", ylabel="share of the commonest answer in a batch")
    panels[0].set_ylim(top=1)
    panels[1].legend()
    norms = {"LayerNorm, shuffled": "mild, none", "LayerNorm, sorted": "mild sorted, none",
             "BatchNorm, shuffled": "mild, batch, none", "BatchNorm, sorted": "mild sorted, batch, none"}  # fmt: skip
    for place, arm in enumerate(norms.values()):
        found = late(runs, arm)
        panels[3].plot(found, place + np.linspace(-0.15, 0.15, len(found)), "o")
    panels[3].set(yticks=range(len(norms)), yticklabels=list(norms), xlim=(0, 1), ylim=(-0.5, 3.5), xlabel="accuracy",
                  title="mild, no adaptation; a mark a seed")  # fmt: skip
    return drawing


def lines(panel: Axes, runs: Runs, kind: str, column: str) -> None:
    """One a rule, by rounds."""
    for place, name in enumerate(RULES):
        if f"{kind}, {name}" in ARMS:
            mean = np.mean([by_round(runs[f"{kind}, {name}", seed], column) for seed in SEEDS], 0)
            panel.plot(mean, color=f"C{place}", label="no adaptation" if name == "none" else name)
    panel.axvline(SINCE, color="grey", linewidth=0.5)
    panel.set(xlabel="rounds; without labels from 30 on", ylim=(0, 1))


if __name__ == "__main__":
    main()
