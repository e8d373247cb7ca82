"""Any CSV or Parquet table with named columns, as a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from puma_engine.datasets.dataset import TASKS, Dataset, TaskName, occurring
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    has_min_rows,
    items_frame,
    latest_of_each_pair,
    to_frame,
)
from puma_engine.datasets.importers.raw_rows import REPEATED
from puma_engine.datasets.reading import column_values
from puma_engine.datasets.reading.columns import read_columns
from puma_engine.datasets.reading.row_problems import Problems
from puma_engine.datasets.splits import MIN_ROWS_TO_HOLD_OUT, assign_splits, cap_rows, split_rule
from puma_engine.errors import DataError

REQUIRED = ("user_id", "item_id", "outcome")
OPTIONAL = ("text", "time", "history")
ITEM_FIELDS = ("item_id", "text")
RAGGED = "without the header's number of fields"
NO_TEXT = "whose item has no text"
_WRONG_OUTCOME = {
    "rating": "with a rating that is not a number from 1 to 5",
    "click": "with a click that is not 0 or 1",
}


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """All rows of a table before any is refused."""

    rows: EncodedInteractions
    time_usable: np.ndarray
    texts: dict[int, str]
    history: list[list[str]] | None
    several_texts: int


def read_table(
    path: str | Path,
    *,
    name: str,
    task: TaskName,
    columns: Mapping[str, str] | None = None,
    items_path: str | Path | None = None,
    item_columns: Mapping[str, str] | None = None,
    drop_invalid: bool = False,
    max_bad_share: float | None = None,
    seed: int = 0,
    min_rows: int = 1,
    max_rows: int | None = None,
    time_unit: str = "s",
    history_separator: str = " ",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Dataset:
    """Read a .csv, .tsv or .parquet file of interactions. Raises DataError.

    columns: from our fields (user_id, item_id, outcome; text, time, history) to the file's
    column names; a field left out is looked for under its own name. items_path: a second
    table with item_id and text, where the first has no text (item_columns: its names).
    drop_invalid: leave unusable rows out and count them, instead of refusing the file.
    max_bad_share: the same as long as no more than this share of the rows is unusable;
    repeated pairs and rows of items without text do not count.
    min_rows, max_rows: users with fewer rows are left out; of users with more, the latest
    rows are kept (a seeded draw without times). time_unit: "s" or "ms", of numeric times.
    history_separator: between the item ids of a history written as text. delimiter and
    encoding: of CSV files; None takes comma or tab, and UTF-8 or what the file's mark says.
    """
    check_options(task, min_rows, max_rows)
    strict = not drop_invalid and max_bad_share is None
    opened = open_table(
        Path(path),
        columns=columns,
        items_path=items_path,
        item_columns=item_columns,
        time_unit=time_unit,
        history_separator=history_separator,
        how={"delimiter": delimiter, "encoding": encoding, "skip_ragged": not strict},
    )
    problems = find_problems(opened.parsed, task, strict=strict)
    if strict:
        problems.refuse(opened.path, opened.example)
    elif max_bad_share is not None:
        problems.refuse_above(
            max_bad_share,
            opened.path,
            opened.example,
            spare=(REPEATED, NO_TEXT),
            more=opened.ragged,
        )
    return keep_usable(opened, problems, name, task, (min_rows, max_rows), seed)


@dataclasses.dataclass(frozen=True)
class OpenTable:
    """A table as read: its rows, those without the header's number of fields, and the parsed."""

    path: Path
    columns: dict[str, str]
    table: pa.Table
    ragged: int
    parsed: _Parsed

    def example(self, row: int) -> str:
        """Return a row as text, cut to be shown."""
        return _example(self.table, row)


def open_table(
    path: Path,
    *,
    columns: Mapping[str, str] | None,
    items_path: str | Path | None,
    item_columns: Mapping[str, str] | None,
    time_unit: str,
    history_separator: str,
    how: Mapping[str, Any],
) -> OpenTable:
    """Read and parse a table, refusing nothing but what cannot be read. Raises DataError."""
    table, ragged = _load(path, columns or {}, REQUIRED, OPTIONAL, how)
    if items_path is None:
        texts = _own_texts(path, table)
    else:
        texts, more = _load(Path(items_path), item_columns or {}, ITEM_FIELDS, (), how)
        ragged += more
    parsed = _parse(table, texts, time_unit, history_separator)
    return OpenTable(path, dict(columns or {}), table, ragged, parsed)


