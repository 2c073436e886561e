"""Compiles every kernel for a GPU that is not there; `python -m fedsim_kernels.compiling` prints what fails, as JSON.

The interpreter knows more Python than the compiler does: what it runs may still not compile. Nor does it know how many
registers there are: what does not fit there lies in memory, and is read and written again and again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Generator

from fedsim_kernels import OPS
from fedsim_kernels.language import triton
from fedsim_kernels.op import Op

SHAPES = ((1, 1), (3, 2311), (2, 4096))
"""A kernel is compiled anew where a size is 1, or divisible by 16; the last is tried as what is timed is."""


class Absent:
    """As much of Triton's driver of an NVIDIA H100 as compiling asks for."""

    def get_current_target(self) -> Any:
        """Compute capability 9.0, 32 threads a warp."""
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """None in particular."""
        return device


def unfit(op: Op) -> str | None:
    """Why an op's kernels do not compile, or which registers' bytes they spill, those of its gradients too."""
    kernels, compiled = triton.runtime.jit.JITFunction, []
    run = kernels.run

    def compile_only(kernel: Any, *args: Any, **options: Any) -> None:
        compiled.append(run(kernel, *args, **{**options, "warmup": True}))

    with patch.object(kernels, "run", compile_only):
        try:
            for shape in SHAPES:
                given = op.inputs(*shape, Generator().manual_seed(1))
                for name in op.differentiable:
                    given[name].requires_grad_()
                result = op.kernel(**given)
                for leaf in [result] if isinstance(result, torch.Tensor) else result or ():
                    if leaf.requires_grad:
                        leaf.sum().backward(retain_graph=True)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    if not compiled:
        return "there was nothing to compile"
    spills = {one.name: spilled(one.asm["ptx"]) for one in compiled}
    return ", ".join(f"{name} spills {count} bytes" for name, count in spills.items() if count) or None


def spilled(ptx: str) -> int:
    """Bytes that a program's threads write to memory, each, as they have no register for them."""
    assembler, target = triton.knobs.nvidia.ptxas.path, re.findall(r"\.target (\w+)", ptx)[0]
    with TemporaryDirectory() as folder:
        source, binary = Path(folder, "ptx"), Path(folder, "cubin")
        source.write_text(ptx)
        command = [assembler, "-v", f"--gpu-name={target}", source, "-o", binary]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.findall(r"(\d+) bytes spill stores", told)[0])


if __name__ == "__main__":
    triton.runtime.driver.set_active(Absent())
    json.dump({name: unfit(op) for name, op in OPS.items()}, sys.stdout)
