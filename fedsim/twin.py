"""Another who trains the same, for a thread of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from fedsim.work import Train


def twin(train: Train, shared: Iterable[Tensor]) -> Train:
    """A copy that has one core, for the thread that asks: modules and parameters are lent to one training at a time.

    What is `shared`, such as the examples, is not copied, as nobody writes to it.
    """
    torch.set_num_threads(1)
    return copy.deepcopy(train, {id(tensor): tensor for tensor in shared})
