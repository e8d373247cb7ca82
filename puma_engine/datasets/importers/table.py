"""Any CSV or Parquet table with named columns: previewed, checked, and read as a data set."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from puma_engine.datasets.dataset import TASKS, Dataset, TaskName, allowed_outcomes
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    build_dataset,
    has_min_rows,
    latest_of_each_pair,
)
from puma_engine.datasets.importers.ratings import NO_ITEM, NO_TIME, NO_USER, REPEATED, WRONG_RATING
from puma_engine.datasets.reading.column_values import (
    as_histories,
    as_numbers,
    as_seconds,
    as_texts,
    first_texts,
    usable_ids,
)
from puma_engine.datasets.reading.delimited import read_columns, read_head
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.splits import MIN_ROWS_TO_HOLD_OUT, assign_splits, cap_rows, split_rule
from puma_engine.datasets.summary import statistics
from puma_engine.errors import DataError

PREVIEW_ROWS = 50
MAX_CELL_CHARACTERS = 200
REQUIRED = ("user_id", "item_id", "outcome")
OPTIONAL = ("text", "time", "history")
ITEM_FIELDS = ("item_id", "text")
# Names that columns of each field often have, the likeliest first.
COMMON_NAMES = {
    "user_id": ("user_id", "userid", "user", "reviewer_id", "reviewerid", "reviewer", "customer"),
    "item_id": ("item_id", "itemid", "item", "asin", "parent_asin", "product_id", "book_id")
    + ("movie_id", "movieid", "business_id", "news_id", "product"),
    "outcome": ("outcome", "rating", "stars", "score", "overall", "click", "clicked", "label"),
    "text": ("text", "title", "item_title", "name", "product_title", "description"),
    "time": ("time", "timestamp", "date", "datetime", "unixreviewtime", "created_at", "when"),
    "history": ("history", "clicked_news", "past_items"),
}
RAGGED = "without the header's number of fields"
NO_TEXT = "whose item has no text"
UNKNOWN_HISTORY = "whose history names an item without text"
_WRONG_OUTCOME = {"rating": WRONG_RATING, "click": "with a click that is not 0 or 1"}


class TableFormat(TypedDict, total=False):
    """How a table is laid out.

    columns: from our fields (user_id, item_id, outcome; text, time, history) to the file's
    column names; a field that is not named is looked up under its own name. items_path: a
    second table with item_id and text, where the first has no text (item_columns: its names).
    time_unit: "s" (default) or "ms", of numeric times. history_separator: between the item
    ids of a history written as text, a space by default. delimiter, encoding: of CSV files;
    without them comma or tab by the file's name, and UTF-8 or UTF-16 by its byte-order mark.
    """

    columns: Mapping[str, str] | None
    items_path: str | Path | None
    item_columns: Mapping[str, str] | None
    time_unit: str
    history_separator: str
    delimiter: str | None
    encoding: str | None


def read_table(
    path: str | Path,
    *,
    name: str,
    task: TaskName,
    drop_invalid: bool = False,
    max_bad_share: float | None = None,
    seed: int = 0,
    min_rows: int = 1,
    max_rows: int | None = None,
    **layout: Unpack[TableFormat],
) -> Dataset:
    """Read a .csv, .tsv or .parquet file of interactions. Raises DataError.

    drop_invalid: leave unusable rows out and count them, instead of refusing the file.
    max_bad_share: the same as long as no more than this share of the rows, in [0, 1], is
    unusable; repeated pairs and rows of items without text do not count.
    min_rows, max_rows: users with fewer rows are left out; of users with more, the latest
    rows stay (a seeded sample without times). seed: decides caps and splits. layout: see
    TableFormat.
    """
    _check_options(task, min_rows, max_rows, max_bad_share)
    table = _read(Path(path), **layout)
    strict = not drop_invalid and max_bad_share is None
    share = max_bad_share if max_bad_share is not None else float(drop_invalid)
    counts, usable = _check(table, task, share, strict=strict)
    counts.check()
    return _build(table, counts, usable, name, task, (min_rows, max_rows), seed)


@dataclass(frozen=True)
class Problem:
    """One reason why rows cannot be used, how many have it first, and the first of them."""

    reason: str
    rows: int
    example: str


@dataclass(frozen=True)
class TableCheck:
    """What importing a table would do.

    rows: those in the file. problems: why a strict import refuses it; empty if it does not.
    refusal: why it is refused even without its bad rows, or None. statistics: of the data set
    without bad rows, as datasets.statistics returns them; None with a refusal. report: what
    the import would report.
    """

    rows: int
    problems: tuple[Problem, ...]
    refusal: str | None
    statistics: dict[str, Any] | None
    report: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check_table(
    path: str | Path,
    *,
    task: TaskName,
    seed: int = 0,
    min_rows: int = 1,
    max_rows: int | None = None,
    **layout: Unpack[TableFormat],
) -> TableCheck:
    """Read a table as an import would and report its problems; nothing is stored.

    The settings are those of `read_table`. Raises DataError for a file that cannot be read.
    """
    _check_options(task, min_rows, max_rows)
    table = _read(Path(path), **layout)
    strict, _ = _check(table, task, 0.0, strict=True)
    problems = tuple(
        Problem(reason, strict.dropped[reason], table.label(row))
        for reason, row in strict.first.items()
    )
    counts, usable = _check(table, task, 1.0, strict=False)
    try:
        ds = _build(table, counts, usable, Path(path).stem, task, (min_rows, max_rows), seed)
    except DataError as error:
        return TableCheck(strict.rows, problems, str(error), None, None)
    return TableCheck(strict.rows, problems, None, statistics(ds), ds.report)


@dataclass(frozen=True)
class Preview:
    """The first rows of a table as text, [rows, columns], and a guess at which column is what."""

    frame: pd.DataFrame
    guess: dict[str, str]


def preview_table(
    path: str | Path, *, delimiter: str | None = None, encoding: str | None = None
) -> Preview:
    """Return the first whole rows of a .csv, .tsv or .parquet file. Raises DataError."""
    names, rows = read_head(Path(path), PREVIEW_ROWS, delimiter, encoding)
    cells = [
        ["" if cell is None else str(cell)[:MAX_CELL_CHARACTERS] for cell in row] for row in rows
    ]
    return Preview(pd.DataFrame(cells, columns=names, dtype="str"), guess_columns(names))


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the likely column of each field that has one; no column serves twice."""
    by_plain_name = {
        name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(names)
    }
    guess: dict[str, str] = {}
    for field, common in COMMON_NAMES.items():
        column = next((by_plain_name[name] for name in common if name in by_plain_name), None)
        if column is not None and column not in guess.values():
            guess[field] = column
    return guess


