"""Continual evaluation: what curves of accuracy on several tasks, learnt one after another, say.

De Lange, van de Ven & Tuytelaars, Continual evaluation for lifelong learning: identifying the stability gap (ICLR
2023). Curves are (n, k): accuracy at n evaluations on k tasks, in the order in which these are learnt, up to the moment
that is judged. `last` is T_i, the evaluation after each task's last update; of the present task it is n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Last = Sequence[int]


def average(curves: np.ndarray) -> float:
    """ACC: the mean over tasks, now."""
    return float(curves[-1].mean())


def forgetting(curves: np.ndarray, last: Last) -> float:
    """FORG: how much lower old tasks are than when they were left; NaN without old tasks."""
    old = range(curves.shape[1] - 1)
    return _mean([curves[last[task], task] - curves[-1, task] for task in old])


def minimum(curves: np.ndarray, last: Last) -> float:
    """min-ACC: the lowest that old tasks have been since they were left, their mean; NaN without old tasks."""
    old = range(curves.shape[1] - 1)
    return _mean([curves[last[task] + 1 :, task].min() for task in old])


def worst_case(curves: np.ndarray, last: Last) -> float:
    """WC-ACC: the present task now, and old ones at their lowest, each of k tasks alike."""
    share = 1 / curves.shape[1]
    return float(curves[-1, -1]) if share == 1 else share * float(curves[-1, -1]) + (1 - share) * minimum(curves, last)


def fall(curves: np.ndarray, window: int) -> float:
    """WF^w: the largest drop within any `window` evaluations, a mean over tasks, not below 0.

    >>> round(fall(np.array([[0.9], [0.3], [0.6]]), window=2), 6)
    0.6
    """
    apart = range(1, min(window, len(curves)))
    drops = [(curves[:-gap] - curves[gap:]).max(0) for gap in apart]
    return float(np.max([np.zeros(curves.shape[1]), *drops], axis=0).mean())


def rise(curves: np.ndarray, window: int) -> float:
    """WP^w: the largest rise, likewise."""
    return fall(-curves, window)


def learning_area(curves: np.ndarray, last: Last, beta: int = 10) -> float:
    """LCA: each task's mean accuracy before its first update and after its first `beta`; a mean over tasks.

    Chaudhry et al., Efficient Lifelong Learning with A-GEM (ICLR 2019). A task's first update follows the evaluation
    after the last of the task before it.
    """
    begins = [0, *last[:-1]]
    return _mean([curves[begin : begin + beta + 1, task].mean() for task, begin in enumerate(begins)])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
