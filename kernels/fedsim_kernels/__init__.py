"""Triton ops, each beside its plain-torch reference."""

from fedsim_kernels import (
    adamw,
    clip_and_noise,
    dropout,
    fedstale,
    frugal,
    low_rank_product,
    momentum,
    pgd,
    sgd,
    sparse_attention,
    stacked_layer,
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
    "low_rank_product": low_rank_product.OP,
    "sparse_attention": sparse_attention.OP,
    "stacked_layer": stacked_layer.OP,
}
"""What the tests and the benchmark go through."""
