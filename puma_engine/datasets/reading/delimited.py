"""Read tables as columns, and lines of published files as fields.

Errors name the file and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from puma_engine.datasets.reading.csv_tables import BadRow, CsvFormat, open_csv, plain_suffix
from puma_engine.datasets.reading.json_lines import JSON_LINES, json_head, json_table
from puma_engine.datasets.reading.line_blocks import OTHER_ENCODING, Block
from puma_engine.datasets.reading.parquet_files import (
    PARQUET,
    parquet_file,
    parquet_names,
    read_parquet,
)
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.errors import DataError

_MAX_HEAD_CHARACTERS = 1000
# RecBole appends the type of a column to its name.
_TYPED = re.compile(r"(.+):(?:token|float)(?:_seq)?$")


class MissingColumns(DataError):
    """A file lacks columns. message: the message without its remedy; present: the names that it has."""

    def __init__(self, message: str, present: Sequence[str]) -> None:
        super().__init__(f"{message}. Rename the columns of the file.")
        self.message = message
        self.present = list(present)


@dataclass(frozen=True)
class Columns:
    """Columns of a file, under the requested names.

    path: the file. columns_read: their names in the file. names: of all columns of the file. bad:
    rows that are left out.
    """

    path: Path
    table: pa.Table
    columns_read: dict[str, str]
    names: list[str]
    bad: list[BadRow] = field(default_factory=list)

    def renamed(self, names: Mapping[str, str]) -> Columns:
        """Return a copy with other names for some columns."""
        columns = [names.get(name, name) for name in self.table.column_names]
        columns_read = dict(zip(columns, self.columns_read.values(), strict=True))
        return replace(self, table=self.table.rename_columns(columns), columns_read=columns_read)


def read_columns(
    path: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    ids: Collection[str] = (),
    csv_format: CsvFormat | None = None,
) -> Columns:
    """Read named columns of a Parquet, CSV or JSON lines file. Raises DataError.

    Values of CSV and numbers of JSON lines become text exactly as written; Parquet values keep
    their types. optional: columns that are read if the file has them. ids: columns of ids, in which
    JSON lines may not have booleans. csv_format: of a CSV file. A name that the file lacks is
    matched without regard to capitals and spaces around it.
    """
    if path.name.lower().endswith(PARQUET):
        names = parquet_names(path)
        indices = match_columns(path, names, columns, optional)
        chosen = [names[place] for place in indices.values()]
        table = read_parquet(path, chosen).select(chosen)
        return _with_requested_names(path, table, indices, names)
    if plain_suffix(path) in JSON_LINES:
        names = json_head(path, 50)[0]
        indices = match_columns(path, names, columns, optional)
        of_ids = [names[place] for name, place in indices.items() if name in ids]
        table, bad = json_table(path, [names[place] for place in indices.values()], of_ids)
        return _with_requested_names(path, table, indices, names, bad)
    csv_file = open_csv(path, csv_format or CsvFormat())
    indices = match_columns(path, csv_file.names, columns, optional)
    table, bad = csv_file.read(list(indices.values()))
    return _with_requested_names(path, table, indices, csv_file.names, bad)


def _with_requested_names(
    path: Path,
    table: pa.Table,
    indices: dict[str, int],
    names: list[str],
    bad_rows: list[BadRow] | None = None,
) -> Columns:
    columns_read = {name: names[place] for name, place in indices.items()}
    return Columns(path, table.rename_columns(list(indices)), columns_read, names, bad_rows or [])


def read_head(
    path: Path, rows: int, csv_format: CsvFormat | None = None
) -> tuple[list[str], list[list[Any]]]:
    """Return the column names and first usable rows of a file. Raises DataError."""
    if path.name.lower().endswith(PARQUET):
        with parquet_file(path, texts_once=True) as file:
            names, batch = file.schema_arrow.names, next(file.iter_batches(rows), None)
            if batch is not None:
                batch.validate(full=True)
            columns = [] if batch is None else [_first_values(column) for column in batch.columns]
            head = [list(row) for row in zip(*columns, strict=True)]
    elif plain_suffix(path) in JSON_LINES:
        names, head = json_head(path, rows)
    else:
        csv_file = open_csv(path, csv_format or CsvFormat())
        names, head = csv_file.names, list(csv_file.head(rows))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {min(twice)!r} more than once; rename one of them.")
    return names, head


def _first_values(column: pa.Array) -> list[Any]:
    """Return the values of a column; long texts are cut."""
    if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
        short = pc.utf8_slice_codeunits(column.dictionary, 0, _MAX_HEAD_CHARACTERS)
        column = pa.DictionaryArray.from_arrays(column.indices, short)
    return column.to_pylist()


def read_original(folder: Path, stem: str, columns: Sequence[str]) -> Columns:
    """Read columns of `stem`.parquet, else `stem`.csv, of a folder of original files.

    See read_columns. Raises DataError.
    """
    for file in (folder / f"{stem}.parquet", folder / f"{stem}.csv"):
        if file.is_file():
            return read_columns(file, columns)
    raise DataError(
        f"{folder} has neither {stem}.parquet nor {stem}.csv; name the folder that holds the "
        "original files."
    )


def match_columns(
    path: Path, present: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, int]:
    """Return the number in the file of each column to read. Raises DataError.

    A name that the file lacks is matched without regard to capitals, spaces around it and
    RecBole's types; optional columns may be missing.
    """
    plain = plain_names(present)
    indices: dict[str, int] = {}
    missing = []
    for name in dict.fromkeys([*required, *optional]):
        matches = [index for index, other in enumerate(present) if other == name]
        matches = matches or [
            index for index, other in enumerate(plain) if other == name.strip().casefold()
        ]
        if len(matches) > 1:
            both = " and ".join(repr(present[index]) for index in matches[:2])
            raise DataError(
                f"{path} has the column {name!r} more than once ({both}); rename one of them."
            )
        if not matches:
            missing += [name] if name in required else []
        elif matches[0] not in indices.values():
            indices[name] = matches[0]
    if missing:
        hint = " (is its delimiter another one?)" if len(present) == 1 else ""
        raise MissingColumns(
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(present)}{hint}",
            present,
        )
    return indices


def plain_names(names: Sequence[str]) -> list[str]:
    """Return column names in lower case, without spaces around them and without RecBole's types."""
    typed = [_TYPED.match(name.strip()) for name in names]
    if all(typed):
        names = [match[1] for match in typed if match]
    return [name.strip().casefold() for name in names]


