"""Adaptive projected guidance: digits that a federated denoiser is guided to make, by the guidance's scale."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "Guidance of a denoiser that clients have learnt together: classifier-free, projected, adaptive projected",
    "Setting: ours; the paper (Sadat et al., ICLR 2025) guides large diffusion models of photographs. FedAvg, 10 "
    "clients, digits by Dirichlet(0.5), 150 rounds of 20 local steps of Adam (lr 0.002), an MLP 75-128-128-64 that "
    "predicts the digit from a noisy one, its noise level and its class (none for a tenth). 500 samples from the same "
    "noise, 24 Euler steps. APG: radius 2.5, momentum -0.75, eta 0; 'projected': eta 0 alone. Frechet distance in "
    "pixels, to 1000 training digits; saturation: pixels beyond 1.05, where digits end at 1; agreement: class by five "
    "nearest digits. Bounds after a pilot of one other seed. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
SCALES = (1, 2, 4, 8, 16)
RULES = {"cfg": "classifier-free", "projected": "projected", "apg": "adaptive projected"}
MEASURES = {"frechet": "Frechet distance from digits", "saturation": "share of pixels beyond 1.05",
            "agreement": "share of the class asked for"}  # fmt: skip

Runs = dict[int, fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    runs = FIGURE.runs("guided.yaml", {seed: (f"seed={seed}",) for seed in SEEDS})
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: Runs, measure: str, rule: str, scale: int) -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[seed].metrics[f"{measure}_{rule}_{scale}"].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    for scale, nearer in ((2, 1.5), (4, 3), (8, 5), (16, 3)):
        ratio = last(runs, "frechet", "cfg", scale) / last(runs, "frechet", "apg", scale)
        less = last(runs, "saturation", "cfg", scale) - last(runs, "saturation", "apg", scale)
        FIGURE.judge(
            above(f"scale {scale}: APG nearer to digits than classifier-free, times", ratio.tolist(), nearer),
            above(f"scale {scale}: share of saturated pixels that APG saves", less.tolist(), 0.1),
        )
    for scale in (4, 8):
        kept = last(runs, "agreement", "apg", scale) - last(runs, "agreement", "cfg", scale)
        FIGURE.judge(above(f"scale {scale}: agreement of APG less classifier-free", kept.tolist(), -0.05))
    alone = last(runs, "frechet", "cfg", 4) / last(runs, "frechet", "projected", 4)
    rest = last(runs, "frechet", "projected", 4) / last(runs, "frechet", "apg", 4)
    FIGURE.judge(
        above("scale 4: projection alone nearer than classifier-free, times", alone.tolist(), 1.0),
        above("scale 4: radius and momentum nearer than projection alone, times", rest.tolist(), 1.0),
    )


def draw(runs: Runs) -> Drawing:
    """Each measure by scale, a line a rule."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3))
    for panel, (measure, said) in zip(panels, MEASURES.items(), strict=True):
        for place, (rule, name) in enumerate(RULES.items()):
            rows = np.array([last(runs, measure, rule, scale) for scale in SCALES])
            panel.plot(SCALES, rows.mean(axis=1), "o-", color=f"C{place}", label=name, markersize=3)
            panel.fill_between(SCALES, rows.min(axis=1), rows.max(axis=1), color=f"C{place}", alpha=0.15)
        panel.set(xscale="log", xlabel="scale of guidance", ylabel=said)
        panel.set_xticks(SCALES, map(str, SCALES), minor=False)
        panel.minorticks_off()
    panels[0].set(yscale="log", title="bands: least and largest of the seeds")
    panels[0].legend()
    return drawing


if __name__ == "__main__":
    main()
