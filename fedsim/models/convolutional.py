"""Models of images, (channels, height, width)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from fedsim.models.normalisation import BatchNorm, GhostNorm

Positive = Annotated[int, Field(ge=1)]


def cnn_mnist(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The MNIST CNN of McMahan et al., 2017 (section 3): two 5x5 convolutions with 2x2 pooling, 512 units.

    >>> sum(parameter.numel() for parameter in cnn_mnist((1, 28, 28), 10).parameters())
    1663370
    """
    channels, height, width = _image(shape, least=4)
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU()),
        nn.Linear(512, classes),
    )


def cnn_cifar(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The CIFAR CNN of McMahan et al., 2017, which they took from TensorFlow's tutorial: about 10^6 parameters.

    Two 5x5 convolutions of 64 channels, each with overlapping 3x3 pooling of stride 2; 384 and 192 units. The
    tutorial's local response normalisation, which has no parameters, is left out. The paper crops images to 24x24:

    >>> sum(parameter.numel() for parameter in cnn_cifar((3, 24, 24), 10).parameters())
    1068298
    """
    channels, height, width = _image(shape, least=1)
    quarter = ((height + 3) // 4) * ((width + 3) // 4)
    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)),
        nn.Flatten(),
        *(nn.Linear(64 * quarter, 384), nn.ReLU()),
        *(nn.Linear(384, 192), nn.ReLU()),
        nn.Linear(192, classes),
    )


def cnn_group(
    shape: tuple[int, ...],
    classes: int,
    channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 32),
    groups: Positive = 8,
) -> nn.Module:
    """A small CNN, for many clients on a CPU: 3x3 convolutions of stride 2 with GroupNorm and ReLU, one linear layer.

    Each of `channels` is a convolution that halves the image; strides do it instead of pooling, so that nothing is
    computed in vain. 5x5 took 1.1 to 1.3 times as long and was no better. ValueError if `groups` does not divide all
    `channels`.

    >>> sum(parameter.numel() for parameter in cnn_group((1, 28, 28), 10).parameters())
    20538
    """
    if any(wide % groups for wide in channels):
        raise ValueError(f"groups ({groups}) must divide channels {channels}")
    wide, height, width = _image(shape, least=1)
    layers: list[nn.Module] = []
    for out in channels:
        convolution = nn.Conv2d(wide, out, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(groups, out), nn.ReLU()]
        wide, height, width = out, (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * height * width, classes))


def cnn_plain(
    shape: tuple[int, ...],
    classes: int,
    channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8, 16, 4),
    kernel: Positive = 5,
    hidden: Positive = 256,
) -> nn.Module:
    """Convolutions without padding, stride or pooling, and two linear layers, with ReLU between.

    The default is the MNIST CNN of Krishnan, Ebrahimi and Khisti, Sequential Gradient Coding (ICLR 2023). ValueError if
    the convolutions leave nothing of the image.

    >>> sum(parameter.numel() for parameter in cnn_plain((1, 28, 28), 10).parameters())
    269998
    """
    wide, height, width = _image(shape, least=len(channels) * (kernel - 1) + 1)
    layers: list[nn.Module] = []
    for out in channels:
        layers += [nn.Conv2d(wide, out, kernel), nn.ReLU()]
        wide, height, width = out, height - kernel + 1, width - kernel + 1
    head = [nn.Linear(wide * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def resnet(
    shape: tuple[int, ...],
    classes: int,
    width: Positive = 16,
    blocks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 1, 1),
    groups: Positive = 8,
    norm: Literal["group", "batch", "ghost"] = "group",
    ghost: Annotated[int, Field(ge=2)] = 32,
) -> nn.Module:
    """A small residual network (He et al., 2016, section 4.2) with GroupNorm, as Hsieh et al., 2020, advise.

    Each stage halves the image and doubles the channels, which start at `width`; `blocks` counts the blocks a stage.
    With `norm: batch` it has BatchNorm whose statistics are estimated anew before each measurement (`normalisation`);
    with `norm: ghost` each `ghost` examples of a batch are normalised by their own.
    ValueError if `groups` does not divide `width`.
    """
    if width % groups:
        raise ValueError(f"groups ({groups}) must divide width ({width})")
    kinds = {"batch": BatchNorm, "ghost": partial(GhostNorm, ghost=ghost), "group": partial(nn.GroupNorm, groups)}
    normal = kinds[norm]
    channels, *_ = _image(shape, least=1)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False), normal(width)]
    layers.append(nn.ReLU())
    wide = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers.append(Residual(wide, width * 2**stage, stride, normal))
            wide = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, classes))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, wide, H, W) -> (B, out, H / stride, W / stride)."""

    def __init__(self, wide: int, out: int, stride: int, normal: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(wide, out, 3, stride, padding=1, bias=False), normal(out), nn.ReLU()),
            *(nn.Conv2d(out, out, 3, padding=1, bias=False), normal(out)),
        )
        same = stride == 1 and wide == out
        self.shortcut = nn.Identity() if same else nn.Conv2d(wide, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The branch's correction of the shortcut."""
        return (self.branch(x) + self.shortcut(x)).relu()


def _image(shape: tuple[int, ...], least: int) -> tuple[int, ...]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(f"this model needs images (channels, height, width), {least} pixels wide or more, not {shape}")
    return shape
