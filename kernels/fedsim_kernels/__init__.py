"""Triton ops, each beside its plain-torch reference."""

from fedsim_kernels import (
    adamw,
    clip_and_noise,
    count_estimate,
    count_table,
    distances,
    dropout,
    fedstale,
    frugal,
    hadamard,
    median,
    momentum,
    pgd,
    sgd,
    srht,
    srht_lift,
    trimmed_mean,
    weighted_sum,
)
from fedsim_kernels.op import Op

OPS: dict[str, Op] = {
    "weighted_sum": weighted_sum.OP,
    "fedstale": fedstale.OP,
    "sgd": sgd.OP,
    "momentum": momentum.OP,
    "adamw": adamw.OP,
    "frugal": frugal.OP,
    "clip_and_noise": clip_and_noise.OP,
    "pgd_linf": pgd.OP,
    "pgd_l2": pgd.OP_L2,
    "dropout": dropout.OP,
    "median": median.OP,
    "trimmed_mean": trimmed_mean.OP,
    "distances": distances.OP,
    "hadamard": hadamard.OP,
    "srht": srht.OP,
    "srht_lift": srht_lift.OP,
    "count_table": count_table.OP,
    "count_estimate": count_estimate.OP,
}
"""What the tests and the benchmark go through."""
