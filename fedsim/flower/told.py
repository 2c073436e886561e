"""What replies tell in their metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from flwr.app import Message, RecordDict

from fedsim.flower.keys import App


def metrics_of(content: RecordDict, terms: App) -> dict[str, float]:
    """Single numbers by name, but for how many examples there were."""
    return {
        name: float(number)
        for record in content.metric_records.values()
        for name, number in record.items()
        if isinstance(number, int | float) and name != terms.examples
    }


def means(replies: Iterable[Message], terms: App) -> dict[str, float]:
    """Each metric's mean over those who told it, weighted by their examples as Flower's FedAvg weights them.

    What was told of an evaluation keeps its name; of anything else it begins with what that was, as `train_loss`.
    """
    sums: dict[str, np.ndarray] = {}
    for reply in replies:
        if reply.has_error():
            continue
        kind, weight = reply.metadata.message_type.partition(".")[0], terms.told(reply.content)
        for name, number in metrics_of(reply.content, terms).items():
            own = name if kind == "evaluate" or name.startswith(kind) else f"{kind}_{name}"
            pair = np.array([number, 1.0]) * (1.0 if weight is None else weight)
            sums[own] = sums.get(own, 0.0) + pair
    return {name: float(total / weight) for name, (total, weight) in sums.items() if weight}


def table(replies: Iterable[Message], number: Callable[[int], int], terms: App) -> dict[str, np.ndarray]:
    """What each client has told of its evaluation, by column; nothing if none has. `number`: a client's, by node id."""
    evaluated = (each for each in replies if not each.has_error() and each.metadata.message_type.startswith("evaluate"))
    judged = sorted(((number(each.metadata.src_node_id), each.content) for each in evaluated), key=lambda pair: pair[0])
    rows = [metrics_of(content, terms) for _, content in judged]
    names = sorted({name for row in rows for name in row})
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    facts = {"client": np.array([client for client, _ in judged]),
             "examples": np.array([terms.told(content) or 0 for _, content in judged])}  # fmt: skip
    return facts | columns if judged else {}
