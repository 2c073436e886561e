"""Triton ops, each beside its plain-torch reference."""

from fedsim_kernels import (
    adamw,
    clip_and_noise,
    distances,
    dropout,
    fedstale,
    frugal,
    median,
    momentum,
    pgd,
    sgd,
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
}
"""What the tests and the benchmark go through."""
