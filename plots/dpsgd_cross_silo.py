"""D-PSGD between data centres: which overlay is fastest in wall-clock time?"""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above
from matplotlib.figure import Figure as Drawing

FIGURE = Figure(
    "D-PSGD on Gaia, Geant and Exodus: accuracy against time by overlay",
    "Setting: ours, on Marfoq et al.'s (NeurIPS 2020) networks and latencies: Fashion-MNIST, an MLP of 199,210 "
    "parameters (0.8 MB), Dir(0.4), one step of batch 32 a round. Gaia's and Geant's capacities are theirs; "
    "Exodus' (1 Gbit/s), the silos' own lines (1 Gbit/s) and 25 ms a step are synthetic. FedAvg's server stands "
    "at the most central place. Full: 1500 rounds.",
)
NETWORKS = {"gaia": 11, "geant": 40, "exodus": 79}
OVERLAYS = ("own links", "ring", "tour", "spanning tree", "star", "FedAvg, server")
SEEDS = 3

Runs = dict[tuple[str, str], list[pd.DataFrame]]


def main() -> None:
    """Run, judge, draw."""
    full = ("until.versions=1500",) if FIGURE.full else ()
    arms = {
        (network, seed): (f"seed={seed}", f"network.cross_silo.name={network}", f"fleet.clients={silos}", *full)
        for (network, silos), seed in product(NETWORKS.items(), range(SEEDS))
    }
    runs: Runs = {}
    for (network, _), run in FIGURE.runs("dpsgd_cross_silo.yaml", arms).items():
        for overlay, arm in zip(OVERLAYS, run.arms, strict=True):
            runs.setdefault((network, overlay), []).append(arm.metrics)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def pace(runs: Runs, network: str, overlay: str) -> float:
    """Seconds a round; the same for all seeds, as time does not depend on what is learnt."""
    last = runs[network, overlay][0].iloc[-1]
    return float(last.time_s / last.version)


def reached(rows: pd.DataFrame, target: float) -> float:
    """Seconds until the mean accuracy of all silos is first at the target; the whole run if it never is."""
    there = rows.time_s[rows.accuracy >= target]
    return float(there.iloc[0] if len(there) else rows.time_s.iloc[-1])


def judge(runs: Runs) -> None:
    """Bounds on time set after a run without training, those on accuracy before the first run with it."""
    for network in NETWORKS:
        ring, star = pace(runs, network, "tour"), pace(runs, network, "star")
        FIGURE.judge(above(f"{network}: a round on a short ring is shorter than on a star, ratio", [star / ring], 1.3))
        target = 0.9 * np.mean([rows.accuracy.iloc[-1] for rows in runs[network, "FedAvg, server"]])
        pairs = zip(runs[network, "FedAvg, server"], runs[network, "tour"], strict=True)
        sooner = [reached(server, target) / reached(ring, target) for server, ring in pairs]
        FIGURE.judge(
            above(f"{network}: the ring reaches 90 % of FedAvg's last accuracy sooner, ratio of times", sooner, 1.0)
        )


def draw(runs: Runs) -> Drawing:
    """A column for each network: accuracy against time, and seconds a round."""
    drawing, panels = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", height_ratios=(3, 2))
    for (curves, bars), network in zip(panels.T, NETWORKS, strict=True):
        for place, overlay in enumerate(OVERLAYS):
            for seed, rows in enumerate(runs[network, overlay]):
                curves.plot(rows.time_s, rows.accuracy, color=f"C{place}", linewidth=1, alpha=0.7,
                            label=None if seed else overlay)  # fmt: skip
            bars.bar(place, 1000 * pace(runs, network, overlay), color=f"C{place}")
        curves.set(title=f"{network}, {NETWORKS[network]} silos", xlabel="virtual seconds", ylim=(0.3, None))
        bars.set_xticks(range(len(OVERLAYS)), OVERLAYS, rotation=30)
    panels[0, 0].set(ylabel="mean accuracy of the silos")
    panels[1, 0].set(ylabel="milliseconds a round")
    panels[0, 0].legend(fontsize=7)
    return drawing


if __name__ == "__main__":
    main()
