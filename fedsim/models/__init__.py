"""What is learned: modules without buffers that training would change, and what they cost.

Every member of `MODELS` is given `shape` (of one example) and `classes` (how many scores to give: of a regression, the
coordinates of a label), text models also `vocabulary`. The rest is YAML.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from fedsim import rng
from fedsim.errors import ScenarioError, told
from fedsim.models.binary import binary_mlp
from fedsim.models.convolutional import cnn_cifar, cnn_group, cnn_mnist, cnn_plain, resnet
from fedsim.models.dense import logistic, mlp, two_layer_relu
from fedsim.models.gan import gan
from fedsim.models.low_rank import low_rank
from fedsim.models.text import char_lstm
from fedsim.models.transformer import transformer
from fedsim.vector import Layout

MODELS: dict[str, Callable[..., nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "binary_mlp": binary_mlp,
    "gan": gan,
    "cnn_mnist": cnn_mnist,
    "cnn_cifar": cnn_cifar,
    "cnn_group": cnn_group,
    "cnn_plain": cnn_plain,
    "resnet": resnet,
    "two_layer_relu": two_layer_relu,
    "low_rank": low_rank,
    "char_lstm": char_lstm,
    "transformer": transformer,
}


def check_trainable(module: nn.Module) -> None:
    """ValueError if a client's result would depend on more than parameters and batches."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"{module!r} is no torch.nn.Module")
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) or getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__name__}, whose averages nobody shares; use "
                "GroupNorm, or fedsim.models.normalisation.BatchNorm"
            )
        if isinstance(layer, _DropoutNd) or (isinstance(layer, nn.RNNBase) and layer.dropout):
            raise ValueError(f"layer {name!r} drops units at random, which is not supported yet; remove it")
    if not all([parameter.requires_grad for parameter in module.parameters()] or [False]):
        raise ValueError("the model has no parameters, or frozen ones, which is not supported yet")
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"parameter {name!r} is of {parameter.dtype}, not of torch.float32")


def check_scores(module: nn.Module, examples: Tensor) -> None:
    """ValueError unless a module gives scores (B, outputs) of examples (B, *shape), the same whenever it is asked."""
    asked = examples.clone()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            scores, again = module(asked), module(asked)
    except Exception as error:
        kind = f"{tuple(examples.shape[1:])} of {examples.dtype}"
        raise ValueError(f"it cannot take examples of shape {kind}: {told(error)}") from None
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(examples):
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"of {len(examples)} examples it gives {given}, where scores (B, outputs) are read")
    if not torch.equal(asked, examples):
        raise ValueError("it changes the examples that it is given, which others learn from too")
    if not torch.equal(scores, again) and not scores.isnan().any():
        raise ValueError("it gives other scores each time: what it draws at random is not supported yet; remove it")


def initial_params(build: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, Tensor]:
    """Build a module and its start (P,) from the stream `(seed, "model")`; torch's global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.key(seed, "model") % 2**63)
        module = build()
    check_trainable(module)
    return module, Layout.of(module).flatten(module)


def training_flops(module: nn.Module, example: Tensor) -> float:
    """FLOPs of training on one example (1, *shape), forward and backward; a multiplication with an addition is two.

    Counts products of matrices and convolutions, as torch does, on the meta device: nothing is computed. There an LSTM
    falls apart into its products, so it is counted exactly too. ScenarioError if the model needs numbers to know what
    it does.
    """
    twin = copy.deepcopy(module).to("meta")
    try:
        with FlopCounterMode(display=False) as counter:
            twin(example.to("meta")).sum().backward()
    except Exception as error:
        why = "its FLOPs are counted on torch's meta device, where there are no numbers, and there it fails"
        raise ScenarioError(f"model: {why}: {told(error)}") from None
    return float(counter.get_total_flops())
