"""Scenario files: strict, with units, with clear errors; every key misspelt is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from fedsim.describe import plugins
from fedsim.errors import ScenarioError
from fedsim.scenario import SINGLE, json_schema, read
from fedsim.yamlfile import YamlFile

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "scenarios").glob("*.yaml"))

SMALL = """\
seed: 1
until: {versions: 5}                      # or {time: 12 h}, {accuracy: 0.8}
data:   {digits: {partition: {dirichlet: {alpha: 0.3}}}}
model:  {mlp: {hidden: [8]}}
fleet:  {clients: 10, devices: fedscale, availability: {markov: {on: 2 h, off: 6 h}}, drop: 0.02, \
participation: {markov: {rate: {groups: {rates: [1.0, 0.1]}}, up: 0.1}}}
network: {star: {latency: 30 ms, server_up: 1 Gbit/s, server_down: 1 Gbit/s}}
local:  {steps: 2, batch: 8, optimizer: {sgd: {lr: 0.05}}}
aggregator: {fedbuff: {concurrency: 4, goal: 2, discount: {polynomial: {power: 0.5}}}}
evaluate: {every: 10 min}
"""


def keys_of(node: yaml.Node | None, path: tuple = ()) -> Iterator[tuple[yaml.ScalarNode, tuple]]:
    """Every key in the file, and every bare name that chooses a plug-in."""
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield key, path
            if isinstance(child, yaml.ScalarNode) and key.value in ("devices", "availability", "aggregator"):
                yield child, (*path, key.value)
            yield from keys_of(child, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for place, child in enumerate(node.value):
            yield from keys_of(child, (*path, place))


def misspellings() -> Iterator[tuple[str, str, int, str]]:
    """Each text with one key changed by one letter: dropped, doubled, or replaced in its middle."""
    for name, text in [("small.yaml", SMALL)] + [(path.name, path.read_text()) for path in SHIPPED]:
        document = YamlFile(text, name)
        for key, path in keys_of(document.root):
            if path[:1] == ("compare",) and len(path) < 3 and isinstance(document.data["compare"], dict):
                continue  # axes, and what lies on them, are called as one likes
            start, end, word = key.start_mark.index, key.end_mark.index, key.value
            middle = len(word) // 2
            for wrong in (
                word[:middle] + word[middle + 1 :],
                word + word[-1],
                word[:middle] + "q" + word[middle + 1 :],
            ):
                if wrong:
                    yield name, text[:start] + wrong + text[end:], key.start_mark.line + 1, word


@pytest.mark.parametrize("scenario", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_valid(scenario) -> None:
    assert read(scenario)


def test_every_key_misspelt_by_one_letter_fails_with_line_and_nearest_name(tmp_path) -> None:
    tried = 0
    for name, text, line, word in misspellings():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ScenarioError) as fault:
            read(path)
        message = str(fault.value)
        assert f"{path}:{line}: " in message, message
        assert f"did you mean {word}?" in message or f"{word}" in message.partition("there are: ")[2], message
        tried += 1
    assert tried > 150


@pytest.mark.parametrize("scenario", [SMALL, *[path.read_text() for path in SHIPPED]])
def test_what_is_resolved_reads_as_itself(scenario, tmp_path) -> None:
    (path := tmp_path / "scenario.yaml").write_text(scenario)
    for arm in read(path):
        again = read(arm.resolved)
        assert [other.label for other in again] == [SINGLE]
        assert again[0].resolved == arm.resolved
        assert again[0].digest == arm.digest


def test_the_order_of_keys_means_nothing(tmp_path) -> None:
    lines = SMALL.splitlines()
    (path := tmp_path / "scenario.yaml").write_text("\n".join(reversed(lines)))
    (other := tmp_path / "other.yaml").write_text(SMALL)
    assert read(path)[0].digest == read(other)[0].digest


def small(tmp_path: Path, *overrides: str, text: str = SMALL):
    (path := tmp_path / "small.yaml").write_text(text)
    return read(path, overrides)[0]


def test_overrides_change_one_value_each(tmp_path) -> None:
    arm = small(tmp_path, "local.steps=7", "fleet.availability=always", "aggregator={fedasync: {lr: 0.9}}",
                "fleet.devices.fedscale={}", "evaluate.every=90 s")  # fmt: skip
    assert arm.keys.local.steps == 7
    assert arm.keys.fleet.availability.name == "always"
    assert arm.keys.aggregator.arguments.lr == 0.9
    assert arm.keys.evaluate.every == 90_000_000


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("local.stepz=7", "override 'local.stepz=7': local.stepz: there is no key 'stepz' here; did you mean steps?"),
        ("local", "expected key=value"),
        ("local.batch.size=3", "has no key"),
        ("local.batch=0", "greater than or equal to 1, not 0"),
        ("fleet.clients=0", "fleet.clients: Input should be greater than or equal to 1, not 0"),
        ("network.star.latency=-5 ms", "at least 0"),
        ("network.star.latency=5", "expected a number with a unit such as '50 ms'"),
        ("network.star.latency=5 parsec", "us, ms, s, min, h, d"),
        ("network.star.server_up=0 bit/s", "greater than 0"),
        ("fleet.drop=1.5", "less than or equal to 1"),
        ("fleet.availability.markov.on=1e300 d", "below"),
        ("fleet.participation.markov.rate=1.5", "markov.rate.same.p: Input should be less than or equal to 1, not 1.5"),
        ("fleet.participation.markov.rate=[1.0]", "expected one rate, one of: groups, label_correlated, same"),
        ("fleet.participation.markov.rate=true", "expected something other than true or false"),
        ("fleet.participation.cyclic={rate: 0.5}", "expected one participation"),
        ("network.star.server_up=infinite", "expected a number with a unit such as '10 Mbit/s'"),
        ("network.star.latency=unlimited", "expected a number with a unit such as '50 ms'"),
        ("data.digits.partition.dirichlet.alpha=0", "greater than 0"),
        ("aggregator={fedavg: {cohort: 3}, fedbuff: {}}", "expected one aggregator, one of: ace, altmin, async_fedavg"),
        ("aggregator=fedbuf", "there is no aggregator 'fedbuf' here; did you mean fedbuff?"),
        ("aggregator=nowhere.rules:Rule", "cannot load 'nowhere.rules:Rule'"),
        ("seed=one", "valid integer"),
        ("until.versions=true", "until.versions"),
    ],
)
def test_a_fault_is_one_clear_sentence(tmp_path, override, said) -> None:
    with pytest.raises(ScenarioError) as fault:
        small(tmp_path, override)
    assert said in str(fault.value)


def test_every_fault_is_told_at_once(tmp_path) -> None:
    with pytest.raises(ScenarioError) as fault:
        small(tmp_path, "local.stepz=7", "fleet.clients=0")
    assert len(str(fault.value).splitlines()) == 2


def test_a_constructor_that_refuses_names_the_line(tmp_path) -> None:
    arm = small(tmp_path, text=SMALL.replace("steps: 2,", "steps: 2, epochs: 1,"))
    with pytest.raises(ScenarioError, match=r"small.yaml:7: local: needs either steps or epochs"):
        arm.build({}, "local")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "x.yaml:2: seed is given twice"),
        ("a: [1\n", "x.yaml:2: this is not YAML"),
        ("- 1\n", "a mapping"),
        ("", "data: is missing"),
        ("compare: 3\n", "expected a list of changes"),
        ("compare: []\n", "expected a list of changes"),
    ],
)
def test_a_file_that_is_no_scenario(tmp_path, text, said) -> None:
    (path := tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ScenarioError, match=said):
        read(path)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        read(tmp_path / "none.yaml")


def test_yaml_as_people_expect_it() -> None:
    data = YamlFile("{on: 2 h, off: no, a: 1e-3, b: true, c: 1.5, d: 07, e: 12:30, f: .5}", "x").data
    assert data == {"on": "2 h", "off": "no", "a": 1e-3, "b": True, "c": 1.5, "d": 7, "e": 750, "f": 0.5}


def test_arms_are_named_by_what_tells_them_apart(tmp_path) -> None:
    def labels(compare: str) -> list[str]:
        (path := tmp_path / "x.yaml").write_text(SMALL + f"compare: {compare}\n")
        return [arm.label for arm in read(path)]

    assert labels("[{aggregator: fedavg}, {aggregator: fedbuff}]") == ["fedavg", "fedbuff"]
    assert labels("[{aggregator: {fedbuff: {goal: 2}}}, {aggregator: {fedbuff: {goal: 3}}}]") == ["goal_2", "goal_3"]
    assert labels("[{aggregator: fedavg}, {aggregator: {fedbuff: {goal: 2}}}, {aggregator: {fedbuff: {goal: 3}}}]") == [
        "fedavg", "fedbuff-goal_2", "fedbuff-goal_3"]  # fmt: skip
    assert labels("[{local: {steps: 2}}, {local: {steps: 3}}]") == ["steps_2", "steps_3"]
    assert labels("[{seed: 1}, {seed: 1}]") == ["arm-0", "arm-1"]


def test_an_arm_changes_what_it_names_and_keeps_the_rest(tmp_path) -> None:
    compare = "compare: [{local: {steps: 9}}, {aggregator: {fedbuff: {goal: 3}}}, {aggregator: fedavg}]\n"
    (path := tmp_path / "x.yaml").write_text(SMALL + compare)
    steps, goal, other = read(path)
    assert (steps.keys.local.steps, steps.keys.local.batch) == (9, 8)
    assert (goal.keys.aggregator.arguments.goal, goal.keys.aggregator.arguments.concurrency) == (3, 4)
    assert other.keys.aggregator.name == "fedavg"


def test_an_override_that_no_arm_would_notice_is_refused(tmp_path) -> None:
    (path := tmp_path / "x.yaml").write_text(SMALL + "compare: [{aggregator: fedavg}, {aggregator: fedasync}]\n")
    with pytest.raises(
        ScenarioError, match=r"every run .* has its own aggregator; override compare.0.aggregator.fedavg"
    ):
        read(path, ["aggregator.fedavg.cohort=5"])
    assert read(path, ["compare.0.aggregator.fedavg.cohort=5"])[0].keys.aggregator.arguments.cohort == 5
    assert read(path, ["local.steps=9"])[1].keys.local.steps == 9


def test_a_fault_in_an_arm_is_found_there(tmp_path) -> None:
    (path := tmp_path / "x.yaml").write_text(SMALL + "compare:\n  - {aggregator: fedavg}\n  - {local: {stepz: 9}}\n")
    with pytest.raises(ScenarioError, match=r"x.yaml:12: local.stepz: .* did you mean steps"):
        read(path)


GRID = """compare:
  timing:
    sync: {aggregator: fedavg}
    buffer:
      aggregator: {fedbuff: {goal: 3}}
  local:
    short:
    long: {local: {steps: 9}}
  seed: [4, 5]
