"""Training loss against time, for rules of when the server steps: what the figures of FedFix have in common."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, counted
from matplotlib.figure import Figure as Drawing

from fedsim.style import PAGE

SCHEMES = ("FedAvg", "async", "FedFix 0.2", "FedFix 0.5", "FedFix 0.8", "FedBuff 5", "FedBuff 10")
"""The scenario's arms."""
FLEETS = {"F-0": "1 s", "F-80": "200 ms"}

Curves = dict[tuple[str, str, float], list[pd.Series]]


def show(figure: Figure, scenario: str, rates: tuple[float, ...], seeds: int, *overrides: str) -> None:
    """Run a scenario that compares SCHEMES, judge and draw; at the second of `rates` all are compared alike."""
    arms = {
        (fleet, lr, seed): (f"seed={seed}", f"local.optimizer.sgd.lr={lr}",
                            f"fleet.devices.linear.fastest={FLEETS[fleet]}", *overrides)
        for fleet, lr, seed in product(FLEETS, rates, figure.seeds(seeds))
    }  # fmt: skip
    curves: Curves = {}
    for (fleet, lr, _), run in figure.runs(scenario, arms).items():
        for scheme, arm in zip(SCHEMES, run.arms, strict=True):
            curves.setdefault((fleet, scheme, lr), []).append(arm.metrics.set_index("time_s")["train_loss"])
    judge(figure, curves, rates[1])
    figure.end(lambda: draw(curves, rates[1]))


def ending(losses: list[pd.Series]) -> float:
    """Mean loss over the last quarter of the run."""
    return float(np.mean([loss.iloc[-len(loss) // 4 :].mean() for loss in losses]))


def kept(curves: Curves, fleet: str, scheme: str) -> list[pd.Series]:
    """The runs with the best lr."""
    return min((runs for (there, rule, _), runs in curves.items() if (there, rule) == (fleet, scheme)), key=ending)


def reached(loss: pd.Series, target: float) -> float:
    """Seconds until the loss is first at or below the target; the whole run if it never is."""
    below = loss.index[loss <= target]
    return float(below[0] if len(below) else loss.index[-1])


def judge(figure: Figure, curves: Curves, same: float) -> None:
    """Bounds set after a pilot of one seed and two lr, before the runs that are judged; `same` is the lr for all."""
    synchronous = kept(curves, "F-80", "FedAvg")
    for scheme in ("FedFix 0.2", "FedFix 0.5"):
        ratios = [
            loss.index[-1] / reached(ours, float(loss.iloc[-1]))
            for loss, ours in zip(synchronous, kept(curves, "F-80", scheme), strict=True)
        ]
        figure.judge(above(f"{scheme} reaches FedAvg's last loss sooner on F-80: ratio of times", ratios, 1.1))
    peaks = {
        name: [loss.max() / loss.iloc[0] for loss in curves["F-80", name, same]] for name in ("async", "FedFix 0.5")
    }
    figure.judge(
        above(f"async overshoots at lr {same} on F-80: highest loss over the first", peaks["async"], 1.5),
        above(
            "FedFix 0.5 does not: 1.2 less its highest loss over the first", 1.2 - np.array(peaks["FedFix 0.5"]), 0.0
        ),
    )


def draw(curves: Curves, same: float) -> Drawing:
    """A panel for each fleet, and one for equal lr."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.3), sharey=True)
    for panel, fleet in zip(panels, FLEETS, strict=False):
        for scheme in SCHEMES:
            line(panel, kept(curves, fleet, scheme), scheme)
        panel.set(title=f"{fleet}, the best lr for each")
    for scheme in ("FedAvg", "async", "FedFix 0.2", "FedFix 0.5"):
        line(panels[-1], curves["F-80", scheme, same], scheme)
    panels[-1].set(title=f"F-80, lr {same} for all")
    for panel in panels:
        panel.set(xlabel="virtual time in rounds of the slowest client", yscale="log")
    panels[0].set(ylabel=f"training loss, mean of {counted(len(kept(curves, 'F-0', 'FedAvg')))}")
    panels[0].legend()
    return drawing


def line(panel: plt.Axes, losses: list[pd.Series], scheme: str) -> None:
    """Mean over seeds, always in the scheme's own colour."""
    mean = pd.concat(losses, axis=1).mean(axis=1)
    panel.plot(mean.index, mean, color=f"C{SCHEMES.index(scheme)}", label=scheme)
