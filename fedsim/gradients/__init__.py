"""Where gradients come from: every client's own, at its own parameters, on its own batch.

Three sources with one meaning. Which one is used, and for how many clients at once, depends on nothing but the model,
its sizes and the device, never on a clock: so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsim.gradients.closed_form import ClosedForm
from fedsim.gradients.single import Single
from fedsim.gradients.vmapped import Vmapped

WORKING_SET = 4 * 2**20
"""Bytes that one step of a stack may touch on a CPU, so that they stay in its caches; measured, see `choose`."""

COHORT = 256
"""More clients than this gain nothing: the cost of calling torch is shared by enough."""

GPU_COHORT = 64
"""Clients in a stack on a GPU; not measured yet."""


class Gradients(Protocol):
    """A source of gradients."""

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean cross-entropy of each client's batch, and the losses of its examples.

        Args:
            params: name -> (K, *shape), each client's own.
            x: (K, B, *shape of an example), each client's own batch.
            y: (K, B), classes as int64.

        Returns:
            Gradients like `params`, and losses (K, B).
        """
        ...


def choose(module: nn.Module, size: int, batch: int, device: torch.device) -> tuple[Gradients, int]:
    """The source for a module of `size` parameters and batches of `batch`, and how many clients it should stack.

    Measured with `bench/training.py` on two cores of an AMD EPYC (1 MiB L2 each), torch 2.13:
    dense networks gain from stacking until a step's parameters, gradients and activations leave the caches; a
    convolution or an LSTM lost by it on a CPU, so it takes one client at a time.
    """
    if ClosedForm.suits(module):
        source = ClosedForm(module)
        return source, max(1, min(COHORT, WORKING_SET // source.working_set(size, batch)))
    return (Single(module), 1) if device.type == "cpu" else (Vmapped(module), GPU_COHORT)
