"""Triton ops, each beside its plain-torch reference."""

from fedsim_kernels import adamw, fedstale, momentum, sgd, weighted_sum
from fedsim_kernels.op import Op

OPS: dict[str, Op] = {
    "weighted_sum": weighted_sum.OP,
    "fedstale": fedstale.OP,
    "sgd": sgd.OP,
    "momentum": momentum.OP,
    "adamw": adamw.OP,
}
"""What the tests and the benchmark go through."""
