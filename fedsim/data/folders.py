"""Where data files are looked for, and what is said when they are not there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedsim.errors import DataMissing

DOWNLOADABLE = ("cifar10", "fashion_mnist", "mnist")
"""What `fedsim data NAME` can download."""


def data_folders(explicit: Path | None, scenario: str | None, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders to search, in order: `--data`, the scenario's own, `FEDSIM_DATA`, ./data, ../shared/data.

    >>> [folder.as_posix() for folder in data_folders(Path("a"), None, {"FEDSIM_DATA": "b"})]
    ['a', 'b', 'data', '../shared/data']
    """
    given = [explicit, scenario, environ.get("FEDSIM_DATA"), "data", "../shared/data"]
    return list(dict.fromkeys(Path(folder).expanduser() for folder in given if folder))


def find(dataset: str, files: Sequence[str], folders: Iterable[Path]) -> Path:
    """The first of `files` that is in a folder, as <folder>/<dataset>/<file> or <folder>/<file>.

    An earlier file is preferred wherever it is. Raises DataMissing, which says what was looked for and how to get it.
    """
    folders = list(folders)
    for file in files:
        for folder in folders:
            for path in (folder / dataset / file, folder / file):
                if path.is_file():
                    return path
    searched = ", ".join(str(folder) for folder in folders) or "no folder at all"
    raise DataMissing(f"{dataset} needs {' or '.join(files)}, which is not in {searched}: {_remedy(dataset)}")


def _remedy(dataset: str) -> str:
    put = f"put it in DIR or DIR/{dataset} and give --data DIR, or set FEDSIM_DATA=DIR"
    if dataset not in DOWNLOADABLE:
        return put
    return (
        f"run `fedsim data {dataset}` on a connected machine (needs the extra: pip install 'fedsim-lab[hub]'), or {put}"
    )
