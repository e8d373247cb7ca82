"""Blocks of large files, and two JSON readers that agree."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_engine.datasets.reading.json_lines import parse_json
from puma_engine.datasets.reading.line_blocks import Block, decode_line, read_blocks
from puma_engine.datasets.reading.row_counts import RowCounts

SCHEMA = pa.schema({"id": pa.string(), "score": pa.float64(), "when": pa.int64()})
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(["4.5", "12", "2020-01-02", "", "nan", "1_0"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
RECORDS = st.lists(
    st.dictionaries(st.sampled_from(["id", "score", "when", "other"]), VALUES), max_size=4
)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.booleans())
def test_the_fast_and_the_line_by_line_json_readers_agree(
    records: list[dict[str, Any]], ascii_only: bool
) -> None:
    lines = [
        json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n"
        for record in records
    ]

    def parsed(*more: bytes) -> tuple[str, dict[str, int], int]:
        counts = RowCounts(Path("x"), 1.0)
        table, numbers = parse_json(Block(b"".join([*lines, *more]), 1), SCHEMA, counts)
        assert numbers.tolist() == list(range(1, len(records) + 1))
        # As text, so that NaN equals NaN.
        return repr(table.to_pylist()), counts.repaired, counts.rows

    # A line that is not an object makes the reader parse line by line.
    fast, fast_repaired, fast_count = parsed()
    slow, slow_repaired, slow_count = parsed(b"null\n")
    assert fast == slow and fast_repaired == slow_repaired and fast_count == slow_count - 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=9),
    st.integers(1, 40),
    st.booleans(),
)
def test_blocks_of_any_size_hold_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], size: int, packed: bool
) -> None:
    data = b"\n".join([b"{}", *lines])
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    blocks = list(read_blocks(path, size=size))
    assert b"".join(block.data for block in blocks).removesuffix(b"\n") == data.removesuffix(b"\n")
    numbered = [pair[:2] for block in blocks for pair in block.lines()]
    expected = [
        (number, decode_line(line.rstrip(b"\r"))[0])
        for number, line in enumerate(data.split(b"\n"), 1)
        if line.strip()
    ]
    assert numbered == expected


@pytest.mark.parametrize(
    ("line", "text", "is_utf_8"),
    [
        ("é".encode(), "é", True),
        ("é".encode("cp1252"), "é", False),
        ("“”".encode("cp1252"), "“”", False),
        (b"\x81\xe9", "\x81é", False),
    ],
)
def test_decode_line_reads_utf_8_and_windows_1252(line: bytes, text: str, is_utf_8: bool) -> None:
    assert decode_line(line) == (text, is_utf_8)
