"""What a model learns from: examples and labels as tensors, for training and for testing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.errors import ScenarioError
from fedsim.rng import stream

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification or, with points for labels, a regression; the clients' shares are a partition's matter.

    Raises ScenarioError if it does not fit together.
    """

    x: Tensor
    """Training inputs: float32 (n, channels, height, width) or (n, features), or int64 (n, length) character codes."""
    y: Tensor
    """Training labels: classes, int64 (n,), each in [0, outputs), or points, float32 (n, outputs)."""
    x_test: Tensor
    """Test inputs, like `x`."""
    y_test: Tensor
    """Test labels, like `y`."""
    outputs: int
    """How many scores a model gives: one for each class, or for each coordinate of a point."""
    groups: np.ndarray | None = None
    """Whose each training example is by nature (hospital, role): codes (n,), every code in use; None: nobody's."""
    group_names: tuple[str, ...] = ()
    """What the codes in `groups` stand for."""
    vocabulary: str = ""
    """What the codes in `x` and `y` stand for where they are characters: the i-th character has code i."""
    walks: bool = False
    """Whether labels are moves and the next example is where each leads: see `fedsim.data.grid_world`."""
    tasks: np.ndarray | None = None
    """Which of several tasks each training example belongs to: codes (n,), from 0; None: there is but one."""
    test_tasks: np.ndarray | None = None
    """The same of test examples."""

    def __post_init__(self) -> None:
        _fits(self.x, self.y, self.outputs, "training")
        _fits(self.x_test, self.y_test, self.outputs, "test")
        for what, train, test in (("inputs", self.x, self.x_test), ("labels", self.y, self.y_test)):
            if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
                raise ScenarioError(f"training and test {what} differ in shape or type")
        if self.vocabulary:
            self._check_codes()
        if self.groups is not None:
            self._check_groups(self.groups)
        for codes, labels in ((self.tasks, self.y), (self.test_tasks, self.y_test)):
            if codes is not None and codes.shape != (len(labels),):
                raise ScenarioError(f"{len(labels)} examples need as many codes of tasks, not {codes.shape}")

    def _check_codes(self) -> None:
        size = len(self.vocabulary)
        if any(codes.is_floating_point() or codes.min() < 0 or codes.max() >= size for codes in (self.x, self.x_test)):
            raise ScenarioError(f"inputs must be integer codes of a vocabulary of {size} characters")

    def _check_groups(self, groups: np.ndarray) -> None:
        if groups.shape != (len(self),):
            raise ScenarioError(f"{len(self)} training examples need as many group codes, not {groups.shape}")
        if not np.array_equal(np.unique(groups), np.arange(len(self.group_names))):
            raise ScenarioError(f"group codes must be all of 0 to {len(self.group_names) - 1}, as there are names")

    def __len__(self) -> int:
        """How many training examples there are."""
        return len(self.y)

    def to(self, device: torch.device) -> Dataset:
        """The same with its tensors on a device; itself if they are there."""
        there = {name: getattr(self, name).to(device) for name in ("x", "y", "x_test", "y_test")}
        return self if all(tensor is getattr(self, name) for name, tensor in there.items()) else replace(self, **there)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all examples, labels and codes, in hexadecimal."""
        tensors = (self.x, self.y, self.x_test, self.y_test)
        codes = (part for part in (self.groups, self.tasks, self.test_tasks) if part is not None)
        found = sha256()
        for part in (*(tensor.cpu().numpy() for tensor in tensors), *codes):
            found.update(f"{part.dtype} {part.shape}".encode())
            found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, not points."""
        return not self.y.is_floating_point()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])


def _fits(x: Tensor, y: Tensor, outputs: int, part: str) -> None:
    if y.dtype not in (torch.int64, torch.float32) or x.dtype not in (torch.float32, torch.int64):
        raise ScenarioError(f"{part} labels and inputs must be float32 or int64, not {y.dtype} and {x.dtype}")
    shape = (outputs,) if y.is_floating_point() else ()
    if y.shape[1:] != shape or not 0 < len(y) == len(x):
        kind = f"a point of {outputs} coordinates" if y.is_floating_point() else "a label"
        raise ScenarioError(f"{part} set needs examples and {kind} for each, not {len(x)} and {tuple(y.shape)}")
    if not y.is_floating_point() and (y.min() < 0 or y.max() >= outputs):
        raise ScenarioError(f"{part} labels must lie in [0, {outputs}), not in [{y.min()}, {y.max()}]")
    for what, numbers in (("inputs", x), ("labels", y)):  # NaN passes through min and max
        if numbers.numel() and not all(extreme.isfinite() for extreme in torch.aminmax(numbers)):
            raise ScenarioError(f"{part} {what} must be finite")


def held_out(count: int, *name: object) -> np.ndarray:
    """Which of `count` examples are for testing: a fifth, the same in every run, as a mask (count,).

    >>> held_out(10, "digits").sum()
    np.int64(2)
    """
    mask = np.zeros(count, dtype=bool)
    mask[stream(0, "held out", *name).permutation(count)[: count // 5]] = True
    return mask
