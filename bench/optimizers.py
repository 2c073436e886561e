"""What a step of each optimizer costs a parameter, over torch's foreach AdamW on as many numbers.

Run by `python -m bench.optimizers [repeats]`, one thread. A million numbers are the matrices (K, side, side) of K
clients; each rule is made as in a run, with its defaults. FRUGAL is told that they are inner matrices, as a last one
has moments in full; that it chooses anew every 200 steps is not timed. A rule's step and AdamW's take turns, as other
programs may share the machine: medians of the nanoseconds, median and quartiles of the ratios. `writes` counts how many
numbers the step's operations write, a parameter: each is a pass over memory or a part of one.
"""

from __future__ import annotations

import os
import sys
from math import isqrt
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedsim.optimizers import OPTIMIZERS
from fedsim.optimizers.addressed import Addressed
from fedsim.work import LocalTask

NUMBERS = 10**6
CLIENTS = (1, 16, 64)
ARGUMENTS = {"sgd": {"lr": 0.01}}
"""Of rules that have no defaults."""


class Writes(TorchDispatchMode):
    """Counts the numbers that operations write."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch. What changes lists in place returns nothing."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves(args[0] if result is None else result)
            self.count += sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
        return result


def stack(clients: int) -> Tensor:
    """Random matrices with random gradients."""
    side = isqrt(NUMBERS // clients)
    chance = torch.Generator().manual_seed(clients)
    params, params.grad = (torch.randn(clients, side, side, generator=chance) for _ in range(2))
    return params


def made(name: str, clients: int) -> Optimizer:
    """A fresh rule of these clients' matrices."""
    rule = OPTIMIZERS[name](**ARGUMENTS.get(name, {}))([stack(clients)])
    if isinstance(rule, Addressed):
        rule.begin([LocalTask(client, torch.zeros(0), 0, 1) for client in range(clients)], 0, stacked=True)
    if name == "frugal":
        rule.param_groups[0]["projectable"] = True
    return rule


def nanoseconds(rule: Optimizer) -> float:
    """Of one step, a parameter."""
    began = perf_counter()
    rule.step()
    return (perf_counter() - began) * 1e9 / NUMBERS


def row(name: str, clients: int, repeats: int) -> str:
    """A line of the table; three steps do not count."""
    rule, peer = made(name, clients), torch.optim.AdamW([stack(clients)], foreach=True)
    pairs = [(nanoseconds(rule), nanoseconds(peer)) for _ in range(repeats + 3)][3:]
    (_, own, _), (_, other, _) = (quantiles(times) for times in zip(*pairs, strict=True))
    low, ratio, high = quantiles(mine / its for mine, its in pairs)
    with Writes() as writes:
        rule.step()
    figures = f"{own:9.2f}{other:9.2f}{ratio:8.2f}x  {low:5.2f} to {high:5.2f}"
    return f"{name:<14}{clients:>4}{figures}{writes.count / NUMBERS:9.2f}"


def main(repeats: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{NUMBERS:,} numbers, torch {torch.__version__}, one thread; load of the machine {os.getloadavg()[0]:.1f}")
    print(f"{'optimizer':<14}{'K':>4}{'ns':>9}{'AdamW':>9}{'ratio':>9}  {'quartiles':>14}{'writes':>9}")
    for name in OPTIMIZERS:
        for clients in CLIENTS:
            print(row(name, clients, repeats), flush=True)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 41)
