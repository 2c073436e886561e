"""Clipping and noise: bounds hold, noise has its size, and epsilon is dp_accounting's for what really happens."""

from __future__ import annotations

import math

import dp_accounting as dp
import pytest
import torch
from torch import Tensor, nn
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.conduct import conduct
from fedsim.disclosure import disclosed
from fedsim.errors import ScenarioError
from fedsim.gradients.per_example import PerExample
from fedsim.gradients.vmapped import Vmapped
from fedsim.rng import stream
from fedsim.vector import Layout
from fedsim.wire import Draw
from fedsim.wire.examples import ExampleNoise, releases
from fedsim.wire.privacy import Adaptive, Flat, Noise, PerLayer, Privacy
from fedsim.work import LocalResult, LocalTask

LAYOUT = Layout.of(nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10)))
SIZE = LAYOUT.size
DIGITS = {
    "seed": 3,
    "until": {"versions": 6},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 40, "devices": "fedscale"},
    "local": {"steps": 2, "batch": 8, "optimizer": {"sgd": {"lr": 0.2}}},
    "aggregator": {"fedavg": {"cohort": 10, "weights": "uniform"}},
    "evaluate": {"every": "1 h"},
}
NOISY = {"clip": 0.3, "noise": {"multiplier": 1.1}}


def vector(*name: object, length: float = 5.0) -> Tensor:
    x = torch.from_numpy(stream(4, "privacy", *name).standard_normal(SIZE)).float()
    return x / x.norm() * length


def run(wire: dict | None, **changes):
    [arm] = scenario.read(DIGITS | changes | ({} if wire is None else {"wire": wire}))
    made = experiment.assemble(arm)
    simulation = made.simulation(Recording())
    simulation.run()
    return made, simulation


def told(wire: dict, **changes) -> dict:
    return disclosed(*run(wire, **changes))["privacy"]["clients"]


# Clipping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [Flat(1.5), PerLayer(1.5), Adaptive(1.5)])
def test_no_update_is_longer_than_the_norm_and_short_ones_are_left_alone(clip) -> None:
    privacy = Privacy(1, LAYOUT, clip)
    long, within = privacy.protected(vector("long"), Draw(1, 0))
    assert float(long.norm()) <= 1.5 * (1 + 1e-6)
    assert within is False
    assert float(long @ vector("long")) > 0
    short = vector("short", length=1e-3)
    kept, within = privacy.protected(short, Draw(1, 0))
    assert within is True
    assert torch.equal(kept, short)


def test_every_layer_has_its_part_of_the_norm() -> None:
    clipped = PerLayer(2.0).clipped(vector("layers", length=100), 2.0, LAYOUT)
    for part in clipped.split([math.prod(shape) for shape in LAYOUT.shapes]):
        assert float(part.norm()) == pytest.approx(2.0 / math.sqrt(4), rel=1e-5)


def test_messages_can_be_clipped_in_place_of_updates() -> None:
    """|R x| may be longer than |x|, so a bound before the sketch would not hold behind it."""
    privacy = Privacy(1, LAYOUT, Flat(1.0, message=True))
    x = vector("message")
    assert privacy.protected(x, Draw(1, 0)) == (x, None)
    [message] = privacy.blurred((torch.full((50,), 3.0),), Draw(1, 0))
    assert float(message.norm()) == pytest.approx(1.0)


def test_adaptive_clipping_finds_the_quantile() -> None:
    """Norms are 1, 2, ..., 100; a quantile of 0.5 ends near 50."""
    privacy = Privacy(1, LAYOUT, Adaptive(0.1, quantile=0.5, rate=0.2), expected=100)
    direction = vector("direction")
    for version in range(200):
        within = [LocalResult(direction, 0.0, within=length <= privacy.bound_at(version)) for length in range(1, 101)]
        assert torch.equal(privacy.step(direction, within, version), direction)
    assert 45 < privacy.bound < 55
    assert privacy.bound_at(0) == 0.1
    assert privacy.bound_at(3) < privacy.bound_at(4)


# Noise ----------------------------------------------------------------------------------------------------------------


