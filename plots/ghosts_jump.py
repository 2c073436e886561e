"""Learning rates that jump 1000 and 10,000 times: who learns on, and what that has to know beforehand."""

from __future__ import annotations

import matplotlib.pyplot as plt
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "A learning rate jumps, among clients: softmax's radius against clipped steps",
    "Setting: the digits experiment of Ghosts of Softmax (2603.13552; MLP 64-128-10, Adam, batch 64, from step 50 of "
    "200 on at 1000 times the rate: in its public code the 'spike' lasts), moved to ours: 10 clients by Dirichlet(1),"
    " 4 local steps in each of 50 rounds, the jump from round 12 on, moments kept by clients; the radius is of the "
    "batch, in the code of all examples. Clipped are steps, not gradients, to a 2-norm over all parameters. A step "
    "under ghosts takes twice the time. Bounds set after a pilot of one other seed. Full: ten seeds.",
)
RATES = ("1e-4", "1e-3", "1e-2")
FACTORS = (1000, 10000)
CONTROLS = {
    "plain": (),
    "clip 0.1": ("local.control={clip: {length: 0.1}}",),
    "clip 1": ("local.control={clip: {length: 1}}",),
    "clip 10": ("local.control={clip: {length: 10}}",),
    "ghosts": ("local.control=ghosts",),
}
SEEDS = FIGURE.seeds(5, full=10)

Key = tuple[str, str, int, int]


def main() -> None:
    """Run, judge, draw."""
    arms: dict[Key, tuple[str, ...]] = {
        (control, rate, factor, seed): (
            *overrides, f"local.optimizer.adam.lr={rate}", f"local.schedule.jump.factor={factor}", f"seed={seed}")
        for control, overrides in CONTROLS.items() for rate in RATES for factor in FACTORS for seed in SEEDS
    }  # fmt: skip
    runs = FIGURE.runs("ghosts_jump.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def last(runs: dict[Key, fedsim.Run], control: str, rate: str, factor: int) -> list[float]:
    """Accuracy in the end, seed by seed."""
    return [float(runs[control, rate, factor, seed].metrics.accuracy.iloc[-1]) for seed in SEEDS]


def worst(runs: dict[Key, fedsim.Run], control: str) -> list[float]:
    """Accuracy in the end where it is the least, of all rates and jumps."""
    return [min(cell) for cell in zip(*(last(runs, control, r, f) for r in RATES for f in FACTORS), strict=True)]


def gain(more: list[float], less: list[float]) -> list[float]:
    """Seed by seed."""
    return [high - low for high, low in zip(more, less, strict=True)]


def judge(runs: dict[Key, fedsim.Run]) -> None:
    """Bounds as in the setting."""
    ghosts = worst(runs, "ghosts")
    FIGURE.judge(above("ghosts, the worst of all rates and jumps: accuracy", ghosts, 0.95))
    for rate in RATES[1:]:
        lost = gain(last(runs, "ghosts", rate, 1000), last(runs, "plain", rate, 1000))
        FIGURE.judge(above(f"rate {rate} times 1000: accuracy that ghosts saves", lost, 0.5))
    spared = last(runs, "plain", RATES[0], 1000)
    FIGURE.judge(above(f"rate {RATES[0]} times 1000, plain: accuracy (the bound is sufficient, no need)", spared, 0.9))
    long, short, right = (gain(ghosts, worst(runs, f"clip {length}")) for length in ("10", "0.1", "1"))
    FIGURE.judge(above("a clip at 10, at its worst: accuracy less than ghosts'", long, 0.3))
    FIGURE.judge(above("a clip at 0.1, at its worst: accuracy less than ghosts'", short, 0.01))
    near = [0.01 - behind for behind in right]
    FIGURE.judge(above("the right clip is as good: 0.01 less what a clip at 1 is behind ghosts", near, 0.0))


def draw(runs: dict[Key, fedsim.Run]) -> Drawing:
    """Accuracy by rounds: a panel for each rate and jump."""
    drawing, panels = plt.subplots(len(FACTORS), len(RATES), figsize=(PAGE, 3.5), sharey=True)
    for row, factor in zip(panels, FACTORS, strict=True):
        for panel, rate in zip(row, RATES, strict=True):
            for place, control in enumerate(CONTROLS):
                for seed in SEEDS:
                    rows = runs[control, rate, factor, seed].metrics
                    panel.plot(rows.version, rows.accuracy, color=f"C{place}", linewidth=0.8,
                               label=None if seed else control)  # fmt: skip
            panel.axvline(12, color="grey", linestyle=":", linewidth=0.8)
            panel.set(title=f"rate {rate}, times {factor}", xlabel="rounds", ylim=(0, 1))
    for row in panels:
        row[0].set(ylabel=f"test accuracy, {counted(len(SEEDS))}")
    panels[0, 0].legend()
    return drawing


if __name__ == "__main__":
    main()
