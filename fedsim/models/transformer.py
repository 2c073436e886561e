"""A small transformer of text whose attention is full and sparse at once."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.models.attention import both, selected

Positive = Annotated[int, Field(ge=1)]
MODES = ("full", "sparse")
LOOKS = ("alignment", "dropped_mass", "entropy")
"""What the last of the further scores are: means over layers, of one example."""


class Attention(nn.Module):
    """Both attentions of the same queries, keys and values, under one sigmoid gate a head; one of them is passed on."""

    def __init__(self, width: int, heads: int, block: int, blocks: int) -> None:
        super().__init__()
        self.heads, self.block, self.blocks = heads, block, blocks
        self.norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.gate = nn.Linear(width, heads)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to h (B, T, width), by examples' modes (B,), True for sparse; and `LOOKS` (B, 3)."""
        given = self.norm(h)
        q, k, v = self.inputs(given).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        gate = self.gate(given).sigmoid().mT.unsqueeze(3)
        full, part, looks = both(q, k, v, gate, selected(q, k, self.block, self.blocks), self.block)
        passed = torch.where(sparse.view(-1, 1, 1, 1), part, full)
        return self.output(passed.transpose(1, 2).flatten(2)), torch.stack(looks, 1)


class Transformer(nn.Module):
    """Characters, and perhaps a mode before them, to scores of the next one at every position, and what attention does.

    Examples are (B, T), or (B, 1 + T) with the number of a mode in front (`MODES`). Of the scores (B, classes T + 3)
    the first `classes` are of what follows the last character, as a classifier's; further ones are of what follows the
    others, from the first on, and `LOOKS`.
    """

    def __init__(
        self, length: int, vocabulary: int, width: int, layers: int, heads: int, block: int, blocks: int, sparse: bool
    ) -> None:
        super().__init__()
        self.length, self.sparse = length, sparse
        self.characters, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.attentions = nn.ModuleList(Attention(width, heads, block, blocks) for _ in range(layers))
        self.networks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.scores = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    def forward(self, x: Tensor) -> Tensor:
        """All scores."""
        characters, looks = x[:, -self.length :], []
        sparse = x[:, 0] == 1 if x.shape[1] > self.length else torch.full_like(x[:, 0], self.sparse, dtype=torch.bool)
        h = self.characters(characters) + self.places.weight
        for attention, network in zip(self.attentions, self.networks, strict=True):
            change, found = attention(h, sparse)
            h = h + change
            h = h + network(h)
            looks.append(found)
        scores = self.scores(h).roll(1, dims=1)
        return torch.cat((scores.flatten(1), torch.stack(looks).mean(0)), 1)


def transformer(
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int,
    width: Positive = 48,
    layers: Positive = 2,
    heads: Positive = 4,
    block: Positive = 8,
    blocks: Positive = 3,
    inference: Literal["full", "sparse"] = "full",
) -> nn.Module:
    """A language model with full and block-sparse attention, of which `inference` says which one it is judged by.

    Sparse attention sees `blocks` blocks of `block` characters, the own one among them. Layers are normalised before,
    not after. The objective `sparse_attention` trains it.

    >>> sum(parameter.numel() for parameter in transformer((64,), 65, 65).parameters())
    66025
    """
    if len(shape) != 1 or not vocabulary:
        raise ValueError(f"this model needs text, sequences (length,) of tokens, not examples of shape {shape}")
    if classes != vocabulary:
        raise ValueError(f"this model tells the next character, one of {vocabulary}, not one of {classes} classes")
    if width % heads:
        raise ValueError(f"heads: a width of {width} cannot be shared among {heads}")
    return Transformer(*shape, vocabulary, width, layers, heads, block, blocks, sparse=inference == "sparse")
