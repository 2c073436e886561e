"""FRUGAL: AdamW on a part of each matrix, a rule without memory on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, Any, Literal

import torch
from fedsim_kernels.frugal import frugal
from fedsim_kernels.language import launches
from pydantic import Field
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fedsim.optimizers.addressed import Addressed, Closure, evaluated
from fedsim.optimizers.projectors import PROJECTORS, Move, Order, blocks
from fedsim.optimizers.recipe import Decay, NotNegative, Positive
from fedsim.rng import stream
from fedsim.work import LocalTask

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
PIECE = 2**15
"""Numbers."""


class Frugal(Addressed):
    """FRUGAL (Zmushko et al., ICML 2025, arXiv 2411.07837): moments for a part of each inner matrix alone.

    AdamW moves a share of `density` of every projectable matrix, chosen anew every `gap` steps; the other entries go by
    the sign of their gradient, or along it, or stay (`free`). Moments are kept of the chosen entries alone. Density 0
    with `sign` is signSGD; 1 with `reset` false is AdamW; `blocks` with `none` is BAdam's way, `svd` with `none` and
    without reset GaLore's.

    Which tensors are projectable: those of two axes or more, but for the last of them, which is taken for the output
    layer; all others have moments in full. A parameter group that says `projectable` False has none, one that says True
    has all that have two axes. An embedding counts as an inner matrix unless its group says otherwise.

    Tensors (`blocks`) are drawn, or take turns in an `order` that is the same for all clients; the public script for 60
    million parameters says `descending`. What `mirror` is we take from its name. Turns count the gaps of what is
    remembered; who starts afresh, as without `optimizer_state: kept`, is as many turns ahead as it has trained before.

    Args:
        params: as of any torch optimizer.
        lr: of both rules.
        density: share of columns, rows or entries (rounded down) or of tensors (rounded) with moments.
        gap: steps after which the choice is made anew.
        projector: what is chosen: columns or rows of the matrix (first axis x all others), single entries, tensors, or
            the space of the gradient's first singular vectors.
        order: in which tensors take turns, or that they are drawn; of `blocks` alone.
        free: how entries without moments move.
        scale: factor of `lr` for these; the paper: 1, for fine-tuning 0.1.
        reset: whether moments start afresh with a new choice; else they go over to other entries, not tensors.
        betas: AdamW's decays.
        eps: AdamW's.
        weight_decay: decoupled, of all entries.
        seed: names what is drawn, where there are no clients.
    """

    own = ("chosen", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: ParamsT,
        lr: Positive = 1e-3,
        density: Share = 0.25,
        gap: Count = 200,
        projector: Literal["columns", "rows", "randk", "blocks", "svd"] = "columns",
        order: Order = "random",
        free: Literal["sign", "sgd", "none"] = "sign",
        scale: NotNegative = 1.0,
        reset: bool = True,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: Positive = 1e-8,
        weight_decay: NotNegative = 1e-2,
        seed: int = 0,
    ) -> None:
        if not 0 <= density <= 1 or gap < 1:
            raise ValueError(f"density has to be within [0, 1] and gap at least 1, not {density} and {gap}")
        if order != "random" and projector != "blocks":
            raise ValueError(f"only the projector blocks has an order, not {projector}")
        if projector == "blocks" and density < 1 and not reset:
            raise ValueError("moments of one tensor cannot go over to another: blocks below density 1 need reset")
        self.projector, self.seed, self.stacked = PROJECTORS[projector], seed, False
        self.order: Order = order
        self.ahead = 0
        """Turns that a training afresh leaves out: those of the trainings before."""
        self.whose = [(0, 0)]
        """Clients, and the ordinals of their trainings."""
        settings = {"lr": lr, "density": density, "gap": gap, "free": free, "scale": scale, "reset": reset,
                    "betas": betas, "eps": eps, "weight_decay": weight_decay, "projectable": None}  # fmt: skip
        super().__init__(params, settings)

    @staticmethod
    def stackable(projector: str = "columns", **others: object) -> bool:
        """Clients that choose other tensors share no stack; nor do decompositions, which may differ in the last bit."""
        return projector not in ("blocks", "svd")

    def begin(self, tasks: Sequence[LocalTask], seed: int, stacked: bool) -> None:
        """See `Addressed`."""
        self.whose, self.seed, self.stacked = [(task.client, task.ordinal) for task in tasks], seed, stacked

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See torch."""
        loss = evaluated(closure)
        every = [(tensor, group) for group in self.param_groups for tensor in group["params"]]
        projected = self._projectable()
        for place, (tensor, group) in enumerate(every):
            if tensor.grad is None:
                continue
            state = self.state[tensor]
            state.setdefault("step", torch.zeros(()))
            tensor.mul_(1 - group["lr"] * group["weight_decay"])
            if place in projected:
                self._project(tensor, group, state, place, projected)
            else:
                if "exp_avg" not in state:
                    _start(state, tensor)
                _adamw(tensor, tensor.grad, state, group, int(state["step"]) + 1)
            state["step"] += 1
        return loss

    def _projectable(self) -> list[int]:
        """Which tensors are, by their place among all."""
        every = [(tensor, group["projectable"]) for group in self.param_groups for tensor in group["params"]]
        matrices = [place for place, (tensor, _) in enumerate(every) if tensor.dim() - self.stacked >= 2]
        return [place for place in matrices if every[place][1] or (every[place][1] is None and place != matrices[-1])]

    def _project(self, tensor: Tensor, group: dict[str, Any], state: dict[str, Any], place: int,
                 projected: list[int]) -> None:  # fmt: skip
        """Move a projectable tensor."""
        assert tensor.grad is not None
        count, gap, projector = int(state["step"]), group["gap"], self.projector
        values, slopes = projector.view(tensor, self.stacked), projector.view(tensor.grad, self.stacked)
        if count % gap == 0:
            state["chosen"] = self._kept(self._chosen(slopes, group["density"], count // gap, place, projected))
        chosen = state["chosen"] if self.stacked else state["chosen"][None]
        starts, since = count % gap == 0 and group["reset"], count % gap if group["reset"] else count

        if self.projector is PROJECTORS["columns"] and group["free"] == "sign" and launches(values):
            if starts or "exp_avg" not in state:
                _start(state, self._kept(values[:, :, : chosen.shape[1]]))
            self._in_one_pass(values, slopes, chosen, state, group, since + 1)
        else:
            self._in_parts(values, slopes, chosen, state, group, since + 1, starts)
        if values.data_ptr() != tensor.data_ptr():  # not contiguous, so that it was copied
            tensor.copy_(values.view(tensor.shape))

    def _in_one_pass(self, values: Tensor, slopes: Tensor, chosen: Tensor, state: dict[str, Any], group: dict[str, Any],
                     count: int) -> None:  # fmt: skip
        """Columns with moments and the signs of all others, by a kernel."""
        slots = torch.full((len(values), values.shape[2]), -1, dtype=torch.int32, device=values.device)
        order = torch.arange(chosen.shape[1], dtype=torch.int32, device=values.device).expand_as(chosen)
        slots.scatter_(1, chosen.to(torch.int64), order)
        first, second = (state[name] if self.stacked else state[name][None] for name in ("exp_avg", "exp_avg_sq"))
        frugal(values, slopes, first, second, slots, count, group["lr"], group["betas"], group["eps"],
               weight_decay=0.0, scale=group["scale"])  # fmt: skip

    def _in_parts(self, values: Tensor, slopes: Tensor, chosen: Tensor, state: dict[str, Any], group: dict[str, Any],
                  count: int, starts: bool) -> None:  # fmt: skip
        """What is chosen, and the rest."""

        def full(part: Tensor, along: Tensor) -> None:
            if starts or "exp_avg" not in state:
                _start(state, self._kept(along))
            _adamw(self._kept(part), self._kept(along), state, group, count)

        self.projector.move(values, slopes, chosen, full, _free(group))

    def _chosen(self, slopes: Tensor, density: float, number: int, place: int, projected: list[int]) -> Tensor:
        """What is chosen for the gap of this number, (K, ...). A choice among tensors is one for all of them."""
        addresses = [(self.seed, "frugal", *whose, number) for whose in self.whose[: len(slopes)]]
        if self.projector is PROJECTORS["blocks"]:
            self.ahead = self.ahead if number else self.whose[0][1]
            turn = number + self.ahead
            full = blocks(density, len(projected), self.order, turn, stream(*addresses[0]))
            density = float(projected.index(place) in full)
        return self.projector.choose(slopes, density, [stream(*address, place) for address in addresses])

    def _kept(self, rows: Tensor) -> Tensor:
        """Of one client without its axis."""
        return rows if self.stacked else rows[0]


def _free(group: dict[str, Any]) -> Move | None:
    """How what has no moments moves."""
    length = -group["lr"] * group["scale"]
    rules: dict[str, Move | None] = {
        "sign": lambda values, slopes: _signs(values, slopes, length),
        "sgd": lambda values, slopes: values.add_(slopes, alpha=length),
        "none": None,
    }
    return rules[group["free"]]


def _signs(values: Tensor, slopes: Tensor, length: float) -> None:
    """In pieces whose signs stay in the cache; fresh memory for all of them may cost as much again."""
    for some, along in zip(values.view(-1).split(PIECE), slopes.view(-1).split(PIECE), strict=True):
        some.add_(along.sign(), alpha=length)


def _start(state: dict[str, Any], like: Tensor) -> None:
    """Moments of no gradients yet."""
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(like), torch.zeros_like(like)


def _adamw(values: Tensor, slopes: Tensor, state: dict[str, Any], group: dict[str, Any], count: int) -> None:
    """AdamW's step number `count`, but for the decay, in torch's own order of operations."""
    first, second = group["betas"]
    state["exp_avg"].lerp_(slopes, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(slopes, slopes, value=1 - second)
    root = state["exp_avg_sq"].sqrt().div_(sqrt(1 - second**count)).add_(group["eps"])
    values.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - first**count))
