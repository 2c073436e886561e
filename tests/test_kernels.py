"""Kernels: each equals its reference, in Triton's interpreter, or on the GPU if there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fedsim_kernels import OPS
from fedsim_kernels.laws import broken, laws_of
from scipy.stats import kstest
from servers import SIZE, delta, roster, start, update

from fedsim.aggregators import FedStale
from fedsim.gradients import ClosedForm
from fedsim.gradients.population import around
from fedsim.models.attention import both, selected, visible, weights
from fedsim.objectives.pgd import PGD
from fedsim.optimizers.frugal import Frugal
from fedsim.vector import weighted_sum

KERNELS = Path(__file__).parent.parent / "kernels"
TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed: pip install 'fedsim-lab[kernels]'")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, str]]:
    """Which laws each op breaks. Triton has to know that it interprets when it is imported: in a process of its own."""
    return json.loads(ran("-m", "fedsim_kernels.laws", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES=""))


def ran(*arguments: str, **environment: str) -> str:
    """What Python prints to that."""
    environment = {**os.environ, "PYTHONPATH": str(KERNELS), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
@pytest.mark.parametrize(("name", "law"), [(name, law) for name, op in OPS.items() for law in laws_of(op)])
def test_law(interpreted, name, law) -> None:
    assert law not in interpreted[name], interpreted[name][law]


@pytest.fixture(scope="module")
def unfit(tmp_path_factory) -> dict[str, str | None]:
    """Why the kernels of each op do not compile, or do not fit into registers; nothing is from an earlier run."""
    cache = tmp_path_factory.mktemp("cache")
    return json.loads(ran("-m", "fedsim_kernels.compiling", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(cache)))


@needs_triton
@pytest.mark.parametrize("name", OPS)
def test_compiles_for_a_gpu_that_is_not_there_and_fits(unfit, name) -> None:
    assert unfit[name] is None, unfit[name]


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", OPS)
def test_laws_on_the_gpu(name) -> None:
    assert not broken(OPS[name], "cuda")


def test_without_triton_the_reference_is_what_runs() -> None:
    code = """
import sys; sys.modules["triton"] = None
from fedsim_kernels import OPS
from fedsim_kernels.laws import broken
for op in OPS.values():
    assert broken(op, "cpu") == {"the_kernel_is_what_runs": "AssertionError: Triton is not installed"}
