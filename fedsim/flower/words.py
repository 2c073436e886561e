"""What a server asks of a device, and what the device says: the words that Flower's messages carry."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsim.wire.codec import Message
from fedsim.work import LocalTask

NONE_YET = -1
"""In place of the ordinal of a client's last training, where nothing of it has been heard yet."""


@dataclass(frozen=True)
class Order:
    """One local training, from the model that comes with it."""

    task: LocalTask
    after: int | None = None
    """It goes on from what the client's n-th training has left with it: the last that the server has heard of. What
    later ones have left is void. None: a training needs nothing of the last."""
    bound: float | None = None
    """The clip norm of the task's version; None: there is no clip."""


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    message: Message
    """The change, as the wire's codec has written it."""
    loss: float
    square_loss: float
    began: int
    """When training began, in microseconds since 1970 by the device's clock."""
    ended: int
    within: bool | None = None
    """Whether the change did not have to be clipped; None: nobody looked."""
    extra: Tensor | None = None
    """What goes up beside the change, flat (P,)."""


@dataclass(frozen=True)
class Introduction:
    """Who a device is."""

    client: int
    scenario: str
    """The digest of the scenario that it was given."""


class Garbled(ValueError):
    """This is no message of ours, or a damaged one."""


class Forgotten(RuntimeError):
    """A device has no longer what its last training has left with it."""
