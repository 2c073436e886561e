"""Attacks on the messages that really travel in a scenario."""

from __future__ import annotations

import pytest
import torch

from fedsim import experiment, scenario
from fedsim.attacks.leakage import solve_linear
from fedsim.conduct import conduct
from fedsim.errors import ScenarioError

DIGITS = {
    "seed": 3,
    "until": {"versions": 3},
    "data": {"digits": {"partition": "iid"}},
    "model": {"mlp": {"hidden": [16], "activation": "sigmoid"}},
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 1, "batch": 1, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
    "eavesdrop": {"attack": {"idlg": {"iterations": 100, "restarts": 2}}, "client": 2, "versions": [0, 1]},
}


def made(**changes) -> experiment.Experiment:
    [arm] = scenario.read(DIGITS | changes)
    return experiment.assemble(arm)


def test_a_plain_message_gives_its_example_away(tmp_path) -> None:
    found = conduct(made(), tmp_path / "run")
    assert found.leakage.version.tolist() == [0, 1]
    assert found.leakage.client.tolist() == [2, 2]
    assert (found.leakage.psnr_db > 30).all()
    assert found.leakage.labels_found.all()
    pictures = found.reconstructions
    assert pictures["true"].shape == pictures["found"].shape == (2, 1, 1, 8, 8)
    assert abs(pictures["true"] - pictures["found"]).max() < 0.1
    assert "leakage.csv" in found.receipt["digests"]


@pytest.mark.parametrize(
    "wire",
    [{"codec": {"srht": {"ratio": 1.0}}}, {"codec": {"gaussian": {"ratio": 0.5}}}, {"clip": 0.01},
     {"clip": 0.01, "codec": {"srht": {"ratio": 0.25}}}],
)  # fmt: skip
def test_neither_a_wide_sketch_nor_clipping_hides_it(wire, tmp_path) -> None:
    found = conduct(made(wire=wire), tmp_path / "run")
    assert (found.leakage.psnr_db > 25).all()


def test_noise_does(tmp_path) -> None:
    noise = {"clip": 0.5, "noise": {"multiplier": 0.5, "by": "each"}}
    found = conduct(made(wire=noise), tmp_path / "run")
    assert (found.leakage.psnr_db < 15).all()


def test_a_narrow_sketch_matches_without_recovery(tmp_path) -> None:
    """Fewer numbers than pixels: the loss is as good as nothing, and the example is another one."""
    attack = {"attack": {"dlg": {"iterations": 200, "restarts": 1}}, "client": 2, "versions": [0]}
    found = conduct(made(wire={"codec": {"gaussian": {"ratio": 0.02}}}, eavesdrop=attack), tmp_path / "run")
    assert found.leakage.loss.iloc[0] < 1e-6
    assert found.leakage.psnr_db.iloc[0] < 15


def test_listening_changes_nothing(tmp_path) -> None:
    heard, quiet = conduct(made(), tmp_path / "heard"), conduct(made(eavesdrop=None), tmp_path / "quiet")
    for name in ("model.safetensors", "metrics.csv"):
        assert heard.receipt["digests"][name] == quiet.receipt["digests"][name]
    with pytest.raises(ScenarioError, match="nobody has listened"):
        _ = quiet.leakage


def test_the_linear_model_gives_itself_away_exactly() -> None:
    """From messages of as many numbers as the model has, by least squares through the sketch's matrix."""
    for wire in (None, {"codec": {"srht": {"ratio": 1.0}}}):
        simulation = made(model="logistic", wire=wire).simulation(_trace())
        simulation.run()
        listener = simulation.wire.eavesdropper
        task, message, draw = listener.heard[0]
        true, labels = listener._truth(task)
        found = solve_linear(listener._sight(task, message, draw))
        torch.testing.assert_close(found.x.float(), true, atol=1e-4, rtol=0)
        assert found.y.tolist() == labels.tolist()


def _trace():
    from worlds import Recording

    return Recording()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"local": {**DIGITS["local"], "steps": 2}}, "after one step of plain sgd alone"),
     ({"local": {**DIGITS["local"], "optimizer": "adam"}}, "after one step of plain sgd alone"),
     ({"local": {**DIGITS["local"], "source": "sam"}}, "examples as they are alone"),
     ({"local": {**DIGITS["local"], "objective": {"trades": {"radius": 0.1, "step": 0.1}}}}, "as they are alone"),
     ({"eavesdrop": {**DIGITS["eavesdrop"], "client": 4}}, "there is no client 4"),
     ({"eavesdrop": {"attack": "dgl"}}, "did you mean dlg"),
     ({"aggregator": None, "peers": "dpsgd", "network": "ring"}, "eavesdrop: peers send whole models")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    changed = {key: value for key, value in (DIGITS | changes).items() if value is not None}
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(changed)]
