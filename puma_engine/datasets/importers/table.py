"""Preview, check and read any CSV, Parquet or JSON lines table with named columns as a data set."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from puma_engine.datasets.dataset import TASKS, Dataset, TaskName, allowed_outcomes
from puma_engine.datasets.importers.clicks import drawn_non_clicks
from puma_engine.datasets.importers.column_guess import guess_columns, guess_task
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    build_dataset,
    has_min_rows,
    latest_of_each_pair,
)
from puma_engine.datasets.importers.ratings import (
    NO_ITEM,
    NO_TIME,
    NO_USER,
    REPEATED,
    seeded_users,
)
from puma_engine.datasets.importers.table_options import TableOptions
from puma_engine.datasets.reading.column_values import (
    as_histories,
    as_ids,
    as_numbers,
    as_texts,
    item_texts,
    plain_id,
    usable_ids,
)
from puma_engine.datasets.reading.csv_tables import RAGGED, BadRow, CsvFormat
from puma_engine.datasets.reading.delimited import (
    Columns,
    MissingColumns,
    plain_names,
    read_columns,
    read_head,
)
from puma_engine.datasets.reading.parquet_files import refuse_bomb
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.times import Times, read_times
from puma_engine.datasets.registry import settings_from
from puma_engine.datasets.splits import (
    SPLITS,
    assign_splits,
    cap_rows,
    split_rule,
    splits_at_one_time,
)
from puma_engine.datasets.summary import statistics
from puma_engine.errors import DataError

PREVIEW_ROWS = 50
# Delimiters to suggest for a file that seems to have a single column.
DELIMITERS = (";", "\t", "|", ",")
# Number of rows from which the fields of columns are guessed.
GUESS_ROWS = 1000
MAX_CELL_CHARACTERS = 200
REQUIRED = ("user_id", "item_id", "outcome")
OPTIONAL = ("text", "time", "history")
# Read only where the caller names it: a file's own splits may mean something else.
NAMED_ONLY = ("split",)
ITEM_FIELDS = ("item_id", "text")
ID_FIELDS = ("user_id", "item_id", "history")
# Columns that only one published layout has, its name, and the source that imports it.
LAYOUTS = {
    ("reviewerid", "asin", "overall"): ("Amazon Reviews 2018", "amazon-2018"),
    ("user_id", "parent_asin", "rating"): ("Amazon Reviews 2023", "amazon"),
    ("userid", "movieid", "rating"): ("MovieLens", "movielens"),
    ("user_id", "business_id", "stars"): ("the Yelp Open Dataset", "yelp"),
    ("user_id", "imdb_id", "rating"): ("MovieTweetings", "movietweetings"),
}
OWN_SPLITS = {
    **{name: name for name in SPLITS},
    **{"training": "train", "testing": "test"},
    **dict.fromkeys(("valid", "val", "dev"), "validation"),
}
NO_TEXT = "whose item has no text"
SEVERAL_TEXTS = "of an item whose text differs from row to row"
UNKNOWN_HISTORY = "whose history names an item without text"
BAD_HISTORY = "with a history that cannot be read"
BAD_SPLIT = "with a split other than train, validation and test"
NOT_RATED = "without a rating (not_rated)"
NO_CLICK = "of no click (non-clicks are drawn)"
NO_TRAINING = "of users without a row to train"
# Above this share of ratings out of range, a file has another scale rather than typing errors.
MAX_OUT_OF_RANGE = 0.05

# An entry of a history takes at least so many bytes.
_ENTRY_BYTES = 8
SCALES = ((0.5, 5), (0, 5), (1, 7), (1, 10), (0, 10), (-10, 10), (1, 100), (0, 100))


def read_table(
    path: str | Path, *, name: str, task: TaskName, seed: int = 0, **options: Any
) -> Dataset:
    """Read a table of interactions: .csv, .tsv, .inter, .jsonl (.gz too) or .parquet.

    seed: decides caps, splits and draws. options: see TableOptions. Raises DataError, and
    ConfigError for an unknown option.
    """
    chosen = _options(task, options)
    table = _read(Path(path), task, chosen)
    strict = not chosen.drop_invalid and chosen.max_bad_share is None
    share = chosen.max_bad_share
    if share is None:
        share = float(chosen.drop_invalid)
    _refuse_other_kinds(table)
    counts, usable = _check(table, share, strict=strict)
    counts.check()
    return _build(table, counts, usable, name, seed)


@dataclass(frozen=True)
class Problem:
    """A reason why rows cannot be used. rows: how many have it as first reason; example: the first of them."""

    reason: str
    rows: int
    example: str


@dataclass(frozen=True)
class TableCheck:
    """The result of checking a table without importing it.

    rows: number in the file. problems: reasons why a strict import refuses the table; may be empty.
    refusal: why it is refused even without its bad rows, or because more rows are bad than
    max_bad_share allows; None if it is not. statistics: of the data set without bad rows, see
    datasets.statistics; None with a refusal. report: the report of the import. columns: the column
    that was read for each field.
    """

    rows: int
    problems: tuple[Problem, ...]
    refusal: str | None
    statistics: dict[str, Any] | None
    report: dict[str, Any] | None
    columns: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check_table(path: str | Path, *, task: TaskName, seed: int = 0, **options: Any) -> TableCheck:
    """Return what `read_table` would do with a table. Raises DataError for one that cannot be read."""
    chosen = _options(task, options)
    table = _read(Path(path), task, chosen)
    strict, _ = _check(table, 0.0, strict=True)
    problems = tuple(
        Problem(reason, strict.dropped[reason], table.label(row))
        for reason, row in strict.first.items()
        if reason not in strict.unlimited
    )
    share = chosen.max_bad_share
    counts, usable = _check(table, 1.0 if share is None else share, strict=False)
    try:
        _refuse_other_kinds(table)
        if share is not None:
            counts.check()
        ds = _build(table, counts, usable, Path(path).stem, seed)
    except DataError as error:
        return TableCheck(strict.rows, problems, str(error), None, None, table.columns_read)
    return TableCheck(strict.rows, problems, None, statistics(ds), ds.report, table.columns_read)


def _options(task: str, settings: Mapping[str, Any]) -> TableOptions:
    if task not in TASKS:
        raise DataError(f"There is no task {task!r}; choose {' or '.join(TASKS)}.")
    chosen = settings_from(TableOptions, "table", settings)
    chosen.check_task(task)
    return chosen


@dataclass(frozen=True)
class Preview:
    """The first rows of a table as text, [rows, columns], and the guessed column of each field.

    task: rating or click, guessed from the outcomes.
    """

    frame: pd.DataFrame
    guess: dict[str, str]
    task: TaskName = "rating"


def preview_table(
    path: str | Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    quote: str | None = None,
    no_header: bool = False,
) -> Preview:
    """Return the first whole rows of a table. Raises DataError."""
    frame = _first_rows(Path(path), CsvFormat(delimiter, encoding, quote, not no_header, True))
    guess = guess_columns(list(frame), frame)
    task = guess_task(frame[guess["outcome"]]) if "outcome" in guess else "rating"
    return Preview(frame.head(PREVIEW_ROWS), guess, task)  # type: ignore[arg-type]  # one of TASKS


def _first_rows(path: Path, csv_format: CsvFormat) -> pd.DataFrame:
    """Return the rows from which columns are guessed as text, [n, columns]. Raises DataError."""
    names, rows = read_head(path, GUESS_ROWS, csv_format)
    cells = [
        ["" if cell is None else str(cell)[:MAX_CELL_CHARACTERS] for cell in row] for row in rows
    ]
    return pd.DataFrame(cells, columns=names, dtype="str")


@dataclass(frozen=True)
class _Table:
    """All rows of a table, before unusable ones are dropped.

    values: the columns under our names. bad: rows that could not be read. columns_read: the file's
    column of each field. unused: columns that look like fields and were not read. rows: the values
    encoded, ratings on the scale of 1 to 5. written: the outcomes of the file. texts: by item id.
    several: [items] bool, whether the text differs between rows of the table itself. repeated: how
    many items have text in several rows (of the second table, if there is one); differing: how many
    of these have several texts. histories: [n] lists of item ids, or None; histories_read: [n]
    bool. split: [n] of str, "" where unusable, or None.
    """

    path: Path
    task: TaskName
    options: TableOptions
    values: pa.Table
    bad: list[BadRow]
    columns_read: dict[str, str]
    unused: dict[str, str]
    rows: EncodedInteractions
    written: np.ndarray
    times: Times | None
    texts: dict[str, str]
    several: np.ndarray
    differing: int
    repeated: int
    histories: list[list[str]] | None
    histories_read: np.ndarray
    split: np.ndarray | None

    @property
    def wrong_outcome(self) -> str:
        """The reason for dropping rows whose outcome is not valid for the task."""
        if self.task == "click":
            return "with a click that is not 0 or 1"
        low, high = self.options.bounds
        return f"with a rating that is not a number from {low:g} to {high:g}"

    @property
    def out_of_range(self) -> np.ndarray:
        """Mask of the ratings that are numbers off the scale, [n] bool."""
        low, high = self.options.bounds
        rated = np.isfinite(self.written) & (self.written != self.options.not_rated)
        return rated & ((self.written < low) | (self.written > high))

    def label(self, row: int) -> str:
        """Describe a row in an error; rows that could not be read come after the others."""
        if row >= len(self.rows):
            return str(self.bad[row - len(self.rows)])
        values = (
            f"{name} {str(self.values[name][row].as_py())[:60]!r}"
            for name in (*REQUIRED, "text", "time", "split")
            if name in self.values.column_names
        )
        hint = ""
        if self.task == "rating" and self.out_of_range[row]:
            hint = "; for another scale pass scale, such as --scale 1:10"
        outcome = self.written[row]
        if self.task == "click" and math.isfinite(outcome) and outcome not in (0, 1):
            hint = "; for plays, hours or ratings pass click_threshold, such as --click-threshold 4"
        return f"data row {row + 1}: " + ", ".join(values) + hint


def _read(path: Path, task: TaskName, options: TableOptions) -> _Table:
    """Read and parse a table. Raises DataError only for a file that cannot be read."""
    fields = (*REQUIRED, *OPTIONAL, *NAMED_ONLY)
    main = _read_fields(path, options.columns or {}, REQUIRED, fields, options.csv_format)
    values, columns_read = main.table, dict(main.columns_read)
    names = values.column_names
    user, user_ids = _sorted_codes(values["user_id"], "user ids")
    item, item_ids = _sorted_codes(values["item_id"], "item ids")
    texts = _read_item_texts(path, options, values, item, item_ids)
    if texts.column is not None:
        columns_read["text"] = texts.column
    elif options.id_as_text:
        columns_read.pop("text", None)
    # While reading, equal texts and histories share memory; when stored, each takes its own.
    refuse_bomb(
        Path(options.items_path or path),
        sum(len(texts.by_id.get(item, "")) for item in item_ids.tolist()),
    )
    histories, histories_read = None, np.ones(values.num_rows, dtype=bool)
    if "history" in names:
        histories, histories_read = as_histories(values["history"], options.history_separator)
        refuse_bomb(path, _ENTRY_BYTES * sum(map(len, histories)))
    times = read_times(values["time"], options.time_unit) if "time" in names else None
    if times is None and options.split_by == "time":
        raise DataError(f"{path} has no column of times to split by; name it (--column time=...).")
    written = as_numbers(values["outcome"], "outcomes")
    outcome = _task_outcomes(written, options)
    seconds = None if times is None else times.seconds
    return _Table(
        path=path,
        task=task,
        options=options,
        values=values,
        bad=main.bad + texts.bad,
        columns_read=columns_read,
        unused=_unread_columns(main),
        rows=EncodedInteractions(user_ids, item_ids, user, item, outcome, seconds),
        written=written,
        times=times,
        texts=texts.by_id,
        several=np.isin(np.arange(len(item_ids)), texts.several),
        differing=texts.differing,
        repeated=texts.repeated,
        histories=histories,
        histories_read=histories_read,
        split=_named_splits(values["split"]) if "split" in names else None,
    )


@dataclass(frozen=True)
class _ItemTexts:
    """Texts of items, from the table, a second table, or their ids.

    repeated: how many items have text in several rows; differing: how many of them have several
    texts. several: codes of items whose text differs between rows of the table itself. column: the
    one of a second table. bad: its rows that could not be read.
    """

    by_id: dict[str, str]
    repeated: int = 0
    differing: int = 0
    several: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    column: str | None = None
    bad: list[BadRow] = dataclasses.field(default_factory=list)


def _read_item_texts(
    path: Path, options: TableOptions, values: pa.Table, item: np.ndarray, item_ids: np.ndarray
) -> _ItemTexts:
    """Read the texts of items from where the options say. Raises DataError where there are none.

    values: the rows of the table. item: the code of each row's item; item_ids: the id of each code.
    """
    if options.items_path is not None:
        file, columns = Path(options.items_path), options.item_columns or {}
        items = _read_fields(file, columns, ITEM_FIELDS, ITEM_FIELDS, options.items_csv_format)
        ids = as_ids(items.table["item_id"], "item ids")
        texts = item_texts(ids.codes, as_texts(items.table["text"], "texts"))
        return _ItemTexts(
            {ids.unique[code]: text for code, text in texts.first.items()},
            texts.repeated,
            len(texts.several),
            column=items.columns_read["text"],
            bad=items.bad,
        )
    if options.id_as_text:
        return _ItemTexts({str(item): str(item) for item in item_ids if str(item).strip()})
    if "text" in values.column_names:
        texts = item_texts(item, as_texts(values["text"], "texts"))
        by_id = {item_ids[code]: text for code, text in texts.first.items()}
        return _ItemTexts(by_id, texts.repeated, len(texts.several), texts.several)
    suggested = _suggestion(path, options.columns or {}, ("text",), options.csv_format)
    raise DataError(
        f"{path} has no column of item texts; name it (columns={{'text': ...}}, --column "
        "text=...), give a second table with items_path (--items-path), or take the item ids "
        f"as texts with id_as_text (--id-as-text).{suggested}"
    )


def _task_outcomes(written: np.ndarray, options: TableOptions) -> np.ndarray:
    """Return clicks from numbers and a threshold, or ratings on the scale of 1 to 5, from the file's values."""
    if options.click_threshold is not None:
        above = (written >= options.click_threshold).astype(np.float64)
        return np.where(np.isfinite(written), above, np.nan)
    if options.scale is not None:
        low, high = options.bounds
        return 1 + 4 * (written - low) / (high - low)
    return written