def test_noise_has_the_size_that_was_asked_for() -> None:
    """In clip norms: all of it by each; a share so that a sum of `expected` has it; or on the server's mean."""
    zero = torch.zeros(20_000)
    layout = Layout(("all",), ((20_000,),))
    for by, deviation in (("each", 3.0), ("clients", 3.0 / math.sqrt(25)), ("server", 0.0)):
        privacy = Privacy(1, layout, Flat(2.0), Noise(1.5, by), expected=25)
        noised, _ = privacy.protected(zero, Draw(1, 0, client=7, ordinal=2))
        assert float(noised.std()) == pytest.approx(deviation, rel=0.03)
        server = privacy.step(zero, [], 4)
        assert float(server.std()) == pytest.approx(3.0 / 25 if by == "server" else 0.0, rel=0.03)
    shares = [Privacy(1, layout, Flat(2.0), Noise(1.5, "clients"), 25).protected(zero, Draw(1, 0, c))[0]
              for c in range(25)]  # fmt: skip
    assert float(sum(shares).std()) == pytest.approx(3.0, rel=0.03)


def test_counting_takes_its_part_of_the_noise() -> None:
    """Andrew et al., theorem 1: z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2); together they are z."""
    privacy = Privacy(1, LAYOUT, Adaptive(1.0, count=2.0), Noise(0.8))
    spent = privacy.deviation(1.0)
    assert spent > 0.8
    assert (spent**-2 + (2 * 2.0) ** -2) ** -0.5 == pytest.approx(0.8)


def test_without_noise_and_with_a_wide_clip_nothing_changes() -> None:
    _, plain = run(None)
    for wire in ({"clip": 1e6}, {"clip": 1e6, "noise": {"multiplier": 0}}):
        _, private = run(wire)
        torch.testing.assert_close(private.aggregator.params, plain.aggregator.params, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("by", ["server", "clients", "each"])
def test_it_is_the_same_under_every_executor(by) -> None:
    wire = {"clip": {"adaptive": {"norm": 0.2}}, "noise": {"multiplier": 0.5, "by": by},
            "codec": {"srht": {"ratio": 0.5}}}  # fmt: skip
    found = [run(wire, executor=kind)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    assert found[0].wire.privacy.bounds == found[1].wire.privacy.bounds
    assert len(found[0].wire.privacy.bounds) > 3


def test_a_server_that_adds_the_noise_counts_no_message_for_more_than_the_clip() -> None:
    """A sketch makes updates longer, by the root of its second moment, than they were clipped to."""
    wire = {**NOISY, "codec": {"srht": {"ratio": 0.1}}}
    [arm] = scenario.read(DIGITS | {"wire": wire, "until": {"versions": 2}})
    simulation = experiment.assemble(arm).simulation(Recording())
    lengths, receive = [], simulation.aggregator.receive

    def hear(update):
        lengths.append(float(update.delta.norm()))
        return receive(update)

    simulation.aggregator.receive = hear
    simulation.run()
    assert max(lengths) <= 0.3 * (1 + 1e-5)
    assert min(lengths) > 0.29


def test_noise_is_what_the_server_adds() -> None:
    """The run with noise by the server is the run without it, but for noise of z C / m in the first step."""
    _, plain = run({"clip": 0.3}, until={"versions": 1})
    _, noisy = run(NOISY, until={"versions": 1})
    apart = noisy.aggregator.params - plain.aggregator.params
    assert float(apart.std()) == pytest.approx(1.1 * 0.3 / 10, rel=0.1)


# Epsilon --------------------------------------------------------------------------------------------------------------


def rdp(event: dp.DpEvent, rounds: int, relation: str = "ADD_OR_REMOVE_ONE") -> float:
    accountant = dp.rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation[relation])
    return accountant.compose(dp.SelfComposedDpEvent(event, rounds)).get_epsilon(1e-5)


def test_a_fixed_cohort_is_sampled_without_replacement() -> None:
    said = told(NOISY)
    event = dp.SampledWithoutReplacementDpEvent(40, 10, dp.GaussianDpEvent(1.1 / 2))
    assert said["sampling"] == "fixed"
    assert said["rounds"] == 7  # the last of which had only begun
    assert said["epsilon"] == rdp(event, said["rounds"], "REPLACE_ONE")


def test_independent_participation_is_poisson_sampling_where_somebody_is_always_there() -> None:
    fleet = {"clients": 200, "devices": "fedscale", "participation": {"bernoulli": {"rate": 0.2}}}
    aggregator = {"fedavg": {"cohort": "all", "weights": "expected"}}
    said = told(NOISY, fleet=fleet, aggregator=aggregator)
    assert said["sampling"] == "poisson"
    assert said["epsilon"] == rdp(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(1.1)), said["rounds"])
    few = told(NOISY, fleet=fleet | {"clients": 12}, aggregator=aggregator)
    assert few["sampling"] == "everybody", "rounds without anybody are too likely to be passed over"
    assert few["epsilon"] == rdp(dp.GaussianDpEvent(1.1), few["rounds"])


