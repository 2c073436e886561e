"""Words to Flower's records and back, to the bit.

What comes is a stranger's: whatever is not as it should be is Garbled.

Vectors travel as the bytes that they are in memory, under types of our own, so that nothing is written twice and a
codec's message is what the codec has made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite, prod
from typing import Any, TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedsim.flower.words import Answer, Forgotten, Garbled, Introduction, Order
from fedsim.work import LocalTask

RAW = "fedsim.raw.v1"
FACTS, DOWN, MESSAGE, EXTRA = "facts", "model", "message", "extra"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool)}  # fmt: skip

Word = TypeVar("Word")


def packed(tensor: Tensor) -> Array:
    """A tensor's own bytes."""
    flat = tensor.detach().cpu().contiguous()
    data = flat.reshape(-1).view(torch.uint8).numpy().tobytes()
    return Array(str(flat.dtype).removeprefix("torch."), tuple(flat.shape), RAW, data)


def unpacked(array: Array) -> Tensor:
    """The tensor that these bytes are; Garbled if they are none."""
    dtype, shape = DTYPES.get(array.dtype), tuple(array.shape)
    if array.stype != RAW or dtype is None or any(side < 0 for side in shape):
        raise Garbled(f"no tensor is a {array.dtype} of shape {shape} in {array.stype}")
    if prod(shape) * dtype.itemsize != len(array.data):
        raise Garbled(f"{len(array.data)} bytes are no {array.dtype} of shape {shape}")
    if not array.data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(array.data), dtype=dtype).reshape(shape)


def order_written(order: Order, model: ArrayRecord) -> RecordDict:
    """An order; `model` is its task's model, written once for all who start from it."""
    task = order.task
    facts: dict[str, Any] = {"client": task.client, "version": task.version, "ordinal": task.ordinal}
    facts |= {"steps": task.steps, "after": order.after, "bound": order.bound}
    return RecordDict({FACTS: ConfigRecord(_known(facts)), DOWN: model})


def model_written(params: Tensor, sent: Tensor | None) -> ArrayRecord:
    """A model, and what is sent along."""
    return ArrayRecord({"params": packed(params)} | ({} if sent is None else {"sent": packed(sent)}))


def answer_written(answer: Answer) -> RecordDict:
    """An answer."""
    facts = {"loss": answer.loss, "square_loss": answer.square_loss, "within": answer.within}
    facts |= {"began": answer.began, "ended": answer.ended}
    records: dict[str, Any] = {FACTS: ConfigRecord(_known(facts)), MESSAGE: _several(answer.message)}
    return RecordDict(records if answer.extra is None else {**records, EXTRA: _several([answer.extra])})


def introduction_written(introduction: Introduction) -> RecordDict:
    """An introduction."""
    return RecordDict({FACTS: ConfigRecord({"client": introduction.client, "scenario": introduction.scenario})})


def forgotten_written(reason: Forgotten) -> RecordDict:
    """A device's word that it cannot go on."""
    return RecordDict({FACTS: ConfigRecord({"forgotten": str(reason)})})


def read_order(content: RecordDict) -> Order:
    """An order."""
    return _read(content, _order)


def read_answer(content: RecordDict) -> Answer:
    """An answer. Forgotten if it is one of somebody who cannot go on."""
    return _read(content, _answer)


def read_introduction(content: RecordDict) -> Introduction:
    """An introduction."""
    return _read(content, _introduction)


def _order(content: RecordDict) -> Order:
    facts, model = content.config_records[FACTS], content.array_records[DOWN]
    client, version, ordinal, steps = (_whole(facts[name]) for name in ("client", "version", "ordinal", "steps"))
    sent = unpacked(model["sent"]) if "sent" in model else None
    task = LocalTask(client, unpacked(model["params"]), ordinal, steps, sent, version=version)
    after, bound = facts.get("after"), facts.get("bound")
    return Order(task, None if after is None else _whole(after), None if bound is None else _finite(bound))


def _answer(content: RecordDict) -> Answer:
    facts = content.config_records[FACTS]
    if "forgotten" in facts:
        raise Forgotten(str(facts["forgotten"])[:200])
    loss, square_loss, within = _finite(facts["loss"]), _finite(facts["square_loss"]), facts.get("within")
    if within is not None and not isinstance(within, bool):
        raise TypeError(f"within is {within}")
    message, extra = content.array_records[MESSAGE], content.array_records.get(EXTRA)
    parts = tuple(unpacked(message[str(place)]) for place in range(len(message)))
    beside = None if extra is None else unpacked(extra["0"])
    return Answer(parts, loss, square_loss, _whole(facts["began"]), _whole(facts["ended"]), within, beside)


def _introduction(content: RecordDict) -> Introduction:
    facts = content.config_records[FACTS]
    return Introduction(_whole(facts["client"]), str(facts["scenario"]))


def _read(content: RecordDict, found: Callable[[RecordDict], Word]) -> Word:
    try:
        return found(content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Garbled(f"{type(error).__name__}: {error}"[:200]) from None


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or not isfinite(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _several(tensors: Iterable[Tensor]) -> ArrayRecord:
    return ArrayRecord({str(place): packed(tensor) for place, tensor in enumerate(tensors)})