def _named_splits(column: pa.ChunkedArray) -> np.ndarray:
    """Return the split that each row names, "" for an unknown name."""
    texts = as_texts(column, "splits")
    names = [OWN_SPLITS.get(text.strip().casefold(), "") for text in texts.unique]
    return np.array(names)[texts.codes]


def _read_fields(
    path: Path,
    columns: Mapping[str, str],
    required: tuple[str, ...],
    fields: tuple[str, ...],
    csv_format: CsvFormat,
) -> Columns:
    """Read a file's columns under our names; columns that the caller names must exist."""
    unknown = [field for field in columns if field not in fields]
    if unknown:
        raise DataError(f"There is no field {unknown[0]!r}; name columns for {', '.join(fields)}.")
    needed = {columns.get(field, field): field for field in (*required, *columns)}
    if len(needed) < len({*required, *columns}):
        raise DataError(f"{path}: two fields name the same column; each field needs its own.")
    extra = [
        field
        for field in fields
        if field not in columns and field not in needed and field not in NAMED_ONLY
    ]
    ids = [columns.get(field, field) for field in ID_FIELDS]
    try:
        read = read_columns(path, list(needed), optional=extra, ids=ids, csv_format=csv_format)
    except MissingColumns as error:
        option = "item-column" if required == ITEM_FIELDS else "column"
        of_items = "items" if required == ITEM_FIELDS else ""
        hint = (
            _delimiter_hint(error.present, of_items)
            or _layout_hint(error.present)
            or (
                f" Name its columns with --{option} FIELD=COLUMN ({option.replace('-', '_')}s in Python)."
                f"{_suggestion(path, columns, fields, csv_format)}"
            )
        )
        raise DataError(f"{error.message}.{hint}") from error
    if not read.table.num_rows:
        first = f"; {len(read.bad):,} {read.bad[0].reason} ({read.bad[0]})" if read.bad else ""
        raise DataError(f"{path} has no rows; a table needs a header and at least one row{first}.")
    return read.renamed(needed)


