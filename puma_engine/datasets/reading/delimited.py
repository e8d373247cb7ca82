"""Lines of separated fields as columns of text: unquoted values, blocks of a large file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from puma_engine.datasets.reading.json_lines import OTHER_ENCODING
from puma_engine.datasets.reading.line_blocks import Block, decoded
from puma_engine.datasets.reading.row_counts import RowCounts


def parse_block(
    block: Block, names: Sequence[str], separator: str, row_counts: RowCounts
) -> tuple[pa.Table, np.ndarray]:
    """Return the fields of each line as text, and the line numbers, [n] int64.

    Quotes are ordinary characters, so a stray one spoils no other line. Lines with another
    number of fields are left out and counted.
    """
    numbers, lines = _lines(block, row_counts)
    ragged: list[int] = []

    def on_ragged(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.number - 1)
        return "skip"

    data = b"\n".join(lines) + b"\n"
    if len(separator) > 1:
        # A character that no text holds stands for a separator of several.
        data, separator = data.replace(separator.encode(), b"\x1f"), "\x1f"
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=list(names), block_size=len(data) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator, quote_char=False, invalid_row_handler=on_ragged
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    wrong = np.zeros(len(numbers), dtype=bool)
    wrong[ragged] = True
    row_counts.lines += len(numbers)
    row_counts.drop(f"without {len(names)} fields", numbers[wrong])
    return table, numbers[~wrong]


def _lines(block: Block, row_counts: RowCounts) -> tuple[np.ndarray, list[bytes]]:
    """Return the lines that are not blank, in UTF-8, and their numbers."""
    numbered = list(block.numbered())
    numbers = np.array([number for number, _ in numbered], dtype=np.int64)
    lines = [line for _, line in numbered]
    try:
        if not block.data.isascii():
            block.data.decode("utf-8")
    except UnicodeDecodeError:
        texts = [decoded(line) for line in lines]
        row_counts.repair(OTHER_ENCODING, sum(not is_utf8 for _, is_utf8 in texts))
        lines = [text.encode() for text, _ in texts]
    return numbers, lines
