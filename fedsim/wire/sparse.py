"""The largest numbers alone."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim_kernels.language import launches
from fedsim_kernels.top_k import top_k
from torch import Tensor

from fedsim.wire.codec import FLOAT, INDEX, Codec, Draw, Message, Ratio


@dataclass(frozen=True, kw_only=True)
class TopK(Codec):
    """The `ratio` d largest numbers, with their places; what is left stays with the client for the next message.

    Stich, Cordonnier and Jaggi, Sparsified SGD with Memory (NeurIPS 2018).
    """

    ratio: Ratio
    feedback: bool = True  # type: ignore[misc]

    def kept(self, size: int) -> int:
        """K."""
        return max(1, round(self.ratio * size))

    def nbytes(self, size: int) -> int:
        """A number and its place each."""
        return (FLOAT + INDEX) * self.kept(size)

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """Numbers and places, in the order of places."""
        if launches(vector):
            values, places = top_k(vector[None], self.kept(len(vector)))
            return values[0], places[0]
        places = vector.abs().topk(self.kept(len(vector))).indices.sort().values
        return vector[places].float(), places.int()

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """Zero elsewhere."""
        values, places = message
        return values.new_zeros(size).index_copy_(0, places.long(), values)