def test_privacy_loss_distributions_are_an_accountant_too() -> None:
    fleet = {"clients": 200, "devices": "fedscale", "participation": {"bernoulli": {"rate": 0.2}}}
    aggregator = {"fedavg": {"cohort": "all", "weights": "expected"}}
    said = told(NOISY, fleet=fleet, aggregator=aggregator, accountant="pld")
    accountant = dp.pld.PLDAccountant()
    event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(1.1)), said["rounds"])
    assert said["epsilon"] == accountant.compose(event).get_epsilon(1e-5)
    assert said["epsilon"] < told(NOISY, fleet=fleet, aggregator=aggregator)["epsilon"]
    assert "no epsilon from pld for cohorts of fixed size" in told(NOISY, accountant="pld")["refused"]


def test_devices_do_not_amplify() -> None:
    """Who counts depends on who comes and goes; a client still counts once a round at most."""
    fleet = {"clients": 40, "devices": "fedscale", "availability": {"markov": {"on": "2 h", "off": "1 h"}}}
    said = told(NOISY, fleet=fleet, aggregator={"fedavg": {"cohort": 10, "weights": "expected"}})
    assert said["sampling"] == "everybody"
    assert said["epsilon"] == rdp(dp.GaussianDpEvent(1.1), said["rounds"])


def test_messages_that_are_noised_one_by_one_need_no_synchrony() -> None:
    said = told({"clip": 0.3, "noise": {"multiplier": 4, "by": "each"}}, aggregator={"fedbuff": {"goal": 5}},
                until={"versions": 20})  # fmt: skip
    assert said["sampling"] == "everybody"
    assert said["epsilon"] == rdp(dp.GaussianDpEvent(4.0), said["rounds"])
    assert "against whoever reads them all" in said["scope"]


@pytest.mark.parametrize(
    ("changes", "wire", "sentence"),
    [({"aggregator": {"fedbuff": {"goal": 5}}}, NOISY, "no epsilon for asynchronous or buffered aggregation"),
     ({"aggregator": {"fedavg": {"cohort": 10, "weights": "uniform", "deadline": "1 h"}}}, NOISY,
      "no epsilon for unbounded weights"),
     ({"select": "oort"}, NOISY, "no epsilon for value-dependent selection"),
     ({}, {"clip": 0.3}, "no epsilon without noise"),
     ({}, {"clip": {"adaptive": {"norm": 0.1}}, "noise": {"multiplier": 1}}, "adaptive clipping without noise"),
     ({"fleet": {"clients": 40, "devices": "fedscale", "drop": 0.1},
       "aggregator": {"fedavg": {"cohort": 10, "weights": "expected"}}},
      {"clip": 0.3, "noise": {"multiplier": 1, "by": "clients"}}, "noise that clients add in shares"),
     ({"fleet": {"clients": 200, "devices": "fedscale", "participation": {"bernoulli": {"rate": 0.2}}},
       "aggregator": {"fedavg": {"cohort": "all", "weights": "expected"}}},
      {"clip": 0.3, "noise": {"multiplier": 1, "by": "clients"}}, "noise that clients add in shares")],
)  # fmt: skip
def test_the_ledger_says_why_there_is_none(changes, wire, sentence) -> None:
    assert sentence in told(wire, **changes)["refused"]


