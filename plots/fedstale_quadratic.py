"""FedStale's best beta against data heterogeneity and participation heterogeneity, on quadratics."""

from __future__ import annotations

from itertools import product

import numpy as np
from best_beta import Cell, best, draw
from figure import Figure, above, counted

BETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SPREADS = {0.0: 0.0, 0.5: 0.25, 1.0: 0.5}
"""Heterogeneity -> spread of the clients' optima."""
TAIL = 0.5
"""Share of the run, at its end, over which the excess loss is averaged."""

FIGURE = Figure(
    "FedStale on quadratics: the best beta",
    "Setting: ours (24 clients, half always there, 20 dimensions, 3 local steps of lr 0.1, gradient noise 0.5, server "
    "lr 1, participation known). The paper's heat map is on MNIST and CIFAR-10, its grid is not known to us; judged is "
    "the direction that its abstract states. Full: 1500 rounds, 5 chances, for 400 and 3.",
)
ROUNDS, CHANCES = (1500, (0.5, 0.2, 0.1, 0.05, 0.02)) if FIGURE.full else (400, (0.5, 0.1, 0.02))
SEEDS = len(FIGURE.seeds(4))


def excess(runs: dict, h: float, p: float, seed: int) -> np.ndarray:
    """Mean excess loss at the end of the run, for each beta."""
    losses = [runs[h, p, beta, seed].metrics["loss"].to_numpy() for beta in BETAS]
    return np.array([loss[-int(TAIL * len(loss)) :].mean() for loss in losses])


def main() -> None:
    """Run, judge, draw."""
    arms = {
        (h, p, beta, seed): (
            f"seed={seed}", f"until.versions={ROUNDS}", f"data.points.spread={spread}",
            f"fleet.participation.bernoulli.rate.groups.rates=[1.0, {p}]", f"aggregator.fedstale.beta={beta}")
        for (h, spread), p, beta, seed in product(SPREADS.items(), CHANCES, BETAS, range(SEEDS))
    }  # fmt: skip
    runs = FIGURE.runs("fedstale_quadratic.yaml", arms)
    losses = {(h, p): np.array([excess(runs, h, p, seed) for seed in range(SEEDS)]) for h in SPREADS for p in CHANCES}
    betas = {cell: np.array([best(BETAS, row) for row in rows]) for cell, rows in losses.items()}
    judge(losses, betas)
    curves = {f"p = {p}": losses[1.0, p] / losses[1.0, p][:, :1] for p in CHANCES}
    title = f"h = 1, {counted(SEEDS)}, mean and deviation"
    FIGURE.end(lambda: draw(betas, BETAS, curves, "data heterogeneity h", "excess loss, in parts of beta = 0", title))


def judge(losses: dict[Cell, np.ndarray], betas: dict[Cell, np.ndarray]) -> None:
    """Bounds set before the first run."""
    rare, usual = min(CHANCES), max(CHANCES)
    for p in CHANCES:
        FIGURE.judge(above(f"best beta rises with data heterogeneity, 0 -> 1, at p = {p}",
                           betas[1.0, p] - betas[0.0, p], 0.2))  # fmt: skip
    FIGURE.judge(
        above("without data heterogeneity the best beta is below 0.2: distance",
              0.2 - np.mean([betas[0.0, p] for p in CHANCES], 0), 0),
        above(f"best beta falls with participation heterogeneity, p = {usual} -> {rare}, at h = 1",
              betas[1.0, usual] - betas[1.0, rare], 0),
        above(f"FedStale (best beta of the grid) below FedAvg (beta 0) at h = 1, p = {rare}, in parts of the latter",
              gain(losses[1.0, rare], 0), 0.1),
        above(f"FedStale (best beta of the grid) below FedVARP (beta 1) at h = 1, p = {rare}, in parts of the latter",
              gain(losses[1.0, rare], -1), 0.1),
        above(f"FedVARP worse than FedAvg without data heterogeneity, p = {rare}, in parts of the latter",
              losses[0.0, rare][:, -1] / losses[0.0, rare][:, 0] - 1, 0.1),
    )  # fmt: skip


def gain(rows: np.ndarray, end: int) -> np.ndarray:
    """By how much the beta that is best on average beats an end, seed by seed."""
    return 1 - rows[:, rows.mean(0).argmin()] / rows[:, end]


if __name__ == "__main__":
    main()
