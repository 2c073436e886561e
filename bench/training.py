"""How fast clients train: fedsim's trainer against a bare loop of the very same steps in one process.

Run by `python -m bench.training`. The bare loop is the usual one: a module, `zero_grad`, `backward`, a fresh
`torch.optim.SGD` for each client. Both take their batches in the same order, drawn anew in each run, and both yield
each client's flat change of parameters. Examples are random numbers (synthetic): what they mean does not matter here.
Runs alternate, as other programs may share the machine: the table shows medians of the speeds, and the median of the
ratios of two runs in succession.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fedsim.data.partitions import Parts
from fedsim.models import cnn_mnist, initial_params, mlp
from fedsim.optimizers import sgd
from fedsim.rng import stream
from fedsim.training import Trainer, batches
from fedsim.work import LocalResult, LocalTask

HELD = 60
"""Examples a client."""

LR = 0.05


@dataclass(frozen=True)
class Case:
    """What is trained: `clients` times `steps` batches of `batch`."""

    name: str
    shape: tuple[int, ...]
    hidden: list[int] | None
    clients: int
    steps: int
    batch: int

    def build(self) -> nn.Module:
        """The model; without `hidden` widths, FedAvg's CNN."""
        return cnn_mnist(self.shape, 10) if self.hidden is None else mlp(self.shape, 10, self.hidden)


CASES = [
    *(Case("logistic 64-10", (64,), [], 100, 20, batch) for batch in (10, 32)),
    *(Case("logistic 784-10", (784,), [], 100, 20, batch) for batch in (10, 32)),
    *(Case("mlp 64-120-10", (64,), [120], 100, 20, batch) for batch in (10, 32)),
    *(Case("mlp 784-200-200-10", (784,), [200, 200], 100, 5, batch) for batch in (10, 32)),
    Case("cnn 1,663,370", (1, 28, 28), None, 4, 10, 10),
]


class BareLoop:
    """One client after another, as one writes it without a simulator."""

    def __init__(self, module: nn.Module, x: Tensor, y: Tensor, parts: Parts, batch: int) -> None:
        self.module, self.x, self.y, self.parts, self.batch = module, x, y, parts, batch
        self.criterion = nn.CrossEntropyLoss()

    def __call__(self, tasks: list[LocalTask]) -> list[LocalResult]:
        """The same results as the trainer's, losses summed up only as far as the loop gives them."""
        return [self.train(task) for task in tasks]

    def train(self, task: LocalTask) -> LocalResult:
        """A client's local training."""
        vector_to_parameters(task.params.clone(), self.module.parameters())
        optimizer = torch.optim.SGD(self.module.parameters(), lr=LR)
        part = self.parts.indices[task.client]
        visits = torch.from_numpy(part[batches(0, task, len(part), self.batch)])
        total = 0.0
        for rows in visits:
            self.module.zero_grad(set_to_none=True)
            loss = self.criterion(self.module(self.x[rows]), self.y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item()
        end = parameters_to_vector(self.module.parameters()).detach()
        return LocalResult(end - task.params, total / task.steps)


def compare(case: Case, repeats: int) -> str:
    """A row of the table."""
    draw = stream(0, "bench")
    x = torch.from_numpy(draw.standard_normal((case.clients * HELD, *case.shape), dtype=np.float32))
    y = torch.from_numpy(draw.integers(10, size=len(x)))
    parts = Parts([np.arange(client * HELD, (client + 1) * HELD) for client in range(case.clients)])
    module, params = initial_params(case.build, seed=0)
    tasks = [LocalTask(client, params, 0, case.steps) for client in range(case.clients)]
    bare = BareLoop(module, x, y, parts, case.batch)
    trainer = Trainer(module, x, y, parts, case.batch, sgd(LR), seed=0)
    runs = [(timed(bare, tasks), timed(trainer, tasks)) for _ in range(repeats)]
    (_, one), (_, two) = runs[-1]
    far = max(float((a.delta - b.delta).norm() / a.delta.norm()) for a, b in zip(one, two, strict=True))
    slow, fast = (case.clients * case.steps / median(run[side][0] for run in runs) for side in (0, 1))
    ratio = median(slow / fast for (slow, _), (fast, _) in runs)
    return f"{case.name:20}{case.batch:6}{trainer.cohort:8}{slow:12.0f}{fast:12.0f}{ratio:9.2f}x{far:12.1e}"


def timed(
    train: Callable[[list[LocalTask]], list[LocalResult]], tasks: list[LocalTask]
) -> tuple[float, list[LocalResult]]:
    """Seconds that it takes, and what it yields."""
    began = perf_counter()
    results = train(tasks)
    return perf_counter() - began, results


def main(repeats: int) -> None:
    """Print the table for one and for two threads."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        print(f"\nthreads = {threads}; client-steps per second; largest relative difference of a client's change")
        print(f"{'model':20}{'batch':>6}{'cohort':>8}{'bare':>12}{'fedsim':>12}{'ratio':>10}{'difference':>12}")
        for case in CASES:
            print(compare(case, repeats), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
