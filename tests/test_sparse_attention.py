"""Sparse attention beside full one: what it sees, what aligns the two, and clients that draw which one to learn by."""

from __future__ import annotations

import json

import pytest
import torch
from networks import numbers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from worlds import changed

from fedsim.data import Dataset
from fedsim.errors import ScenarioError
from fedsim.exams import Attention
from fedsim.gradients import Single, Vmapped
from fedsim.models.attention import alignment, causal, dropped, entropy, selected, visible, weights
from fedsim.models.transformer import LOOKS, transformer
from fedsim.objectives import SparseAttention, Step
from fedsim.objectives.sparse_attention import NextCharacters, lessons
from fedsim.rng import stream
from fedsim.vector import Layout
from fedsim.work import LocalTask

T, BLOCK, VOCABULARY = 22, 4, 7
GIVEN = {"outputs": VOCABULARY, "shape": (T,)}
SHAPES = [(2, 3, T, 5), (1, 1, 9, 4), (1, 2, BLOCK, 4), (1, 1, 1, 4)]


def parts(shape=SHAPES[0]) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (2 * numbers(*shape, place)[..., -1] for place in (1, 2, 3))
    return q, k, v


def outputs(q: Tensor, k: Tensor, v: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    whole = weights(q, k, causal(q.shape[2], q))
    return whole @ v, weights(q, k, visible(selected(q, k, BLOCK, blocks), BLOCK, q.shape[2])) @ v


def module(length: int = T, seed: int = 1, **arguments) -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return transformer(
            (length,), VOCABULARY, VOCABULARY, **{"width": 12, "heads": 3, "block": BLOCK, "blocks": 2, **arguments}
        )


def text(count: int = 5, length: int = T, name: object = "x") -> Tensor:
    return torch.from_numpy(stream(3, "text", name).integers(VOCABULARY, size=(count, length)))


def asked(model: nn.Module, x: Tensor, mode: int) -> Tensor:
    return model(lessons(x, x[:, 0], torch.tensor(mode))[0])


# Attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_query_sees_its_own_block_and_few_others_and_never_the_future(shape) -> None:
    q, k, _ = parts(shape)
    for blocks in (1, 2, 3):
        seen = visible(selected(q, k, BLOCK, blocks), BLOCK, q.shape[2])
        assert not (seen & ~causal(shape[2], q)).any()
        assert int(seen.sum(-1).max()) <= blocks * BLOCK
        for t in range(shape[2]):
            own = t // BLOCK * BLOCK
            assert seen[..., t, own : t + 1].all()
            past = seen[..., t, :own].unflatten(-1, (-1, BLOCK)) if own else seen.new_zeros(*shape[:2], 0, BLOCK)
            assert (past.all(-1) == past.any(-1)).all(), "blocks are seen as a whole"
            assert (past.any(-1).sum(-1) == min(blocks - 1, t // BLOCK)).all()


def test_the_best_blocks_are_those_whose_mean_keys_score_highest() -> None:
    """By loops. The last block is not complete, and has no mean key."""
    q, k, _ = parts()
    seen = visible(selected(q, k, BLOCK, 3), BLOCK, q.shape[2])
    for b, h, t in [(0, 0, 21), (1, 2, 17), (0, 1, 12), (1, 0, 9)]:
        scores = [float(q[b, h, t] @ k[b, h, s * BLOCK : (s + 1) * BLOCK].mean(0)) for s in range(t // BLOCK)]
        best = sorted(range(len(scores)), key=lambda s: -scores[s])[:2]
        expected = {place for s in [*best, t // BLOCK] for place in range(s * BLOCK, (s + 1) * BLOCK) if place <= t}
        assert set(seen[b, h, t].nonzero().flatten().tolist()) == expected


def test_with_enough_blocks_both_are_the_same() -> None:
    full, sparse = outputs(*parts(), blocks=6)
    assert torch.equal(full, sparse)
    assert not alignment(full, sparse).any()
    assert not torch.equal(*outputs(*parts(), blocks=5))


def test_more_blocks_drop_less_and_the_error_is_bound_by_what_is_dropped() -> None:
    """|O_full - O_sparse| <= 2 dropped max |v| for each query; nothing is dropped where all is seen."""
    q, k, v = parts()
    whole, before = weights(q, k, causal(T, q)), torch.ones(q.shape[:3])
    for blocks in range(1, 7):
        now = dropped(whole, visible(selected(q, k, BLOCK, blocks), BLOCK, q.shape[2]))
        assert (now <= before + 1e-6).all()
        full, sparse = outputs(q, k, v, blocks)
        assert ((full - sparse).norm(dim=-1) <= 2 * now * v.norm(dim=-1).max() + 1e-5).all()
        before = now
    assert not before.any()
    assert 0 < float(dropped(whole, visible(selected(q, k, BLOCK, 1), BLOCK, q.shape[2])).mean()) < 1


def test_entropy_is_of_each_query() -> None:
    even = causal(4, torch.zeros(0)).float()
    torch.testing.assert_close(entropy(even / even.sum(-1, keepdim=True)), torch.arange(1.0, 5.0).log())


def test_each_pull_of_the_alignment_moves_one_branch() -> None:
    full, sparse = (3 * numbers(2, 5, place)[..., 0].requires_grad_() for place in (1, 2))
    value = alignment(full, sparse)
    both = torch.autograd.grad(value.sum(), [full, sparse])
    apart = nn.functional.smooth_l1_loss(full, sparse.detach(), reduction="none").mean(1)
    torch.testing.assert_close(value, 2 * apart.detach() + 0 * value)
    torch.testing.assert_close(both[0], torch.autograd.grad(apart.sum(), full)[0])
    torch.testing.assert_close(both[1], -both[0])


# The model ------------------------------------------------------------------------------------------------------------


def test_a_mode_in_front_says_which_attention_is_passed_on() -> None:
    """In the company of the other mode or alone; without one, what it was built for."""
    model, x = module(), text()
    full, sparse = asked(model, x, 0), asked(model, x, 1)
    assert torch.equal(full, model(x))
    assert torch.equal(sparse, module(inference="sparse")(x))
    assert not torch.allclose(full, sparse, atol=1e-4)
    mixed, _ = lessons(x, x[:, 0], torch.tensor([1, 0, 1, 0, 0]))
    torch.testing.assert_close(model(mixed)[[0, 2]], sparse[[0, 2]], rtol=1e-5, atol=1e-6)
    wide = module(blocks=6)
    torch.testing.assert_close(asked(wide, x, 0), asked(wide, x, 1), rtol=0, atol=0)
    assert not asked(wide, x, 0)[:, -3:-1].any()


@pytest.mark.parametrize("mode", [0, 1])
def test_nobody_looks_ahead_and_scores_stand_where_labels_do(mode) -> None:
    model, x = module(), text()
    later = x.clone()
    later[:, 13:] = (later[:, 13:] + 1) % VOCABULARY
    one, other = (asked(model, each, mode)[:, : -len(LOOKS)].unflatten(1, (T, VOCABULARY)) for each in (x, later))
    same = [torch.equal(one[:, place], other[:, place]) for place in range(T)]
    assert same == [False, *[True] * 13, *[False] * 8], "what follows the last character stands first"
    points, labels = lessons(x, x[:, 3], torch.tensor(mode))
    assert points.shape == (5, 1 + T)
    assert torch.equal(labels[:, 0], x[:, 3])
    assert torch.equal(labels[:, 1:], x[:, 1:])


def test_gates_and_weights_are_learnt_by_either_mode() -> None:
    for mode in (0, 1):
        model = module()
        asked(model, text(), mode)[:, :-3].square().sum().backward()
        assert all(part.grad is not None and part.grad.any() for part in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [({"shape": (3, 4)}, "needs text"), ({"classes": 3}, "tells the next character"), ({"width": 10}, "heads")],
)
def test_models_that_cannot_be(arguments, why) -> None:
    with pytest.raises(ValueError, match=why):
        transformer(**{"shape": (T,), "classes": VOCABULARY, "vocabulary": VOCABULARY, **arguments})


# What is minimised ----------------------------------------------------------------------------------------------------


def step_of(model: nn.Module, number: int = 0, clients: int = 3, ordinal: int = 1) -> Step:
    x = torch.stack([text(name=k) for k in range(clients)])
    params = {
        name: torch.stack([part.detach() * (1 + k / 5) for k in range(clients)])
        for name, part in model.named_parameters()
    }
    tasks = [LocalTask(k, torch.zeros(0), ordinal, 1) for k in range(clients)]
    return Step(
        Vmapped(model),
        params,
        x,
        x[:, :, 2],
        None,
        tasks,
        number,
        5,
        Layout.of(model),
        torch.zeros(0),
        lambda rows: (rows, rows),
        [],
    )


def test_a_model_gives_as_many_scores_as_are_read() -> None:
    assert module()(text()).shape == (5, VOCABULARY + SparseAttention(**GIVEN).further)


def test_modes_are_drawn_evenly_and_by_address() -> None:
    objective, model = SparseAttention(**GIVEN), module()
    drawn = [objective.mode(step_of(model, number, 10), k) for number in range(40) for k in range(10)]
    assert 160 < drawn.count("full") < 240
    assert drawn == [objective.mode(step_of(model, number, 10), k) for number in range(40) for k in range(10)]
    assert drawn[:10] != drawn[10:20]
    assert [objective.mode(step_of(model, ordinal=2), k) for k in range(3)] != drawn[:3]
    assert {SparseAttention(attention="sparse", **GIVEN).mode(step_of(model, n), 0) for n in range(5)} == {"sparse"}


@pytest.mark.parametrize(
    "objective", [SparseAttention(**GIVEN), SparseAttention(attention="full", alignment=0.0, **GIVEN)]
)
def test_the_loss_is_cross_entropy_everywhere_and_alignment(objective) -> None:
    model = module()
    step = step_of(model, number=3)
    [term] = objective.terms(step)
    _, losses = term.slopes(step.source, step.params)
    for k in range(3):
        own = {name: part[k] for name, part in step.params.items()}
        mode = ("full", "sparse").index(objective.mode(step, k))
        scores = torch.func.functional_call(model, own, (lessons(step.x[k], step.y[k], torch.tensor(mode))[0],))
        after = torch.cat((step.x[k][:, 1:], step.y[k].unsqueeze(1)), 1)
        logits = scores[:, :-3].unflatten(1, (T, VOCABULARY)).roll(-1, 1)
        expected = cross_entropy(logits.mT, after, reduction="none").mean(1) + objective.alignment * scores[:, -3]
        torch.testing.assert_close(losses[k], expected)


def test_a_stack_is_each_client_alone() -> None:
    model, objective = module(), SparseAttention(**GIVEN)
    step = step_of(model)
    [term] = objective.terms(step)
    grads, losses = term.slopes(step.source, step.params)
    assert len({objective.mode(step, k) for k in range(3)}) == 2, "or it shows nothing"
    for k in range(3):
        row, single = slice(k, k + 1), Single(model)
        own = {name: part[row].contiguous() for name, part in step.params.items()}
        alone, loss = single(own, term.points[row], term.y[row], term.loss)
        torch.testing.assert_close(losses[row], loss)
        for name, grad in alone.items():
            torch.testing.assert_close(grads[name][row], grad, rtol=1e-4, atol=1e-6)


def test_the_slope_by_hand_is_autograds() -> None:
    loss, y = NextCharacters(10.0), text(6, 4).view(2, 3, 4)
    scores = numbers(2, 3, 4 * VOCABULARY + 3).requires_grad_()
    each = torch.stack([loss.each(scores[k], y[k]) for k in range(2)])
    [expected] = torch.autograd.grad(each.mean(1).sum(), [scores])
    losses, slope = loss.slope(scores.detach().mT.clone(), y)
    torch.testing.assert_close(losses, each.detach())
    torch.testing.assert_close(slope, expected)


# The exam, and scenarios ----------------------------------------------------------------------------------------------


def test_the_exam_asks_both_ways() -> None:
    model, x = module(), text(70)
    named = {name: part.detach() for name, part in model.named_parameters()}
    dataset = Dataset(x, x[:, 0], x, x[:, 1], VOCABULARY, vocabulary="abcdefg")
    with torch.no_grad():
        told = Attention().grade(model, named, dataset)
        logits = [asked(model, x, mode)[:, :-3].unflatten(1, (T, VOCABULARY)) for mode in (0, 1)]
        looks = asked(model, x, 0)[:, -3:].double().mean(0)
    after = torch.cat((x[:, 1:2], x[:, 1:]), 1)
    full, sparse = (float(cross_entropy(each.mT, after)) for each in logits)
    assert told == pytest.approx({"full_loss": full, "sparse_loss": sparse, "attention_gap": sparse - full,
                                  **dict(zip(LOOKS, looks.tolist(), strict=True))}, abs=1e-5)  # fmt: skip
    assert 0 < told["dropped_mass"] < 1
    assert Attention(examples=5).grade(model, named, dataset) != told


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Made-up plays of three roles."""
    draw = stream(8, "plays")
    words = ["".join("abcdef"[place] for place in draw.integers(6, size=3)) for _ in range(9)]
    rows = [{"role": f"R{role}", "speeches": [" ".join(words[place] for place in draw.integers(9, size=12))] * 30}
            for role in range(3)]  # fmt: skip
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "by_role.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    return tmp_path


PLAYS = {
    "seed": 3,
    "until": {"versions": 2},
    "data": {"shakespeare": {"length": 16, "stride": 5}},
    "model": {"transformer": {"width": 8, "layers": 1, "heads": 2, "block": 4, "blocks": 2}},
    "fleet": {"clients": 3, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 8, "optimizer": {"adam": {"lr": 0.01}}, "objective": "sparse_attention"},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h", "exam": "attention"},
}


def run(local: dict | None = None, **changes):
    return changed(PLAYS, local, **changes)


def test_clients_learn_by_it_whoever_computes_them(folder) -> None:
    before = torch.get_rng_state()
    found = [run(executor=kind)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[2].trace.digest()
    _, learnt = run({"steps": 20}, until={"versions": 5})
    assert learnt.progress.rows[-1]["full_loss"] < 0.9 * learnt.progress.rows[0]["full_loss"]
    other = [run(local)[1].aggregator.params for local in (
        {"objective": {"sparse_attention": {"attention": "full"}}},
        {"objective": {"sparse_attention": {"alignment": 0.0}}})]  # fmt: skip
    assert not any(torch.equal(found[0].aggregator.params, params) for params in other)


@pytest.mark.parametrize("changes", [
    {"aggregator": {"fedbuff": {"concurrency": 2, "goal": 1}}}, {"aggregator": {"fedstale": {"beta": 0.5}}},
    {"local": {**PLAYS["local"], "source": {"eggroll": {"population": 4}}}, "wire": {"up": "scores"}},
    {"local": {**PLAYS["local"], "private": {"clip": 1.0, "multiplier": 0.1}}}], ids=str)  # fmt: skip
def test_it_goes_with_others(folder, changes) -> None:
    local = changes.pop("local", None)
    _, simulation = run(local, **changes)
    assert simulation.progress.rows[-1]["version"] == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"local": {**PLAYS["local"], "objective": None}}, "transformer gives [0-9]+ scores, where [0-9]+ are read, 0"),
     ({"local": {**PLAYS["local"], "control": "ghosts"}}, "ghosts takes all that a model gives"),
     ({"model": {"char_lstm": {"hidden": 4}}}, "char_lstm gives [0-9]+ scores, where"),
     ({"model": {"char_lstm": {"hidden": 4}}, "local": {**PLAYS["local"], "objective": None}},
      "evaluate.exam: only a transformer has"),
     ({"model": {"transformer": {"width": 9, "heads": 2}}}, "a width of 9 cannot be shared among 2")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(folder, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence) as caught:
        run(changes.pop("local", None), **changes)
    assert len(str(caught.value).splitlines()) == 1
