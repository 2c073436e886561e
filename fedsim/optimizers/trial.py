"""Whether an optimizer does to a stack of clients what it does to each: tried, before anything depends on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from fedsim.optimizers.addressed import Addressed
from fedsim.rng import stream
from fedsim.vector import Layout
from fedsim.work import LocalTask

Shape = tuple[int, ...]
Make = Callable[[list[Tensor]], Optimizer]
SCALES = (1.0, 1e-3, 1e3, 1.0)
"""Of the gradients, step by step."""
CLIENTS = 3
LONGEST = 5
"""Axes are cut to so much."""


def check_optimizer(optimizer: Make, layout: Layout, stackable: bool) -> None:
    """Take a few steps on small parameters with as many axes as the model's.

    ValueError if it cannot, or if it says that it can be stacked (as all do that say nothing) but a step on a stack is
    not, to the bit, the steps of its clients. Rules that are not element-wise under rare conditions alone may pass.
    """
    shapes = [tuple(min(length, LONGEST) for length in shape) for shape in layout.shapes]
    tasks = [LocalTask(client, torch.zeros(0), 0, len(SCALES)) for client in range(CLIENTS)]
    try:
        alone = [_end(optimizer, shapes, [task], stackable) for task in tasks]
        together = _end(optimizer, shapes, tasks, True) if stackable else []
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"it cannot take a step: {str(error).splitlines()[0]}") from None
    for place, tensor in enumerate(together):
        each = torch.cat([end[place] for end in alone])
        if not torch.allclose(tensor, each, rtol=0, atol=0, equal_nan=True):
            raise ValueError("a step on a stack of clients is not the step of each; say stackable = False on its class")


def _end(
    optimizer: Make, shapes: Sequence[tuple[int, ...]], tasks: Sequence[LocalTask], stackable: bool
) -> list[Tensor]:
    """Parameters (K, *shape) after a few steps; (*shape) of one client if it cannot be stacked."""
    draws = [stream(0, "trial", task.client) for task in tasks]

    def drawn(shape: Shape, scale: float) -> Tensor:
        rows = torch.stack([torch.from_numpy(scale * draw.standard_normal(shape)).float() for draw in draws])
        return rows if stackable else rows[0]

    params = [drawn(shape, 1.0) for shape in shapes]
    rule = optimizer(params)
    if isinstance(rule, Addressed):
        rule.begin(tasks, 0, stacked=stackable)
    for scale in SCALES:
        for tensor, shape in zip(params, shapes, strict=True):
            tensor.grad = drawn(shape, scale)
        rule.step()
    return params
