"""Models of text: sequences of token numbers, (length,)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

Positive = Annotated[int, Field(ge=1)]


class NextToken(nn.Module):
    """Embedding, LSTM, and a linear layer on what the LSTM says after the last token: (B, length) -> (B, classes)."""

    def __init__(self, vocabulary: int, classes: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.scores = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each class."""
        said, _ = self.lstm(self.embedding(x))
        return self.scores(said[:, -1])


def char_lstm(
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int,
    embedding: Positive = 8,
    hidden: Positive = 256,
    layers: Positive = 2,
) -> nn.Module:
    """The next-character model for Shakespeare of McMahan et al., 2017: embedding of 8, two LSTM layers of 256.

    >>> sum(parameter.numel() for parameter in char_lstm((80,), 90, 90).parameters())
    822570
    """
    if len(shape) != 1 or not vocabulary:
        raise ValueError(f"this model needs text, sequences (length,) of tokens, not examples of shape {shape}")
    return NextToken(vocabulary, classes, embedding, hidden, layers)
