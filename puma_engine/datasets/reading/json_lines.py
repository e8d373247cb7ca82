"""Read JSON lines as columns: clean blocks by pyarrow, others line by line.

Values of tables, whose fields the caller names, become text, so that no digit of an id is lost.

pyarrow aborts the process at a line such as `null`, and does not report the line that it cannot
read. So it only parses blocks in which each line looks like one object, which is ten times as fast.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from puma_engine.datasets.reading.csv_tables import BadRow
from puma_engine.datasets.reading.line_blocks import OTHER_ENCODING, Block, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.times import iso_seconds
from puma_engine.errors import DataError

JSON_LINES = (".jsonl", ".ndjson", ".json")

NOT_JSON = "not a JSON object"
BOOLEAN_ID = "with true or false as an id"
NUMBER_AS_TEXT = "with a number written as text"


def parse_json(block: Block, schema: pa.Schema, counts: RowCounts) -> tuple[pa.Table, np.ndarray]:
    """Return the schema's fields of each JSON object, and the line numbers, [n] int64.

    schema: fields of type string, float64 or int64. A field that is missing, null or of
    another type becomes null; whole numbers are accepted as texts, and numbers in quotes as
    numbers. Lines that hold no JSON object are left out and counted.
    """
    table = _parse_clean_block(block.data, schema)
    if table is not None:
        counts.rows += table.num_rows
        counts.drop(NOT_JSON, np.zeros(0, np.int64))
        return table, np.arange(block.first, block.first + table.num_rows)
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    numbers, broken = [], []
    for number, text, is_utf8 in block.lines():
        counts.rows += 1
        try:
            record = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            broken.append(number)
            continue
        counts.repair(OTHER_ENCODING, not is_utf8)
        numbers.append(number)
        for field in schema:
            columns[field.name].append(_convert(record.get(field.name), field.type, counts))
    counts.drop(NOT_JSON, np.array(broken, dtype=np.int64))
    return pa.table(columns, schema=schema), np.array(numbers, dtype=np.int64)


def _parse_clean_block(data: bytes, schema: pa.Schema) -> pa.Table | None:
    """Parse all lines together, or return None if any line might be read differently."""
    view = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(view == ord("\n"))
    if not len(newlines):
        return None
    starts = np.append(0, newlines[:-1] + 1)
    line_ends = newlines - 1
    line_ends -= view[line_ends] == ord("\r")
    if not ((view[starts] == ord("{")).all() and (view[line_ends] == ord("}")).all()):
        return None
    try:
        if not data.isascii():
            data.decode("utf-8")
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    return table.select(schema.names) if table.num_rows == len(newlines) else None


def _convert(value: Any, kind: pa.DataType, counts: RowCounts) -> str | float | int | None:
    """Convert a JSON value to the type of its column; None if that is impossible."""
    if isinstance(value, bool):
        return None
    if pa.types.is_string(kind):
        if isinstance(value, int):
            return str(value)
        if not isinstance(value, str):
            return None
        return without_surrogates(value)
    number: float | int | None = None
    if isinstance(value, str):
        if pa.types.is_integer(kind) and (seconds := iso_seconds(value)) is not None:
            return seconds
        try:
            number = math.nan if "_" in value else float(value)
        except ValueError:
            return None
        counts.repair(NUMBER_AS_TEXT, not math.isnan(number))
    elif isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e300):
        number = value
    if number is None or pa.types.is_floating(kind):
        return None if number is None else float(number)
    return int(number) if math.isfinite(number) and abs(number) < 2**62 else None


def json_table(
    path: Path, names: Sequence[str], ids: Collection[str] = ()
) -> tuple[pa.Table, list[BadRow]]:
    """Return fields of all objects of a file, and the lines that are unusable. Raises DataError.

    A field that holds lists becomes a column of lists of texts, any other one of texts: numbers
    as they are written, "" for null and for objects. ids: the names of fields, among the others,
    that hold an id or a list of ids; a line with a boolean there is unusable.
    """
    columns: dict[str, list[Any]] = {name: [] for name in names}
    bad = []
    for number, line, record in _records(path):
        if record is None:
            bad.append(BadRow(number, NOT_JSON, line[:200]))
            continue
        if any(_has_boolean(record.get(name)) for name in ids):
            bad.append(BadRow(number, BOOLEAN_ID, line[:200]))
            continue
        for name, values in columns.items():
            values.append(_as_text(record.get(name)))
    arrays = {}
    for name, values in columns.items():
        if any(isinstance(value, list) for value in values):
            lists = [value if isinstance(value, list) else [] for value in values]
            arrays[name] = pa.array(lists, pa.list_(pa.string()))
        else:
            arrays[name] = pa.array(values, pa.string())
    return pa.table({name: pa.chunked_array([array]) for name, array in arrays.items()}), bad


def json_head(path: Path, rows: int) -> tuple[list[str], list[list[Any]]]:
    """Return the field names of the first objects of a file, and the objects. Raises DataError."""
    first = []
    for _, line, record in _records(path):
        if record is not None:
            first.append(record)
        elif not first and line.lstrip().startswith("["):
            raise DataError(f"{path} holds a JSON array; a table has one object in each line.")
        if len(first) == rows:
            break
    if not first:
        raise DataError(f"{path} holds no JSON object; a table has one in each line.")
    names = list(dict.fromkeys(name for record in first for name in record))
    return names, [[_as_text(record.get(name)) for name in names] for record in first]


def _records(path: Path) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    """Yield the number and text of each line, and its object with numbers as text, or None."""
    for block in read_blocks(path):
        for number, line, is_utf8 in block.lines():
            try:
                record = json.loads(line, strict=False, parse_int=str, parse_float=str)
            except (ValueError, RecursionError):
                record = None
            yield number, line, record if isinstance(record, dict) and is_utf8 else None


def _has_boolean(value: Any) -> bool:
    return any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value]))


def _as_text(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [text for text in map(_as_text, value) if isinstance(text, str)]
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return ""
    return without_surrogates(value)


def without_surrogates(text: str) -> str:
    """Replace each unpaired surrogate, which UTF-8 cannot encode, by a control character.

    Control characters are removed from texts, and make an id unusable.
    """
    return "".join("\x00" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