def _delimiter_hint(names: Sequence[str], of: str) -> str:
    """Suggest a delimiter for a file that seems to have one column. of: "items", or "" for the main table."""
    likely = max(DELIMITERS, key=names[0].count) if len(names) == 1 else ""
    if not likely or likely not in names[0]:
        return ""
    shown = repr(likely)
    name = f"{of}_delimiter".strip("_")
    return f" Its delimiter seems to be {shown}: pass {name}={shown} (--{name.replace('_', '-')} {shown})."


def _layout_hint(names: Sequence[str]) -> str:
    """Return a hint at a known layout by its columns, or that a file seems to have no header."""
    plain = plain_names(names)
    for columns, (title, source) in LAYOUTS.items():
        if set(columns) <= set(plain):
            known = next(name for name, low in zip(names, plain, strict=True) if low == columns[1])
            return (
                f" It has {known}: this is the layout of {title}, which `puma data import {source}` "
                "reads."
            )
    if any(name.replace(".", "", 1).strip().isdigit() for name in names):
        return (
            " Its first line looks like data: pass no_header=True (--no-header) and name columns "
            "by their numbers, such as --column user_id=1."
        )
    return ""


def _suggestion(
    path: Path, named: Mapping[str, str], fields: Sequence[str], csv_format: CsvFormat
) -> str:
    """Suggest options for a file's columns, as a question; "" if there are none.

    named: the columns that the caller names; they are kept if the file has them. A field with a
    column of its own name needs no option.
    """
    rows = _first_rows(path, csv_format)
    named_columns = {field: column for field, column in named.items() if column in rows}
    guess = {
        field: column
        for field, column in guess_columns(list(rows), rows).items()
        if column not in named_columns.values() and plain_names([column]) != [field]
    }
    option = "--item-column" if fields == ITEM_FIELDS else "--column"
    columns = guess | named_columns
    options = [
        f"{option} {shlex.quote(f'{field}={columns[field]}')}"
        for field in fields
        if field in columns
    ]
    suggested = guess.keys() & set(fields) - named_columns.keys()
    return f" Did you mean {' '.join(options)}?" if suggested else ""


