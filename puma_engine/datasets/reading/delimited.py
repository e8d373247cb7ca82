"""Delimited text and Parquet files as columns, with errors that say which file and why.

All delimited text goes through pyarrow.csv: files of tables (quoted values, any encoding) and
blocks of published files (one record a line, quotes are ordinary characters).
"""

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from puma_engine.datasets.reading.line_blocks import OTHER_ENCODING, Block
from puma_engine.datasets.reading.row_counts import RowCounts
from puma_engine.errors import DataError

PARQUET = (".parquet", ".pq")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
# A row, long text included, must fit in a block.
_BLOCK_BYTES = 1 << 24
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_columns(
    path: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
) -> tuple[pa.Table, list[pyarrow.csv.InvalidRow]]:
    """Read the named columns of a Parquet or CSV file.

    Returns the table, and the CSV rows that have too few or too many fields, which are left
    out. CSV values come as text, exactly as written; Parquet values keep their types.
    optional: columns read where the file has them. delimiter, encoding: of CSV; None takes
    that of the file's name and byte-order mark. Raises DataError.
    """
    if path.name.lower().endswith(PARQUET):
        return read_parquet(path, columns, optional), []
    ragged: list[pyarrow.csv.InvalidRow] = []
    with _open_csv(path, delimiter, encoding) as reader:
        names = _select(path, reader.schema.names, columns, optional)
    with _open_csv(path, delimiter, encoding, names, ragged) as reader:
        return reader.read_all(), ragged


