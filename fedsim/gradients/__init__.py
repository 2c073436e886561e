"""Where gradients come from: every client's own, at its own parameters, on its own batch.

Sources with one meaning. Which one is used, and for how many clients at once, depends on nothing but the model,
its sizes and the device, never on a clock: so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsim.gradients.along import recurrent
from fedsim.gradients.closed_form import ClosedForm
from fedsim.gradients.per_example import PerExample
from fedsim.gradients.single import Single
from fedsim.gradients.vmapped import Vmapped
from fedsim.losses import Loss

WORKING_SET = 8 * 2**20
"""Bytes that one step of a stack may touch on a CPU; measured, see `choose`."""

COHORT = 256
"""More clients than this gain nothing: calling torch costs as good as nothing for each."""

GPU_COHORT = 64
"""Clients in a stack on a GPU; not measured yet: `python -m bench.cohorts` is for that."""


class Gradients(Protocol):
    """A source of gradients, and of derivatives along a direction.

    In plain gradients, which are two products backward and one forward in each layer, J d costs 1 and H d 8/3.
    """

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Of the mean loss of each client's batch (see `fedsim.losses`), and the losses of its examples.

        Args:
            params: name -> (K, *shape), each client's own.
            x: (K, B, *shape of an example), each client's own batch; or (K, 2 B, ...), where the loss asks for pairs.
            y: (K, B), classes as int64; or (K, B, outputs), points as floats.
            loss: None: the one for such labels.
            offset: (K, outputs), added to the scores of all of a client's examples; None: nothing is.

        Returns:
            Gradients like `params`, and losses (K, B).
        """
        ...

    def of_inputs(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of each example's own loss with respect to the example, like `x`; and the losses (K, B)."""
        ...

    def scores(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Of each client's model, (K, B, outputs)."""
        ...

    def jvp(self, params: Mapping[str, Tensor], x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
        """How scores change along a direction, like `params`: J d, (K, B, outputs)."""
        ...

    def hvp(
        self,
        params: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        direction: Mapping[str, Tensor],
        loss: Loss | None = None,
        offset: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """How the gradient of each client's mean loss changes along a direction, like `params`: H d, like `params`.

        Of the loss as it is, even where gradients are clipped.
        """
        ...


EXAMPLES = 8
"""Clients in a stack whose examples are clipped one by one: they take turns, so that it matters little."""


def choose(
    module: nn.Module, size: int, batch: int, device: torch.device, clip: float | None = None
) -> tuple[Gradients, int]:
    """The source for a module of `size` parameters and batches of `batch`, and how many clients it should stack.

    With `clip`, the gradient of every example is shortened to that.

    Measured with torch 2.13 on two cores of an AMD EPYC with 1 MiB of L2 cache each, 32 MiB of L3. Of 0.5, 1, 2, 4, 8
    and 16 MiB for a step's parameters, gradients and activations, 8 MiB was the best or nearly so for dense networks
    64-10, 784-10, 64-120-10 and 784-200-200-10, batches of 10 and 32, one thread and two. Four clients one
    after another took 0.75 to 0.9 of their time vectorised for FedAvg's CNN and a small ResNet, 0.2 to 0.3 for an LSTM;
    16 took 0.55 for `cnn_group`, and between 0.85 and 1.15 of what their convolutions as one in groups would take.
    Nothing is measured on a GPU, whose caches are others. Recurrent layers have one client at a time there too: torch
    cannot vectorise the way back through cuDNN's.
    """
    if clip is not None:
        return PerExample(module, clip), EXAMPLES
    dense, gpu = ClosedForm.suits(module), device.type != "cpu"
    if gpu and not recurrent(module):
        return (ClosedForm if dense else Vmapped)(module), GPU_COHORT
    if not dense:
        return Single(module), 1
    source = ClosedForm(module)
    return source, max(1, min(COHORT, WORKING_SET // source.working_set(size, batch)))
