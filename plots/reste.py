"""ReSTE: networks of signs, and how near to the sign the estimate of its derivative may come."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim

FIGURE = Figure(
    "ReSTE among clients: error of the estimate against variance of gradients, by exponent",
    "Setting: ours; the paper (Wu et al., ICCV 2023) trains one convolutional network on images. FedAvg, 10 "
    "clients, digits by Dirichlet(1), 20 rounds of 10 local steps of plain SGD, an MLP 64-128-128-128-10 whose "
    "two inner layers have signs for weights and inputs, BatchNorm after each. 'o' is fixed; the paper's grows "
    "from 1 to 3. o = 1 is the straight-through estimator clipped at 1.5. Error: sum over layers of |f(W) - "
    "sign(W)|; variance: of |gradient| within a layer, summed, a mean over 32 batches of 64. Bounds after a pilot "
    "of one other seed, 30 rounds at two rates. Weights move so little that the error stays within 0.1 % of what "
    "it is at the start. Full: ten seeds for five.",
)
EXPONENTS = (1, 2, 3, 10)
SEEDS = range(10 if FIGURE.full else 5)
INDICATORS = {"estimating_error": "estimating error", "gradient_variance": "variance of gradients"}

Runs = dict[tuple[int, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(o, seed): (f"model.binary_mlp.o={o}", f"seed={seed}") for o in EXPONENTS for seed in SEEDS}
    runs = FIGURE.runs("reste.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, column: str, o: int) -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[o, seed].metrics[column].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    for less, more, nearer, wilder in ((1, 2, 1.05, 3), (2, 3, 1.05, 2), (3, 10, 1.1, 3)):
        error = last(runs, "estimating_error", less) / last(runs, "estimating_error", more)
        variance = last(runs, "gradient_variance", more) / last(runs, "gradient_variance", less)
        FIGURE.judge(
            above(f"o {more} for {less}: error falls, times", error.tolist(), nearer),
            above(f"o {more} for {less}: variance of gradients rises, times", variance.tolist(), wilder),
        )
    gain = last(runs, "accuracy", 3) - last(runs, "accuracy", 1)
    FIGURE.judge(above("o 3 for 1: accuracy gained", gain.tolist(), 0.0))
    learnt = np.min([last(runs, "accuracy", o) for o in EXPONENTS], axis=0)
    FIGURE.judge(above("accuracy of the worst o", learnt.tolist(), 0.9))


def draw(runs: Runs) -> Drawing:
    """Indicators by rounds and against one another; accuracy."""
    drawing, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for place, o in enumerate(EXPONENTS):
        error, variance = (last(runs, column, o) for column in INDICATORS)
        panels[0].plot(error, variance, "o", color=f"C{place}", label=f"o = {o}", markersize=4)
        panels[2].plot(last(runs, "accuracy", o), place + np.linspace(-0.2, 0.2, len(SEEDS)), "o", color=f"C{place}")
        for seed in SEEDS:
            rows = runs[o, seed].metrics
            panels[1].plot(rows.version, rows.gradient_variance, color=f"C{place}", linewidth=0.8)
    panels[0].set(xlabel=INDICATORS["estimating_error"], ylabel=INDICATORS["gradient_variance"], yscale="log",
                  title="in the end; a mark a seed")  # fmt: skip
    panels[0].legend()
    panels[1].set(xlabel="rounds", ylabel=INDICATORS["gradient_variance"], yscale="log", title="as training goes on")
    panels[2].set(yticks=range(len(EXPONENTS)), yticklabels=[f"o = {o}" for o in EXPONENTS], xlabel="test accuracy",
                  title="in the end; a mark a seed")  # fmt: skip
    return drawing


if __name__ == "__main__":
    main()
