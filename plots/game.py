"""A game of generator and discriminator in simultaneous steps, with and without their drift."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Drift of simultaneous steps in a game: generator and discriminator of digits among clients",
    "Setting: ours; the paper (Rosca et al., ICML 2021) trains convolutional GANs on CIFAR-10 on one machine. FedAvg, "
    "3 of 10 clients, IID, 80 rounds of 20 local steps of plain simultaneous SGD, batch 64; least squares; perceptrons "
    "8-64-64-64 and 64-64-64-1. 'cancelled': interaction -1, both factors on the same batch. It costs 22/3 gradients "
    "a step for 2; curves are by rounds. Frechet distance in pixels of 1000 samples from the test digits; spread: "
    "standard deviation of pixels over that of digits. Bounds after a pilot of one other seed, three rates. Full: ten "
    "seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
RATES = (0.03, 0.3)
MULTIPLIERS = {0: "as it is", -1: "cancelled"}

Runs = dict[tuple[float, int, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    arms = {(rate, multiplier, seed): (f"local.optimizer.sgd.lr={rate}", f"seed={seed}",
                                       f"local.source.game.interaction={multiplier}")
            for rate in RATES for multiplier in MULTIPLIERS for seed in SEEDS}  # fmt: skip
    runs = FIGURE.runs("game.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, column: str, rate: float, multiplier: int) -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[rate, multiplier, seed].metrics[column].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    for rate, nearer in ((0.3, 1.5), (0.03, 1.0)):
        ratio = last(runs, "frechet", rate, 0) / last(runs, "frechet", rate, -1)
        wider = last(runs, "spread", rate, -1) - last(runs, "spread", rate, 0)
        FIGURE.judge(
            above(f"rate {rate}: nearer to digits without the drift, times", ratio.tolist(), nearer),
            above(f"rate {rate}: spread gained without the drift", wider.tolist(), 0.0),
        )


def draw(runs: Runs) -> Drawing:
    """Distance by rounds at either rate, and spread in the end."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3))
    for panel, rate in zip(panels, RATES, strict=False):
        for multiplier, name in MULTIPLIERS.items():
            for seed in SEEDS:
                rows = runs[rate, multiplier, seed].metrics
                panel.plot(rows.version, rows.frechet, color=f"C{-multiplier}", linewidth=0.9,
                           label=name if seed == 0 else None)  # fmt: skip
        panel.set(xlabel="rounds", ylabel="Frechet distance from digits", yscale="log", title=f"rate {rate}")
    panels[0].legend(title="interaction's drift")
    for place, (rate, multiplier) in enumerate((rate, multiplier) for rate in RATES for multiplier in MULTIPLIERS):
        values = last(runs, "spread", rate, multiplier)
        panels[2].plot(np.full(len(values), place), values, "o", color=f"C{-multiplier}")
    panels[2].set(xticks=range(4), xticklabels=[f"{rate}\n{name}" for rate in RATES for name in MULTIPLIERS.values()],
                  ylabel="spread over that of digits", title="in the end; a mark a seed")  # fmt: skip
    return drawing


if __name__ == "__main__":
    main()
