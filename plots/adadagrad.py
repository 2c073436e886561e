"""AdAdaGrad: batches that grow as their gradients ask for it, and what is left of the steps."""

from __future__ import annotations

from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, legend_above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "AdAdaGrad among clients: steps against accuracy, by constant batches and by tests that let them grow",
    "Setting: ours; the paper (Lau, Liu and Kolar, 2024) trains one model, on MNIST and larger. FedAvg, 5 clients, "
    "digits shared out evenly, an MLP 64-64-10, 20 rounds of an epoch (287 or 288 examples a client), AdaGrad of rate "
    "0.02 whose sums stay with the clients, as do the sizes of their batches, which begin with 8. No rate is tuned or "
    "scaled by the batch. Constant batches: 8; 72, which makes 4 steps of an epoch; and full. 'norm': eta; 'inner': "
    "the augmented inner product test, theta 0.5 and nu 2. A cross: AdaGrad-Norm of rate 0.5. A test costs a second "
    "gradient of the batch, so that in equal time constant batches see twice as much; here examples are equal. Bounds "
    "after a pilot of one other seed. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
ROUNDS, CLIENTS, HELD = 20, 5, 1437
CONSTANT = {"constant 8": 8, "constant 72": 72, "full": 288}
ETAS = {f"norm {eta}": eta for eta in (1.0, 0.75, 0.5, 0.1)}
KINDS = (*CONSTANT, *ETAS, "inner")
NORM = ("full", "constant 8", "norm 0.75")
"""Of these with AdaGrad-Norm too."""
OPTIMIZERS = {"adagrad": "adagrad: {lr: 0.02}", "adagrad_norm": "adagrad_norm: {lr: 0.5}"}

Key = tuple[str, str, int]
Runs = dict[Key, fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms: dict[Key, tuple[str, ...]] = {
        (optimizer, kind, seed): (f"local.optimizer={{{rate}}}", *overrides(kind), f"seed={seed}")
        for optimizer, rate in OPTIMIZERS.items()
        for kind in (KINDS if optimizer == "adagrad" else NORM)
        for seed in SEEDS
    }
    runs = FIGURE.runs("adadagrad.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def overrides(kind: str) -> tuple[str, ...]:
    """What makes a kind of batches."""
    if kind in CONSTANT:
        return f"local.batch={CONSTANT[kind]}", "local.growth=null"
    test = "inner_product: {theta: 0.5, nu: 2.0}" if kind == "inner" else f"norm_test: {{eta: {ETAS[kind]}}}"
    return (f"local.growth={{{test}}}",)


def last(runs: Runs, optimizer: str, kind: str, column: str = "accuracy") -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[optimizer, kind, seed].metrics[column].iloc[-1] for seed in SEEDS])


def steps(runs: Runs, optimizer: str, kind: str) -> np.ndarray:
    """That a client has taken in all, on average, seed by seed."""
    if kind in CONSTANT:
        return np.full(len(SEEDS), ROUNDS * ceil(HELD // CLIENTS / CONSTANT[kind]))
    return np.array([runs[optimizer, kind, seed].batches.steps.sum() / CLIENTS for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    for kind, fewer in (("norm 1.0", 5), ("norm 0.75", 9), ("norm 0.5", 14), ("norm 0.1", 20), ("inner", 1.5)):
        times = steps(runs, "adagrad", "constant 8") / steps(runs, "adagrad", kind)
        FIGURE.judge(above(f"{kind}: steps of constant 8 over its own", times.tolist(), fewer))
    found = {kind: last(runs, "adagrad", kind) for kind in KINDS}
    losses = {kind: last(runs, "adagrad", kind, "train_loss") for kind in KINDS}
    FIGURE.judge(
        above("norm 1: accuracy gained over full batches", (found["norm 1.0"] - found["full"]).tolist(), 0.01),
        above("norm 1: training loss below that of full batches", (losses["full"] - losses["norm 1.0"]).tolist(), 0.1),
        above("a larger eta is more accurate: 1 over 0.5", (found["norm 1.0"] - found["norm 0.5"]).tolist(), 0.0),
        above("a larger eta is more accurate: 0.75 over 0.1", (found["norm 0.75"] - found["norm 0.1"]).tolist(), 0.0),
        above("inner: accuracy over constant 8", (found["inner"] - found["constant 8"]).tolist(), -0.03),
        above("norm 1: accuracy gained over constant 8 at equal examples",
              (found["norm 1.0"] - found["constant 8"]).tolist(), 0.0),
        above("norm 1: accuracy gained over constant 72, which takes fewer steps",
              (found["norm 1.0"] - found["constant 72"]).tolist(), 0.0),
    )  # fmt: skip
    times = steps(runs, "adagrad_norm", "constant 8") / steps(runs, "adagrad_norm", "norm 0.75")
    gain = last(runs, "adagrad_norm", "norm 0.75") - last(runs, "adagrad_norm", "full")
    FIGURE.judge(
        above("AdaGrad-Norm, norm 0.75: steps of constant 8 over its own", times.tolist(), 6),
        above("AdaGrad-Norm, norm 0.75: accuracy gained over full batches", gain.tolist(), 0.01),
    )


def draw(runs: Runs) -> Drawing:
    """Accuracy against steps; sizes and loss by rounds."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.5))
    colours = dict(zip(KINDS, (*(f"C{place}" for place in range(7)), "#999999"), strict=True))
    for optimizer, marker in zip(OPTIMIZERS, "ox", strict=True):
        for kind in KINDS if optimizer == "adagrad" else NORM:
            label = kind if optimizer == "adagrad" else None
            panels[0].plot(steps(runs, optimizer, kind), last(runs, optimizer, kind), marker, color=colours[kind],
                           label=label)  # fmt: skip
    for kind in KINDS:
        own = [runs["adagrad", kind, seed] for seed in SEEDS]
        losses = np.mean([run.metrics.groupby("version").train_loss.last() for run in own], axis=0)
        panels[2].plot(sorted(set(own[0].metrics.version)), losses, color=colours[kind], linewidth=0.9)
        if kind in CONSTANT:
            size = min(CONSTANT[kind], HELD / CLIENTS)
            panels[1].axhline(size, color=colours[kind], linewidth=0.9, linestyle="--")
        else:
            sizes = np.mean([run.batches.groupby("training").batch.mean() for run in own], axis=0)
            panels[1].plot(np.arange(ROUNDS + 1), [8, *sizes], color=colours[kind], linewidth=0.9)
    panels[0].set(xlabel="steps of a client in all", ylabel="test accuracy", xscale="log",
                  title="o: AdaGrad, x: AdaGrad-Norm; a mark a seed")  # fmt: skip
    panels[0].set_xticks(ticks := [20, 50, 100, 200, 500], list(map(str, ticks)))
    legend_above(drawing, panels[0], columns=len(KINDS))
    panels[1].set(xlabel="rounds", ylabel="batch (mean over clients and seeds)", yscale="log", title="AdaGrad")
    panels[2].set(xlabel="rounds, of as many examples", ylabel="training loss", yscale="log", title="AdaGrad, means")
    panels[1].set_yticks(ticks := [8, 20, 50, 100, 200], list(map(str, ticks)))
    panels[2].set_yticks(ticks := [0.2, 0.5, 1, 2], list(map(str, ticks)))
    for panel in panels[1:]:
        panel.set_xticks(range(0, ROUNDS + 1, 5))
    for panel in panels:
        panel.tick_params(which="minor", labelbottom=False, labelleft=False)
    return drawing


if __name__ == "__main__":
    main()
