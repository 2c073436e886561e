"""Datasets fit together, files are found or their absence explained, and nothing leaks from test to training."""

from __future__ import annotations

import io
import json
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fedsim.data import DATA, Cifar10, Dataset, Digits, FashionMnist, HeartDisease, Mnist, Shakespeare, data_folders
from fedsim.data.dataset import held_out
from fedsim.data.fetch import ORIGINS, Origin, fetch
from fedsim.data.folders import find
from fedsim.data.images import ARRAYS, read_arrays
from fedsim.data.tabular import CODED, MEASURED, YES_NO
from fedsim.errors import DataMissing, ExtraMissing, RunFailed, ScenarioError

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / folder for folder in data_folders(None, None)]


def shared(name: str, file: str) -> Path:
    """A real data file, or the test is skipped."""
    try:
        return find(name, [file], FOLDERS)
    except DataMissing as missing:
        pytest.skip(str(missing))


# Dataset --------------------------------------------------------------------------------------------------------------


def good(**changes) -> Dataset:
    x, y = torch.rand(6, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    return Dataset(**{"x": x, "y": y, "x_test": x[:3], "y_test": y[:3], "outputs": 3, **changes})


def test_a_dataset_knows_its_size_and_shape():
    assert len(good()) == 6
    assert good().shape == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": 2}, "labels must lie"),
        ({"y": torch.tensor([0, 1, -1, 0, 1, 2])}, "labels must lie"),
        ({"y": torch.tensor([0, 1])}, "a label for each"),
        ({"y": torch.zeros(6)}, "a point of 3 coordinates for each"),
        ({"y": torch.zeros(6, 2), "y_test": torch.zeros(3, 2)}, "a point of 3 coordinates for each"),
        ({"y": torch.zeros(6, 3).double()}, "int64"),
        ({"y": torch.zeros(6, 3)}, "differ"),
        ({"y": torch.full((6, 3), float("nan"))}, "finite"),
        ({"x": torch.full((6, 2), float("nan"))}, "finite"),
        ({"x_test": torch.full((3, 2), float("-inf"))}, "finite"),
        ({"x_test": torch.zeros(0, 2), "y_test": torch.zeros(0, dtype=torch.int64)}, "needs examples"),
        ({"x_test": torch.zeros(3, 4)}, "differ"),
        ({"groups": np.zeros(5, dtype=int), "group_names": ("a",)}, "group codes"),
        ({"groups": np.zeros(6, dtype=int), "group_names": ("a", "b")}, "group codes"),
        ({"vocabulary": "ab"}, "vocabulary"),
        ({"vocabulary": "ab", "x": torch.full((6, 2), 2), "x_test": torch.ones(3, 2).long()}, "vocabulary"),
    ],
)
def test_a_dataset_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ScenarioError, match=message):
        good(**changes)


def test_held_out_is_a_fixed_fifth():
    assert held_out(103, "a").sum() == 20
    assert np.array_equal(held_out(103, "a"), held_out(103, "a"))
    assert not np.array_equal(held_out(103, "a"), held_out(103, "b"))


# Folders --------------------------------------------------------------------------------------------------------------


def test_folders_are_searched_in_order():
    folders = data_folders(Path("given"), "scenario", {"FEDSIM_DATA": "env"})
    assert [folder.as_posix() for folder in folders] == ["given", "scenario", "env", "data", "../shared/data"]
    assert data_folders(Path("data"), None, {}) == [Path("data"), Path("../shared/data")]