"""
    ran("-c", code)


@pytest.mark.parametrize("name", OPS)
def test_bytes_that_move_grow_with_the_numbers(name) -> None:
    op = OPS[name]
    one, two = (op.moved(**op.inputs(3, size, torch.Generator().manual_seed(1))) for size in (4000, 8000))
    assert 1.9 < two / one < 2.1


@needs_triton
def test_the_interpreter_is_not_chosen_by_itself() -> None:
    code = "from fedsim_kernels.language import launches; import torch; print(launches(torch.ones(1)))"
    assert ran("-c", code, TRITON_INTERPRET="0") == "False\n"
    assert ran("-c", code, TRITON_INTERPRET="1") == "True\n"
    assert ran("-c", code.replace("ones(1)", "ones(1).double()"), TRITON_INTERPRET="1") == "False\n"


def test_the_weighted_sum_is_the_houses() -> None:
    rows = torch.randn(7, 33, generator=torch.Generator().manual_seed(9))
    weights = [0.1, 0.0, -2.0, 1e6, 0.3, 1e-6, 1.0]
    found = OPS["weighted_sum"].pick(rows, torch.tensor(weights, dtype=torch.float64))
    assert torch.equal(found, weighted_sum(list(rows), weights))


def trained(kind, rates, frozen, start, slopes, **settings) -> torch.Tensor:
    """Where torch's own optimizer leads each client's numbers, but for the frozen ones."""
    ends = start.clone()
    for end, rate, gradients in zip(ends, rates.tolist(), slopes.unbind(1), strict=True):
        free = end[~frozen].clone().requires_grad_()
        optimizer = kind([free], lr=rate, **settings)
        for gradient in gradients:
            free.grad = gradient[~frozen].clone()
            optimizer.step()
        end[~frozen] = free.detach()
    return ends


@pytest.mark.parametrize(
    ("name", "kind", "settings", "own"),
    [
        ("sgd", torch.optim.SGD, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
        ("momentum", torch.optim.SGD, {"momentum": 0.8}, {"decay": 0.8}),
        ("momentum", torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
         {"decay": 0.8, "weight_decay": 0.1, "nesterov": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.1},
         {"betas": (0.8, 0.95), "weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_steps_of_a_stack_are_torchs(name, kind, settings, own) -> None:
    chance = torch.Generator().manual_seed(3)
    start, slopes = torch.randn(4, 9, generator=chance).double(), torch.randn(5, 4, 9, generator=chance).double()
    rates, frozen = torch.tensor([0.1, 0.01, 1.0, 0.0]).double(), torch.arange(9) % 4 == 1
    stack = start.clone()
    moments = [torch.zeros_like(stack) for _ in range({"sgd": 0, "momentum": 1, "adamw": 2}[name])]
    for step, gradients in enumerate(slopes, 1):
        numbered = {"step": step} if name == "adamw" else {}
        OPS[name].pick(stack, gradients, *moments, rates, frozen, **numbered, **own)
    expected = trained(kind, rates, frozen, start, slopes, **settings)
    torch.testing.assert_close(stack, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(stack[:, frozen], start[:, frozen])
    assert all(not moment[:, frozen].any() for moment in moments)


def test_fedstale_is_the_aggregators(monkeypatch) -> None:
    aggregator, weights = FedStale(start(), roster(), beta=0.3), [0.5, 2.0, 1.25]
    monkeypatch.setattr(aggregator, "inverse_weights", lambda updates: weights[: len(updates)])
    memory, total = torch.zeros(10, SIZE), torch.zeros(SIZE, dtype=torch.float64)
    for turn, clients in enumerate(([7, 2], [2, 9, 7], [], [9])):
        fresh = [delta(turn, client) for client in clients]
        importances = torch.tensor([aggregator.importance_of(client) for client in clients], dtype=torch.float64)
        found = OPS["fedstale"].pick(
            torch.stack(fresh) if fresh else torch.zeros(0, SIZE), memory, torch.tensor(clients, dtype=torch.int64),
            torch.tensor(weights[: len(clients)], dtype=torch.float64), importances, total, beta=0.3)  # fmt: skip
        expected = aggregator.direction([update(*who) for who in zip(clients, [turn] * len(fresh), fresh, strict=True)])
        assert torch.equal(found, expected)
        torch.testing.assert_close(total, aggregator.last.sum, rtol=1e-15, atol=1e-15)
        assert all(torch.equal(memory[client], aggregator.last[client]) for client in range(10))


def test_noise_is_normal_and_belongs_to_its_row_and_place() -> None:
    noise = OPS["clip_and_noise"].pick(
        torch.zeros(3, 20_001), torch.tensor([5, 2**40 + 5, 6]), 9, norm=1.0, deviation=2.0
    )
    assert all(kstest(row.numpy(), "norm", (0, 2)).pvalue > 0.01 for row in noise)
    quarters = noise[:, :20_000].reshape(3, -1, 4).permute(0, 2, 1).flatten(0, 1)
    correlations = torch.corrcoef(quarters) - torch.eye(12)
    assert correlations.abs().max() < 4 / 5000**0.5


def test_rows_are_clipped_to_the_norm() -> None:
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(6)) * torch.tensor([[0.0], [0.01], [1.0], [9.0]])
    clipped = OPS["clip_and_noise"].pick(rows, torch.arange(4), 1, norm=2.0, deviation=0.0)
    assert torch.equal(clipped[:2], rows[:2])
    torch.testing.assert_close(clipped[2:].norm(dim=1), torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(torch.cosine_similarity(clipped[2:], rows[2:]), torch.ones(2))


def test_a_dropout_mask_has_an_address() -> None:
    names = {"clients": [3, 4, 3, 3], "ordinals": [0, 0, 1, 0], "steps": [0, 0, 0, 1]}
    given = {name: torch.tensor(values) for name, values in names.items()}
    ones, drop = torch.ones(4, 10_001), OPS["dropout"].pick
    dropped = drop(ones, **given, seed=1, p=0.2)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    kept = (dropped > 0).float()
    assert ((kept.mean(1) - 0.8).abs() < 4 * (0.16 / 10_001) ** 0.5).all()
    assert (torch.corrcoef(kept) - torch.eye(4)).abs().max() < 0.04
    assert not torch.equal(dropped, drop(ones, **given, seed=2, p=0.2))
    assert torch.equal(ones, drop(ones, **given, seed=1, p=0.0))
    with pytest.raises(ValueError, match=r"within \[0, 1\), not 1"):
        drop(ones, **given, seed=1, p=1.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_pgd_step_is_the_objectives(norm) -> None:
    chance = torch.Generator().manual_seed(7)
    x, start = (torch.rand(2, 3, 4, 5, generator=chance) for _ in range(2))
    rule = PGD(radius=0.3, step=0.2, norm=norm, low=0.1, high=0.9)
    point = expected = start
    for _ in range(3):
        slopes = torch.randn(x.shape, generator=chance)
        point = OPS[f"pgd_{norm}"].pick(point, slopes, x, rule.step, rule.radius, norm, rule.low, rule.high)
        long = slopes.flatten(2).norm(dim=2)[..., None, None]
        away = expected + rule.step * (slopes.sign() if norm == "linf" else slopes / long) - x
        far = away.flatten(2).norm(dim=2)[..., None, None]
        short = away.clamp(-rule.radius, rule.radius) if norm == "linf" else away * (rule.radius / far).clamp_max(1)
        expected = (x + short).clamp(rule.low, rule.high)
        torch.testing.assert_close(point, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="linf or l2, not l1"):
        OPS["pgd_l2"].pick(x, x, x, 0.1, 0.1, "l1")


def test_a_frugal_step_is_the_optimizers() -> None:
    chance = torch.Generator().manual_seed(8)
    start, slopes = torch.randn(6, 8, generator=chance), torch.randn(5, 6, 8, generator=chance)
    inner, last = start.clone().requires_grad_(), torch.zeros(2, 2).requires_grad_()
    optimizer = Frugal([inner, last], lr=0.1, density=0.5, scale=0.3, weight_decay=0.2, betas=(0.8, 0.9))
    stack, moments, slots = start[None].clone(), [torch.zeros(1, 6, 4) for _ in range(2)], None
    for step, slope in enumerate(slopes, 1):
        inner.grad = slope.clone()
        optimizer.step()
        if slots is None:
            slots = torch.full((1, 8), -1, dtype=torch.int32)
            slots[0, optimizer.state[inner]["chosen"].long().flatten()] = torch.arange(4, dtype=torch.int32)
        OPS["frugal"].pick(stack, slope[None], *moments, slots, step, 0.1, (0.8, 0.9), weight_decay=0.2, scale=0.3)
        torch.testing.assert_close(stack[0], inner.detach(), rtol=1e-5, atol=1e-6)


def test_the_low_rank_product_is_that_of_the_moved_matrices_as_eggroll_has_it() -> None:
    """By members that are made, and by `fedsim.gradients.population`, whose two of a pair go opposite ways."""
    chance = torch.Generator().manual_seed(4)
    given = OPS["low_rank_product"].inputs(6, 11, chance)
    exact = {name: value.double() for name, value in given.items()}
    x, weight, left, right, signs = exact.values()
    made = torch.stack([x[p] @ (weight + signs[p] * left[p] @ right[p].mT).mT for p in range(6)])
    torch.testing.assert_close(OPS["low_rank_product"].pick(**exact), made, rtol=1e-12, atol=1e-12)
    pairs = slice(0, 6, 2)
    moves = {"1.weight": (signs[0] * left[pairs], right[pairs]), "1.bias": (torch.zeros(3, 33).double(),)}
    params = {"1.weight": weight.unsqueeze(0), "1.bias": torch.zeros(1, 33).double()}
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(11, 33)).double()
    twins = {**exact, "x": x[:1].expand(6, -1, -1), "left": left[pairs].repeat_interleave(2, 0),
             "right": right[pairs].repeat_interleave(2, 0)}  # fmt: skip
    found = OPS["low_rank_product"].pick(**twins).unflatten(0, (3, 2))
    one = {name: part[0] for name, part in params.items()}
    torch.testing.assert_close(found, around(ClosedForm(module), one, x[0], moves), rtol=1e-12, atol=1e-12)


def test_factors_that_are_too_wide_are_refused() -> None:
    given = OPS["low_rank_product"].inputs(2, 5, torch.Generator().manual_seed(4))
    wide = {**given, "left": torch.zeros(2, 33, 17), "right": torch.zeros(2, 5, 17)}
    with pytest.raises(ValueError, match="factors of rank 17 are too wide: at most 16"):
        OPS["low_rank_product"].kernel(**wide)


def test_a_stacks_gradients_are_its_networks() -> None:
    """Of MLPs with two hidden layers, from the slopes of their scores: what autograd finds client by client."""
    chance = torch.Generator().manual_seed(6)
    x, along = torch.randn(3, 17, 12, generator=chance).double(), torch.randn(3, 17, 5, generator=chance).double()
    shapes = [(33, 12), (33,), (7, 33), (7,), (5, 7), (5,)]
    params = [torch.randn(3, *shape, generator=chance).double() for shape in shapes]
    layers, layer = list(zip(params[::2], params[1::2], strict=True)), OPS["stacked_layer"].pick
    inputs = [x, first := layer(x, *layers[0]), layer(first, *layers[1])]
    scores, slope, found = layer(inputs[2], *layers[2], activated=False), along, []
    for (weight, _), given in zip(reversed(layers), reversed(inputs), strict=True):
        found = [*OPS["stacked_gradients"].pick(slope, given), *found]
        slope = OPS["stacked_slopes"].pick(slope, weight, None if given is x else given)
    for k in range(3):
        network = torch.nn.Sequential(torch.nn.Linear(12, 33), torch.nn.ReLU(), torch.nn.Linear(33, 7),
                                      torch.nn.ReLU(), torch.nn.Linear(7, 5)).double()  # fmt: skip
        own = dict(zip(dict(network.named_parameters()), [part[k] for part in params], strict=True))
        network.load_state_dict(own)
        point = x[k].clone().requires_grad_()
        said = network(point)
        expected = torch.autograd.grad(said, [point, *network.parameters()], along[k])
        torch.testing.assert_close([scores[k], slope[k], *(part[k] for part in found)], [said, *expected])


def test_scores_of_the_examples_lie_next_to_each_other() -> None:
    """As losses read them, and as whoever trained without kernels had them."""
    given = OPS["stacked_scores"].inputs(3, 12, torch.Generator().manual_seed(6))
    scores = OPS["stacked_scores"].pick(**given)
    assert scores.mT.is_contiguous()
    assert torch.equal(scores.mT, torch.baddbmm(given["bias"].unsqueeze(2), given["weight"], given["x"].mT))


@needs_triton
def test_how_many_rows_are_transformed_at_a_time_changes_no_bit() -> None:
    code = """
