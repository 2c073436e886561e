"""How fast the kernels are: bytes a second beside a copy's, and beside their references in eager torch and compiled.

Run by `python kernels/bench.py [folder] [op ...]`. Every op has to keep its laws before it is timed; one that does not
is named and left out, and the exit code is 1. `fraction` is of what a copy of as many bytes achieves here, which is
measured first; bytes are those that have to be moved at least. Medians of Triton's `do_bench`. The folder, `figures` if
none is named, gets kernels.csv and kernels.png. Without a GPU all is checked in Triton's interpreter and nothing timed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when it is imported, below

import pandas as pd
from fedsim_kernels import OPS
from fedsim_kernels.language import triton
from fedsim_kernels.laws import broken
from fedsim_kernels.op import Op
from torch import Generator, Tensor

COPIED = 2**28
"""Bytes of the copy that is the ceiling; as many are read as written."""


def main(folder: str = "figures", *names: str) -> None:
    """Check, then time."""
    if triton is None:
        sys.exit("Triton is not installed: pip install 'fedsim-lab[kernels]'")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sound = {name: OPS[name] for name in names or OPS if checked(name, device)}
    if device == "cpu":
        print("there is no GPU: nothing is timed")
    elif sound:
        written(table(sound), Path(folder))
    sys.exit(len(sound) < len(names or OPS))


def checked(name: str, device: str) -> bool:
    """Whether an op keeps its laws; says so."""
    wrong = broken(OPS[name], device)
    print(f"{name:16}", *(f"breaks {law}: {how}" for law, how in wrong.items()) if wrong else ("holds",))
    return not wrong


def table(ops: dict[str, Op]) -> pd.DataFrame:
    """A row for each op."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device="cuda")
    ceiling = 2 * COPIED / seconds(torch.empty_like(source).copy_, source)
    return pd.DataFrame([row(name, op, ceiling) for name, op in ops.items()])


def row(name: str, op: Op, ceiling: float) -> dict[str, Any]:
    """An op's times."""
    made = op.inputs(*op.timed, Generator().manual_seed(0))
    given = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in made.items()}
    kernel, eager, compiled = (seconds(way, **given) for way in (op.kernel, op.reference, torch.compile(op.reference)))
    rate = op.moved(**given) / kernel
    return {"op": name, "device": torch.cuda.get_device_name(), "rows": op.timed[0], "size": op.timed[1],
            "seconds": kernel, "bytes_a_second": rate, "copy": ceiling, "fraction": rate / ceiling,
            "times_eager": eager / kernel, "times_compiled": compiled / kernel}  # fmt: skip


def seconds(function: Callable[..., Any], *args: Any, **given: Any) -> float:
    """The median of many calls."""
    return triton.testing.do_bench(lambda: function(*args, **given), return_mode="median") / 1000


def written(found: pd.DataFrame, folder: Path) -> None:
    """The table, printed, and its two files."""
    import matplotlib.pyplot as plt

    print(found.to_string(index=False))
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / "kernels.csv", index=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
    left.barh(found["op"], found["fraction"])
    left.set(xlabel="bytes a second, of a copy's", title=found["device"][0])
    left.invert_yaxis()
    right.plot(found["times_eager"], found["op"], "o", label="eager")
    right.plot(found["times_compiled"], found["op"], "s", label="compiled")
    right.set(xlabel="the reference's time, of the kernel's", xscale="log")
    right.legend()
    for axes in (left, right):
        axes.axvline(1, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(folder / "kernels.png", dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
