"""A step of an optimizer: by a kernel, where there is one for its rule and kernels run; else its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fedsim_kernels.adamw import adamw
from fedsim_kernels.language import launches
from fedsim_kernels.momentum import momentum
from fedsim_kernels.sgd import sgd
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

Group = Mapping[str, Any]
"""An optimizer's settings for some of its parameters."""
Rule = Callable[[Tensor, Group, dict[str, Any]], None]
"""Moves a parameter (K, *shape) along its gradient, and what is remembered of it."""


def step(optimizer: Optimizer) -> None:
    """One step. A parameter's first axis is that of clients, or any, as rules with kernels go by single numbers."""
    moved = [(tensor, group) for group in optimizer.param_groups for tensor in group["params"]]
    rules = [_rule(optimizer, tensor, group) for tensor, group in moved]
    if not all(rules):
        optimizer.step()
        return
    for (tensor, group), rule in zip(moved, rules, strict=True):
        if rule is not None and tensor.grad is not None:
            rule(tensor, group, optimizer.state[tensor])


def _rule(optimizer: Optimizer, tensor: Tensor, group: Group) -> Rule | None:
    """A kernel's, if it does what the optimizer would."""
    if not launches(tensor) or not tensor.is_contiguous() or not tensor.dim() or group.get("maximize"):
        return None
    if type(optimizer) is SGD and not group["dampening"]:
        return _momentum if group["momentum"] else _sgd
    decoupled = type(optimizer) is AdamW or (type(optimizer) is Adam and not group["weight_decay"])
    return _adamw if decoupled and not group["amsgrad"] else None


def _sgd(tensor: Tensor, group: Group, memory: dict[str, Any]) -> None:
    params, grads, rates, frozen = _given(tensor, group)
    sgd(params, grads, rates, frozen, group["weight_decay"])


def _momentum(tensor: Tensor, group: Group, memory: dict[str, Any]) -> None:
    params, grads, rates, frozen = _given(tensor, group)
    if memory.get("momentum_buffer") is None:
        memory["momentum_buffer"] = torch.zeros_like(tensor)
    buffers = _matrix(memory["momentum_buffer"])
    momentum(params, grads, buffers, rates, frozen, group["momentum"], group["weight_decay"], group["nesterov"])


def _adamw(tensor: Tensor, group: Group, memory: dict[str, Any]) -> None:
    params, grads, rates, frozen = _given(tensor, group)
    if not memory:
        memory |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}
    memory["step"] += 1
    first, second = _matrix(memory["exp_avg"]), _matrix(memory["exp_avg_sq"])
    count, betas, eps = int(memory["step"]), group["betas"], group["eps"]
    adamw(params, grads, first, second, rates, frozen, count, betas, eps, group["weight_decay"])


def _given(tensor: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parameters and gradients (K, P), everybody's rate, and that nothing is frozen."""
    assert tensor.grad is not None
    params, grads = _matrix(tensor.detach()), _matrix(tensor.grad)
    rates, frozen = params.new_full((len(params),), group["lr"]), torch.zeros_like(params[0], dtype=torch.bool)
    return params, grads, rates, frozen


def _matrix(tensor: Tensor) -> Tensor:
    """Numbers (K, P); a view of what is contiguous."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)
