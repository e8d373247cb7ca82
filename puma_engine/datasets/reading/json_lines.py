"""JSON objects, one a line, as columns: fast where lines are clean, line by line where not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from puma_engine.datasets.reading.line_blocks import Block, decoded
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.datasets.reading.timestamps import iso_seconds

NOT_JSON = "not a JSON object"
OTHER_ENCODING = "not UTF-8, read as Windows-1252"
NUMBER_AS_TEXT = "with a number written as text"


def parse_block(
    block: Block, schema: pa.Schema, row_counts: RowCounts
) -> tuple[pa.Table, np.ndarray]:
    """Return the schema's fields of each JSON object, and the number of its line, [n] int64.

    schema: fields of type string, float64 or int64. A field that is missing, null or of
    another type becomes null; whole numbers are taken as texts, and numbers in quotes as
    numbers. Lines that hold no JSON object are left out and counted.
    """
    table = _clean(block, schema)
    if table is not None:
        row_counts.lines += table.num_rows
        row_counts.drop(NOT_JSON, np.zeros(0, np.int64))
        return table, np.arange(block.first, block.first + table.num_rows)
    return _line_by_line(block, schema, row_counts)


def _clean(block: Block, schema: pa.Schema) -> pa.Table | None:
    """Parse the whole block at once, or return None if any line might be read differently."""
    data = block.data
    # pyarrow aborts the process at a line such as `null`, and joins or splits lines freely:
    # it gets only blocks in which each line looks like one object.
    lines = _count_objects(data)
    if lines is None:
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
    return table.select(schema.names) if table.num_rows == lines else None


def _count_objects(data: bytes) -> int | None:
    """Return how many lines there are, or None unless each begins with { and ends with }."""
    view = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(view == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    last = ends - 1
    last = last - (view[last] == ord("\r"))
    if not len(ends):
        return None
    fine = (view[starts] == ord("{")).all() and (view[last] == ord("}")).all()
    return len(ends) if fine else None


def _line_by_line(
    block: Block, schema: pa.Schema, row_counts: RowCounts
) -> tuple[pa.Table, np.ndarray]:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    numbers, broken = [], []
    for number, line in block.numbered():
        row_counts.lines += 1
        text, is_utf8 = decoded(line)
        record = _object(text)
        if record is None:
            broken.append(number)
            continue
        row_counts.repair(OTHER_ENCODING, not is_utf8)
        numbers.append(number)
        for field in schema:
            columns[field.name].append(_value(record.get(field.name), field.type, row_counts))
    row_counts.drop(NOT_JSON, np.array(broken, dtype=np.int64))
    return pa.table(columns, schema=schema), np.array(numbers, dtype=np.int64)


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _value(value: Any, kind: pa.DataType, row_counts: RowCounts) -> str | float | int | None:
    if isinstance(value, bool) or value is None:
        return None
    if pa.types.is_string(kind):
        return _text(value)
    if pa.types.is_floating(kind):
        found = _number(value, row_counts)
        return None if found is None else float(found)
    date = iso_seconds(value) if isinstance(value, str) else None
    number = _number(value, row_counts) if date is None else date
    usable = number is not None and math.isfinite(number) and abs(number) < 2**62
    return int(number) if usable else None  # type: ignore[arg-type]  # it is not None


def _text(value: Any) -> str | None:
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        return None
    # Half of a surrogate pair has no UTF-8; a control character is removed from texts and
    # makes an id unusable.
    return "".join("\x00" if "\ud800" <= one <= "\udfff" else one for one in value)


def _number(value: Any, row_counts: RowCounts) -> float | int | None:
    if isinstance(value, int | float):
        return value if abs(value) < 1e300 or isinstance(value, float) else None
    if not isinstance(value, str):
        return None
    try:
        found = math.nan if "_" in value else float(value)
    except ValueError:
        return None
    row_counts.repair(NUMBER_AS_TEXT, not math.isnan(found))
    return found