@dataclass(frozen=True)
class _Table:
    """All rows of a table before any is refused.

    columns: as named by the caller. values: the rows under our names. ragged: rows with
    another number of fields. rows: the values encoded. time_usable: [n] bool. texts: by item
    id. histories: [n] lists of item ids, or None.
    """

    path: Path
    columns: dict[str, str]
    values: pa.Table
    ragged: list[pyarrow.csv.InvalidRow]
    rows: EncodedInteractions
    time_usable: np.ndarray
    texts: dict[str, str]
    several_texts: int
    histories: list[list[str]] | None

    def label(self, row: int) -> str:
        """Describe a row in an error; rows of another length come after the others."""
        if row >= len(self.rows):
            ragged = self.ragged[row - len(self.rows)]
            return (
                f"{ragged.text[:80]!r} has {ragged.actual_columns}, not {ragged.expected_columns}"
            )
        values = (
            f"{name} {str(self.values[name][row].as_py())[:60]!r}"
            for name in (*REQUIRED, "text", "time")
            if name in self.values.column_names
        )
        return f"data row {row + 1}: " + ", ".join(values)


def _check_options(
    task: str, min_rows: int, max_rows: int | None, max_bad_share: float | None = None
) -> None:
    if task not in TASKS:
        raise DataError(f"There is no task {task!r}; choose {' or '.join(TASKS)}.")
    if min_rows < 1 or (max_rows is not None and max_rows < min_rows):
        raise DataError(
            f"min_rows must be 1 or more and max_rows at least that, not {min_rows} and {max_rows}."
        )
    if max_bad_share is not None and not 0 <= max_bad_share <= 1:
        raise DataError(f"max_bad_share must be from 0 to 1, not {max_bad_share}.")


def _read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    items_path: str | Path | None = None,
    item_columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    history_separator: str = " ",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> _Table:
    """Read and parse a table, refusing only what cannot be read. Raises DataError."""
    how = {"delimiter": delimiter, "encoding": encoding}
    values, ragged = _read_fields(path, columns or {}, REQUIRED, OPTIONAL, how)
    if items_path is not None:
        items, more = _read_fields(Path(items_path), item_columns or {}, ITEM_FIELDS, (), how)
        ragged = ragged + more
    elif "text" in values.column_names:
        items = values
    else:
        raise DataError(
            f"{path} has no column of item texts; name it (columns={{'text': ...}}), or give a "
            "second table with items_path."
        )
    names = values.column_names
    user, user_ids = _sorted_codes(values["user_id"], "user ids")
    item, item_ids = _sorted_codes(values["item_id"], "item ids")
    of_items = as_texts(items["item_id"], "item ids")
    text_by_code, several = first_texts(of_items.codes, as_texts(items["text"], "texts"))
    histories = as_histories(values["history"], history_separator) if "history" in names else None
    time, time_usable = None, np.ones(values.num_rows, dtype=bool)
    if "time" in names:
        time, time_usable = as_seconds(values["time"], time_unit)
    outcome = as_numbers(values["outcome"], "outcomes")
    return _Table(
        path,
        dict(columns or {}),
        values,
        ragged,
        EncodedInteractions(user_ids, item_ids, user, item, outcome, time),
        time_usable,
        {of_items.unique[code]: text for code, text in text_by_code.items()},
        several,
        histories,
    )