def read_head(
    path: Path, rows: int, delimiter: str | None = None, encoding: str | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the column names and first rows of a Parquet or CSV file. Raises DataError."""
    if path.name.lower().endswith(PARQUET):
        with _parquet_file(path) as file:
            names, batch = file.schema_arrow.names, next(file.iter_batches(rows), None)
    else:
        with _open_csv(path, delimiter, encoding) as reader:
            names = reader.schema.names
        with _open_csv(path, delimiter, encoding, names, []) as reader:
            batch = next(reader, None)
    if len(set(names)) < len(names):
        twice = min(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has the column {twice!r} more than once; rename one of them.")
    columns = [] if batch is None else [column.to_pylist() for column in batch.slice(0, rows)]
    return names, list(zip(*columns, strict=True))


def read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Read the named columns of a Parquet file, or all where none are named. Raises DataError."""
    with _parquet_file(path) as file:
        return file.read(columns=_select(path, file.schema_arrow.names, columns, optional) or None)


def read_original(folder: Path, stem: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read the named columns of `stem`.parquet, else `stem`.csv, of a folder of original files.

    Column types are those of the file (for CSV, inferred); whole numbers stay whole beside
    missing values, which are None. Raises DataError.
    """
    parquet, text = folder / f"{stem}.parquet", folder / f"{stem}.csv"
    if parquet.is_file():
        table = read_parquet(parquet, columns).select(list(columns))
    elif text.is_file():
        with _open_csv(text) as reader:
            names = _select(text, reader.schema.names, columns)
        with _csv_errors(text, "utf8"):
            table = pyarrow.csv.read_csv(text, **_csv_options(",", columns=names, as_text=False))
    else:
        raise DataError(
            f"{folder} has neither {parquet.name} nor {text.name}; name the folder that holds the "
            "original files."
        )
    return table.to_pandas(integer_object_nulls=True)


def parse_lines(
    block: Block, names: Sequence[str], separator: str, counts: RowCounts
) -> tuple[pa.Table, np.ndarray]:
    """Return the fields of each line as text, and the line numbers, [n] int64.

    Quotes are ordinary characters, so a stray one spoils no other line. Lines with another
    number of fields are left out and counted. separator: of one character or more.
    """
    lines = list(block.lines())
    numbers = np.array([number for number, _, _ in lines], dtype=np.int64)
    text = "\n".join(line for _, line, _ in lines) + "\n"
    counts.rows += len(lines)
    counts.repair(OTHER_ENCODING, sum(not is_utf8 for _, _, is_utf8 in lines))
    if len(separator) > 1:
        # pyarrow takes one character; texts do not hold this one.
        text, separator = text.replace(separator, "\x1f"), "\x1f"
    ragged: list[pyarrow.csv.InvalidRow] = []
    data = text.encode()
    options = _csv_options(separator, columns=names, ragged=ragged, size=len(data) + 1)
    options["read_options"].column_names = list(names)
    options["parse_options"].quote_char = False
    table = pyarrow.csv.read_csv(pa.BufferReader(data), **options)
    usable = np.ones(len(numbers), dtype=bool)
    usable[[row.number - 1 for row in ragged]] = False
    counts.drop(f"without {len(names)} fields", numbers[~usable])
    return table, numbers[usable]


@contextmanager
def open_unpacked(path: Path) -> Iterator[pa.NativeFile]:
    """Open a file to read its bytes, unpacking a .gz one. Raises DataError."""
    try:
        with pa.input_stream(str(path)) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_first_line(error)}).") from error


@contextmanager
def _open_csv(
    path: Path,
    delimiter: str | None = None,
    encoding: str | None = None,
    columns: Sequence[str] = (),
    ragged: list[pyarrow.csv.InvalidRow] | None = None,
) -> Iterator[pyarrow.csv.CSVStreamingReader]:
    """Open a CSV file whose first row names the columns; None takes the defaults of its name."""
    if delimiter is None:
        ending = next((end for end in DELIMITERS if path.name.lower().endswith(end)), None)
        if ending is None:
            raise DataError(
                f"{path} has an unknown ending; a table must be a .parquet, .csv or .tsv file (the "
                "last two may be .gz)."
            )
        delimiter = DELIMITERS[ending]
    if len(delimiter) != 1:
        raise DataError(f"A delimiter must be one character, not {delimiter!r}.")
    if encoding is None:
        with open_unpacked(path) as file:
            start = file.read(1 << 16)
        encoding = "utf-16" if start[:2] in _UTF16 else "utf8"
        with _csv_errors(path, encoding):
            # A file that is no text at all stops here.
            try:
                codecs.getincrementaldecoder(encoding)().decode(start)
            except UnicodeDecodeError as error:
                line = start.count(b"\n", 0, error.start) + 1
                raise UnicodeError(f"line {line}") from error
    options = _csv_options(delimiter, columns=columns, encoding=encoding, ragged=ragged)
    with _csv_errors(path, encoding), pyarrow.csv.open_csv(path, **options) as reader:
        yield reader


def _csv_options(
    delimiter: str,
    *,
    columns: Sequence[str],
    encoding: str = "utf8",
    as_text: bool = True,
    ragged: list[pyarrow.csv.InvalidRow] | None = None,
    size: int = _BLOCK_BYTES,
) -> dict[str, Any]:
    """Build the options of pyarrow.csv; rows of another length are appended to ragged."""

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        if ragged is not None:
            ragged.append(row)
        return "skip"

    return {
        "read_options": pyarrow.csv.ReadOptions(
            use_threads=False, block_size=size, encoding=encoding
        ),
        "parse_options": pyarrow.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
        ),
        "convert_options": pyarrow.csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()) if as_text else None,
            strings_can_be_null=not as_text,
        ),
    }


@contextmanager
def _csv_errors(path: Path, encoding: str) -> Iterator[None]:
    """Translate what pyarrow.csv raises into DataError."""
    try:
        yield
    except LookupError as error:
        raise DataError(f"There is no text encoding named {encoding!r}.") from error
    except (ValueError, OSError) as error:  # ArrowInvalid and UnicodeError are ValueErrors
        message = _first_line(error)
        if isinstance(error, UnicodeError) or "UTF8" in message:
            raise DataError(
                f"{path} is not {'UTF-8' if encoding == 'utf8' else encoding} text ({message}); save it as UTF-8, or name its "
                "encoding, for example encoding='cp1252'."
            ) from error
        if "Empty CSV" in message:
            raise DataError(
                f"{path} is empty; a table needs a header and at least one row."
            ) from error
        raise DataError(f"{path} cannot be read as CSV ({message}).") from error


@contextmanager
def _parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); check that it is complete."
        ) from error


def _select(
    path: Path, present: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()
) -> list[str]:
    """Return the columns to read: the required ones and the optional ones that are present."""
    missing = [column for column in required if column not in present]
    if missing:
        hint = " (is its delimiter another one?)" if len(present) == 1 else ""
        raise DataError(
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(present)}{hint}. "
            "Name the right columns."
        )
    names = list(dict.fromkeys([*required, *(name for name in optional if name in present)]))
    twice = [column for column in names if list(present).count(column) > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} more than once; rename one of them.")
    return names


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
