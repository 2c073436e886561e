"""Downloads, for `fedsim data NAME`: the only place that needs a network, and only when asked.

flwr-datasets does the download.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.hub import hub
from fedsim.errors import DataMissing, RunFailed, nearest


@dataclass(frozen=True)
class Origin:
    """A dataset on the Hugging Face hub, and how to know that it is the right one."""

    hub: str
    picture: str
    """The column with the pictures; labels are in the column `label`."""
    shape: tuple[int, ...]
    """Of one picture."""
    train: int
    test: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the bytes of each uint8 array in official order; empty: not known."""


ORIGINS = {
    "mnist": Origin(
        hub="ylecun/mnist",
        picture="image",
        shape=(28, 28),
        train=60_000,
        test=10_000,
        digests={
            "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        },
    ),
    "fashion_mnist": Origin(
        hub="zalando-datasets/fashion_mnist",
        picture="image",
        shape=(28, 28),
        train=60_000,
        test=10_000,
        digests={
            "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
            "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        },
    ),
    # The digests of CIFAR-10 are not known here, nor whether the hub keeps the official order: only shapes and
    # equal class counts are checked.
    "cifar10": Origin(hub="uoft-cs/cifar10", picture="img", shape=(32, 32, 3), train=50_000, test=10_000),
}

ELSEWHERE = {
    "digits": "it comes with scikit-learn, there is nothing to download",
    "shakespeare": "make by_role.jsonl, one line {role, speeches} for each role, from data/tinyshakespeare/input.txt "
    "in github.com/karpathy/char-rnn",
    "heart_disease": "make heart_disease_4hospitals.csv, the column hospital and the 14 of UCI with empty cells for "
    "missing ones, from the four processed.*.data files at archive.ics.uci.edu/dataset/45",
}


def fetch(name: str, folder: Path) -> Path:
    """Download a dataset, check it, and write <folder>/<name>/<name>.npz, which is its path.

    Raises DataMissing if it cannot be had this way, RunFailed if the download fails or is not what it should be; then
    nothing is written.
    """
    if name not in ORIGINS:
        raise DataMissing(f"{name} cannot be downloaded: {ELSEWHERE.get(name) or nearest(name, ORIGINS)}")
    arrays = download(ORIGINS[name])
    check(name, ORIGINS[name], arrays)
    return write(folder / name / f"{name}.npz", arrays)


def download(origin: Origin) -> dict[str, np.ndarray]:
    """x_train, y_train, x_test and y_test as uint8, in the hub's order."""
    flower = hub()
    try:
        source = flower.FederatedDataset(dataset=origin.hub, partitioners={}, shuffle=False)
        arrays: dict[str, np.ndarray] = {}
        for part in ("train", "test"):
            arrays[f"x_{part}"], arrays[f"y_{part}"] = _columns(source.load_split(part), origin.picture)
    except Exception as error:  # the library and those below it raise all kinds
        raise RunFailed(f"{origin.hub} could not be downloaded: {error}") from error
    return arrays


def _columns(rows: Iterable[Mapping[str, Any]], picture: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(np.asarray(row[picture], dtype=np.uint8), row["label"]) for row in rows]
    return np.stack([pixels for pixels, _ in pairs]), np.array([label for _, label in pairs], dtype=np.uint8)


def check(name: str, origin: Origin, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise RunFailed unless these are the arrays that the origin should have."""
    for part, count in (("train", origin.train), ("test", origin.test)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.shape != (count, *origin.shape) or y.shape != (count,):
            raise RunFailed(f"{name} has {part} arrays of shapes {x.shape} and {y.shape}, not {count} x {origin.shape}")
        if not origin.digests and not np.array_equal(np.bincount(y), np.full(10, count // 10)):
            raise RunFailed(f"{name} should have {count // 10} {part} examples of each class")
    for array, digest in origin.digests.items():
        if sha256(arrays[array].tobytes()).hexdigest() != digest:
            raise RunFailed(f"{array} of {name} is not the published one: its SHA-256 differs")


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """The arrays as an npz file, under a temporary name until it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(unfinished, path)
    return path
