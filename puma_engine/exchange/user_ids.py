"""Files that tell which user each row of a table belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

KINDS = ".txt, .json, .csv or .parquet"


def read_user_ids(path: str | Path, rows: int) -> list[str]:
    """Return the user id of each of `rows` rows. Raises DataError.

    A .txt file has one id a line. A .json file has a list of ids, or an object that maps ids
    to row numbers. A .csv or .parquet file has a column user_id and, unless its rows are
    in order, a column row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path} with user ids.")
    reader = {".txt": _text, ".json": _json, ".csv": _table, ".parquet": _table}.get(path.suffix)
    if reader is None:
        raise DataError(f"The user ids of {path} cannot be read; give a {KINDS} file.")
    try:
        found = reader(path)
    except (ValueError, OSError) as error:
        raise DataError(f"The user ids of {path} cannot be read: {error}") from error
    if isinstance(found, dict):
        return _by_row(path, found, rows)
    if len(found) != rows:
        raise DataError(
            f"The file {path} names {len(found):,} users for {rows:,} rows; it must name each row's."
        )
    return found


def _text(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _json(path: Path) -> list[str] | dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(found, list):
        return [str(user) for user in found]
    if isinstance(found, dict):
        return {str(user): row for user, row in found.items()}
    raise ValueError("it holds neither a list of ids nor an object from ids to rows")


def _table(path: Path) -> list[str] | dict[str, Any]:
    import pandas as pd

    frame: pd.DataFrame = (
        pd.read_csv(path, dtype={"user_id": str}, keep_default_na=False)
        if path.suffix == ".csv"
        else pd.read_parquet(path)
    )
    if "user_id" not in frame:
        raise ValueError(f"it has no column user_id, but {', '.join(map(str, frame.columns))}")
    ids = frame["user_id"].astype(str).tolist()
    if "row" not in frame:
        return ids
    if len(set(ids)) != len(ids):
        raise ValueError("a user id comes twice")
    return dict(zip(ids, frame["row"].tolist(), strict=True))


def _by_row(path: Path, row_of: dict[str, Any], rows: int) -> list[str]:
    numbers = list(row_of.values())
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not whole or sorted(numbers) != list(range(rows)):
        raise DataError(
            f"The rows in {path} must be the whole numbers from 0 to {rows - 1}, each once; it has "
            f"{len(numbers):,} users."
        )
    found = [""] * rows
    for user, row in row_of.items():
        found[row] = user
    return found
