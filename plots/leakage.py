"""Gradient leakage: pictures reconstructed from sketched and noised messages."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Gradient leakage: what messages give away, by the size of the sketch and by noise",
    "Setting: after Song, Wang, Yu & Zhang, ICML 2023, whose experiments are not known: all settings are ours. One "
    "step on one MNIST picture, 784-16-10 with sigmoid, d = 12,730, SRHT of b of the padded 16,384 numbers drawn from"
    " a seed that the server knows, or Gaussian noise of sigma clip norms (10, which no gradient reaches) a "
    "coordinate, added by each client. iDLG (Zhao et al., 2020) has no prior; inverting gradients (Geiping et al., "
    "2020) knows that pixels lie in [0, 1] and prefers small total variation. Full: ten seeds for three.",
)
INPUTS, SIZE = 784, 16384
ROWS = (16384, 4096, 1024, 784, 640, 512, 384, 192, 96)
NOISES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
ATTACKS = {
    "iDLG": "{idlg: {iterations: 300, restarts: 2}}",
    "inverting": "{inverting_gradients: {iterations: 1500}}",
}
SEEDS = len(FIGURE.seeds(3, full=10))

Key = tuple[str, float, str, int]


def main() -> None:
    """Run, judge, draw."""
    runs = FIGURE.runs("leakage.yaml", dict(arms()))
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def arms() -> list[tuple[Key, tuple[str, ...]]]:
    """Every kind of protection, its strength, the attack and the seed; and what they change in the scenario."""
    found: list[tuple[Key, tuple[str, ...]]] = []
    for (attack, how), seed in product(ATTACKS.items(), range(SEEDS)):
        said = (f"seed={seed}", f"eavesdrop.attack={how}")
        for rows in ROWS:
            found.append((("rows", rows, attack, seed), (*said, f"wire={{codec: {{srht: {{ratio: {rows / SIZE}}}}}}}")))
        for noise in NOISES:
            wire = f"wire={{clip: 10, noise: {{multiplier: {noise}, by: each}}}}"
            found.append((("noise", noise, attack, seed), (*said, wire)))
    return found


def quality(runs: dict[Key, fedsim.Run], kind: str, value: float, attack: str) -> list[float]:
    """Peak signal-to-noise ratio, seed by seed; 60 dB and more counts as 60."""
    return [min(60.0, runs[kind, value, attack, seed].leakage.psnr_db.iloc[0]) for seed in range(SEEDS)]


def judge(runs: dict[Key, fedsim.Run]) -> None:
    """Bounds set before the runs."""
    FIGURE.judge(above("a plain message: iDLG above 30 dB", quality(runs, "noise", 0.0, "iDLG"), 30.0))
    for rows in (16384, 4096, 1024):
        FIGURE.judge(
            above(f"{rows} numbers, more than inputs: iDLG above 30 dB", quality(runs, "rows", rows, "iDLG"), 30.0)
        )
    for rows in (384, 96):
        worst = [15.0 - value for value in quality(runs, "rows", rows, "iDLG")]
        losses = [-np.log10(runs["rows", rows, "iDLG", seed].leakage.loss.iloc[0] + 1e-30) for seed in range(SEEDS)]
        FIGURE.judge(
            above(f"{rows} numbers, fewer than inputs: 15 less iDLG's dB", worst, 0.0),
            above(f"{rows} numbers: and yet its loss is low, -log10", losses, 4.0),
        )
    FIGURE.judge(above("640 numbers, fewer than inputs: with a prior above 20 dB all the same",
                       quality(runs, "rows", 640, "inverting"), 20.0))  # fmt: skip
    weak, strong = (np.array(quality(runs, "noise", noise, "iDLG")) for noise in (1e-5, 1e-3))
    FIGURE.judge(above("a hundred times the noise takes away 20 dB", (weak - strong).tolist(), 20.0))
    for attack in ATTACKS:
        hidden = [10.0 - value for value in quality(runs, "noise", 1e-2, attack)]
        FIGURE.judge(above(f"noise of 0.01 clip norms a coordinate: 10 less the dB of {attack}", hidden, 0.0))


def draw(runs: dict[Key, fedsim.Run]) -> Drawing:
    """Quality against size and noise, and the pictures themselves."""
    drawing = plt.figure(figsize=(PAGE, 3.6))
    curves, pictures = drawing.subfigures(1, 2, width_ratios=[1, 2.2])
    for panel, kind, values in zip(curves.subplots(2, 1), ("rows", "noise"), (ROWS, NOISES), strict=True):
        for attack in ATTACKS:
            means = [np.mean(quality(runs, kind, value, attack)) for value in values]
            spots = [max(value, 1e-6) for value in values]
            panel.plot(spots, means, ".-", label=attack)
        label = "numbers in the sketch; dotted: inputs" if kind == "rows" else "sigma (clip norms; first: none)"
        panel.set(xscale="log", ylabel="PSNR (dB; 60: or more)", xlabel=label)
        if kind == "rows":
            panel.axvline(INPUTS, linestyle=":", color="grey")
            panel.legend()
    columns = max(len(ROWS), len(NOISES)) + 1
    grid = pictures.subplots(4, columns)
    for row, (kind, attack) in enumerate(product(("rows", "noise"), ATTACKS)):
        values = ROWS if kind == "rows" else NOISES
        for panel in grid[row]:
            panel.axis("off")
        show(grid[row][0], runs[kind, values[0], attack, 0].reconstructions["true"], f"{attack}:\ntrue")
        for panel, value in zip(grid[row][1:], values, strict=False):
            what = f"b\n{value:.0f}" if kind == "rows" else f"sigma\n{value:g}"
            show(panel, runs[kind, value, attack, 0].reconstructions["found"], what)
    return drawing


def show(panel: plt.Axes, picture: np.ndarray, title: str) -> None:
    """The first picture of the first message."""
    panel.imshow(picture[0, 0, 0].clip(0, 1), cmap="gray")
    panel.set_title(title)


if __name__ == "__main__":
    main()