def _unread_columns(read: Columns) -> dict[str, str]:
    """Return columns that look like a time, a history or a split and were not read, by field."""
    rest = [name for name in read.names if name not in read.columns_read.values()]
    guess = {
        field: column
        for field, column in guess_columns(rest).items()
        if field in ("time", "history") and field not in read.columns_read
    }
    splits = [name for name, low in zip(rest, plain_names(rest), strict=True) if low == "split"]
    if splits and "split" not in read.columns_read:
        guess["split"] = splits[0]
    return guess


def _sorted_codes(column: pa.ChunkedArray, label: str) -> tuple[np.ndarray, np.ndarray]:
    texts = as_ids(column, label)
    ids, position = np.unique(np.array(texts.unique, dtype=object), return_inverse=True)
    return position[texts.codes].astype(np.int64), ids


def _refuse_other_kinds(table: _Table) -> None:
    """Raise DataError if the meaning of a column is another than assumed, so that all rows are wrong.

    These are ratings on another scale, and reviews instead of the items' texts.
    """
    out_of_range = table.out_of_range
    rated = np.isfinite(table.written) & (table.written != table.options.not_rated)
    if (
        table.task == "rating"
        and table.options.scale is None
        and out_of_range.sum() > MAX_OUT_OF_RANGE * rated.sum()
    ):
        low, high = table.written[rated].min(), table.written[rated].max()
        scale = next((f"{a:g}:{b:g}" for a, b in SCALES if a <= low and high <= b), "LOW:HIGH")
        # A single value off the scale, below it, likely means that an item was not rated.
        unrated = f"{low:g}" if low < 1 and (table.written[out_of_range] == low).all() else "0"
        raise DataError(
            f"The ratings of {table.path.name!r} go from {low:g} to {high:g}, and {out_of_range.sum():,} of "
            f"{rated.sum():,} are not from 1 to 5. Name their scale, which is mapped to 1 to 5, such "
            f"as scale='{scale}' (--scale {scale}), or the value of rows without a rating, such as "
            f"not_rated={unrated} (--not-rated {unrated}). If the other ratings are mistakes, pass "
            "--scale 1:5."
        )
    # The first text of a second table is used, so a few titles in two versions are accepted.
    few_versions = table.options.items_path is not None and 10 * table.differing <= len(table.texts)
    if 2 * table.differing > max(1, table.repeated) and not few_versions:
        raise DataError(
            f"The column {table.columns_read['text']!r} was read as the texts of items, and differs from "
            f"row to row for {table.differing:,} of the {table.repeated:,} items that have several "
            "rows. It may be a review, which gives the rating away. Name another column (--column "
            "text=...), give the items' texts in a second table (--items-path), or take the item ids "
            "as texts (--id-as-text)."
        )


