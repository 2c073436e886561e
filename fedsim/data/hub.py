"""flwr-datasets, where it is installed: its partitioners share out our datasets too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from fedsim.data.dataset import Dataset
from fedsim.data.partitions import Parts, check_clients
from fedsim.errors import ExtraMissing, ScenarioError, nearest
from fedsim.rng import key


def hub(module: str = "flwr_datasets") -> ModuleType:
    """flwr-datasets, with its usage statistics switched off. ExtraMissing if it is not there."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when it is imported
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ExtraMissing("flwr-datasets is not installed: pip install 'fedsim-lab[hub]'") from error


@dataclass(frozen=True)
class FlowerPartitioner:
    """Any partitioner of flwr-datasets, by its name there, by a dotted path (`my_lab.parts:Mine`), or as an object.

    It sees a table of the training examples: `position`, `label` where labels are classes, `group` where examples have
    one by nature. If it takes `num_partitions`, `seed` or `partition_by` and `arguments` say nothing of them, they are
    the number of clients, a number that depends on the run's seed, and `label`. Not all of them give away every
    example, and some give none to somebody.
    """

    partitioner: Any
    arguments: Mapping[str, Any] | None = None
    """Of its constructor; None: no others."""
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """As it says. ScenarioError if it cannot, or has another number of parts."""
        check_clients(dataset, clients, smallest=0)
        found, table = self._made(clients, seed), hub("datasets").Dataset
        columns: dict[str, Any] = {"position": np.arange(len(dataset))}
        if dataset.has_classes:
            columns["label"] = dataset.y.numpy()
        if dataset.groups is not None:
            columns["group"] = dataset.groups
        try:
            found.dataset = table.from_dict(columns)
            if found.num_partitions != clients:
                raise ValueError(f"it has {found.num_partitions} parts, and there are {clients} clients")
            parts = [np.asarray(found.load_partition(client)["position"], np.int64) for client in range(clients)]
        except Exception as error:  # the library and those below it raise all kinds
            raise ScenarioError(f"partitioner {self._name}: {error}") from error
        return Parts([np.sort(part) for part in parts])

    @property
    def _name(self) -> str:
        return self.partitioner if isinstance(self.partitioner, str) else type(self.partitioner).__name__

    def _made(self, clients: int, seed: int) -> Any:
        """A partitioner that has no dataset yet."""
        table = hub("flwr_datasets.partitioner")
        if not isinstance(self.partitioner, str):
            return deepcopy(self.partitioner)
        module, _, name = self.partitioner.rpartition(":")
        try:
            kind = getattr(import_module(module) if module else table, name, None)
        except ImportError as error:
            raise ScenarioError(f"partitioner: cannot load {self.partitioner!r}: {error}") from None
        if kind is None:
            raise ScenarioError(f"partitioner: flwr-datasets has no {name!r}; {nearest(name, table.__all__)}")
        given = {"num_partitions": clients, "seed": key(seed, "partition") % 2**32, "partition_by": "label"}
        taken = {name: value for name, value in given.items() if name in signature(kind).parameters}
        try:
            return kind(**{**taken, **(self.arguments or {})})
        except (TypeError, ValueError) as error:
            raise ScenarioError(f"partitioner {name}: {error}") from error
