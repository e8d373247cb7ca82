"""Read files with the user or item id of each row of a table."""

from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.datasets.reading.column_values import as_ids
from puma_engine.datasets.reading.delimited import read_columns, read_head
from puma_engine.errors import DataError
from puma_engine.exchange.prompt_file import Owner, checked_ids
from puma_engine.files import parse_json

TABLES = (".csv", ".tsv", ".parquet")


def read_ids(path: str | Path, rows: int, owner: Owner = "user") -> list[str]:
    """Return the id of the owner of each of `rows` rows. Raises DataError.

    A .txt file has one id on each line. A .json file has a list of ids, or an object that maps ids
    to row numbers. A .csv, .tsv or .parquet file has the columns user_id (or item_id) and row;
    without row, the ids are in row order.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path} with {owner} ids.")
    if path.suffix not in (".txt", ".json", *TABLES):
        raise DataError(
            f"The {owner} ids of {path} cannot be read; give a .txt, .json, .csv, .tsv or .parquet file."
        )
    try:
        if path.suffix in TABLES:
            ids, numbers = _read_table(path, owner)
        else:
            ids, numbers = _read_text(path)
    except (ValueError, OSError) as error:
        raise DataError(f"The {owner} ids of {path} cannot be read: {error}") from error
    ids = checked_ids(path, ids, owner)
    if numbers is None:
        if len(ids) != rows:
            raise DataError(
                f"The file {path} names {len(ids):,} {owner}s for {rows:,} rows; it must name each row's."
            )
        return ids
    integers = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not integers or sorted(numbers) != list(range(rows)):
        raise DataError(
            f"The rows in {path} must be the whole numbers from 0 to {rows - 1}, each once; it has "
            f"{len(numbers):,} {owner}s."
        )
    return [id_ for _, id_ in sorted(zip(numbers, ids, strict=True))]


def _read_text(path: Path) -> tuple[list[Any], list[Any] | None]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()], None
    content = parse_json(text)
    if not isinstance(content, list | dict):
        raise ValueError("it holds neither a list of ids nor an object from ids to rows")
    return list(content), list(content.values()) if isinstance(content, dict) else None


def _read_table(path: Path, owner: Owner) -> tuple[list[str], list[Any] | None]:
    """Read ids and, from a file of several columns, row numbers."""
    names = read_head(path, 1)[0]
    column = f"{owner}_id"
    read = read_columns(path, [column] if len(names) == 1 else [column, "row"])
    if read.bad:
        first = read.bad[0]
        raise ValueError(f"{len(read.bad):,} rows are unusable, the first {first.reason} ({first})")
    owners = as_ids(read.table[column], f"{owner} ids")
    ids = np.array(owners.unique, dtype=object)[owners.codes].tolist()
    if len(names) == 1:
        return ids, None
    if len(owners.unique) != len(ids):
        raise ValueError(f"a {owner} id comes twice")
    places = as_ids(read.table["row"], "rows")
    numbers = np.array([int(text) for text in places.unique], dtype=object)[places.codes]
    return ids, numbers.tolist()