@pytest.mark.parametrize(
    ("wire", "sentence"),
    [({"clip": {"adaptive": {"count": 0.5}}, "noise": {"multiplier": 1}}, "has to be above half of that"),
     ({"clip": {"flat": {"norm": 1, "message": True}}, "noise": {"multiplier": 1}}, "messages that need noise"),
     ({"clip": 1, "noise": {"multiplier": 1}, "codec": {"srht": {"ratio": 0.5}}, "down": "step"},
      "the server's noise would not fit"),
     ({"clip": -1}, "wire.clip")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_runs(wire, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(DIGITS | {"wire": wire})]


# Examples -------------------------------------------------------------------------------------------------------------


def test_examples_are_clipped_one_by_one() -> None:
    """Against autograd, one example after another; and far above all norms it is the plain mean."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for number, part in enumerate(module.parameters()):
            part.copy_(vector("weights", number)[: part.numel()].view_as(part) / 2)
    x, y = vector("x")[: 2 * 7 * 6].view(2, 7, 6), torch.arange(14).view(2, 7) % 3
    params = {name: torch.stack([part.detach(), 2 * part.detach()]) for name, part in module.named_parameters()}
    for clip in (0.2, 1e6):
        found, losses = PerExample(module, clip)(params, x, y)
        plain, expected = Vmapped(module)(params, x, y)
        torch.testing.assert_close(losses, expected)
        for k in range(2):
            total = 0.0
            for one in range(7):
                own = {name: part[k].clone().requires_grad_() for name, part in params.items()}
                scores = torch.func.functional_call(module, own, (x[k, one : one + 1],))
                grads = torch.autograd.grad(
                    nn.functional.cross_entropy(scores, y[k, one : one + 1]), list(own.values())
                )
                flat = torch.cat([part.flatten() for part in grads])
                total = total + flat * min(1.0, clip / float(flat.norm()))
            flat = torch.cat([part[k].flatten() for part in found.values()])
            torch.testing.assert_close(flat, total / 7, rtol=1e-4, atol=1e-6)
        if clip == 1e6:
            for name, part in plain.items():
                torch.testing.assert_close(found[name], part, rtol=1e-4, atol=1e-6)


def test_noise_on_batches_has_its_size_and_its_own_address() -> None:
    noise = ExampleNoise(clip=2.0, multiplier=1.5)
    tasks = [LocalTask(client, torch.zeros(1), 4, 1) for client in (0, 3)]
    grads = {"w": torch.zeros(2, 40_000)}
    noise.add(grads, tasks, step=1, batch=10, seed=1)
    assert float(grads["w"].std()) == pytest.approx(0.3, rel=0.02)
    alone = {"w": torch.zeros(1, 40_000)}
    noise.add(alone, tasks[1:], step=1, batch=10, seed=1)
    assert torch.equal(alone["w"][0], grads["w"][1])


def test_examples_have_an_epsilon_of_their_own() -> None:
    """36 or 35 examples a client, batches of 8 or 9: every training is one pass of 4 steps, or a pass and a bit."""
    local = {**DIGITS["local"], "steps": 4, "batch": 9, "private": {"clip": 1.0, "multiplier": 3.0}}
    made, simulation = run(None, local=local, fleet={"clients": 39, "devices": "fedscale"})
    said = disclosed(made, simulation)["privacy"]["examples"]
    times = max(simulation.ordinals.values())
    sizes = {min(9, held) for held in made.work.held}
    assert sizes == {9}
    assert said["rounds"] == times * max(releases(4, 9, held) for held in made.work.held)
    assert said["epsilon"] == rdp(dp.GaussianDpEvent(3.0), said["rounds"])


def test_examples_of_clients_of_edges_have_one_too() -> None:
    local = {**DIGITS["local"], "private": {"clip": 1.0, "multiplier": 3.0}}
    below = {"network": {"tree": {"edges": 4}}, "aggregator": {"fedavg": {"cohort": "all"}}}
    made, simulation = run(None, local=local, edges={"aggregator": "fedavg", "rounds": 2}, **below)
    times = max(times for edge in simulation.edges.values() for times in edge.ordinals.values())
    said = disclosed(made, simulation)["privacy"]["examples"]
    assert said["rounds"] == times * max(releases(2, 8, held) for held in made.work.held)
    made, simulation = run(None, local=local, edges={"aggregator": "sfat"}, **below)
    assert "weighted by their losses" in disclosed(made, simulation)["privacy"]["examples"]["refused"]


def test_examples_of_peers_have_one_too(tmp_path) -> None:
    """What they send is made of what they have trained, so often as they have."""
    local = {**DIGITS["local"], "private": {"clip": 1.0, "multiplier": 3.0}}
    changes = {"aggregator": None, "wire": None, "peers": "gossip", "network": "complete", "until": {"versions": 5}}
    [arm] = scenario.read(DIGITS | {"local": local} | changes)
    made = experiment.assemble(arm)
    said = conduct(made, tmp_path / "run").receipt["privacy"]["examples"]
    assert said["rounds"] == 5 * max(releases(2, 8, held) for held in made.work.held)
    assert said["epsilon"] == rdp(dp.GaussianDpEvent(3.0), said["rounds"])


def test_private_steps_are_the_same_under_every_executor() -> None:
    local = {**DIGITS["local"], "private": {"clip": 1.0, "multiplier": 1.0}}
    inline, stacked = (run(None, local=local, executor=kind)[1] for kind in ("inline", "stacked"))
    assert torch.equal(inline.aggregator.params, stacked.aggregator.params)
    _, quiet = run(None, local={**DIGITS["local"], "private": {"clip": 1e6, "multiplier": 0}})
    _, plain = run(None)
    torch.testing.assert_close(quiet.aggregator.params, plain.aggregator.params, rtol=1e-4, atol=1e-5)
