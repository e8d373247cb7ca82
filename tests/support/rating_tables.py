"""Tables of ratings in files, for tests of imports and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.datasets import Dataset, read_table, validate

USERS, EACH = 12, 10


def frame() -> pd.DataFrame:
    """Ratings of 12 users, 10 items each, with leading zeros in the ids."""
    rng = np.random.default_rng(5)
    rows = [
        (f"{user:03d}", f"{item:04d}", f"Title {item}", 1 + 4 * rng.random(), 1_000 + item)
        for user in range(USERS)
        for item in rng.permutation(40)[:EACH]
    ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "text", "outcome", "time"])
    return table.round({"outcome": 1})


def save(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


def read(path: Path, **options: Any) -> Dataset:
    ds = read_table(path, **{"name": "mine", "task": "rating", **options})
    validate(ds)
    return ds


def changed(column: str, value: Any, row: int = 3) -> pd.DataFrame:
    table = frame().astype({column: object})
    table.loc[row, column] = value
    return table
