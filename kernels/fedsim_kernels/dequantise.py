"""Steps times their bucket's norm."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024


@torch.no_grad()
def dequantise(norms: Tensor, steps: Tensor, levels: int, bucket: int) -> Tensor:
    """What `quantise` has made steps uint8 (K, P) and norms (K, buckets) of, rounded, in the norms' type: (K, P).

    As `fedsim.wire.quantised.QSGD`, once it has unpacked.
    """
    return picked(kernel, reference, norms)(norms, steps, levels, bucket)


def reference(norms: Tensor, steps: Tensor, levels: int, bucket: int) -> Tensor:
    """In plain torch."""
    each = norms.repeat_interleave(bucket, dim=1)[:, : steps.shape[1]]
    return (steps.to(norms.dtype) - levels) / levels * each


def kernel(norms: Tensor, steps: Tensor, levels: int, bucket: int) -> Tensor:
    """One pass."""
    (clients, size), out = steps.shape, norms.new_empty(steps.shape)
    if out.numel():
        _scale[(pieces(size, BLOCK), clients)](norms, steps, out, size, levels, bucket, *norms.stride(),
                                               *steps.stride(), out.stride(0), BLOCK, num_warps=8)  # fmt: skip
    return out


@jit
def _scale(norms, steps, out, size, levels, bucket, norm_row_step, norm_step, step_row_step, step_step, out_row_step,
           BLOCK: constexpr):  # fmt: skip
    first, within = tl.program_id(0).to(tl.int64) * BLOCK, tl.arange(0, BLOCK)
    client, places, inside = tl.program_id(1).to(tl.int64), first + within, first + within < size
    step = tl.load(steps + client * step_row_step + places * step_step, mask=inside, other=0).to(tl.float32)
    number = first // bucket + ((first % bucket).to(tl.int32) + within) // bucket  # one long division, not one each
    norm = tl.load(norms + client * norm_row_step + number * norm_step, mask=inside, other=0.0)
    tl.store(out + client * out_row_step + places, tl.div_rn(step - levels, levels * 1.0) * norm, mask=inside)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Norms, and all steps; of great ones in buckets like the codec's."""
    bucket = 100 if size < 4000 else 512
    norms = torch.rand(clients, pieces(size, bucket), generator=chance)
    return {"norms": norms, "steps": torch.randint(15, (clients, size), generator=chance).to(torch.uint8),
            "levels": 7, "bucket": bucket}  # fmt: skip


OP = Op(
    pick=dequantise,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda norms, steps, levels, bucket: norms.nbytes + steps.nbytes + steps.numel() * norms.element_size(),
    rowwise=("norms", "steps"),
)
