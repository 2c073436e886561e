"""Triton ops, each beside its plain-torch reference."""

from fedsim_kernels import weighted_sum
from fedsim_kernels.op import Op

OPS: dict[str, Op] = {
    "weighted_sum": weighted_sum.OP,
}
"""What the tests and the benchmark go through."""