def _check(table: _Table, max_bad_share: float, *, strict: bool) -> tuple[RowCounts, np.ndarray]:
    """Count unusable rows by their first reason; return the numbers of the usable rows.

    strict: repeated pairs, items without text and unknown items in histories count too.
    """
    rows = table.rows
    counts = RowCounts(
        table.path,
        max_bad_share,
        unlimited=(NOT_RATED,) if strict else (NOT_RATED, REPEATED, NO_TEXT),
        label=table.label,
        unit="rows",
        remedy="correct them, pass drop_invalid=True (--drop-invalid) to leave them out, or raise "
        "max_bad_share (--max-bad-share)",
    )
    count = len(rows)
    counts.rows = count + len(table.bad)
    reasons = np.array([row.reason for row in table.bad], dtype=object)
    for reason in dict.fromkeys([RAGGED, *reasons]):
        counts.drop(reason, count + np.flatnonzero(reasons == reason))
    outcome = rows.outcome
    checks = {
        NO_USER: usable_ids(pa.array(rows.user_ids, pa.string()))[rows.user],
        NO_ITEM: usable_ids(pa.array(rows.item_ids, pa.string()))[rows.item],
    }
    if table.options.not_rated is not None:
        checks[NOT_RATED] = table.written != table.options.not_rated
    checks[table.wrong_outcome] = allowed_outcomes(table.task, outcome)
    if table.times is not None:
        checks[NO_TIME] = table.times.usable
    if table.split is not None:
        checks[BAD_SPLIT] = table.split != ""
    if table.histories is not None:
        checks[BAD_HISTORY] = table.histories_read
    checks[NO_TEXT] = np.array([item in table.texts for item in rows.item_ids.tolist()])[rows.item]
    checks[SEVERAL_TEXTS] = ~table.several[rows.item]
    if strict and table.histories is not None:
        known = table.texts.keys()
        checks[UNKNOWN_HISTORY] = np.array([known >= set(past) for past in table.histories])
    usable = np.flatnonzero(counts.check_rows(np.arange(count), checks))
    latest = latest_of_each_pair(rows.select(usable))
    counts.drop(REPEATED, usable[~latest])
    return counts, usable[latest]


