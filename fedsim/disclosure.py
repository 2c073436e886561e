"""What a run has disclosed of its clients: an epsilon, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from fedsim.fleet.participation import Bernoulli, Participation
from fedsim.selection import Uniform
from fedsim.wire.examples import releases
from fedsim.wire.ledger import Facts, Ledger, Sampling, Unaccountable, example_epsilon, sampling_of
from fedsim.wire.privacy import Adaptive, Privacy

if TYPE_CHECKING:
    from fedsim.cell import Cell
    from fedsim.experiment import Experiment
    from fedsim.server import ServerSimulation
    from fedsim.swarm import Swarm

NEGLIGIBLE = 0.01
"""Of delta: that part may be the chance that in some round nobody takes part, which then is not a round at all."""

MISSING_SHARES = (
    "no epsilon for noise that clients add in shares where not always as many answer: some is missing in the sum then; "
    "take by: server or each"
)
UNPROTECTED_COUNT = (
    "no epsilon for adaptive clipping without noise on how many were short enough: take count above 0, and by: server"
)


def disclosed(experiment: Experiment, simulation: ServerSimulation) -> dict[str, Any]:
    """For a receipt, under `privacy`: of `clients` and of `examples`, where they are protected, epsilon at its delta.

    After how many releases, and between which two runs; or why it is `refused`.
    """
    wire, told = simulation.wire, {}
    if wire is not None and wire.privacy.clip is not None:
        try:
            told["clients"] = _epsilon(experiment, simulation, wire.privacy)
        except Unaccountable as reason:
            told["clients"] = {"refused": str(reason)}
    if experiment.trainer.private is not None and reads_losses(experiment, simulation):
        why = "no epsilon where clients are selected or weighted by their losses, which get no noise"
        told["examples"] = {"refused": why}
    elif experiment.trainer.private is not None:
        trainings = [pair for cell in cells(simulation) for pair in cell.ordinals.items()]
        told["examples"] = _examples(experiment, trainings)
    return {"privacy": told} if told else {}


def disclosed_by_peers(experiment: Experiment, swarm: Swarm) -> dict[str, Any]:
    """The same of peers, whose examples alone can be protected: what they send is made of what they have trained."""
    if experiment.trainer.private is None:
        return {}
    return {"privacy": {"examples": _examples(experiment, [(node.name, node.trainings) for node in swarm.nodes])}}


def _examples(experiment: Experiment, trainings: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Of one example, against whoever reads all that its client sends; of clients, and how often each has trained."""
    noise, delta, accountant = experiment.trainer.private, experiment.arm.keys.delta, experiment.arm.keys.accountant
    assert noise is not None
    work, batch = experiment.work, experiment.trainer.batch  # steps as at first: none has more
    most = max(times * releases(work.steps[client], min(batch, work.held[client]) or 1, work.held[client])
               for client, times in trainings)  # fmt: skip
    return {"epsilon": example_epsilon(most, noise.multiplier, delta, accountant), "delta": delta, "rounds": most,
            "sampling": "everybody", "adjacent": "an example's gradients, or zeros in their place",
            "scope": "against whoever reads all that its client sends"}  # fmt: skip


def _epsilon(experiment: Experiment, simulation: ServerSimulation, privacy: Privacy) -> dict[str, Any]:
    noise, delta, accountant = privacy.noise, experiment.arm.keys.delta, experiment.arm.keys.accountant
    if noise is None:
        return {"refused": "no epsilon without noise"}
    if isinstance(privacy.clip, Adaptive) and (noise.by != "server" or not privacy.clip.count):
        raise Unaccountable(UNPROTECTED_COUNT)
    facts = facts_of(experiment, simulation)
    if noise.by == "each":
        if not facts.uniform_selection:
            sampling_of(facts)
        ledger, rounds = (
            Ledger(Sampling("everybody"), noise.multiplier, delta, accountant),
            max(simulation.ordinals.values()),
        )
        return _told(ledger, rounds, "one message after another, against whoever reads them all")
    varying = facts.cohort is None and min(facts.participation_rates) < 1
    missing = varying or facts.fails or facts.over_selected or facts.deadline or not facts.always_available
    if noise.by == "clients" and missing:
        raise Unaccountable(MISSING_SHARES)
    rounds = simulation.aggregator.roster.turn
    ledger = Ledger(amplifying(sampling_of(facts), facts, rounds, delta), noise.multiplier, delta, accountant)
    against = "the models" if noise.by == "server" else "the sums of messages, as secure aggregation leaves them"
    return _told(ledger, rounds, f"against whoever sees {against}, and does not know who took part")


def _told(ledger: Ledger, rounds: int, scope: str) -> dict[str, Any]:
    return {"epsilon": ledger.epsilon(rounds), "delta": ledger.delta, "rounds": rounds,
            "sampling": ledger.sampling.kind, "adjacent": ledger.adjacency, "scope": scope}  # fmt: skip


def amplifying(sampling: Sampling, facts: Facts, rounds: int, delta: float) -> Sampling:
    """The sampling that may be relied on: rounds in which nobody takes part do not happen, so they must be rare."""
    empty = prod(1 - rate for rate in facts.participation_rates)
    return Sampling("everybody") if sampling.kind == "poisson" and rounds * empty > NEGLIGIBLE * delta else sampling


def reads_losses(experiment: Experiment, simulation: ServerSimulation) -> bool:
    """Whether a server of clients wants to know them."""
    weighted = any(getattr(cell.aggregator, "reads_losses", False) for cell in cells(simulation))
    return weighted or experiment.select(0).reads_numbers


def cells(simulation: ServerSimulation) -> list[Cell]:
    """Whose clients train: the server's, or those of its edges."""
    return list(getattr(simulation, "edges", {}).values()) or [simulation]


def facts_of(experiment: Experiment, simulation: ServerSimulation) -> Facts:
    """How the run works, as far as privacy depends on it."""
    fleet, aggregator, clients = experiment.fleet, simulation.aggregator, len(experiment.work.steps)
    cohort, goal = getattr(aggregator, "cohort", None), getattr(aggregator, "goal", None)
    rates = tuple(fleet.participation.share(client) for client in range(clients))
    counts_alike = getattr(aggregator, "weights", None)
    always = fleet.reliable and simulation.world.carrier.outages is None
    deadline, drawn = aggregator.deadline is not None, type(experiment.select(0)) is Uniform
    everybody_counts = always and not deadline and isinstance(cohort, int) and cohort <= clients and min(rates) == 1
    return Facts(
        clients=clients,
        cohort=cohort if isinstance(cohort, int) else None,
        synchronous=aggregator.synchronous,
        participation_rates=rates,
        independent_rounds=drawn and type(fleet.participation) in (Participation, Bernoulli),
        always_available=always,
        fails=fleet.failures.possible,
        over_selected=goal is not None and isinstance(cohort, int) and goal < cohort,
        deadline=deadline,
        uniform_selection=not reads_losses(experiment, simulation),
        bounded_weights=counts_alike == "expected" or (counts_alike == "uniform" and everybody_counts),
    )
