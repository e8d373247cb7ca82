"""JSON objects, one a line, as columns: whole clean blocks by pyarrow, others line by line.

pyarrow aborts the process at a line such as `null`, and reports no line that it cannot read.
So it parses only blocks in which each line looks like one object (ten times as fast).
"""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from puma_engine.datasets.reading.column_values import iso_seconds
from puma_engine.datasets.reading.line_blocks import OTHER_ENCODING, Block
from puma_engine.datasets.reading.row_counts import RowCounts

NOT_JSON = "not a JSON object"
NUMBER_AS_TEXT = "with a number written as text"


def parse_json(block: Block, schema: pa.Schema, counts: RowCounts) -> tuple[pa.Table, np.ndarray]:
    """Return the schema's fields of each JSON object, and the number of its line, [n] int64.

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
    ends = newlines - 1
    ends -= view[ends] == ord("\r")
    if not ((view[starts] == ord("{")).all() and (view[ends] == ord("}")).all()):
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
    """Return a JSON value as the type of its column, or None where it is not one."""
    if isinstance(value, bool):
        return None
    if pa.types.is_string(kind):
        if isinstance(value, int):
            return str(value)
        if not isinstance(value, str):
            return None
        # Half of a surrogate pair has no UTF-8; a control character is removed from texts and
        # makes an id unusable.
        return "".join("\x00" if "\ud800" <= letter <= "\udfff" else letter for letter in value)
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
