"""Tests run on one thread each: two that wait for each other on a busy machine are slower than one."""

import torch

torch.set_num_threads(1)
