"""The workers' numbers: gradients of chunks of a job's data, added up as a code says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from fedsim_kernels.combinations import combinations
from fedsim_kernels.language import launches
from torch import Tensor

from fedsim.coding.jobdata import JobData
from fedsim.training import Trainer
from fedsim.work import CodedTask, LocalResult

Key = tuple[int, int]
"""A job and one of its chunks."""


class Encoder:
    """Makes the messages of coded tasks.

    A chunk's gradient is a function of the job's model and the chunk's examples alone, to the last bit, whoever
    computes it and in what company; so it is computed once for all tasks of a call that need it. Sums are taken in
    float64, in the order of chunks.

    Args:
        trainer: has the model, its gradients and the data.
        data: which examples a chunk holds.
    """

    def __init__(self, trainer: Trainer, data: JobData) -> None:
        self.trainer, self.data = trainer, data

    def __call__(self, tasks: Sequence[CodedTask]) -> list[LocalResult]:
        """A message each: in `delta`, (P,), a coded one in float64."""
        params = {task.ordinal: task.params for task in tasks}
        wanted = sorted({(task.ordinal, chunk) for task in tasks for chunk in task.chunks})
        known: dict[Key, tuple[Tensor, float]] = {}
        for stack in self._stacks(wanted):
            known.update(zip(stack, self._gradients(stack, params), strict=True))
        return [self._message(task, known) for task in tasks]

    def _stacks(self, wanted: Sequence[Key]) -> list[list[Key]]:
        """Chunks of one size together, as many as are worth it; empty ones say nothing."""
        sizes = {job: self.data.counts(job) for job, _ in wanted}
        alike = defaultdict(list)
        for job, chunk in wanted:
            alike[int(sizes[job][chunk])].append((job, chunk))
        alike.pop(0, None)
        step = self.trainer.worth
        return [keys[first : first + step] for keys in alike.values() for first in range(0, len(keys), step)]

    def _gradients(self, stack: Sequence[Key], params: dict[int, Tensor]) -> list[tuple[Tensor, float]]:
        """Each chunk's share of the gradient of the job's mean loss, float32 (P,), and of the loss."""
        layout, parts = self.trainer.layout, self.trainer.parts
        starts = [layout.unflatten(params[job]) for job, _ in stack]
        named = {name: torch.stack([start[name] for start in starts]) for name in layout.names}
        owners = [int(self.data.owners[chunk]) for _, chunk in stack]
        places = [self.data.places(job, chunk) for job, chunk in stack]
        rows = torch.from_numpy(np.stack([parts.indices[o][p] for o, p in zip(owners, places, strict=True)]))
        labels = self.trainer.y[rows]
        if parts.labels is not None:
            labels = torch.from_numpy(np.stack([parts.labels[o][p] for o, p in zip(owners, places, strict=True)]))
        grads, losses = self.trainer.gradients(named, self.trainer.x[rows], labels.to(self.trainer.y.device))
        share = rows.shape[1] / self.data.examples
        whole = layout.join(grads)
        means = losses.double().mean(dim=1).cpu().tolist()
        return [(whole[k].clone() * share, mean * share) for k, mean in enumerate(means)]

    def _message(self, task: CodedTask, known: dict[Key, tuple[Tensor, float]]) -> LocalResult:
        pairs = zip(task.chunks, task.coefficients, strict=True)
        parts = [(*known[task.ordinal, chunk], by) for chunk, by in pairs if (task.ordinal, chunk) in known]
        total = self._total([gradient for gradient, _, _ in parts], [by for _, _, by in parts], task.params)
        loss = sum((own for _, own, _ in parts), 0.0)
        return LocalResult(total if task.coded else total.to(task.params.dtype), loss)

    def _total(self, gradients: Sequence[Tensor], coefficients: Sequence[float], like: Tensor) -> Tensor:
        """Of gradients (P,) times their coefficients, in float64."""
        if gradients and launches(gradients[0]):
            row = like.new_tensor([coefficients], dtype=torch.float64)
            return combinations(torch.stack(list(gradients)), row)[0]
        total = torch.zeros_like(like, dtype=torch.float64)
        for gradient, coefficient in zip(gradients, coefficients, strict=True):
            total.add_(gradient, alpha=coefficient)
        return total
