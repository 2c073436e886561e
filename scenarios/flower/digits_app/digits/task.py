"""The model, a client's data, and what is done with both."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def net() -> nn.Module:
    """A perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@cache
def everybodys() -> tuple[np.ndarray, np.ndarray]:
    """All examples: (n, 64), 0 to 16, and (n,)."""
    return load_digits(return_X_y=True)


def load(partition: int, partitions: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A client's own examples, for training (four fifths) and for testing."""
    x, y = everybodys()
    mine = np.random.default_rng(0).permutation(len(y))[partition::partitions]
    inputs, labels = torch.tensor(x[mine], dtype=torch.float32) / 16, torch.tensor(y[mine])
    cut = len(mine) * 4 // 5
    return inputs[:cut], labels[:cut], inputs[cut:], labels[cut:]


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float) -> float:
    """SGD in batches of 16; the mean loss."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=lr), []
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(16):
            loss = cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Loss and accuracy."""
    scores = model(x)
    return cross_entropy(scores, y).item(), (scores.argmax(1) == y).float().mean().item()