"""


def first(axis: list | dict) -> dict:
    """The first change of an axis that is no plain list."""
    return {} if isinstance(axis, list) else next(iter(axis.values())) or {}


def test_axes_make_a_grid(tmp_path) -> None:
    (path := tmp_path / "x.yaml").write_text(SMALL + GRID)
    arms = read(path)
    assert [arm.label for arm in arms][:3] == ["sync-short-4", "sync-short-5", "sync-long-4"]
    assert len(arms) == len({arm.digest for arm in arms}) == 8
    last = arms[-1]
    assert last.coordinates == {"timing": "buffer", "local": "long", "seed": "5"}
    assert (last.keys.seed, last.keys.local.steps, last.keys.aggregator.arguments.goal) == (5, 9, 3)
    assert read(path, ["local.batch=5"])[-1].keys.local.batch == 5
    with pytest.raises(ScenarioError, match=r"has its own seed; override compare\.seed"):
        read(path, ["seed=7"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("steps: 9", "stepz: 9", r"x.yaml:17: local.stepz: .* did you mean steps"),
     ("goal: 3", "gaol: 3", r"x.yaml:14: aggregator.fedbuff.gaol: .* did you mean goal"),
     ("[4, 5]", "[four, 5]", r"x.yaml:18: seed: .*four"),
     ("[4, 5]", "[]", "x.yaml:18: compare.seed: expected a list of changes"),
     ("{aggregator: fedavg}", "fedavg", "x.yaml:11: compare.timing: expected a list of changes")],
)  # fmt: skip
def test_a_fault_in_a_grid_is_found_there(tmp_path, old, new, said) -> None:
    (path := tmp_path / "x.yaml").write_text(SMALL + GRID.replace(old, new))
    with pytest.raises(ScenarioError, match=said):
        read(path)


def test_the_json_schema_accepts_what_is_shipped_and_refuses_a_typo() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(json_schema())))
    for text in (SMALL, *(path.read_text() for path in SHIPPED)):
        data = YamlFile(text, "x").data
        compared = data.get("compare", [])
        for change in compared[:1] if isinstance(compared, list) else map(first, compared.values()):
            data |= change
        assert not list(validator.iter_errors(data))
        assert list(validator.iter_errors(data | {"fleeet": 1}))
        assert list(validator.iter_errors(data | {"model": "mpl"}))


def test_a_bare_number_is_short_for_the_same_rate(tmp_path) -> None:
    arm = small(tmp_path, "fleet.participation={bernoulli: {rate: 1}}")
    assert arm.resolved["fleet"]["participation"] == {"bernoulli": {"rate": {"same": {"p": 1.0}}}}
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(json_schema())))
    for rate, valid in ((0.5, True), ({"same": 0.5}, True), ("label_correlated", True), ({"p": 0.5}, False)):
        data = YamlFile(SMALL, "x").data
        data["fleet"]["participation"] = {"bernoulli": {"rate": rate}}
        assert validator.is_valid(data) == valid, rate


def test_every_plug_in_can_be_listed_with_its_arguments() -> None:
    known = plugins()
    assert known["aggregator"]["fedbuff"] == ["concurrency", "goal", "wait", "discount", "weights", "importance", "lr"]
    assert not any("folders" in arguments for members in known.values() for arguments in members.values())