@dataclass
class _ChosenRows:
    """The numbers of the rows of a table that are kept, and the counts of dropped rows by reason."""

    table: _Table
    usable: np.ndarray
    dropped: dict[str, int]

    @property
    def rows(self) -> EncodedInteractions:
        return self.table.rows.select(self.usable)

    def narrow(self, reason: str, chosen: np.ndarray) -> None:
        """Drop all rows but the chosen ones [n]. Raises DataError if no row is left."""
        self.dropped[reason] = int((~chosen).sum())
        self.usable = self.usable[chosen]
        if not len(self.usable):
            options = self.table.options
            reasons = ", ".join(f"{count} {why}" for why, count in self.dropped.items() if count)
            raise DataError(
                f"No row of {self.table.path.name!r} is left ({reasons}); correct the table, or lower "
                f"min_rows (it is {options.min_rows}) and min_item_rows ({options.min_item_rows})."
            )


def _build(table: _Table, counts: RowCounts, usable: np.ndarray, name: str, seed: int) -> Dataset:
    """Filter, cap and split the usable rows into a data set. Raises DataError if no row is left."""
    options, chosen = table.options, _ChosenRows(table, usable, dict(counts.dropped))
    known_pairs = chosen.rows.pairs() if options.draw_non_clicks else None
    popularity = _choose_items(chosen)
    _choose_users(chosen, seed)
    split, rule = _fixed_splits(chosen)
    final, past, warnings = chosen.rows, None, _warnings(table)
    if table.histories is not None:
        past = _histories(table, chosen.usable, chosen.dropped, warnings)
    report: dict[str, Any] = {
        "source": "table",
        "file": table.path.name,
        "columns": dict(options.columns or {}),
        "columns_read": table.columns_read,
        "seed": seed,
        "read": {"rows": counts.rows},
        "dropped": chosen.dropped,
    }
    if known_pairs is not None:
        final, positive = drawn_non_clicks(final, popularity, np.sort(known_pairs), seed)
        count = len(final) - len(chosen.usable)
        report["negatives"] = f"drawn by how often an item is clicked: {count:,}"
        split = None if split is None else split[positive]
        if past is not None:
            past = _histories_of_drawn(past, positive, final)
    if split is None:
        # Drawn non-clicks are split like the clicks, so that each part has both.
        group = final.user * 2 + (final.outcome > 0) if options.draw_non_clicks else final.user
        split = assign_splits(group, final.row_keys(seed, "split"), final.time)
        rule = split_rule(final.time is not None, per_class=options.draw_non_clicks)
    if table.task == "click" and len(np.unique(final.outcome)) == 1:
        warnings.append(_one_outcome_warning(options))
    report["split"] = rule
    if table.times is not None:
        report["times"] = {"written_as": table.times.written_as}
    if options.scale is not None:
        report["scale"] = options.scale
    report["items_with_several_texts"] = table.differing
    report["warnings"] = warnings
    return build_dataset(name, table.task, final, split, table.texts, report, past)


