"""Rows of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedsim.data.dataset import Dataset, held_out
from fedsim.data.folders import find
from fedsim.data.partitions import Natural, Partition
from fedsim.errors import ScenarioError

MEASURED = ("age", "trestbps", "chol", "thalach", "oldpeak", "ca")
YES_NO = ("sex", "fbs", "exang")
CODED = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2), "slope": (1, 2, 3), "thal": (3, 6, 7)}
"""Columns with codes without an order, and the codes that UCI's description lists."""


@dataclass(frozen=True)
class HeartDisease:
    """UCI Heart Disease (Janosi et al., 1989): 920 patients of 4 hospitals, 22 features; is there a heart disease?

    The cross-silo classic, Fed-Heart-Disease in FLamby (Ogier du Terrail et al., 2022), which drops what is
    incomplete; here every patient stays. A fixed fifth of each hospital is for testing. Missing cells: a measured or
    yes-no column gets its median, a coded column the zero vector in place of a one-hot one. Medians, means and
    deviations are those of the training rows of all hospitals together (some hospitals lack a column altogether), so
    nothing leaks from the test rows; hospitals are thus taken to share these statistics.
    """

    partition: Partition = Natural()

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Features float32 (n, 22). Raises DataMissing, or ScenarioError if the file lacks a column."""
        table = _read(find("heart_disease", ["heart_disease_4hospitals.csv"], folders))
        groups, hospitals = pd.factorize(table["hospital"])
        test = np.zeros(len(table), dtype=bool)
        for code, hospital in enumerate(hospitals):
            test[groups == code] = held_out((groups == code).sum(), "heart_disease", hospital)
        x = torch.from_numpy(_features(table, ~test))
        y = torch.from_numpy((table["num"] > 0).to_numpy(dtype=np.int64))
        return Dataset(x[~test], y[~test], x[test], y[test], 2, groups[~test], tuple(hospitals))


def _read(path: Path) -> pd.DataFrame:
    columns = ["hospital", *MEASURED, *YES_NO, *CODED, "num"]
    try:
        table = pd.read_csv(path, usecols=columns)
    except ValueError as error:
        raise ScenarioError(f"{path} is not a table of patients: {error}") from error
    # Nobody lives without pressure or cholesterol: a zero there is a cell that was not filled in.
    impossible = ["trestbps", "chol"]
    return table.assign(**{column: table[column].replace(0, np.nan) for column in impossible})


def _features(table: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Measured columns standardised, yes-no columns as they are, coded columns one-hot; float32 (n, features)."""
    numbers = table[[*MEASURED, *YES_NO]]
    numbers = numbers.fillna(numbers.loc[train].median())
    measured = pd.DataFrame(numbers[[*MEASURED]])
    standard = (measured - measured.loc[train].mean()) / measured.loc[train].std(ddof=0)
    one_hot = [table[[column]].to_numpy() == codes for column, codes in CODED.items()]
    return np.hstack([standard, numbers[[*YES_NO]], *one_hot]).astype(np.float32)
