"""How many clients a stack should have: client-steps per second of every way to train one, over a bare loop.

Run by `python -m bench.cohorts FOLDER [device]`, which writes `cohorts.csv` and `cohorts.png` there. For an MLP, a CNN
and a small transformer, stacks of 1 to 1024 clients take steps of plain SGD, on batches that lie on the device. The
bare loop trains one client after another, with a module, `backward` and a `torch.optim.SGD` each, on the same device.
Before anything is timed all ways have to lead where the loop leads, in float32 as in runs. Ways and loop take turns,
and what is written are medians, row by row, so that who runs out of time keeps what there is. What a way cannot do is
left out: `bmm` are dense networks' products by hand (`gradients.ClosedForm`); `compile` and `graph` are for CUDA alone,
and neither has run there yet: no GPU was at hand. As compiling takes longer than all else, few stacks are compiled
(`COMPILED`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from fedsim.accelerator import card, device_of, exactly
from fedsim.gradients import ClosedForm, Gradients, Vmapped
from fedsim.losses import loss_of
from fedsim.models import cnn_group, initial_params, mlp, transformer
from fedsim.vector import Layout

COUNTS, COMPILED = (1, 4, 16, 64, 256, 1024), (16, 256)
STEPS, REPEATS, BATCH, LR, CLASSES = 64, 3, 16, 0.05, 10
"""Steps are the clients' together, at least; of a great stack it is one."""
FAR = 1e-3
"""Relative to how far the loop has gone: a way that ends farther from it is wrong."""

Named = dict[str, Tensor]
Step = Callable[[], None]
"""Moves a stack's parameters once, in place."""


@dataclass(frozen=True)
class Stack:
    """Parameters (K, *shape) by name, and a batch for each client."""

    module: nn.Module
    params: Named
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, module: nn.Module, flat: Tensor, examples: Tensor, clients: int, device: torch.device) -> Stack:
        """So many clients who all begin as the model does, with random labels (synthetic) for random examples."""
        draw = torch.Generator().manual_seed(clients)
        rows = torch.randint(len(examples), (clients, BATCH), generator=draw)
        named = Layout.of(module).unflatten(flat.expand(clients, -1).clone())
        params = {name: part.contiguous().to(device) for name, part in named.items()}
        y = torch.randint(CLASSES, (clients, BATCH), generator=draw).to(device)
        return cls(module.to(device), params, examples[rows].to(device), y)


def move(params: Named, grads: Mapping[str, Tensor]) -> None:
    """Plain SGD."""
    for name, part in params.items():
        part.add_(grads[name], alpha=-LR)


def bare(stack: Stack) -> Step:
    """One client after another, as one writes it without a simulator."""

    def step() -> None:
        for client in range(len(stack.x)):
            own = {name: part[client].detach().requires_grad_() for name, part in stack.params.items()}
            optimizer = torch.optim.SGD(list(own.values()), lr=LR)
            scores = functional_call(stack.module, own, (stack.x[client],))[:, :CLASSES]
            loss_of(stack.y[client]).each(scores, stack.y[client]).mean().backward()
            optimizer.step()  # views of the stack's parameters

    return step


class First(nn.Module):
    """A model's first scores, as many as there are classes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes)."""
        return self.inner(x)[:, :CLASSES]


def by(source: Gradients, params: Named, x: Tensor, y: Tensor, prefix: str = "") -> None:
    """All at once, by a source of gradients, which may know parameters under longer names."""
    grads, _ = source({prefix + name: part for name, part in params.items()}, x, y)
    move(params, {name: grads[prefix + name] for name in params})


def vmapped(stack: Stack) -> Step:
    """By torch.func."""
    return partial(by, Vmapped(First(stack.module)), stack.params, stack.x, stack.y, "inner.")


def bmm(stack: Stack) -> Step | None:
    """By hand, of dense networks."""
    suits = ClosedForm.suits(stack.module)
    return partial(by, ClosedForm(stack.module), stack.params, stack.x, stack.y) if suits else None


def compiled(stack: Stack) -> Step | None:
    """What torch.compile makes of the step by torch.func."""
    return written_out(stack, torch.compile) if stack.x.is_cuda and len(stack.x) in COMPILED else None


def written_out(stack: Stack, made: Callable[[GraphModule], Callable[..., Any]]) -> Step:
    """What is made of the step by torch.func once it is written out as plain operations.

    torch.compile by itself cannot vectorise group norms (torch 2.11 to 2.13).
    """
    source = Vmapped(First(stack.module))
    begun = {name: part.clone() for name, part in stack.params.items()}
    graph = make_fx(lambda params, x, y: by(source, params, x, y, "inner."))(begun, stack.x, stack.y)
    return partial(made(graph), stack.params, stack.x, stack.y)