import torch
from fedsim_kernels import hadamard
hadamard.BLOCK = 32
rows = torch.randn(5, 1100, generator=torch.Generator().manual_seed(2))
whole = hadamard.kernel(rows)
for some in (0, 1, 3):
    hadamard.CACHED = some * 4 * 2048
    print(hadamard.kernel(rows).equal(whole), hadamard.product(rows, 1100).equal(whole[:, :1100]))
"""
    assert ran("-c", code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="") == "True True\n" * 3


@needs_triton
def test_second_derivatives_of_a_layer_are_refused_and_not_wrong() -> None:
    code = """
import torch
from fedsim_kernels import OPS
given = OPS["stacked_layer"].inputs(2, 5, torch.Generator().manual_seed(6))
out = OPS["stacked_layer"].pick(**{name: part.requires_grad_() for name, part in given.items()})
[slope] = torch.autograd.grad(out.square().sum(), given["x"], create_graph=True)
try:
    slope.sum().backward()
except RuntimeError as error:
    print(error)
"""
    said = ran("-c", code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert said == "trying to differentiate twice a function that was marked with @once_differentiable\n"


def test_aligned_attention_is_the_models() -> None:
    """What `both` computes without kernels; with all blocks nothing is apart and nothing unseen."""
    chance = torch.Generator().manual_seed(9)
    q, k, v = torch.randn(3, 2, 2, 14, 6, generator=chance).double().unbind(0)
    gate = torch.rand(2, 2, 14, 1, generator=chance).double()
    chosen = selected(q, k, block=4, blocks=2)
    full, part, looks = both(q, k, v, gate, chosen, 4)
    heads = [each.flatten(0, 1) for each in (q, k, v, gate.squeeze(3))]
    found = [each.unflatten(0, (2, 2)) for each in OPS["aligned_attention"].pick(*heads, chosen.flatten(0, 1), 4)]
    torch.testing.assert_close([gate * found[0], gate * found[1]], [full, part], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close([each.mean((1, 2)) for each in found[2:]], list(looks), rtol=1e-12, atol=1e-12)
    assert looks[0].min() > 0.001
    assert looks[1].min() > 0.1
    whole, same, *apart = OPS["aligned_attention"].pick(*heads, torch.ones_like(chosen).flatten(0, 1), 4)
    assert torch.equal(whole, same)
    assert not torch.stack(apart[:2]).any()


def test_sparse_attention_is_the_models() -> None:
    """Blocks as SSA chooses them; with all blocks it is causal attention."""
    chance = torch.Generator().manual_seed(8)
    q, k, v = torch.randn(3, 2, 2, 14, 6, generator=chance).double().unbind(0)
    seen = visible(selected(q, k, block=4, blocks=2), 4, q.shape[2])
    expected = (weights(q, k, seen) @ v).flatten(0, 1)
    chosen = torch.stack([seen[..., first : first + 4].any(-1) for first in range(0, 14, 4)], -1).flatten(0, 1)
    pick, heads = OPS["sparse_attention"].pick, [part.flatten(0, 1) for part in (q, k, v)]
    torch.testing.assert_close(pick(*heads, chosen, block=4), expected, rtol=1e-12, atol=1e-12)
    everything = pick(*heads, torch.ones_like(chosen), block=4)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(0, 1)
    torch.testing.assert_close(everything, dense, rtol=1e-12, atol=1e-12)


@needs_triton
def test_sparse_attention_to_a_block_that_hundreds_see_and_by_queries_that_see_one() -> None:
    """A list in pieces, queries that have nothing but their own block, blocks that are halved; and gradients."""
    code = """
