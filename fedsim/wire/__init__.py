"""What travels between clients and server: codecs, clipping, noise, and the ledger of what they disclose."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.wire.codec import Codec, Draw, Message, Plain, serialised
from fedsim.wire.low_rank import PowerSGD
from fedsim.wire.privacy import Adaptive, Clip, Flat, PerLayer
from fedsim.wire.quantised import QSGD, Float16, Sign
from fedsim.wire.rotated import EDEN
from fedsim.wire.sketches import SRHT, CountSketch, Gaussian, Rademacher, RandK
from fedsim.wire.sparse import TopK

CODECS: dict[str, Callable[..., Codec]] = {
    "none": Plain,
    "float16": Float16,
    "gaussian": Gaussian,
    "rademacher": Rademacher,
    "countsketch": CountSketch,
    "srht": SRHT,
    "rand_k": RandK,
    "top_k": TopK,
    "qsgd": QSGD,
    "sign": Sign,
    "power_sgd": PowerSGD,
    "eden": EDEN,
}

CLIPS: dict[str, Callable[..., Clip]] = {"flat": Flat, "per_layer": PerLayer, "adaptive": Adaptive}

__all__ = ["CLIPS", "CODECS", "Clip", "Codec", "Draw", "Message", "Plain", "serialised"]
