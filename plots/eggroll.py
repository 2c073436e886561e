"""EGGROLL among clients: what gradients from forward passes reach, by population and rank, in rounds and in bytes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import Figure, above, legend_above
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim.style import PAGE

FIGURE = Figure(
    "EGGROLL among clients: accuracy by rounds and by bytes on the way up",
    "Setting: ours; the paper (2511.16652) trains language models. FedAvg, 10 clients, digits by Dirichlet(1), MLP "
    "64-32-10, 20 rounds of 10 local steps of Adam at 0.02 on batches of 64, sigma 0.05; a message is N / 2 scores a "
    "step, by which the server replays the training. Beside it SGD at 0.3 by backpropagation, which sends changes of "
    "2410 numbers. In virtual time a step of N members costs N / 3 gradients, which the axes do not show. Bounds after "
    "a pilot of two other seeds. Full: ten seeds for five.",
)
POPULATIONS = (16, 64, 256)
RANKS = (1, 4, "full")
SEEDS = FIGURE.seeds(5, full=10)
SGD = ("local.source=backpropagation", "local.optimizer={sgd: {lr: 0.3}}", "wire.up=change")
WAYS = {
    "sgd": SGD,
    **{(n, 1): (f"local.source.eggroll.population={n}",) for n in POPULATIONS},
    **{(64, r): (f"local.source.eggroll.rank={r}",) for r in RANKS[1:]},
}

Runs = dict[tuple[object, int], fedsim.Run]


def main() -> None:
    """Run, judge, draw."""
    runs = FIGURE.runs("eggroll.yaml", {(way, s): (*said, f"seed={s}") for way, said in WAYS.items() for s in SEEDS})
    judge(runs)
    FIGURE.end(lambda: draw(runs))


def column(runs: Runs, way: object, name: str = "accuracy") -> np.ndarray:
    """What was measured in the end, seed by seed."""
    return np.array([runs[way, seed].metrics[name].iloc[-1] for seed in SEEDS])


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    few, one, many, whole = (column(runs, way) for way in ((16, 1), (64, 1), (256, 1), (64, "full")))
    cheaper = column(runs, "sgd", "bytes_up") / column(runs, (64, 1), "bytes_up")
    by_then = {n: at_bytes(runs, "sgd", column(runs, (n, 1), "bytes_up")) for n in (64, 256)}
    FIGURE.judge(
        above("accuracy of N 64 over N 16", (one - few).tolist(), 0.05),
        above("of N 256 over N 64", (many - one).tolist(), 0.0),
        above("of rank 1 over full rank, N 64", (one - whole).tolist(), -0.01),
        above("of rank 4 over full rank, N 64", (column(runs, (64, 4)) - whole).tolist(), -0.01),
        above("of SGD over N 64", (column(runs, "sgd") - one).tolist(), 0.0),
        above("bytes of SGD over those of N 64, times", cheaper.tolist(), 7.0),
        above("accuracy at equal bytes, N 64 over SGD", (one - by_then[64]).tolist(), 0.2),
        above("at equal bytes, N 256 over SGD", (many - by_then[256]).tolist(), 0.0),
    )


def at_bytes(runs: Runs, way: object, sent: np.ndarray) -> np.ndarray:
    """The accuracy at the last measurement before more than so many bytes have gone up, seed by seed."""
    found = []
    for seed, most in zip(SEEDS, sent, strict=True):
        rows = runs[way, seed].metrics
        found.append(rows.accuracy[rows.bytes_up <= most].iloc[-1])
    return np.array(found)


def draw(runs: Runs) -> Drawing:
    """Accuracy by rounds for populations and for ranks, and by bytes."""
    drawing, panels = plt.subplots(1, 3, figsize=(PAGE, 2.5), sharey=True)
    looks = {"sgd": ("black", "SGD"), **{(n, 1): (f"C{i}", f"N = {n}, r = 1") for i, n in enumerate(POPULATIONS)},
             **{(64, r): (f"C{i}", f"N = 64, r = {r}") for i, r in enumerate(RANKS[1:], 3)}}  # fmt: skip
    shown = (["sgd", *((n, 1) for n in POPULATIONS)], ["sgd", *((64, r) for r in RANKS)], list(looks))
    for panel, ways in zip(panels, shown, strict=True):
        for way in ways:
            colour, label = looks[way]
            rows = pd.concat([runs[way, seed].metrics.drop_duplicates("version") for seed in SEEDS])
            mean = rows[rows.version > 0].pivot_table(["accuracy", "bytes_up"], "version")
            across = mean.bytes_up / 1e3 if panel is panels[2] else mean.index
            panel.plot(across, mean.accuracy, color=colour, label=label)
    panels[0].set(xlabel="rounds", ylabel="test accuracy", title="by population", ylim=(0.2, 1.0), xticks=(0, 10, 20))
    panels[1].set(xlabel="rounds", title="by rank", xticks=(0, 10, 20))
    panels[2].set(xlabel="kB on the way up, all clients", title="by traffic", xscale="log")
    legend_above(drawing, panels[2])
    return drawing


if __name__ == "__main__":
    main()
