"""How fast the kernels are: beside what the card can do, and beside their references in eager torch and compiled.

Run by `python kernels/bench.py [folder] [op ...]`. Every op has to keep its laws before it is timed; one that does not
is named and left out, and the exit code is 1. `fraction` is of what the card achieves, measured first: bytes a second
of a copy, or sums and products a second of a product of matrices, whichever limits the op (`limit`). Bytes are those
that have to be moved at least. Medians of Triton's `do_bench`. The folder, `figures` if none is named, gets kernels.csv
as rows come in, and kernels.png. Without a GPU all is checked in Triton's interpreter and nothing timed.

What is wanted was written down before anything was timed: where more than 100 MB limit an op, its fraction (`Op`) and
not to be slower than compiled torch; and to beat its rival so many times.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import inf, nan
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when it is imported, below

import pandas as pd
from fedsim_kernels import OPS
from fedsim_kernels.language import triton
from fedsim_kernels.laws import broken
from fedsim_kernels.op import Inputs, Op
from torch import Generator, Tensor

COPIED = 2**30
"""Bytes of the copy that is the ceiling; as many are read as written."""
WIDTH = 8192
"""Of the matrices whose product is the ceiling."""
LARGE = 100e6
"""Bytes from which on launching a kernel does not count, and caches do not help."""
ABREAST = 6
"""Processes that check and compile; what they compile is found again in the caches of Triton and torch."""


def main(folder: str = "figures", *names: str) -> None:
    """Check and compile abreast, then time one after another."""
    if triton is None:
        sys.exit("Triton is not installed: pip install 'fedsim-lab[kernels]'")
    names = names or tuple(OPS)
    with ProcessPoolExecutor(min(ABREAST, os.cpu_count() or 1, len(names)), get_context("spawn")) as abreast:
        wrong = dict(zip(names, abreast.map(prepared, names), strict=True))
    for name, laws in wrong.items():
        print(f"{name:18}", *(f"breaks {law}: {how}" for law, how in laws.items()) if laws else ("holds",))
    sound = [name for name in names if not wrong[name]]
    if not torch.cuda.is_available():
        print("there is no GPU: nothing is timed")
    elif sound:
        timed(sound, Path(folder))
    sys.exit(len(sound) < len(names))


def prepared(name: str) -> dict[str, str]:
    """Which laws an op breaks; if none, its reference is compiled."""
    wrong = broken(OPS[name], "cuda" if torch.cuda.is_available() else "cpu")
    if not wrong and torch.cuda.is_available():
        others(torch.compile(OPS[name].reference), given(OPS[name]))
    return wrong


def given(op: Op) -> Inputs:
    """The arguments that it is timed on."""
    made = op.inputs(*op.timed, Generator().manual_seed(0))
    return {key: value.cuda() if isinstance(value, Tensor) else value for key, value in made.items()}


def seconds(function: Callable[..., Any], arguments: Inputs) -> float:
    """The median of many calls."""
    return triton.testing.do_bench(lambda: function(**arguments), return_mode="median") / 1000


def others(function: Callable[..., Any], arguments: Inputs) -> float:
    """As `seconds`, of what need not fit on the card, nor be compiled: then there is none, and why is told."""
    try:
        return seconds(function, arguments)
    except RuntimeError as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        torch.cuda.empty_cache()
        return nan


def timed(names: Sequence[str], folder: Path) -> None:
    """The table, row by row, and its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    card, rows = ceilings(), []
    print(torch.cuda.get_device_name(), *(f"{what} {most:.3g} a second" for what, most in card.items()), sep=", ")
    for name in names:
        rows.append(row(name, OPS[name], card))
        print("  ".join(f"{key} {told(value)}" for key, value in rows[-1].items() if key != "device"), flush=True)
        pd.DataFrame(rows).to_csv(folder / "kernels.csv", index=False)
    draw(pd.DataFrame(rows), folder / "kernels.png")


def told(value: Any) -> str:
    """Numbers to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ceilings() -> dict[str, float]:
    """What the card achieves in a second: bytes of a copy, and sums and products of matrices' products by type."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device="cuda")
    into = torch.empty_like(source)
    found = {"bytes": 2 * COPIED / seconds(into.copy_, {"src": source})}
    for kind in (torch.float32, torch.float64):
        one, other = torch.randn(2, WIDTH, WIDTH, dtype=kind, device="cuda")
        found[str(kind)] = 2 * WIDTH**3 / seconds(torch.mm, {"input": one, "mat2": other})
    return found


def row(name: str, op: Op, card: dict[str, float]) -> dict[str, Any]:
    """An op's times, and what they are worth."""
    arguments = given(op)
    moved, flops = op.moved(**arguments), op.flops(**arguments) if op.flops else 0
    floors = {"bytes": moved / card["bytes"], "flops": flops / card[str(op.computes)]}
    limit = max(floors, key=lambda each: floors[each])
    kernel = seconds(op.kernel, arguments)
    ways = {"eager": op.reference, "compiled": torch.compile(op.reference)}
    times = {f"times_{way}": others(run, arguments) / kernel for way, run in ways.items()}
    found = {"op": name, "device": torch.cuda.get_device_name(), "rows": op.timed[0], "size": op.timed[1],
             "seconds": kernel, "bytes": moved, "flops": flops, "limit": limit, "fraction": floors[limit] / kernel,
             **times, "rival": op.rival.name if op.rival else "",
             "times_rival": others(op.rival.run, arguments) / kernel if op.rival else nan}  # fmt: skip
    return {**found, "verdict": verdict(found, op)}


def verdict(found: dict[str, Any], op: Op) -> str:
    """PASS, FAIL, or INCONCLUSIVE where a rival does not fit on the card; nothing where nothing was wanted."""
    wanted = {"times_rival": op.rival.times} if op.rival else {}
    if found["limit"] == "bytes" and found["bytes"] > LARGE:
        wanted |= {"fraction": op.fraction, "times_compiled": 1.0}
    if any(found[key] < bound for key, bound in wanted.items()):
        return "FAIL"
    if any(not -inf < found[key] < inf for key in wanted):
        return "INCONCLUSIVE"
    return "PASS" if wanted else ""


def draw(found: pd.DataFrame, path: Path) -> None:
    """What share of the card each op has, and how long others take."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.25 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = ["tab:blue" if limit == "bytes" else "tab:orange" for limit in found["limit"]]
    left.barh(found["op"], found["fraction"], color=colours)
    left.set(xlabel="of a copy's bytes a second (orange: a matrix product's flops)", title=found["device"].iloc[0])
    left.invert_yaxis()
    for key, marker in (("eager", "o"), ("compiled", "s"), ("rival", "*")):
        right.plot(found[f"times_{key}"], found["op"], marker, label=key)
    right.set(xlabel="their time, of the kernel's", xscale="log")
    right.legend()
    for axes in (left, right):
        axes.axvline(1, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