def parse_lines(
    block: Block, names: Sequence[str], separator: str, counts: RowCounts
) -> tuple[pa.Table, np.ndarray]:
    """Return the fields of each line as text, and the line numbers, [n] int64.

    Quotes are ordinary characters, so a stray one affects no other line. Lines with another number
    of fields are left out and counted. separator: of one character or more.
    """
    lines = list(block.lines())
    numbers = np.array([number for number, _, _ in lines], dtype=np.int64)
    # pyarrow also ends a line at a carriage return. It is replaced by a vertical tab, which counts as a
    # space in texts and makes an id unusable.
    text = "\n".join(line for _, line, _ in lines).replace("\r", "\v") + "\n"
    counts.rows += len(lines)
    counts.repair(OTHER_ENCODING, sum(not is_utf8 for _, _, is_utf8 in lines))
    if len(separator) > 1:
        # pyarrow takes one character; this one does not occur in texts.
        text, separator = text.replace(separator, "\x1f"), "\x1f"
    ragged: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.number - 1)
        return "skip"

    data = text.encode()
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=list(names)
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator, quote_char=False, invalid_row_handler=skip
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    usable = np.ones(len(numbers), dtype=bool)
    usable[ragged] = False
    counts.drop(f"without {len(names)} fields", numbers[~usable])
    return table, numbers[usable]
