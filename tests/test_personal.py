"""Parameters and statistics that stay with a client: what travels, what is trained, and how clients are judged."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from worlds import changed

from fedsim.errors import ScenarioError
from fedsim.models.normalisation import estimated, fixed
from fedsim.objectives.propagated import Apart
from fedsim.own_models import alike, propagated
from fedsim.personal import Personal, personal_names
from fedsim.vector import Layout

DIGITS = {
    "seed": 3,
    "until": {"versions": 3},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 1.0}}}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "100 h", "clients": True},
}
BATCHED = {"model": {"resnet": {"width": 8, "blocks": [1], "norm": "batch"}}}
QUIET = {"evaluate": {"every": "100 h"}}
"""Where all have one model there is nothing to show of each."""
ATTACK = {"radius": 0.1, "step": 0.05, "steps": 2}


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


def test_names() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert personal_names(model, "norms") == ("1.weight", "1.bias")
    assert personal_names(model, ("2.",)) == ("2.weight", "2.bias")
    assert personal_names(model, None) == ()
    for nonsense in (("3.",), ("",), ()):
        with pytest.raises(ValueError, match=r"no parameter begins|all or none"):
            personal_names(model, nonsense)


def test_what_stays_does_not_travel() -> None:
    """Of a layer 4 -> 2 with its bias: the bias stays; a change says nothing of it."""
    layout = Layout.of(nn.Linear(4, 2))
    personal = Personal({"bias"}, layout)
    delta, own = personal.withheld(torch.arange(10.0), torch.ones(10))
    assert delta.tolist() == [*(place - 1.0 for place in range(8)), 0, 0]
    assert own is not None
    assert own.tolist() == [8, 9]
    assert personal.model(torch.zeros(10), own).tolist() == [0] * 8 + [8, 9]
    assert Personal((), layout).withheld(torch.ones(10), torch.ones(10))[1] is None


def test_a_lone_client_trains_the_same_model_whatever_stays_with_it() -> None:
    alone = {"fleet": {"clients": 1, "devices": "fedscale"}, "data": "digits"}
    usual, bare = run(**alone, **QUIET)
    plain = bare.aggregator.params
    made, simulation = run({"personal": ["3."]}, **alone)
    own = simulation.kept[0].settled().personal
    whole = made.trainer.personal.model(simulation.aggregator.params, own)
    torch.testing.assert_close(whole, plain, rtol=1e-5, atol=1e-6)
    mask = made.trainer.personal.mask
    assert torch.equal(simulation.aggregator.params[mask], made.params[mask]), "the server never sees it"
    assert made.work.up == 4 * int((~mask).sum()) < usual.work.up


@pytest.mark.parametrize(
    ("local", "changes"),
    [({"personal": ["3."]}, {}), ({"personal": "norms"}, BATCHED),
     ({"personal": "norms", "objective": {"fedrbn": {**ATTACK, "share": 0.5}}}, BATCHED),
     ({"personal": ["3."], "optimizer_state": "kept"}, {"aggregator": {"fedbuff": {"concurrency": 3, "goal": 2}}})],
)  # fmt: skip
def test_it_is_the_same_under_every_executor(local, changes) -> None:
    found = [run(local, executor=kind, **changes)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    one, other = (simulation.progress.rows[-1] for simulation in found[:2])
    assert one == other


def test_clients_are_judged_by_their_own_models() -> None:
    made, simulation = run({"personal": ["3."]})
    table = simulation.progress.clients[-1]
    for client in range(4):
        own = made.trainer.personal.model(simulation.aggregator.params, simulation.kept[client].settled().personal)
        assert table["accuracy"][client] == pytest.approx(made.evaluator(own).metrics["accuracy"])
    weighted = (table["accuracy"] * table["examples"]).sum() / table["examples"].sum()
    assert simulation.progress.rows[-1]["accuracy"] == pytest.approx(weighted)


# Robustness that is handed on -----------------------------------------------------------------------------------------


def test_halves_are_batches_of_their_own() -> None:
    """By autograd: the mean of both losses, each with the statistics of its own half."""
    made, _ = run({"objective": {"fedrbn": {**ATTACK, "weight": 0.3}}}, until={"versions": 1}, **BATCHED)
    module, layout = made.evaluator.model, made.layout
    x, y = made.trainer.x[:6], made.trainer.y[:6]
    moved = (x + 0.2).clamp(0, 1)
    leaves = {name: part.clone().requires_grad_() for name, part in layout.unflatten(made.params).items()}
    losses = [nn.functional.cross_entropy(functional_call(module, leaves, (half,)), y) for half in (x, moved)]
    wanted = torch.autograd.grad(0.7 * losses[0] + 0.3 * losses[1], list(leaves.values()))
    params = {name: part.detach().unsqueeze(0) for name, part in leaves.items()}
    source = made.trainer.gradients
    assert isinstance(source, Apart)
    grads, found = source(params, torch.cat((x, moved))[None], y[None])
    for name, grad in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(grads[name][0], grad, rtol=1e-4, atol=1e-6)
    assert float(found.mean()) == pytest.approx((0.7 * losses[0] + 0.3 * losses[1]).item(), rel=1e-5)


def test_who_cannot_afford_it_trains_plainly_and_pays_nothing() -> None:
    plain, bare = run(**BATCHED, **QUIET)
    nobody, same = run({"objective": {"fedrbn": {**ATTACK, "share": 0.0}}}, **BATCHED)
    assert torch.equal(same.aggregator.params, bare.aggregator.params)
    assert list(nobody.work.seen) == list(plain.work.seen)
    half, _ = run({"objective": {"fedrbn": {**ATTACK, "share": 0.5}}}, **BATCHED)
    affords = half.trainer.objective.affords
    assert len(affords) == 2
    for client in range(4):
        factor = 2 + half.trainer.objective.price if client in affords else 1
        assert half.work.seen[client] == round(plain.work.seen[client] * factor)


def layers(*numbers: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One BatchNorm with two channels, of these means; variances are 1 more."""
    mean = torch.tensor(numbers)
    return [(mean, mean + 1)]


