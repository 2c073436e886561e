"""How far steps go, and where their gradients come from: laws of the slots of a local step."""

from __future__ import annotations

import pytest
import torch
from worlds import changed

from fedsim.errors import ScenarioError
from fedsim.steps.schedules import Cosine, Linear, Trapezoid
from fedsim.work import LocalTask

DIGITS = {
    "seed": 3,
    "until": {"versions": 4},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 8, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.2, "momentum": 0.9}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


def params(local: dict | None = None, **changes) -> torch.Tensor:
    return run(local, **changes)[1].aggregator.params


# Schedules ------------------------------------------------------------------------------------------------------------

TASK = LocalTask(0, torch.zeros(0), 0, steps=10, version=3)


def test_done_is_of_the_round_or_of_the_run() -> None:
    assert Linear(over="round", versions=None).done(TASK, 5) == 0.5
    assert Linear(versions=10).done(TASK, 5) == 0.35


def test_their_shapes() -> None:
    assert [Linear(versions=1).factor(done) for done in (0, 0.25, 1)] == [1, 0.75, 0]
    assert [Cosine(versions=1, last=0.5).factor(done) for done in (0, 0.5, 1)] == [1, 0.75, 0.5]
    assert [Trapezoid(versions=1, warm_up=0.5, cool_down=0.5).factor(done) for done in (0, 0.25, 0.5, 0.75, 1)] == [
        0, 0.5, 1, 0.5, 0]  # fmt: skip


@pytest.mark.parametrize("optimizer", [{"sgd": {"lr": 0.2, "momentum": 0.9}}, {"adamw": {"lr": 0.01}}, "rmsprop"])
def test_a_factor_of_the_step_is_one_of_the_rate(optimizer) -> None:
    """Half the rate all along, by the optimizer's own argument or by a schedule that stays at a half."""
    name = optimizer if isinstance(optimizer, str) else next(iter(optimizer))
    arguments = {} if isinstance(optimizer, str) else optimizer[name]
    half = {name: {**arguments, "lr": arguments.get("lr", 0.01) / 2}}
    by_schedule = {"optimizer": optimizer, "schedule": {"tests_of_steps:Half": {}}}
    import sys
    import types

    from fedsim.steps.schedules import Schedule

    class Half(Schedule):
        def factor(self, done: float) -> float:
            return 0.5

    sys.modules["tests_of_steps"] = types.ModuleType("tests_of_steps")
    sys.modules["tests_of_steps"].Half = Half  # type: ignore[attr-defined]
    try:
        torch.testing.assert_close(params(by_schedule), params({"optimizer": half}), rtol=1e-5, atol=1e-6)
    finally:
        del sys.modules["tests_of_steps"]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "trapezoid"])
@pytest.mark.parametrize("over", ["round", "run"])
def test_a_schedule_is_the_same_under_every_executor(name, over) -> None:
    more = {"cool_down": 0.6} if name == "trapezoid" else {}
    schedule = name if name == "constant" else {name: {"over": over, **more}}
    found = [run({"schedule": schedule}, executor=kind)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    plain = params()
    assert torch.equal(found[0].aggregator.params, plain) == (name == "constant")


def test_without_an_end_there_is_no_schedule_over_the_run() -> None:
    with pytest.raises(ScenarioError, match=r"schedule.linear: a schedule over the run needs until.versions"):
        run({"schedule": "linear"}, until={"time": "1 min"})
    run({"schedule": {"linear": {"over": "round"}}}, until={"time": "1 min"})


# Sources --------------------------------------------------------------------------------------------------------------


def test_sharpness_is_its_paper() -> None:
    """One step of one client, by autograd: g at x + rho g / |g|."""
    local = {"source": {"sam": {"radius": 0.3}}, "steps": 1, "batch": 2000, "optimizer": {"sgd": {"lr": 0.1}}}
    made, simulation = run(local, fleet={"clients": 1, "devices": "fedscale"}, data="digits", until={"versions": 1})
    module = made.evaluator.model
    x, y = made.trainer.x, made.trainer.y

    def slope(params: torch.Tensor) -> torch.Tensor:
        leaves = {name: part.clone().requires_grad_() for name, part in made.layout.unflatten(params).items()}
        loss = torch.nn.functional.cross_entropy(torch.func.functional_call(module, leaves, (x,)), y)
        return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(leaves.values()))])

    first = slope(made.params)
    wanted = made.params - 0.1 * slope(made.params + 0.3 * first / first.norm())
    torch.testing.assert_close(simulation.aggregator.params, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", [DIGITS["model"], {"cnn_group": {"channels": [8]}}])
def test_sharpness_is_the_same_under_every_executor_and_takes_its_time(model) -> None:
    local = {"source": "sam"}
    found = [run(local, executor=kind, model=model, until={"versions": 2}) for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0][1].aggregator.params, found[1][1].aggregator.params)
    assert len({simulation.trace.digest() for _, simulation in found}) == 1
    plain, _ = run(model=model, until={"versions": 2})
    assert found[0][0].work.seen == [2 * seen for seen in plain.work.seen]
    assert torch.equal(params({"source": {"sam": {"radius": 0.0}}}), params())


@pytest.mark.parametrize(
    ("local", "sentence"),
    [({"source": "samm"}, "did you mean sam"),
     ({"source": "sam", "private": {"clip": 1.0, "multiplier": 1.0}}, "local.source: with it steps depend on examples"),
     ({"schedule": {"trapezoid": {"warm_up": 0.7, "cool_down": 0.7}}}, "more than all that is to be done")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(local, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run(local)