def graph(stack: Stack) -> Step | None:
    """The best of the others, captured as a CUDA graph and replayed. It has never run."""
    if not stack.x.is_cuda:
        return None
    begun, step = {name: part.clone() for name, part in stack.params.items()}, bmm(stack) or vmapped(stack)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what is asked for at first must not be captured
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    for name, part in begun.items():
        stack.params[name].copy_(part)
    return captured.replay


WAYS: dict[str, Callable[[Stack], Step | None]] = {
    "bare": bare, "vmap": vmapped, "bmm": bmm, "compile": compiled, "graph": graph,
}  # fmt: skip


def models() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Each with its start (P,) and examples."""
    draw = torch.Generator().manual_seed(0)
    pictures, text = torch.rand(256, 1, 28, 28, generator=draw), torch.randint(CLASSES, (256, 32), generator=draw)
    makers: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "mlp": (lambda: mlp((1, 28, 28), CLASSES, [200]), pictures),
        "cnn": (lambda: cnn_group((1, 28, 28), CLASSES), pictures),
        "transformer": (lambda: transformer((32,), CLASSES, CLASSES, width=32), text),
    }
    return {name: (*initial_params(make, seed=0), examples) for name, (make, examples) in makers.items()}


def seconds(step: Step, device: torch.device, steps: int) -> float:
    """Of so many steps, to their end."""
    began = perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - began


def begin(way: str, stack: Stack) -> Step | None:
    """A way's step, once taken; None if there is none, or if it fails, which is told."""
    try:
        if step := WAYS[way](stack):
            step()
    except RuntimeError as error:
        print(f"{way}, {len(stack.x)} clients: {str(error).splitlines()[0]}")
        return None
    return step


def compare(name: str, clients: int, device: torch.device, steps: int, repeats: int) -> list[dict[str, object]]:
    """A row for each way that there is. AssertionError if one leads elsewhere than the loop."""
    model, steps = models()[name], max(1, steps // clients)
    stacks = {way: Stack.of(*model, clients, device) for way in WAYS}
    begun = {part: tensor.clone() for part, tensor in stacks["bare"].params.items()}
    begins = {way: begin(way, stack) for way, stack in stacks.items()}
    ways = {way: step for way, step in begins.items() if step is not None}
    for way in ways:
        for part, known in stacks["bare"].params.items():
            far = (stacks[way].params[part] - known).norm() / (known - begun[part]).norm().clamp_min(1e-12)
            assert far < FAR, f"{name}, {clients} clients: {way} leads elsewhere: {float(far):.1e} in {part}"
    times = [{way: seconds(step, device, steps) for way, step in ways.items()} for _ in range(repeats)]
    return [{"model": name, "clients": clients, "way": way, "card": card(device), "torch": torch.__version__,
             "client_steps_per_second": clients * steps / median(each[way] for each in times),
             "over_bare": median(each["bare"] / each[way] for each in times)} for way in ways]  # fmt: skip


def draw(table: pd.DataFrame, path: Path) -> None:
    """A panel for each model."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    names = list(table["model"].unique())
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for way, rows in table[table["model"] == name].groupby("way", sort=False):
            axes.loglog(rows["clients"], rows["client_steps_per_second"], marker="o", label=way)
        axes.set(title=name, xlabel="clients in a stack", ylabel="client-steps per second")
        axes.legend()
    figure.suptitle(f"{table['card'].iloc[0]}, torch {table['torch'].iloc[0]}, batches of {BATCH}")
    figure.savefig(path, dpi=150)


def main(
    folder: Path, device: str = "cpu", counts: Sequence[int] = COUNTS, steps: int = STEPS, repeats: int = REPEATS
) -> pd.DataFrame:
    """Print and write the table, and draw it."""
    place, table = device_of(device), pd.DataFrame()
    folder.mkdir(parents=True, exist_ok=True)
    for name in models():
        for clients in counts:
            with exactly():
                found = compare(name, clients, place, steps, repeats)
            told = (f"{each['way']} {each['client_steps_per_second']:.0f} ({each['over_bare']:.2f}x)" for each in found)
            print(f"{name:12}{clients:6}  {'  '.join(told)}", flush=True)
            table = pd.concat([table, pd.DataFrame(found)], ignore_index=True)
            table.to_csv(folder / "cohorts.csv", index=False)
    draw(table, folder / "cohorts.png")
    print(f"on {card(place)}")
    return table


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu")
