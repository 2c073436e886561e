"""Tests run on one thread each: two that wait for each other on a busy machine are slower than one."""

import torch

torch.set_num_threads(1)

collect_ignore_glob = ["flower_apps/*"]
"""Apps are loaded as Flower loads them, and have no doctests."""