import torch
from fedsim_kernels import pairs, sparse_attention
from fedsim_kernels.sparse_attention import kernel, reference
pairs.PIECE, sparse_attention.HELD = 50, 1024
for length, block in ((360, 32), (150, 130)):
    given = torch.randn(3, 1, length, 5, generator=torch.Generator().manual_seed(length))
    tokens = torch.arange(length).unsqueeze(1)
    chosen = tokens // block == torch.arange(-(-length // block))
    chosen[:, 0] |= tokens[:, 0] % 3 > 0
    lists = pairs.pairs(chosen.unsqueeze(0), block)
    assert length == 150 or (len(lists.rows) > 200 and len(lists.begins) > 4 and not lists.queries.diff().all())
    found, exact = given.clone().requires_grad_(), given.double().requires_grad_()
    out, expected = (way(*of, chosen.unsqueeze(0), block) for way, of in ((kernel, found), (reference, exact)))
    along = torch.linspace(-1, 2, out.numel()).view_as(out)
    out.backward(along)
    expected.backward(along.double())
    for one, other in ((out, expected), (found.grad, exact.grad)):
        torch.testing.assert_close(one.double(), other, rtol=2**-18, atol=2**-18)
"""
    ran("-c", code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@needs_triton
def test_a_key_that_is_infinitely_far_harms_no_gradient_but_of_queries_that_see_it() -> None:
    """Nor do those who are not there where a list is shorter than a tile. The reference's queries all meet it."""
    code = """
import torch
from fedsim_kernels.sparse_attention import kernel, reference
given = torch.randn(3, 1, 38, 5, generator=torch.Generator().manual_seed(2))
given[0, ..., 0], given[1, 0, 3, 0] = 1, -torch.inf
tokens = torch.arange(38).unsqueeze(1)
chosen = (torch.arange(5) == tokens // 8) | (tokens % 2 == 0)
found, exact = given.clone().requires_grad_(), given.double().requires_grad_()
out, expected = (way(*of, chosen.unsqueeze(0), 8) for way, of in ((kernel, found), (reference, exact)))
(out ** 2).sum().backward()
(expected ** 2).sum().backward()
for one, other in ((out, expected), (found.grad[1:], exact.grad[1:])):
    assert one.isfinite().all()
    torch.testing.assert_close(one.double(), other, rtol=2**-16, atol=2**-16)
seen = chosen[:, 0] & (tokens[:, 0] > 2)
assert torch.equal(found.grad[0, 0].isnan().any(1), seen)
"""
    ran("-c", code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@needs_triton
def test_aligned_attention_over_many_tiles() -> None:
    """What programs do that meet others' tokens; what is not finite reaches those who come later, seen or not."""
    code = """
import torch
from fedsim_kernels.aligned_attention import kernel, reference
chance = torch.Generator().manual_seed(3)
given, gate = torch.randn(3, 2, 75, 5, generator=chance), torch.rand(2, 75, generator=chance)
own = torch.arange(75).unsqueeze(1) // 7 == torch.arange(11)
chosen = own | (torch.rand(2, 75, 11, generator=chance) < 0.3)
found, exact = given.clone().requires_grad_(), given.double().requires_grad_()
out, expected = kernel(*found, gate, chosen, 7), reference(*exact, gate.double(), chosen, 7)
for each in (out, expected):
    sum((part * torch.linspace(-1, 2, part.numel()).view_as(part)).sum() for part in each[:3]).backward()
for one, other in ((out, expected), ([found.grad], [exact.grad])):
    torch.testing.assert_close([each.double() for each in one], list(other), rtol=2**-18, atol=2**-18)
for which, token, wrong in ((2, 12, torch.inf), (2, 41, -torch.inf), (2, 70, torch.nan), (1, 50, torch.nan)):
    for near in (0, 1):
        broken = given.clone()
        broken[which, 1, token, 2] = wrong
        broken[2, 1, token - near, 2] = wrong
        full, part, *_ = kernel(*broken, gate, chosen, 7)
        expected = reference(*broken.double(), gate.double(), chosen, 7)[:2]
        assert full[1, token:].isfinite().all(1).sum() == 0 and full[1, :token - near].isfinite().all()
        torch.testing.assert_close([full.double(), part.double()], list(expected), rtol=2**-18, atol=2**-18,
                                   equal_nan=True)
"""
    ran("-c", code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