def _choose_items(chosen: _ChosenRows) -> np.ndarray:
    """Drop rows of rare items, and non-clicks if others are to be drawn; return each item's number of rows."""
    options = chosen.table.options
    if options.draw_non_clicks:
        chosen.narrow(NO_CLICK, chosen.rows.outcome == 1)
    rows = chosen.rows
    if options.min_item_rows:
        frequent = np.bincount(rows.item)[rows.item] >= options.min_item_rows
        chosen.narrow(f"of items with fewer than {options.min_item_rows} rows", frequent)
        rows = chosen.rows
    return np.bincount(rows.item, minlength=len(rows.item_ids))


def _choose_users(chosen: _ChosenRows, seed: int) -> None:
    """Drop users with few rows or no train row, users beyond the requested number, and rows beyond the cap."""
    table, options = chosen.table, chosen.table.options
    active = has_min_rows(chosen.rows, options.min_rows)
    chosen.narrow(f"of users with fewer than {options.min_rows} rows", active)
    if table.split is not None:
        chosen.narrow(NO_TRAINING, _has_training(chosen.rows, table.split[chosen.usable]))
    if options.users is not None:
        rows = chosen.rows
        users = seeded_users(rows, rows.users_present(), options.users, seed, repr(table.path.name))
        chosen.narrow("of users that were not asked for", np.isin(rows.user, users))
    if options.max_rows is not None:
        rows = chosen.rows
        capped = cap_rows(rows.user, options.max_rows, rows.row_keys(seed, "cap"), rows.time)
        chosen.narrow(f"beyond {options.max_rows} rows a user", capped)


def _fixed_splits(chosen: _ChosenRows) -> tuple[np.ndarray | None, str]:
    """Return the split of each row and the rule, if a column or a time for all users decides it.

    Rows of users without a train row are dropped. None if splits are drawn.
    """
    table = chosen.table
    if table.split is not None:
        return table.split[chosen.usable], "as the table's own column says"
    if table.options.split_by != "time":
        return None, ""
    assert table.times is not None
    split, rule = splits_at_one_time(table.times.seconds[chosen.usable])
    trained = _has_training(chosen.rows, split)
    chosen.narrow(NO_TRAINING, trained)
    return split[trained], rule


def _has_training(rows: EncodedInteractions, split: np.ndarray) -> np.ndarray:
    """Return whether the user of each row has a train row."""
    train = np.bincount(rows.user[split == "train"], minlength=len(rows.user_ids))
    return np.asarray(train[rows.user] > 0)


def _histories_of_drawn(
    past: list[list[str]], positive: np.ndarray, final: EncodedInteractions
) -> list[list[str]]:
    """Return the histories of clicks and drawn non-clicks: those of the click, without the row's own item.

    positive: for each row the number of its click, which is itself or the one that it was drawn
    for.
    """
    items = final.item_ids[final.item].tolist()
    return [
        [other for other in past[row] if other != item]
        for row, item in zip(positive.tolist(), items, strict=True)
    ]


