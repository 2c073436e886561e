"""Steps that can be taken back, client by client, with what the optimizer remembers of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer


class Retake:
    """How K clients' models and their optimizer's memory, of one row a client, stood before a step."""

    def __init__(self, optimizer: Optimizer, params: Mapping[str, Tensor]) -> None:
        """`params` are what the optimizer moves, name -> (K, *shape)."""
        self.optimizer, self.params = optimizer, params
        self.models = {name: tensor.clone() for name, tensor in params.items()}
        self.memories = {name: {key: value.clone() for key, value in self._rows(tensor).items()}
                         for name, tensor in params.items()}  # fmt: skip

    def before(self, client: int, name: str) -> Tensor:
        """A parameter of a client as it was."""
        return self.models[name][client]

    def undo(self, client: int) -> None:
        """It has taken no step."""
        for name, tensor in self.params.items():
            tensor[client] = self.models[name][client]
            for key, rows in self._rows(tensor).items():
                before = self.memories[name].get(key)
                rows[client] = 0 if before is None else before[client]

    def restart(self, client: int, model: Mapping[str, Tensor]) -> None:
        """It has these parameters, by name, and its optimizer remembers nothing."""
        for name, tensor in self.params.items():
            tensor[client] = model.get(name, tensor[client])
            for rows in self._rows(tensor).values():
                rows[client] = 0

    def _rows(self, tensor: Tensor) -> dict[str, Tensor]:
        memory = self.optimizer.state.get(tensor, {})
        return {key: value for key, value in memory.items()
                if isinstance(value, Tensor) and value.shape == tensor.shape}  # fmt: skip