def test_statistics_are_handed_on_by_likeness() -> None:
    """By hand: the softmax of 100 times the mean cosine of means and of variances."""
    own = layers(1.0, 2.0)
    [(mean, variance)] = propagated(own, [(layers(1.0, 2.0), layers(5.0, 6.0)), (layers(1.0, 2.0), layers(7.0, 8.0))])
    assert mean.tolist() == [6, 7]
    assert variance.tolist() == [7, 8]
    unlike = layers(2.0, 1.0)
    near, far = float(alike(own, own)), float(alike(own, unlike))
    assert near == pytest.approx(1)
    assert far == pytest.approx((4 / 5 + 12 / 13) / 2)
    [(mean, _)] = propagated(own, [(own, layers(0.0, 0.0)), (unlike, layers(1.0, 1.0))])
    assert mean[0].item() == pytest.approx(torch.tensor([100 * near, 100 * far]).softmax(0)[1].item())


def test_statistics_can_be_fixed_on_a_twin() -> None:
    """An attack's own copy of the model is under the same statistics as the model that is judged."""
    made, _ = run(evaluate={"every": "100 h", "robust": ATTACK}, until={"versions": 1}, **BATCHED)
    model, twin = made.evaluator.modules
    assert model is not twin
    named, x = made.layout.unflatten(made.params), made.trainer.x
    statistics = estimated(model, named, [x[:32], x[32:64]])
    with fixed([model, twin], statistics), torch.no_grad():
        scores = functional_call(model, dict(named), (x[:1],))
        params = {name: part.unsqueeze(0) for name, part in named.items()}
        torch.testing.assert_close(made.trainer.plain.scores(params, x[None, :1])[0], scores)


def test_others_get_robustness_that_they_did_not_train() -> None:
    """Half of the clients can afford it; the others' robust accuracy is above what plain training gives."""
    evaluate = {"every": "100 h", "clients": True, "robust": {"radius": 0.1, "step": 0.03, "steps": 6}}
    local = {"steps": 10, "batch": 32, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}}
    changes = {"until": {"versions": 8}, "data": "digits", "evaluate": evaluate} | BATCHED
    rbn = {"objective": {"fedrbn": {"radius": 0.1, "step": 0.04, "steps": 4, "share": 0.5}}}
    made, simulation = run(local | rbn, **changes)
    _, plain = run(local, **{**changes, "evaluate": {**evaluate, "clients": False}})
    robust = simulation.progress.clients[-1]["robust_accuracy"]
    others = [robust[client] for client in range(4) if client not in made.trainer.objective.affords]
    assert min(others) > plain.progress.rows[-1]["robust_accuracy"] + 0.1


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [({"personal": ["nine"]}, {}, "no parameter begins with 'nine'"),
     ({"personal": "norms"}, {}, "all or none"),
     ({"personal": ["3."]}, {"wire": {"codec": "float16"}}, "local.personal: a codec's messages are of whole models"),
     ({"personal": ["3."]}, {"aggregator": "scaffold"}, "corrects the gradients of whole models"),
     ({"personal": ["3."]}, {"aggregator": None, "peers": "gossip", "network": "ring"}, "peers send whole models"),
     ({"personal": ["3."]}, {"evaluate": {"every": "1 h", "train": True}}, "leave out evaluate.train"),
     ({"objective": {"fedrbn": ATTACK}, "control": "ghosts"}, BATCHED, "which a control would take for one"),
     ({"objective": {"fedrbn": ATTACK}}, {}, "fedrbn is for models with BatchNorm")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run(local, **changes)