def keep_usable(
    opened: OpenTable,
    problems: Problems,
    name: str,
    task: TaskName,
    limits: tuple[int, int | None],
    seed: int,
) -> Dataset:
    """Build the data set of the rows without problems. Raises DataError if none is left."""
    report = {
        "source": "table",
        "file": opened.path.name,
        "columns": opened.columns,
        "seed": seed,
        "read": {"rows": opened.table.num_rows + opened.ragged},
        "dropped": {RAGGED: opened.ragged, **problems.counts},
    }
    return _build(opened.parsed, problems, name, task, limits, report)


def check_options(task: str, min_rows: int, max_rows: int | None) -> None:
    if task not in TASKS:
        raise DataError(f"There is no task {task!r}; choose {' or '.join(TASKS)}.")
    if min_rows < 1 or (max_rows is not None and max_rows < min_rows):
        raise DataError(
            f"min_rows must be 1 or more and max_rows at least that, not {min_rows} and {max_rows}."
        )


def _load(
    path: Path,
    columns: Mapping[str, str],
    required: tuple[str, ...],
    optional: tuple[str, ...],
    how: Mapping[str, Any],
) -> tuple[pa.Table, int]:
    """Read a file's columns under our names; named columns must exist."""
    unknown = [key for key in columns if key not in required + optional]
    if unknown:
        raise DataError(
            f"There is no field {unknown[0]!r}; name columns for {', '.join(required + optional)}."
        )
    need = {columns.get(key, key): key for key in (*required, *columns)}
    if len(need) < len({*required, *columns}):
        raise DataError(f"{path}: two fields name the same column; each field needs its own.")
    extra = [key for key in optional if key not in columns and key not in need]
    table, ragged = read_columns(path, list(need), optional=extra, **how)
    if not table.num_rows:
        raise DataError(f"{path} has no rows; a table needs a header and at least one row.")
    return table.rename_columns([need.get(one, one) for one in table.column_names]), ragged


def _own_texts(path: Path, table: pa.Table) -> pa.Table:
    if "text" not in table.column_names:
        raise DataError(
            f"{path} has no column of item texts; name it (columns={{'text': ...}}), or give a "
            "second table with items_path."
        )
    return table.select(list(ITEM_FIELDS))


def _parse(table: pa.Table, texts: pa.Table, time_unit: str, separator: str) -> _Parsed:
    names = table.column_names
    user, user_ids = _sorted_codes(column_values.as_texts(table["user_id"], "user ids"))
    item, item_ids = _sorted_codes(column_values.as_texts(table["item_id"], "item ids"))
    of_items = column_values.as_texts(texts["item_id"], "item ids")
    by_code, several = column_values.first_texts(
        of_items.codes, column_values.as_texts(texts["text"], "texts")
    )
    by_id = {of_items.unique[code]: text for code, text in by_code.items()}
    history = None
    if "history" in names:
        history = column_values.as_histories(table["history"], separator)
        # Items met only in histories need a code too.
        item_ids, item = _widened(item_ids, item, by_id)
    time, usable = None, np.ones(table.num_rows, dtype=bool)
    if "time" in names:
        time, usable = column_values.as_seconds(table["time"], time_unit)
    outcome = column_values.as_numbers(table["outcome"], "outcomes")
    rows = EncodedInteractions(user_ids, item_ids, user, item, outcome, time)
    position = {item_id: code for code, item_id in enumerate(item_ids.tolist())}
    known = {position[one]: text for one, text in by_id.items() if one in position}
    return _Parsed(rows, usable, known, history, several)


def find_problems(parsed: _Parsed, task: str, *, strict: bool) -> Problems:
    """Mark each row that cannot be used with its first reason."""
    rows = parsed.rows
    found = Problems(len(rows))
    bad_users = np.array([column_values.bad_id(one) for one in rows.user_ids.tolist()])
    bad_items = np.array([column_values.bad_id(one) for one in rows.item_ids.tolist()])
    found.add("without a usable user id", bad_users[rows.user])
    found.add("without a usable item id", bad_items[rows.item])
    with np.errstate(invalid="ignore"):
        if task == "rating":
            allowed = (rows.outcome >= 1) & (rows.outcome <= 5)
        else:
            allowed = (rows.outcome == 0) | (rows.outcome == 1)
    found.add(_WRONG_OUTCOME[task], ~allowed)
    found.add("without a usable time", ~parsed.time_usable)
    with_text = np.zeros(len(rows.item_ids), dtype=bool)
    with_text[list(parsed.texts)] = True
    found.add(NO_TEXT, ~with_text[rows.item])
    if strict and parsed.history is not None:
        known = set(rows.item_ids[with_text].tolist())
        stray = np.array([not known.issuperset(past) for past in parsed.history])
        found.add("whose history names an item without text", stray)
    good = np.flatnonzero(~found.bad)
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[good[~latest_of_each_pair(rows.keep(good))]] = True
    found.add(REPEATED, repeated)
    return found


