"""What a step of each optimizer costs a parameter, over torch's foreach AdamW on as many numbers.

Run by `python -m bench.optimizers [name ...]`, one thread. A million numbers are the matrices (K, side, side) of K
clients; each rule is made as in a run, with its defaults. FRUGAL is told that they are inner matrices, as a last one
has moments in full; that it chooses anew every 200 steps is not timed. A rule's step and AdamW's take turns, as other
programs may share the machine: medians of the nanoseconds, median and quartiles of the ratios. `reads` and `writes`
count the numbers that a step's operations read and write, a parameter, and `passes` is their sum over AdamW's: what the
ratio would be if all that cost were passes over memory. It leaves out that memory asked for anew is handed out page by
page, which may cost as much as the pass itself, roots and quotients, and that a part's numbers do not lie side by side.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from math import isqrt, prod
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
REPEATS = 41
CHOSEN, PLACED, MASKED = {"gather", "index_select"}, {"scatter_", "index_copy_"}, {"index_put_"}
"""Operations that touch a part alone: as much as they return, as they are given, or as a mask opens."""
FRESH = {"zeros_like", "empty_like", "fill_", "zero_", "copy_"}
"""Operations that look at nothing of what comes first."""


class Passes(TorchDispatchMode):
    """Counts the numbers that operations read and write."""

    reads = writes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch. What changes lists in place returns nothing."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            reads, writes = touched(func.overloadpacket.__name__, args, result)
            self.reads, self.writes = self.reads + reads, self.writes + writes
        return result


def touched(name: str, args: Sequence[Any], result: Any) -> tuple[int, int]:
    """Numbers that an operation reads and writes."""
    first, others = size(args[:1]), size(args[1:])
    if name in MASKED:
        return others, args[0][tuple(args[1])].numel()
    if name in PLACED:
        return others, size(args[-1])
    written = size(args[0] if result is None else result)
    return (written if name in CHOSEN else 0 if name in FRESH else first) + others, written


def size(tensors: Any) -> int:
    """Numbers that are there in memory, however often they are looked at."""
    leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]
    return sum(prod(long for long, step in zip(leaf.shape, leaf.stride(), strict=True) if step) for leaf in leaves)


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


def passes(rule: Optimizer) -> tuple[float, float]:
    """Numbers that a step reads and writes, a parameter."""
    with Passes() as counted:
        rule.step()
    return counted.reads / NUMBERS, counted.writes / NUMBERS


def row(name: str, clients: int, repeats: int) -> str:
    """A line of the table; three steps do not count."""
    rule, peer = made(name, clients), torch.optim.AdamW([stack(clients)], foreach=True)
    pairs = [(nanoseconds(rule), nanoseconds(peer)) for _ in range(repeats + 3)][3:]
    (_, own, _), (_, other, _) = (quantiles(times) for times in zip(*pairs, strict=True))
    low, ratio, high = quantiles(mine / its for mine, its in pairs)
    (reads, writes), its = passes(rule), passes(peer)
    counts = f"{reads:8.2f}{writes:8.2f}{(reads + writes) / sum(its):8.2f}x"
    return f"{name:<14}{clients:>4}{own:9.2f}{other:9.2f}{ratio:8.2f}x  {low:5.2f} to {high:5.2f}{counts}"


def main(names: Sequence[str]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{NUMBERS:,} numbers, torch {torch.__version__}, one thread; load of the machine {os.getloadavg()[0]:.1f}")
    heads = f"{'optimizer':<14}{'K':>4}{'ns':>9}{'AdamW':>9}{'ratio':>9}  {'quartiles':>14}"
    print(f"{heads}{'reads':>8}{'writes':>8}{'passes':>9}")
    for name in names:
        for clients in CLIENTS:
            print(row(name, clients, REPEATS), flush=True)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(OPTIMIZERS))
