"""Looking at a table before it is imported: its first rows, likely columns, and what is wrong."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.datasets.dataset import TaskName
from puma_engine.datasets.importers.table import (
    RAGGED,
    OpenTable,
    check_options,
    find_problems,
    keep_usable,
    open_table,
)
from puma_engine.datasets.reading import columns
from puma_engine.datasets.summary import statistics
from puma_engine.errors import DataError

PREVIEW_ROWS = 50
LONGEST_CELL = 200
# Names that columns of each field often have, the likeliest first.
USUAL_NAMES = {
    "user_id": ("user_id", "userid", "user", "reviewer_id", "reviewerid", "reviewer", "customer"),
    "item_id": ("item_id", "itemid", "item", "asin", "parent_asin", "product_id", "book_id")
    + ("movie_id", "movieid", "business_id", "news_id", "product"),
    "outcome": ("outcome", "rating", "stars", "score", "overall", "click", "clicked", "label"),
    "text": ("text", "title", "item_title", "name", "product_title", "description"),
    "time": ("time", "timestamp", "date", "datetime", "unixreviewtime", "created_at", "when"),
    "history": ("history", "clicked_news", "past_items"),
}


@dataclass(frozen=True)
class Preview:
    """The first rows of a table as text, [rows, columns], and a guess at which column is what."""

    frame: pd.DataFrame
    guess: dict[str, str]


@dataclass(frozen=True)
class Problem:
    """One reason why rows cannot be used, how many have it first, and the first of them."""

    reason: str
    rows: int
    example: str | None


@dataclass(frozen=True)
class TableCheck:
    """What importing a table would do.

    rows: those in the file. problems: none means that it is taken as it is; else it is
    refused unless bad rows are to be dropped. refusal: why it is refused even then, or
    None. statistics: of what would be kept, as datasets.statistics gives them; None with
    a refusal. report: what the import would report.
    """

    rows: int
    problems: tuple[Problem, ...]
    refusal: str | None
    statistics: dict[str, Any] | None
    report: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preview_table(
    path: str | Path, *, delimiter: str | None = None, encoding: str | None = None
) -> Preview:
    """Return the first rows of a .csv, .tsv or .parquet file. Raises DataError."""
    path = Path(path)
    if path.name.lower().endswith(columns.PARQUET):
        frame = _parquet_head(path)
    else:
        frame = _csv_head(path, delimiter or columns.usual_delimiter(path), encoding)
    return Preview(frame, guess_columns(list(frame.columns)))


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the likely column of each field that has one; no column serves twice."""
    by_plain = {_plain(name): name for name in reversed(names)}
    found: dict[str, str] = {}
    for field, usual in USUAL_NAMES.items():
        match = next((by_plain[one] for one in usual if one in by_plain), None)
        if match is not None and match not in found.values():
            found[field] = match
    return found


def check_table(
    path: str | Path,
    *,
    task: TaskName,
    columns: Mapping[str, str] | None = None,
    items_path: str | Path | None = None,
    item_columns: Mapping[str, str] | None = None,
    min_rows: int = 1,
    max_rows: int | None = None,
    time_unit: str = "s",
    history_separator: str = " ",
    delimiter: str | None = None,
    encoding: str | None = None,
    seed: int = 0,
) -> TableCheck:
    """Read a table as an import would and say what it finds; nothing is kept.

    The settings are those of `read_table`. Raises DataError for a file that cannot be read.
    """
    check_options(task, min_rows, max_rows)
    opened = open_table(
        Path(path),
        columns=columns,
        items_path=items_path,
        item_columns=item_columns,
        time_unit=time_unit,
        history_separator=history_separator,
        how={"delimiter": delimiter, "encoding": encoding, "skip_ragged": True},
    )
    rows = opened.table.num_rows + opened.ragged
    problems = _all_problems(opened, task)
    usable = find_problems(opened.parsed, task, strict=False)
    try:
        kept = keep_usable(opened, usable, Path(path).stem, task, (min_rows, max_rows), seed)
    except DataError as error:
        return TableCheck(rows, problems, str(error), None, None)
    return TableCheck(rows, problems, None, statistics(kept), kept.report)


def _all_problems(opened: OpenTable, task: str) -> tuple[Problem, ...]:
    strict = find_problems(opened.parsed, task, strict=True)
    ragged = [Problem(RAGGED, opened.ragged, None)] if opened.ragged else []
    found = [
        Problem(reason, strict.counts[reason], opened.example(row))
        for reason, row in strict.first_rows().items()
    ]
    return (*ragged, *found)


def _parquet_head(path: Path) -> pd.DataFrame:
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(PREVIEW_ROWS), None)
            names = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({error}); check that it is complete."
        ) from error
    cells = [[] for _ in names] if batch is None else [one.to_pylist() for one in batch.columns]
    return _frame(names, list(zip(*cells, strict=True)))


def _csv_head(path: Path, delimiter: str, encoding: str | None) -> pd.DataFrame:
    encoding = encoding or columns.encoding_of(path)
    header = columns.header(path, delimiter, encoding)
    try:
        with columns.opened(path) as file:
            lines = csv.reader(
                io.TextIOWrapper(file, encoding=encoding, newline=""), delimiter=delimiter
            )
            rows = list(itertools.islice(lines, 1, 1 + PREVIEW_ROWS))
    except (UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as {encoding} CSV ({error}).") from error
    wide = len(header)
    return _frame(header, [(row + [""] * wide)[:wide] for row in rows])


def _frame(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    twice = {name for name in names if list(names).count(name) > 1}
    if twice:
        raise DataError(f"The column {min(twice)!r} comes more than once; rename one of them.")
    cells = [["" if cell is None else str(cell)[:LONGEST_CELL] for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=list(names), dtype="str")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