def _read_fields(
    path: Path,
    columns: Mapping[str, str],
    required: tuple[str, ...],
    optional: tuple[str, ...],
    how: Mapping[str, Any],
) -> tuple[pa.Table, list[pyarrow.csv.InvalidRow]]:
    """Read a file's columns under our names; columns that the caller names must exist."""
    unknown = [field for field in columns if field not in required + optional]
    if unknown:
        raise DataError(
            f"There is no field {unknown[0]!r}; name columns for {', '.join(required + optional)}."
        )
    needed = {columns.get(field, field): field for field in (*required, *columns)}
    if len(needed) < len({*required, *columns}):
        raise DataError(f"{path}: two fields name the same column; each field needs its own.")
    extra = [field for field in optional if field not in columns and field not in needed]
    table, ragged = read_columns(path, list(needed), optional=extra, **how)
    if not table.num_rows:
        raise DataError(f"{path} has no rows; a table needs a header and at least one row.")
    return table.rename_columns([needed.get(name, name) for name in table.column_names]), ragged


def _sorted_codes(column: pa.ChunkedArray, what: str) -> tuple[np.ndarray, np.ndarray]:
    texts = as_texts(column, what)
    ids, position = np.unique(np.array(texts.unique, dtype=object), return_inverse=True)
    return position[texts.codes].astype(np.int64), ids


def _check(
    table: _Table, task: str, max_bad_share: float, *, strict: bool
) -> tuple[RowCounts, np.ndarray]:
    """Count the rows that cannot be used by their first reason; return the other rows' numbers.

    strict: repeated pairs, items without text and unknown items in histories count too.
    """
    rows = table.rows
    counts = RowCounts(
        table.path,
        max_bad_share,
        unlimited=() if strict else (REPEATED, NO_TEXT),
        label=table.label,
        unit="rows",
        remedy="correct them, pass drop_invalid=True (--drop-invalid) to leave them out, or raise "
        "max_bad_share (--max-bad-share)",
    )
    count = len(rows)
    counts.rows = count + len(table.ragged)
    counts.drop(RAGGED, np.arange(count, counts.rows))
    checks = {
        NO_USER: usable_ids(pa.array(rows.user_ids, pa.string()))[rows.user],
        NO_ITEM: usable_ids(pa.array(rows.item_ids, pa.string()))[rows.item],
        _WRONG_OUTCOME[task]: allowed_outcomes(task, rows.outcome),
        NO_TIME: table.time_usable,
        NO_TEXT: np.array([item in table.texts for item in rows.item_ids.tolist()])[rows.item],
    }
    if strict and table.histories is not None:
        known = table.texts.keys()
        checks[UNKNOWN_HISTORY] = np.array([known >= set(past) for past in table.histories])
    usable = np.flatnonzero(counts.check_rows(np.arange(count), checks))
    latest = latest_of_each_pair(rows.select(usable))
    counts.drop(REPEATED, usable[~latest])
    return counts, usable[latest]


def _build(
    table: _Table,
    counts: RowCounts,
    usable: np.ndarray,
    name: str,
    task: TaskName,
    limits: tuple[int, int | None],
    seed: int,
) -> Dataset:
    """Cap and split the usable rows, and report. Raises DataError if no row is left."""
    min_rows, max_rows = limits
    dropped = dict(counts.dropped)
    enough = has_min_rows(table.rows.select(usable), min_rows)
    dropped[f"of users with fewer than {min_rows} rows"] = int((~enough).sum())
    usable = usable[enough]
    if not len(usable):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"No row of {table.path.name!r} is left ({reasons}); correct the table, or lower "
            f"min_rows (it is {min_rows})."
        )
    if max_rows is not None:
        rows = table.rows.select(usable)
        within_cap = cap_rows(rows.user, max_rows, rows.row_keys(seed, "cap"), rows.time)
        dropped[f"beyond {max_rows} rows a user"] = int((~within_cap).sum())
        usable = usable[within_cap]
    rows = table.rows.select(usable)
    split = assign_splits(rows.user, rows.row_keys(seed, "split"), rows.time)
    histories = None
    if table.histories is not None:
        histories, unknown, selves = [], 0, 0
        for item, past in zip(
            rows.item_ids[rows.item], (table.histories[row] for row in usable), strict=True
        ):
            selves += past.count(item)
            unknown += sum(other not in table.texts for other in past)
            histories.append([other for other in past if other in table.texts and other != item])
        dropped["history entries without text"] = unknown
        dropped["history entries naming the row's own item"] = selves
    warnings = []
    if not (split == "test").any():
        warnings.append(
            f"No user has {MIN_ROWS_TO_HOLD_OUT} rows, so nothing is held out to validate or test."
        )
    if task == "click" and len(np.unique(rows.outcome)) == 1:
        warnings.append("All outcomes are equal; clicks and non-clicks are both needed to learn.")
    report = {
        "source": "table",
        "file": table.path.name,
        "columns": table.columns,
        "seed": seed,
        "read": {"rows": counts.rows},
        "dropped": dropped,
        "split": split_rule(rows.time is not None),
        "items_with_several_texts": table.several_texts,
        "warnings": warnings,
    }
    return build_dataset(name, task, rows, split, table.texts, report, histories)
