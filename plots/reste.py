"""ReSTE: networks of signs, and how near to the sign the estimate of its derivative may come."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "ReSTE among clients: error of the estimate against variance of gradients, by exponent",
    "Setting: ours; the paper (Wu et al., ICCV 2023) trains one convolutional network on images. FedAvg, 10 "
    "clients, digits by Dirichlet(1), 20 rounds of 10 local steps of plain SGD, an MLP 64-128-128-128-10 whose "
    "two inner layers have signs for weights and inputs, BatchNorm after each. 'o' is fixed, or grows from 1 to 3 with "
    "the rounds, as the paper's does with epochs. o = 1 is the straight-through estimator clipped at 1.5. Error: sum "
    "over layers of |f(W) - sign(W)|; variance: of |gradient| within a layer, summed, a mean over 32 batches of 64. "
    "Bounds after a pilot of one other seed, 30 rounds at two rates, and of 20 rounds for the o that grows. Weights "
    "move so little that with a fixed o the error stays within 0.1 % of what it is at the start. Full: ten seeds for "
    "five.",
)
EXPONENTS = (1, 2, 3, 10)
GROWING = "1 to 3"
ARMS = {**{o: str(o) for o in EXPONENTS}, GROWING: "{first: 1, last: 3}"}
SEEDS = FIGURE.seeds(5, full=10)
INDICATORS = {"estimating_error": "estimating error", "gradient_variance": "variance of gradients"}

Exponent = int | str
Runs = dict[tuple[Exponent, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(o, seed): (f"model.binary_mlp.o={said}", f"seed={seed}") for o, said in ARMS.items() for seed in SEEDS}
    runs = FIGURE.runs("reste.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, column: str, o: Exponent) -> np.ndarray:
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
    error = last(runs, "estimating_error", 1) / last(runs, "estimating_error", GROWING)
    wild, calm = (np.array([runs[o, seed].metrics.gradient_variance.mean() for seed in SEEDS]) for o in (3, GROWING))
    gain = last(runs, "accuracy", GROWING) - last(runs, "accuracy", 3)
    FIGURE.judge(
        above("o 1 to 3 for 1: error falls in the end, times", error.tolist(), 1.05),
        above("o 1 to 3 for 3: variance of gradients, over all rounds, falls, times", (wild / calm).tolist(), 2),
        above("o 1 to 3 for 3: accuracy gained", gain.tolist(), 0.0),
    )


def draw(runs: Runs) -> Drawing:
    """Indicators by rounds and against one another; accuracy."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3))
    for place, o in enumerate(ARMS):
        error, variance = (last(runs, column, o) for column in INDICATORS)
        panels[0].plot(error, variance, "o", color=f"C{place}", label=f"o = {o}")
        panels[2].plot(last(runs, "accuracy", o), place + np.linspace(-0.2, 0.2, len(SEEDS)), "o", color=f"C{place}")
        for seed in SEEDS:
            rows = runs[o, seed].metrics
            panels[1].plot(rows.version, rows.gradient_variance, color=f"C{place}", linewidth=0.8)
    panels[0].set(xlabel=INDICATORS["estimating_error"], ylabel=INDICATORS["gradient_variance"], yscale="log",
                  title="in the end; a mark a seed")  # fmt: skip
    panels[0].legend()
    panels[1].set(xlabel="rounds", ylabel=INDICATORS["gradient_variance"], yscale="log", title="as training goes on")
    panels[2].set(yticks=range(len(ARMS)), yticklabels=[f"o = {o}" for o in ARMS], xlabel="test accuracy",
                  title="in the end; a mark a seed")  # fmt: skip
    return drawing


if __name__ == "__main__":
    main()
