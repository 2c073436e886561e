"""What encoding and decoding cost: SRHT, CountSketch and the others on a large vector, over one copy of it.

python -m bench.wire [numbers]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from fedsim.wire import CODECS, Draw

CODECS_TRIED: dict[str, dict[str, float]] = {
    "none": {}, "float16": {}, "srht": {"ratio": 0.1}, "countsketch": {"ratio": 0.1}, "rand_k": {"ratio": 0.1},
    "top_k": {"ratio": 0.01}, "qsgd": {}, "sign": {}, "eden": {"bits": 1},
}  # fmt: skip
RUNS = 5


def seconds(action: Callable[[], object]) -> float:
    """Of one call: the median of several, after one that does not count."""
    action()
    times = []
    for _ in range(RUNS):
        began = perf_counter()
        action()
        times.append(perf_counter() - began)
    return median(times)


def main() -> None:
    """A table, a line a codec; copies and codecs take turns in one process, on one thread."""
    torch.set_num_threads(1)
    size = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**7
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
    target = torch.empty_like(vector)
    print(f"{size} numbers, {torch.__version__}, one thread; medians of {RUNS}")
    print(f"{'codec':<12} {'bytes':>11} {'encode ms':>10} {'decode ms':>10} {'copy ms':>8} {'both / copy':>11}")
    for name, arguments in CODECS_TRIED.items():
        show(name, arguments, vector, target)


def show(name: str, arguments: dict[str, float], vector: Tensor, target: Tensor) -> None:
    """One line."""
    codec, draw = CODECS[name](**arguments), Draw(0, 1)
    message = codec.encode(vector, draw)
    copy = seconds(lambda: target.copy_(vector))
    encode, decode = (
        seconds(lambda: codec.encode(vector, draw)),
        seconds(lambda: codec.decode(message, len(vector), draw)),
    )
    times = " ".join(f"{1e3 * each:>10.1f}" for each in (encode, decode))
    print(f"{name:<12} {codec.nbytes(len(vector)):>11,} {times} {1e3 * copy:>8.1f} {(encode + decode) / copy:>11.1f}")


if __name__ == "__main__":
    main()
