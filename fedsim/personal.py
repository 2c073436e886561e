"""Parameters that stay with a client, and how good the models are that clients then have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from fedsim.accelerator import CPU
from fedsim.models.normalisation import BatchNorm
from fedsim.vector import Layout
from fedsim.work import LocalTask

NORMS = (BatchNorm, nn.GroupNorm, nn.LayerNorm)


def personal_names(model: nn.Module, said: Sequence[str] | Literal["norms"] | None) -> tuple[str, ...]:
    """Of parameters that are called so, or begin so; or all scales and shifts of normalisation layers.

    ValueError if there are none, or no others.
    """
    names = [name for name, _ in model.named_parameters()]
    if said == "norms":
        layers = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, NORMS))
        found = tuple(name for name in names if name.startswith(layers))
    else:
        for begin in [begin for begin in said or () if not any(name.startswith(begin) for name in names)]:
            raise ValueError(f"no parameter begins with {begin!r}; there are {', '.join(names)}")
        found = tuple(name for name in names if name.startswith(tuple(said or ())) and said)
    if said is not None and not 0 < len(found) < len(names):
        raise ValueError("some parameters have to be personal and some shared, but here they are all or none")
    return found


@dataclass(frozen=True)
class Personal:
    """Which parameters a client keeps: nobody else sees them, and its next training goes on from them.

    With those of normalisation layers it is FedBN (Li et al., ICLR 2021), with the last layers FedPer (Arivazhagan et
    al., 2019).
    """

    names: Collection[str]
    layout: Layout
    device: torch.device = CPU

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return bool(self.names)

    @cached_property
    def mask(self) -> Tensor:
        """Where they are in a flat model, bool (P,)."""
        shapes = zip(self.layout.names, self.layout.shapes, strict=True)
        return self.layout.join(
            {name: torch.full(shape, name in self.names, device=self.device) for name, shape in shapes}
        )

    def model(self, params: Tensor, own: Tensor | None) -> Tensor:
        """A client's: the shared one (P,) with what it keeps, if it does already."""
        if own is None:
            return params
        whole = params.clone()
        whole[self.mask] = own
        return whole

    def own(self, task: LocalTask) -> LocalTask:
        """A task that starts from the client's own values."""
        return replace(task, params=self.model(task.params, task.kept.personal)) if self.any else task

    def withheld(self, end: Tensor, start: Tensor) -> tuple[Tensor, Tensor | None]:
        """The change (P,) without what stays, and what stays."""
        delta = end - start
        return (delta.masked_fill(self.mask, 0.0), end[self.mask].clone()) if self.any else (delta, None)
