"""Gradients of dense networks by hand, for all clients of a stack in a few batched products.

A client's numbers are the same to the last bit in whatever company they are computed. Elementwise operations and sums
along an axis are so by nature. Batched products (`bmm`) are so on three conditions, found by trying random shapes:
MKL, the library behind them, must not choose its path by the alignment of a row in memory, which its strict mode
forbids at no measurable cost; there must be no fewer clients than threads, as it would split one product among several;
and a lone client's product with a vector must not be alone, as it would be computed another way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import torch
from fedsim_kernels.stacked_gradients import stacked_gradients
from fedsim_kernels.stacked_layer import stacked_layer
from fedsim_kernels.stacked_slopes import stacked_slopes
from torch import Tensor, nn

from fedsim.gradients.along import jvp
from fedsim.losses import Loss, loss_of

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # read by MKL at its first product


WORK_A_THREAD = 2**21
"""Multiplications with one addition, in a forward pass, that make it worth to wake one more thread; measured."""


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """So many threads within one operation of torch, or fewer if that is the rule outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ClosedForm:
    """Of a sequence of linear layers with ReLU between them; without autograd."""

    def __init__(self, module: nn.Module) -> None:
        """`module` must suit."""
        linear = [(name, layer) for name, layer in module.named_children() if isinstance(layer, nn.Linear)]
        self.layers = [(f"{name}.weight", f"{name}.bias") for name, _ in linear]
        self.widths = [linear[0][1].in_features, *(layer.out_features for _, layer in linear)]

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether it is Flatten, then Linear and ReLU in turn, each Linear with a weight and a bias of its own."""
        layers = list(module) if type(module) is nn.Sequential else []
        dense, between = layers[1::2], layers[2::2]
        return (
            len(layers) >= 2
            and len(dense) > len(between)
            and repr(layers[0]) == repr(nn.Flatten())
            and all(type(layer) is nn.Linear and layer.bias is not None for layer in dense)
            and all(type(layer) is nn.ReLU for layer in between)
            and len({id(layer.weight) for layer in dense}) == len(dense)
        )

    def working_set(self, size: int, batch: int) -> int:
        """Bytes that a client's step touches: parameters, gradients, inputs, and activations with their gradients."""
        return 4 * (2 * size + batch * (self.widths[0] + 2 * sum(self.widths[1:])))

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        if self._lone(x):
            grads, losses = self(_each_twice(params), _twice(x), _twice(y), loss, offset)
            return {name: grad[:1] for name, grad in grads.items()}, losses[:1]
        with at_most(self._threads(*x.shape[:2])):
            inputs, scores = self._forward(params, x.flatten(2), offset)
            losses, slope = (loss or loss_of(y)).slope(scores, y)
            return self._backward(params, inputs, slope), losses

    def of_inputs(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Gradients`."""
        if self._lone(x):
            slope, losses = self.of_inputs(_each_twice(params), _twice(x), _twice(y), loss, offset)
            return slope[:1], losses[:1]
        with at_most(self._threads(*x.shape[:2])):
            inputs, scores = self._forward(params, x.flatten(2), offset)
            losses, slope = (loss or loss_of(y)).slope(scores, y)
            for (weight, _), given in zip(reversed(self.layers), reversed(inputs), strict=True):
                slope = stacked_slopes(slope, params[weight], None if given is inputs[0] else given)
        return (slope * y.shape[1]).view(x.shape), losses

    def scores(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """See `Gradients`."""
        if self._lone(x):
            return self.scores(_each_twice(params), _twice(x))[:1]
        with at_most(self._threads(*x.shape[:2])):
            return self._forward(params, x.flatten(2))[1].mT

    def jvp(self, params: Mapping[str, Tensor], x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
        """See `Gradients`."""
        if self._lone(x):
            return self.jvp(_each_twice(params), _twice(x), _each_twice(direction))[:1]
        with at_most(self._threads(*x.shape[:2])):
            inputs, _ = self._forward(params, x.flatten(2))
            return self._changes(params, inputs, direction)[1].mT

    def hvp(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, direction: Mapping[str, Tensor],
        loss: Loss | None = None, offset: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """See `Gradients`. Pearlmutter's R-operator; a ReLU that is shut passes no change either."""
        if self._lone(x):
            two = self.hvp(_each_twice(params), _twice(x), _twice(y), _each_twice(direction), loss, offset)
            return {name: part[:1] for name, part in two.items()}
        kind = loss or loss_of(y)
        with at_most(self._threads(*x.shape[:2])):
            inputs, scores = self._forward(params, x.flatten(2), offset)
            changes, change = self._changes(params, inputs, direction)
            slope, bend, *_ = jvp(lambda scores: kind.slope(scores.clone(), y)[1], (scores,), (change,))
            return self._backward_along(params, inputs, slope, direction, changes, bend)

    def _lone(self, x: Tensor) -> bool:
        """Whether it is a lone client some of whose products are with a vector."""
        return len(x) == 1 and 1 in (*self.widths, x.shape[1])

    def _threads(self, clients: int, batch: int) -> int:
        """No more than clients, nor than there is work for: on a busy machine threads wait long for one another."""
        work = clients * batch * sum(given * made for given, made in pairwise(self.widths))
        return max(1, min(clients, work // WORK_A_THREAD))

    def _forward(
        self, params: Mapping[str, Tensor], x: Tensor, offset: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The input (K, B, width) of each layer, and the scores (K, outputs, B), with what is added to them."""
        inputs, (*hidden, last) = [x], [(params[weight], params[bias]) for weight, bias in self.layers]
        for layer in hidden:
            inputs.append(stacked_layer(inputs[-1], *layer))
        scores = stacked_layer(inputs[-1], *last, activated=False).mT
        return inputs, scores if offset is None else scores.add_(offset.unsqueeze(2))

    def _backward(self, params: Mapping[str, Tensor], inputs: list[Tensor], slope: Tensor) -> dict[str, Tensor]:
        """Gradients, from the loss's `slope` (K, B, outputs) with respect to the scores."""
        grads = {}
        for (weight, bias), given in zip(reversed(self.layers), reversed(inputs), strict=True):
            grads[weight], grads[bias] = stacked_gradients(slope, given)
            if given is not inputs[0]:
                slope = stacked_slopes(slope, params[weight], given)
        return grads

    def _changes(
        self, params: Mapping[str, Tensor], inputs: list[Tensor], direction: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Along a direction: of each layer's input but the first, (K, B, width); and of scores, (K, outputs, B)."""
        changes: list[Tensor] = []
        for (weight, bias), given, made in zip(self.layers, inputs, inputs[1:], strict=False):
            change = torch.baddbmm(direction[bias].unsqueeze(1), given, direction[weight].mT)
            if changes:
                change = torch.baddbmm(change, changes[-1], params[weight].mT)
            changes.append(torch.ops.aten.threshold_backward(change, made, 0))
        weight, bias = self.layers[-1]
        change = torch.baddbmm(direction[bias].unsqueeze(2), direction[weight], inputs[-1].mT)
        return changes, torch.baddbmm(change, params[weight], changes[-1].mT) if changes else change

    def _backward_along(
        self, params: Mapping[str, Tensor], inputs: list[Tensor], slope: Tensor,
        direction: Mapping[str, Tensor], changes: list[Tensor], bend: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """How `_backward` changes, where inputs change by `changes` and the slope by `bend`, (K, B, outputs)."""
        found = {}
        for layer in reversed(range(len(self.layers))):
            (weight, bias), given = self.layers[layer], inputs[layer]
            found[weight], found[bias] = stacked_gradients(bend, given)
            if layer:
                found[weight] = torch.baddbmm(found[weight], slope.mT, changes[layer - 1])
                bend = torch.baddbmm(torch.bmm(bend, params[weight]), slope, direction[weight])
                bend = torch.ops.aten.threshold_backward(bend, given, 0)
                slope = stacked_slopes(slope, params[weight], given)
        return found


def _twice(row: Tensor) -> Tensor:
    """(1, ...) as (2, ...), without a copy."""
    return row.expand(2, *row.shape[1:])


def _each_twice(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _twice(part) for name, part in params.items()}
