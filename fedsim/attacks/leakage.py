"""Gradient leakage: a client's examples, reconstructed from the message that it sends.

The attacker is an honest but curious server: it knows the model, the parameters that the client started from and, where
messages are sketched, the seed of the sketch, hence the operator. It looks for examples whose message is the one seen.

A low loss is not recovery: where a message has fewer numbers than an example and its label have free values, others
match just as well. `psnr` tells, which needs the true example. Nor are few numbers protection: of all that match, a
prior may single out the true one. 48 numbers give digits of 64 pixels away to `InvertingGradients`, not to `DLG`: it
knows the range of values, and many pixels lie at its end.

Examples are floats, losses cross-entropy, sketches take float64. Where clients send the change of one step of SGD, the
caller divides it by minus the learning rate first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedsim.rng import stream
from fedsim.vector import Layout

TRIED = 10
"""With more classes than this, labels are not tried one after the other."""


def plain(gradient: Tensor) -> Tensor:
    """The sketch that sketches nothing."""
    return gradient


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What an eavesdropper sees of one message, and what it knows.

    Args:
        model: what is trained.
        layout: of its parameters.
        params: where the client started, (P,).
        message: what travelled, (b,): the sketch of the gradient of the mean cross-entropy of the batch.
        shape: of one example.
        classes: how many there are.
        batch: B, how many examples the client used.
        sketch: the linear operator (P,) -> (b,) between gradient and message, differentiable.
        adjoint: its transpose (b,) -> (P,), scaled so that it estimates the gradient without bias, if there is one.
        labels: of the batch, int64 (B,), where the attacker knows them.
    """

    model: nn.Module
    layout: Layout
    params: Tensor
    message: Tensor
    shape: tuple[int, ...]
    classes: int
    batch: int = 1
    sketch: Callable[[Tensor], Tensor] = plain
    adjoint: Callable[[Tensor], Tensor] | None = None
    labels: Tensor | None = None

    def gradient(self, x: Tensor, chances: Tensor) -> Tensor:
        """Of the mean loss, (P,), for examples (B, *shape) and labels (B, classes) that sum to 1; differentiable."""
        params = self.params.detach().double().requires_grad_()
        scores = functional_call(self.model, self.layout.unflatten(params), (x,))
        return torch.autograd.grad(functional.cross_entropy(scores, chances), params, create_graph=True)[0]

    def sent(self, x: Tensor, chances: Tensor) -> Tensor:
        """The message (b,) that a client with these examples would send, see `gradient`."""
        return self.sketch(self.gradient(x.double(), chances.double()))

    def mismatch(self, x: Tensor, chances: Tensor) -> Tensor:
        """The squared distance of their message from the one seen, as a share of the squared norm of that one."""
        return (self.sent(x, chances) - self.message).square().sum() / self.message.double().square().sum()

    def one_hot(self, labels: Tensor) -> Tensor:
        """Labels (B,) as chances (B, classes)."""
        return functional.one_hot(labels, self.classes).double()

    def noise(self, seed: int, attempt: int, *sizes: int) -> Tensor:
        """Where a search starts: standard normal (B, *sizes), at the address of this attempt."""
        drawn = stream(seed, "leakage", attempt, sizes).standard_normal((self.batch, *sizes))
        return torch.from_numpy(drawn).to(self.params.device).requires_grad_()