def test_a_file_is_found_in_the_first_folder_in_its_own_folder_or_outside(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one / "d.npz", two / "d" / "d.npz", two / "d" / "better.npz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find("d", ["d.npz"], [one, two]) == one / "d.npz"
    assert find("d", ["d.npz"], [two, one]) == two / "d" / "d.npz"
    assert find("d", ["better.npz", "d.npz"], [one, two]) == two / "d" / "better.npz"


AT_HAND = {"digits", "points", "separated", "permuted_digits", "split_digits", "drifting_digits", "low_rank",
           "grid_world", "noisy_digits", "seeded_digits"}  # fmt: skip
"""Data that no file has to hold."""


@pytest.mark.parametrize("name", sorted(DATA.keys() - AT_HAND))
def test_absence_is_explained(name, tmp_path):
    with pytest.raises(DataMissing) as missing:
        DATA[name]().load([tmp_path])
    message = str(missing.value)
    assert str(tmp_path) in message
    assert "--data DIR" in message
    assert "FEDSIM_DATA" in message
    assert (f"fedsim data {name}" in message and "hub" in message) == (name in ORIGINS)


# Pictures -------------------------------------------------------------------------------------------------------------


def test_digits_are_a_fixed_split_of_all_1797():
    data, again = Digits().load(), Digits().load([])
    assert (len(data), len(data.y_test), data.shape, data.outputs) == (1438, 359, (1, 8, 8), 10)
    assert torch.equal(data.x, again.x)
    assert data.x.min() == 0
    assert data.x.max() == 1
    assert min(np.bincount(data.y_test)) > 20


def pictures(n: int, shape: tuple[int, ...] = (4, 3)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"train": n, "test": n // 2}
    return {
        **{f"x_{part}": rng.integers(256, size=(size, *shape), dtype=np.uint8) for part, size in sizes.items()},
        **{f"y_{part}": np.arange(size, dtype=np.uint8) % 10 for part, size in sizes.items()},
    }


def test_pictures_are_scaled_with_channels_first(tmp_path):
    arrays = pictures(20, (4, 3, 3))
    np.savez(tmp_path / "cifar10.npz", **arrays)
    data = Cifar10().load([tmp_path])
    assert data.shape == (3, 4, 3)
    assert torch.allclose(data.x[7, 2] * 255, torch.from_numpy(arrays["x_train"][7, :, :, 2]).float(), atol=1e-4)
    assert np.array_equal(data.y_test, arrays["y_test"])


def test_only_the_first_so_many(tmp_path):
    arrays = pictures(20)
    np.savez(tmp_path / "mnist.npz", **arrays)
    data = Mnist(train=7, test=3).load([tmp_path])
    assert (len(data), len(data.y_test), data.shape) == (7, 3, (1, 4, 3))
    assert np.array_equal(data.y, arrays["y_train"][:7])
    with pytest.raises(ScenarioError, match="only 20"):
        Mnist(train=21).load([tmp_path])


def jpeg_file(path: Path, colours: list[tuple[int, int, int]]) -> None:
    """Even pictures; `colours` are those of the training and of the test set alike."""
    files = []
    for colour in colours:
        file = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(file, "JPEG")
        files.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    blob, labels = np.frombuffer(b"".join(files), np.uint8), np.arange(len(files), dtype=np.uint8)
    parts = ("train", "test")
    np.savez(path, **{f"{k}_{p}": a for p in parts for k, a in [("jpeg", blob), ("offsets", offsets), ("y", labels)]})


def test_cifar10_takes_jpeg_copies_where_there_are_no_exact_pictures(tmp_path):
    colours = [(250, 10, 20), (30, 240, 10), (5, 5, 200)]
    jpeg_file(tmp_path / "cifar10_jpeg.npz", colours)
    data = Cifar10(test=2).load([tmp_path])
    assert (len(data), len(data.y_test), data.shape) == (3, 2, (3, 32, 32))
    assert (data.x.mean(dim=(2, 3)) * 255 - torch.tensor(colours)).abs().max() < 4
    np.savez(tmp_path / "cifar10.npz", **pictures(20, (4, 3, 3)))
    assert len(Cifar10().load([tmp_path])) == 20


def test_a_broken_file_is_named_and_nothing_is_unpickled(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, **pictures(200))
    half, text, pickled = (tmp_path / name for name in ("half.npz", "text.npz", "pickled.npz"))
    half.write_bytes(whole.read_bytes()[:1500])
    text.write_text("no such thing")
    np.savez(pickled, x_train=np.array([{}], dtype=object))
    for path in (half, text, pickled):
        with pytest.raises(ScenarioError, match=path.name):
            read_arrays(path, ARRAYS)


# Text -----------------------------------------------------------------------------------------------------------------


def write_roles(folder: Path, texts: dict[str, list[str]]) -> None:
    lines = [json.dumps({"role": role, "speeches": speeches}) for role, speeches in texts.items()]
    (folder / "by_role.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_windows_lie_within_a_role_and_on_one_side_of_its_border(tmp_path):
    write_roles(tmp_path, {"SMALL": ["xy"], "B": ["0123456789" * 3], "A": ["abcdefghij" * 5, "abcdefghi"]})
    data = Shakespeare(length=4, stride=3).load([tmp_path])
    assert data.group_names == ("A", "B")  # the largest first; SMALL has no window
    assert data.vocabulary == "\n0123456789abcdefghijxy"
    texts = {"A": "abcdefghij" * 5 + "\nabcdefghi", "B": "0123456789" * 3}

    def windows(text: str) -> list[str]:
        return [text[start : start + 5] for start in range(0, len(text) - 4, 3)]

    def decoded(x: torch.Tensor, y: torch.Tensor) -> list[str]:
        return ["".join(data.vocabulary[c] for c in [*row, label]) for row, label in zip(x, y, strict=True)]

    train, test = {}, {}
    for role, text in texts.items():
        border = len(text) * 4 // 5
        train[role], test[role] = windows(text[:border]), windows(text[border:])
    assert decoded(data.x, data.y) == train["A"] + train["B"]
    assert decoded(data.x_test, data.y_test) == test["A"] + test["B"]
    assert data.groups is not None
    assert np.bincount(data.groups).tolist() == [len(train["A"]), len(train["B"])]


def test_only_the_largest_roles_with_the_same_alphabet(tmp_path):
    write_roles(tmp_path, {"B": ["0123456789" * 3], "A": ["abcdefghij" * 6]})
    data = Shakespeare(length=4, roles=1).load([tmp_path])
    assert data.group_names == ("A",)
    assert data.outputs == len(data.vocabulary) == 20
    for wish in (Shakespeare(length=4, roles=3), Shakespeare(length=60)):
        with pytest.raises(ScenarioError, match="roles with a training window"):
            wish.load([tmp_path])


def test_a_file_without_roles_is_named(tmp_path):
    for text in ("{", '{"role": "A"}', "[1]"):
        (tmp_path / "by_role.jsonl").write_text(text)
        with pytest.raises(ScenarioError, match=r"by_role\.jsonl"):
            Shakespeare().load([tmp_path])


# Tables ---------------------------------------------------------------------------------------------------------------


def patients(hospitals: dict[str, int]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = sum(hospitals.values())
    table = pd.DataFrame({"hospital": np.repeat([*hospitals], [*hospitals.values()])})
    table = table.assign(**{column: rng.normal(50, 10, n).round(1) for column in MEASURED})
    table = table.assign(**{column: rng.integers(2, size=n).astype(float) for column in YES_NO})
    table = table.assign(**{column: rng.choice(codes, n).astype(float) for column, codes in CODED.items()})
    return table.assign(num=rng.integers(5, size=n))


def heart(folder: Path, table: pd.DataFrame) -> Dataset:
    table.to_csv(folder / "heart_disease_4hospitals.csv", index=False)
    return HeartDisease().load([folder])


def test_patients_keep_their_hospital_and_a_fifth_of_each_is_for_testing(tmp_path):
    table = patients({"a": 50, "b": 20})
    data = heart(tmp_path, table)
    assert data.shape == (22,)
    assert data.group_names == ("a", "b")
    assert data.groups is not None
    assert np.bincount(data.groups).tolist() == [40, 16]
    test = np.concatenate([held_out(n, "heart_disease", name) for name, n in (("a", 50), ("b", 20))])
    assert np.array_equal(data.y_test, table["num"][test] > 0)
    assert np.array_equal(data.y, table["num"][~test] > 0)
    measured = data.x[:, : len(MEASURED)]
    assert torch.allclose(measured.mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(measured.std(0, correction=0), torch.ones(6), atol=1e-5)


def test_nothing_leaks_from_test_patients(tmp_path):
    table = patients({"a": 50, "b": 20})
    table.loc[[1, 5, 60], ["age", "sex", "thal"]] = np.nan
    test = np.concatenate([held_out(n, "heart_disease", name) for name, n in (("a", 50), ("b", 20))])
    changed = table.copy()
    changed.loc[test, list(MEASURED)] *= 100
    before, after = heart(tmp_path, table), heart(tmp_path, changed)
    assert torch.equal(before.x, after.x)
    assert not torch.equal(before.x_test, after.x_test)


def test_missing_cells_get_the_median_of_training_rows_or_no_code(tmp_path):
    table = patients({"a": 50})
    test = held_out(50, "heart_disease", "a")
    row = int(np.flatnonzero(~test)[0])
    table.loc[row, ["age", "chol", "sex", "cp"]] = [np.nan, 0, np.nan, np.nan]  # no cholesterol: not measured
    data = heart(tmp_path, table)
    known = table[~test].replace({"chol": {0: np.nan}})
    for place, column in enumerate(MEASURED):
        filled = known[column].fillna(known[column].median())
        standard = ((filled - filled.mean()) / filled.std(ddof=0)).to_numpy(np.float32)
        assert torch.allclose(data.x[:, place], torch.from_numpy(standard), atol=1e-5)
    assert data.x[0, len(MEASURED)] == known["sex"].median()
    one_hot = data.x[:, len(MEASURED) + len(YES_NO) :]
    assert one_hot[0, :4].sum() == 0
    assert one_hot.sum(1).tolist() == [3.0] + [4.0] * 39


def test_a_table_without_its_columns_is_named(tmp_path):
    with pytest.raises(ScenarioError, match="heart_disease_4hospitals"):
        heart(tmp_path, patients({"a": 20}).drop(columns="thal"))


# Downloads ------------------------------------------------------------------------------------------------------------


def hub(monkeypatch, arrays: dict[str, np.ndarray], picture: str) -> list[dict]:
    """In place of flwr-datasets, one that has just these arrays; returns how it was asked."""
    asked = []

    class FederatedDataset:
        def __init__(self, **arguments):
            asked.append(arguments)

        def load_split(self, part: str):
            pairs = zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)
            return [{picture: Image.fromarray(pixels), "label": int(label)} for pixels, label in pairs]

    monkeypatch.setitem(sys.modules, "flwr_datasets", SimpleNamespace(FederatedDataset=FederatedDataset))
    return asked


def small_origin(arrays: dict[str, np.ndarray]) -> Origin:
    digests = {name: sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    return Origin("some/where", "image", arrays["x_train"].shape[1:], len(arrays["y_train"]), 10, digests)


def test_a_download_is_what_the_loader_reads(monkeypatch, tmp_path):
    arrays = pictures(20)
    monkeypatch.setitem(ORIGINS, "mnist", small_origin(arrays))
    asked = hub(monkeypatch, arrays, "image")
    assert fetch("mnist", tmp_path) == tmp_path / "mnist" / "mnist.npz"
    assert asked == [{"dataset": "some/where", "partitioners": {}, "shuffle": False}]
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["mnist.npz"]
    stored = read_arrays(tmp_path / "mnist" / "mnist.npz", ARRAYS)
    assert all(np.array_equal(stored[name], arrays[name]) for name in ARRAYS)
    assert len(Mnist().load([tmp_path])) == 20


@pytest.mark.parametrize("name", ARRAYS)
def test_a_download_with_one_wrong_byte_is_refused(monkeypatch, tmp_path, name):
    arrays = pictures(20)
    monkeypatch.setitem(ORIGINS, "mnist", small_origin(arrays))
    wrong = arrays[name].copy()
    wrong.flat[3] ^= 1
    hub(monkeypatch, {**arrays, name: wrong}, "image")
    with pytest.raises(RunFailed, match=f"{name} of mnist"):
        fetch("mnist", tmp_path)
    assert not [*tmp_path.iterdir()]


def test_cifar10_is_checked_for_shapes_and_classes(monkeypatch, tmp_path):
    arrays = pictures(20, (4, 3, 3))
    monkeypatch.setitem(ORIGINS, "cifar10", Origin("some/where", "img", (4, 3, 3), 20, 10))
    hub(monkeypatch, arrays, "img")
    fetch("cifar10", tmp_path)
    assert Cifar10().load([tmp_path]).shape == (3, 4, 3)
    hub(monkeypatch, {**arrays, "y_test": np.zeros(10, dtype=np.uint8)}, "img")
    with pytest.raises(RunFailed, match="1 test examples of each class"):
        fetch("cifar10", tmp_path)
    hub(monkeypatch, pictures(20, (3, 4, 3)), "img")
    with pytest.raises(RunFailed, match="shapes"):
        fetch("cifar10", tmp_path)


def test_what_cannot_be_downloaded_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)  # as if it were not installed
    with pytest.raises(ExtraMissing, match="hub"):
        fetch("mnist", tmp_path)
    hub(monkeypatch, {}, "image")  # a hub that has nothing
    with pytest.raises(RunFailed, match="ylecun/mnist could not be downloaded"):
        fetch("mnist", tmp_path)
    for name, hint in [("shakespeare", "char-rnn"), ("heart_disease", "uci"), ("digits", "scikit"), ("mnits", "mnist")]:
        with pytest.raises(DataMissing, match=hint):
            fetch(name, tmp_path)


# The real files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [Mnist, FashionMnist])
def test_exact_files_have_the_recorded_digests(loader):
    stored = read_arrays(shared(loader.name, f"{loader.name}.npz"), ARRAYS)
    digests = {name: sha256(array.tobytes()).hexdigest() for name, array in stored.items()}
    assert digests == ORIGINS[loader.name].digests
    data = loader(train=600, test=100).load(FOLDERS)
    assert (len(data), data.shape, data.outputs) == (600, (1, 28, 28), 10)


def test_cifar10_jpeg_copies():
    shared("cifar10", "cifar10_jpeg.npz")
    data = Cifar10(train=200, test=50).load(FOLDERS)
    assert (len(data), len(data.y_test), data.shape) == (200, 50, (3, 32, 32))
    assert data.x.mean() == pytest.approx(0.473, abs=0.03)  # the mean of CIFAR-10's published channel means


def test_tiny_shakespeare():
    shared("shakespeare", "by_role.jsonl")
    data = Shakespeare(roles=20).load(FOLDERS)
    assert (data.outputs, data.shape, data.group_names[0]) == (65, (80,), "GLOUCESTER")
    assert data.groups is not None
    assert len(np.unique(data.groups)) == 20


def test_four_hospitals():
    shared("heart_disease", "heart_disease_4hospitals.csv")
    data = HeartDisease().load(FOLDERS)
    assert data.group_names == ("cleveland", "hungarian", "switzerland", "va")
    assert data.groups is not None
    assert np.bincount(data.groups).tolist() == [303 - 60, 294 - 58, 123 - 24, 200 - 40]
    assert int(data.y.sum() + data.y_test.sum()) == 139 + 106 + 115 + 149