def _build(
    parsed: _Parsed,
    problems: Problems,
    name: str,
    task: TaskName,
    limits: tuple[int, int | None],
    report: dict[str, Any],
) -> Dataset:
    """Cap, split and frame the usable rows, and complete the report."""
    least, most = limits
    index = np.flatnonzero(~problems.bad)
    enough = has_min_rows(parsed.rows.keep(index), least)
    report["dropped"][f"of users with fewer than {least} rows"] = int((~enough).sum())
    index = index[enough]
    if not len(index):
        raise DataError(
            f"No row of {report['file']!r} is left ({_counts(report['dropped'])}); correct the "
            f"table, or lower min_rows (it is {least})."
        )
    if most is not None:
        rows = parsed.rows.keep(index)
        kept = cap_rows(rows.user, most, rows.row_keys(report["seed"], "cap"), rows.time)
        report["dropped"][f"beyond {most} rows a user"] = int((~kept).sum())
        index = index[kept]
    rows = parsed.rows.keep(index)
    split = assign_splits(rows.user, rows.row_keys(report["seed"], "split"), rows.time)
    history = _histories(parsed, index, report) if parsed.history is not None else None
    frame = to_frame(rows, split, history)
    texts = {str(rows.item_ids[code]): text for code, text in parsed.texts.items()}
    items = items_frame(list(occurring(frame)), texts)
    report["split"] = split_rule(rows.time is not None)
    report["kept"] = {"rows": len(frame), "users": rows.count_users(), "items": len(items)}
    report["items_with_several_texts"] = parsed.several_texts
    report["warnings"] = _warnings(frame, task)
    return Dataset(name, task, frame, items, report)


def _histories(parsed: _Parsed, index: np.ndarray, report: dict[str, Any]) -> list[list[str]]:
    """Return each row's history without unknown items and without the row's own item."""
    assert parsed.history is not None
    known = {str(parsed.rows.item_ids[code]) for code in parsed.texts}
    kept, unknown, selves = [], 0, 0
    for row in index.tolist():
        item = parsed.rows.item_ids[parsed.rows.item[row]]
        past = parsed.history[row]
        usable = [one for one in past if one in known and one != item]
        selves += past.count(item)
        unknown += sum(one not in known for one in past)
        kept.append(usable)
    report["dropped"]["history entries without text"] = unknown
    report["dropped"]["history entries naming the row's own item"] = selves
    return kept


def _warnings(frame: pd.DataFrame, task: str) -> list[str]:
    found = []
    if not (frame["split"] == "test").any():
        found.append(
            f"No user has {MIN_ROWS_TO_HOLD_OUT} rows, so nothing is held out to validate or test."
        )
    if task == "click" and frame["outcome"].nunique() == 1:
        found.append("All outcomes are equal; clicks and non-clicks are both needed to learn.")
    return found


def _sorted_codes(texts: column_values.Texts) -> tuple[np.ndarray, np.ndarray]:
    ids, position = np.unique(np.array(texts.unique, dtype=object), return_inverse=True)
    return position[texts.codes].astype(np.int64), ids


def _widened(
    ids: np.ndarray, codes: np.ndarray, more: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids joined with more of them, sorted, and the codes in the wider numbering."""
    wider = np.unique(np.concatenate([ids, np.array(list(more), dtype=object)]))
    return wider, np.searchsorted(wider, ids)[codes]


def _example(table: pa.Table, row: int) -> str:
    values = (
        f"{name} {str(table[name][row].as_py())[:60]!r}"
        for name in (*REQUIRED, "text", "time")
        if name in table.column_names
    )
    return f"data row {row + 1}: " + ", ".join(values)


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none"