@dataclass(frozen=True)
class Reconstruction:
    """What an attack found.

    Attributes:
        x: examples, float64 (B, *shape), in any order.
        y: their labels, int64 (B,).
        loss: how badly their message matches at the end: `Sight.mismatch`, or an attack's own measure. Low is not
            recovered: where b is smaller than the number of free values, other inputs match as well.
        steps: of the attempt that matched best.
    """

    x: Tensor
    y: Tensor
    loss: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for the batch behind a message: at most `iterations` steps from each of `restarts` random starts."""

    iterations: int = 300
    restarts: int = 3

    @abstractmethod
    def attempts(self, sight: Sight, seed: int) -> Iterable[Reconstruction]:
        """What comes of each start."""

    def run(self, sight: Sight, seed: int) -> Reconstruction:
        """The attempt that matches best; the same for the same seed."""
        return min(self.attempts(sight, seed), key=lambda found: math.inf if math.isnan(found.loss) else found.loss)


class DLG(Attack):
    """Deep leakage from gradients: examples and soft labels at once, by L-BFGS.

    Zhu, Liu and Han (Deep Leakage from Gradients, NeurIPS 2019); here a line search chooses the steps. The objective
    has to be smooth: of 40 starts with digits and a 64-16-10 network 40 succeeded with sigmoid, 30 tanh, 19 ReLU.
    """

    def attempts(self, sight: Sight, seed: int) -> Iterable[Reconstruction]:
        """See `Attack`."""
        for attempt in range(self.restarts):
            x, logits = sight.noise(seed, attempt, *sight.shape), sight.noise(seed, attempt, sight.classes)
            loss, steps = descend(lambda x, y: sight.mismatch(x, y.softmax(1)), [x, logits], self.iterations)
            yield Reconstruction(x.detach(), logits.argmax(1), loss, steps)


class IDLG(Attack):
    """Improved deep leakage: first the label, then the example alone, by L-BFGS as in `DLG`.

    Zhao, Mopuri and Bilen (iDLG: Improved Deep Leakage from Gradients, 2020). Each of `possible_labels` is tried.
    """

    def attempts(self, sight: Sight, seed: int) -> Iterable[Reconstruction]:
        """See `Attack`; ValueError as `possible_labels`."""
        for labels in possible_labels(sight):
            chances = sight.one_hot(labels)
            for attempt in range(self.restarts):
                x = sight.noise(seed, attempt, *sight.shape)
                loss, steps = descend(lambda x, y=chances: sight.mismatch(x, y), [x], self.iterations)
                yield Reconstruction(x.detach(), labels, loss, steps)


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(Attack):
    """The direction of the gradient alone, and smooth images: cosine distance + total variation, by signed Adam.

    Geiping, Bauermeister, Dröge and Moeller (Inverting Gradients: How Easy Is It to Break Privacy in Federated
    Learning?, NeurIPS 2020). The learning rate `lr` falls to a tenth after 3/8, 5/8 and 7/8 of the iterations. Values
    stay between `low` and `high`. The loss is the cosine distance, from 0 to 2. Labels as in `IDLG`.
    """

    iterations: int = 4800
    restarts: int = 1
    lr: float = 0.1
    total_variation: float = 1e-4
    low: float = 0.0
    high: float = 1.0

    def attempts(self, sight: Sight, seed: int) -> Iterable[Reconstruction]:
        """See `Attack`; ValueError as `possible_labels`."""
        for labels in possible_labels(sight):
            for attempt in range(self.restarts):
                x = sight.noise(seed, attempt, *sight.shape)
                distance = self._search(sight, x, sight.one_hot(labels))
                yield Reconstruction(x.detach(), labels, distance, self.iterations)

    def _search(self, sight: Sight, x: Tensor, chances: Tensor) -> float:
        """Moves x in place; the distance at the end."""
        optimizer = torch.optim.Adam([x], lr=self.lr)
        falls = [self.iterations * eighths // 8 for eighths in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, gamma=0.1)
        for _ in range(self.iterations):
            objective = _angle(sight, x, chances) + self.total_variation * total_variation(x)
            x.grad = torch.autograd.grad(objective, x)[0].sign()
            optimizer.step()
            schedule.step()
            x.data.clamp_(self.low, self.high)
        return _angle(sight, x, chances).item()


def _angle(sight: Sight, x: Tensor, chances: Tensor) -> Tensor:
    """The cosine distance between their message and the one seen."""
    return 1 - functional.cosine_similarity(sight.sent(x, chances), sight.message.double(), dim=0)


def descend(objective: Callable[..., Tensor], free: Sequence[Tensor], iterations: int) -> tuple[float, int]:
    """Minimises objective(*free) in place by L-BFGS with a line search; the last value, and how many steps it took."""
    optimizer = torch.optim.LBFGS(
        free, max_iter=iterations, max_eval=4 * iterations, tolerance_grad=1e-12, tolerance_change=1e-14,
        history_size=100, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def value() -> Tensor:
        loss = objective(*free)
        for tensor, slope in zip(free, torch.autograd.grad(loss, free), strict=True):
            tensor.grad = slope
        return loss.detach()

    optimizer.step(value)
    return objective(*free).item(), optimizer.state[free[0]]["n_iter"]


def total_variation(x: Tensor) -> Tensor:
    """How much neighbours along the last two axes of an example differ, per value of x (B, *shape)."""
    return sum((x.diff(dim=axis).abs().sum() for axis in range(1, x.dim())[-2:]), x.new_zeros(())) / x.numel()


def possible_labels(sight: Sight) -> list[Tensor]:
    """The labels that the batch may have, int64 (B,) each.

    Those known; else, of a single example, the one that `read_label` reads off the gradient, or off what the adjoint
    makes of the message; or, without an adjoint, all. ValueError for more than one example, or for more than 10 to try.
    """
    if sight.labels is not None:
        return [sight.labels]
    if sight.batch != 1:
        raise ValueError(f"the labels of a batch of {sight.batch} must be known; DLG looks for them too")
    estimate = plain if sight.sketch is plain else sight.adjoint
    if estimate is not None:
        return [read_label(sight.layout, estimate(sight.message.double()))]
    if sight.classes > TRIED:
        raise ValueError(f"{sight.classes} labels are too many to try without an adjoint of the sketch")
    return list(torch.arange(sight.classes, device=sight.params.device).split(1))


def read_label(layout: Layout, gradient: Tensor) -> Tensor:
    """The label of a single example from the gradient (P,), int64 (1,); the last layer's parameters have to be last.

    The slope of the scores is positive for all classes but the true one. So is the gradient of the last layer's bias;
    without one, the true class's row of weights has a gradient that points away from all others (Zhao et al., 2020).
    ValueError if then there are two classes: both rows point away from each other.
    """
    last = layout.unflatten(gradient)[layout.names[-1]]
    if last.dim() == 1:
        return last.argmin(keepdim=True)
    if len(last) == 2:
        raise ValueError("without a bias, two classes cannot be told apart")
    return (last @ last.T).fill_diagonal_(-math.inf).amax(1).argmin(dim=0, keepdim=True)


def solve_linear(sight: Sight) -> Reconstruction:
    """The single example exactly, where the first layer is fully connected with a bias, as of a logistic regression.

    Any row of the gradient of the weights is the example times the gradient of the bias (Geiping et al., 2020,
    Proposition 3.1). From a sketch of rank P the gradient follows by least squares through its matrix (b, P), for small
    P. ValueError if there is no such layer, more than one example, a lower rank, or no gradient of the bias.
    """
    weight, bias, *_ = (*sight.layout.shapes, (), ())
    if sight.batch != 1 or len(weight) != 2 or weight[1] != math.prod(sight.shape) or bias != weight[:1]:
        raise ValueError("needs one example, and a first layer that is fully connected and has a bias")
    gradient = sight.message.double() if sight.sketch is plain else _unsketched(sight)
    slopes = sight.layout.unflatten(gradient)
    weights, biases = (slopes[name] for name in sight.layout.names[:2])
    row = biases.abs().argmax()
    if biases[row] == 0:
        raise ValueError("the first layer's bias has no gradient")
    x, y = (weights[row] / biases[row]).view(1, *sight.shape), read_label(sight.layout, gradient)
    return Reconstruction(x, y, sight.mismatch(x, sight.one_hot(y)).item(), 0)


def _unsketched(sight: Sight) -> Tensor:
    """The gradient (P,) that solves sketch(gradient) = message."""
    basis = torch.eye(sight.layout.size, dtype=torch.float64, device=sight.params.device)
    matrix = torch.stack(list(map(sight.sketch, basis)), dim=1).cpu()
    solved = torch.linalg.lstsq(matrix, sight.message.double().cpu()[:, None], driver="gelsd")
    if solved.rank < len(basis):
        raise ValueError(f"the sketch has rank {int(solved.rank)}, the gradient {len(basis)} numbers")
    return solved.solution[:, 0].to(basis.device)


def matched(found: Tensor, true: Tensor) -> Tensor:
    """Found examples (B, *shape) in the order that matches the true ones best, by mean squared error."""
    errors = (found.double()[None] - true.double()[:, None]).square().flatten(2).mean(2)
    from scipy.optimize import linear_sum_assignment  # slow to import, and few need it

    return found[linear_sum_assignment(errors.cpu().numpy())[1]]


def mse(found: Tensor, true: Tensor) -> float:
    """The mean squared error over all values of a batch (B, *shape), in the order that matches best."""
    return (matched(found, true).double() - true.double()).square().mean().item()


def psnr(found: Tensor, true: Tensor, data_range: float) -> float:
    """The peak signal-to-noise ratio in dB, of a batch's `mse`; inf if equal. `data_range` is highest minus lowest."""
    error = mse(found, true)
    return 10 * math.log10(data_range**2 / error) if error else math.inf