def _one_outcome_warning(options: TableOptions) -> str:
    remedy = (
        "No non-click could be drawn, since every user has a row of every item."
        if options.draw_non_clicks
        else "draw_non_clicks (--draw-non-clicks) draws some."
    )
    return f"All outcomes are equal; clicks and non-clicks are both needed to learn. {remedy}"


def _warnings(table: _Table) -> list[str]:
    """Return warnings about how the file was read, for the report."""
    warnings = []
    for field, column in table.unused.items():
        effect = "; without times, rows are split at random" if field == "time" else ""
        option = shlex.quote(f"{field}={column}")
        warnings.append(
            f"The column {column!r} was not read; if it holds the {field} of rows, name it with "
            f"--column {option}{effect}."
        )
    if table.times is not None and table.times.note:
        warnings.append(table.times.note)
    for kind, ids in (("user", table.rows.user_ids), ("item", table.rows.item_ids)):
        plain = set(ids)
        others = [id_ for id_ in ids if (same := plain_id(id_)) not in ("", id_) and same in plain]
        if others:
            warnings.append(
                f"{len(others):,} {kind} ids differ from others only by spaces or quotation marks around "
                f"them, by .0 or by how letters are encoded (one is {others[0]!r}) and count as other {kind}s."
            )
    low, high = table.options.bounds
    off = int(table.out_of_range.sum()) if table.task == "rating" else 0
    if off:
        warnings.append(f"{off:,} ratings outside {low:g} to {high:g} were left out.")
    if table.options.scale is not None:
        rated = table.written[allowed_outcomes(table.task, table.rows.outcome)]
        if len(rated) and 2 * (rated.max() - rated.min()) < high - low:
            warnings.append(
                f"The ratings go from {rated.min():g} to {rated.max():g}, less than half of the scale "
                f"{table.options.scale}; check that it is that of this file."
            )
    lacking = np.array([item not in table.texts for item in table.rows.item_ids.tolist()])
    without = int(lacking[table.rows.item].sum())
    if 2 * without > len(table.rows):
        check = "the column of texts"
        if table.options.items_path is not None:
            check = "that ids of items are written alike in both files"
        warnings.append(
            f"{without:,} of {len(table.rows):,} rows name an item without a text (one is "
            f"{str(table.rows.item_ids[lacking][0])!r}); check {check}."
        )
    misread = [text for text in table.texts.values() if not text.isascii()]
    twice = [text for text in misread if _as_utf8(text) is not None]
    if 2 * len(twice) > len(misread):
        warnings.append(
            f"{len(twice):,} item texts look like UTF-8 that was read in another encoding (one is "
            f"{twice[0][:60]!r}, for {str(_as_utf8(twice[0]))[:60]!r}); check encoding (--encoding, "
            "--items-encoding), and how the file was written."
        )
    if table.options.items_path is not None and table.differing:
        warnings.append(
            f"{table.differing:,} items have several texts in the second table; the first counts."
        )
    quoted = sum(text[:1] == text[-1:] == '"' and len(text) > 1 for text in table.texts.values())
    if quoted:
        warnings.append(
            f"{quoted:,} item texts begin and end with a quotation mark; if the file quotes its "
            "values, pass quote='\"' (--quote '\"')."
        )
    return warnings


def _as_utf8(text: str) -> str | None:
    """Return a text whose UTF-8 was read as Windows-1252, or None for one that was not."""
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None


def _histories(
    table: _Table, usable: np.ndarray, dropped: dict[str, int], warnings: list[str]
) -> list[list[str]]:
    """Return the histories of the usable rows, without unknown items and the item of the row."""
    assert table.histories is not None
    rows = table.rows.select(usable)
    histories, entries, unknown, own_items = [], 0, 0, 0
    for item, past in zip(
        rows.item_ids[rows.item], (table.histories[row] for row in usable), strict=True
    ):
        entries += len(past)
        own_items += past.count(item)
        unknown += sum(other not in table.texts for other in past)
        histories.append([other for other in past if other in table.texts and other != item])
    dropped["history entries without text"] = unknown
    dropped["history entries naming the row's own item"] = own_items
    if 2 * unknown > entries:
        warnings.append(
            f"{unknown:,} of {entries:,} entries of histories name no item with a text; check "
            "history_separator (--history-separator) and that the ids are those of the items."
        )
    return histories
