"""A server algorithm that works in rounds, as a Strategy of Flower's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from logging import INFO, WARNING, getLogger
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from fedsim.aggregators import Aggregator
from fedsim.aggregators.rounds import Rounds
from fedsim.drift import Proximal
from fedsim.units import SECOND
from fedsim.vector import Layout
from fedsim.work import LocalResult, Update

log = getLogger("flwr").log


class AggregatorStrategy(FedAvg):
    """Whom to ask and what to make of the answers is an `Aggregator`'s affair, all else is as in Flower's FedAvg.

    ClientApps are those of Flower's FedAvg: they answer `train` with the model that they end with, one ArrayRecord
    whose arrays are all of one floating type, and one MetricRecord with `num-examples`. FedNova also wants `steps` in
    it, SFAT `loss`; FedProx sends its mu as `proximal-mu`. Clients are numbered in the order in which the Grid lists
    their nodes for the first time, and updates are summed in the order of these numbers. A client that answers with an
    error, or too late, counts as having gone away, and can be asked again from the round after the next.

    Args:
        aggregator: at version 0; its model is replaced by the first that `start` is given.
        options: of Flower's FedAvg, but for the cohort, which is the aggregator's own.

    ValueError if the aggregator does not work in rounds, or asks more of its clients than that.
    """

    def __init__(self, aggregator: Aggregator, **options: Any):
        for name in ("fraction_train", "min_train_nodes"):
            if name in options:
                raise ValueError(f"{name}: whom to ask is the aggregator's affair: see its cohort and minimum")
        refuse_unlike_flower(aggregator)
        super().__init__(**options)
        self.aggregator = aggregator
        self.layout: Layout | None = None
        self.numbers: dict[int, int] = {}
        """Of clients, by their nodes' ids."""
        self.here: dict[int, int] = {}
        """The nodes of clients that can be asked, by number."""
        self.sent = 0.0
        """When the round's messages were made, in Unix time."""

    def summary(self) -> None:
        """One line."""
        log(INFO, "\t└──> %s", type(self.aggregator).__name__)

    # A round --------------------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """To the clients that the aggregator starts; waits as long as it starts nobody."""
        if self.layout is None:
            self.begin(arrays)
        while not self.meet(grid):
            log(INFO, "Waiting for nodes: %s starts nobody yet", type(self.aggregator).__name__)
            time.sleep(1)
        config["server-round"] = server_round
        if isinstance(self.aggregator.drift, Proximal):
            config["proximal-mu"] = self.aggregator.drift.mu
        record = RecordDict({self.arrayrecord_key: self.record(), self.configrecord_key: config})
        messages = [Message(record, self.here[client], MessageType.TRAIN) for client in self.at_work]
        self.sent = messages[0].metadata.created_at
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after the aggregator's step, if it took one; and the metrics as Flower's FedAvg has them."""
        valid, _ = self._check_and_log_replies(list(replies), is_train=True)
        heard = {self.numbers[reply.metadata.src_node_id]: reply for reply in valid}
        version = self.aggregator.version
        for client in self.at_work:
            if client in heard:
                self.aggregator.receive(self.update(client, version, heard[client]))
            else:
                self.here.pop(client)
                self.aggregator.leave([client])
        for refusal in self.aggregator.refused:
            log(WARNING, "the update of client %s was refused: it is %s", refusal.client, refusal.fault)
        self.aggregator.refused.clear()
        contents = [heard[client].content for client in sorted(heard)]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None
        return self.record() if self.aggregator.version > version else None, metrics

    @property
    def at_work(self) -> list[int]:
        """Whom the aggregator has started and not heard."""
        return sorted(self.aggregator.roster.busy)

    def meet(self, grid: Grid) -> list[int]:
        """Tell the aggregator who has come and gone; whom it has started."""
        online = {self.numbers.setdefault(node, len(self.numbers)): node for node in grid.get_node_ids()}
        census = self.aggregator.roster.census
        if census is not None and not census.examples.keys() >= online.keys():
            raise ValueError(f"{len(self.numbers)} nodes have come, but the aggregator's census is of {census.count}")
        gone, come = self.here.keys() - online.keys(), online.keys() - self.here.keys()
        self.here = online
        if gone:
            self.aggregator.leave(sorted(gone))
        if come:
            self.aggregator.join(sorted(come))
        return self.at_work

    # Models ---------------------------------------------------------------------------------------------------------

    def begin(self, arrays: ArrayRecord) -> None:
        """From this model. ValueError if it is not the aggregator's, or no floating-point numbers."""
        named = tensors(arrays)
        self.layout = Layout(tuple(named), tuple(tuple(tensor.shape) for tensor in named.values()))
        params = self.layout.join(named)
        if params.shape != self.aggregator.params.shape:
            raise ValueError(f"the model has {len(params)} parameters, the aggregator {len(self.aggregator.params)}")
        self.aggregator.params = params

    def record(self) -> ArrayRecord:
        """The aggregator's model."""
        assert self.layout is not None
        named = self.layout.unflatten(self.aggregator.params)
        return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in named.items()})

    def update(self, client: int, version: int, reply: Message) -> Update:
        """What a reply says. ValueError if it does not say what the aggregator has to know."""
        assert self.layout is not None
        [arrays], [metrics] = reply.content.array_records.values(), reply.content.metric_records.values()
        told = {name: number for name, number in metrics.items() if isinstance(number, int | float)}
        for name, wanted in (("steps", "reads_steps"), ("loss", "reads_losses")):
            if name not in told and getattr(self.aggregator, wanted, False):
                raise ValueError(f"{type(self.aggregator).__name__} has to know {name!r} of each training: the reply "
                                 f"of client {client} has no such metric")  # fmt: skip
        result = LocalResult(self.layout.join(tensors(arrays)) - self.aggregator.params, told.get("loss", 0.0))
        examples, steps = int(told[self.weighted_by_key]), int(told.get("steps", 1))
        duration = max(1, round((reply.metadata.created_at - self.sent) * SECOND))
        return Update(client, version, examples, steps, duration, result)


def tensors(arrays: ArrayRecord) -> Mapping[str, Tensor]:
    """By name. ValueError if they are not all of one floating type."""
    named = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    kinds = {tensor.dtype for tensor in named.values()}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise ValueError(f"a model's arrays have to be of one floating type, not {sorted(map(str, kinds))}")
    return named


def refuse_unlike_flower(aggregator: Aggregator) -> None:
    """ValueError if this cannot be done in rounds of Flower's, with changes of models alone."""
    rounds = isinstance(aggregator, Rounds)
    faults = {
        "a Strategy works in rounds, and this algorithm does not: it needs a loop over the Grid": not rounds,
        "a Strategy hears of a round when it is over: leave out goal and deadline":
            rounds and (aggregator.goal is not None or aggregator.deadline is not None),
        "its clients send more than a changed model":
            aggregator.vectors != (1, 1) or aggregator.codec is not None or aggregator.answers is not None,
        "its clients correct their gradients in a way of its own":
            aggregator.drift is not None and not isinstance(aggregator.drift, Proximal),
    }  # fmt: skip
    for why in [why for why, so in faults.items() if so]:
        raise ValueError(f"{type(aggregator).__name__} cannot be a Strategy: {why}")
