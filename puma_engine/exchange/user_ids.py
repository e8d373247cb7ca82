"""Files that name the user of each row of a table."""

from pathlib import Path
from typing import Any

import pandas as pd

from puma_engine.errors import DataError
from puma_engine.files import parse_json


def read_user_ids(path: str | Path, rows: int) -> list[str]:
    """Return the user id of each of `rows` rows. Raises DataError.

    A .txt file has one id a line. A .json file has a list of ids, or an object that maps ids
    to row numbers. A .csv or .parquet file has a column user_id and, unless its rows are
    in order, a column row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path} with user ids.")
    if path.suffix not in (".txt", ".json", ".csv", ".parquet"):
        raise DataError(
            f"The user ids of {path} cannot be read; give a .txt, .json, .csv or .parquet file."
        )
    numbers: list[Any] | None = None
    try:
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            ids = [line.strip() for line in lines if line.strip()]
        elif path.suffix == ".json":
            content = parse_json(path.read_text(encoding="utf-8-sig"))
            if not isinstance(content, list | dict):
                raise ValueError("it holds neither a list of ids nor an object from ids to rows")
            ids = [str(user) for user in content]
            numbers = list(content.values()) if isinstance(content, dict) else None
        else:
            if path.suffix == ".csv":
                frame = pd.read_csv(path, dtype={"user_id": str}, keep_default_na=False)
            else:
                frame = pd.read_parquet(path)
            if "user_id" not in frame:
                columns = ", ".join(map(str, frame.columns))
                raise ValueError(f"it has no column user_id, but {columns}")
            ids = frame["user_id"].astype(str).tolist()
            if "row" in frame:
                if len(set(ids)) != len(ids):
                    raise ValueError("a user id comes twice")
                numbers = frame["row"].tolist()
    except (ValueError, OSError) as error:
        raise DataError(f"The user ids of {path} cannot be read: {error}") from error
    if numbers is None:
        if len(ids) != rows:
            raise DataError(
                f"The file {path} names {len(ids):,} users for {rows:,} rows; it must name each row's."
            )
        return ids
    integers = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not integers or sorted(numbers) != list(range(rows)):
        raise DataError(
            f"The rows in {path} must be the whole numbers from 0 to {rows - 1}, each once; it has "
            f"{len(numbers):,} users."
        )
    return [user for _, user in sorted(zip(numbers, ids, strict=True))]
