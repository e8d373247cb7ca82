"""Reading columns of Parquet and CSV files, with errors that say which file and why."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from puma_engine.errors import DataError

PARQUET = (".parquet", ".pq")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# One row, long text included, must fit in a block.
_BLOCK_BYTES = 1 << 24


def read_columns(
    path: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    skip_ragged: bool = False,
) -> tuple[pa.Table, int]:
    """Read the named columns of a Parquet or CSV file and count the rows skipped.

    CSV values come as text, exactly as written; Parquet values keep their types. optional:
    columns taken where the file has them. skip_ragged: leave out CSV rows with too few or
    too many fields instead of refusing the file. Raises DataError.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; check the path.")
    if path.name.lower().endswith(PARQUET):
        return read_parquet(path, columns, optional), 0
    delimiter = delimiter or usual_delimiter(path)
    return _read_csv(path, columns, optional, delimiter, encoding, skip_ragged)


def usual_delimiter(path: Path) -> str:
    """Return what separates the fields of a CSV file of this name, or raise DataError."""
    for ending, usual in DELIMITERS.items():
        if path.name.lower().endswith(ending):
            return usual
    raise DataError(
        f"{path} has an unknown ending; a table must be a .parquet, .csv or .tsv file (the last "
        "two may be .gz)."
    )


def read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Read the named columns of a Parquet file, or all where none are named. Raises DataError."""
    try:
        with pq.ParquetFile(path) as file:
            names = _chosen(path, file.schema_arrow.names, columns, optional)
            return file.read(columns=names or None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); check that it is complete."
        ) from error


def read_original(folder: Path, stem: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read `stem`.parquet, else `stem`.csv, of an original folder: the named columns.

    Column types are those of the file (for CSV, as inferred); whole numbers stay whole
    beside missing values, which are None. Raises DataError.
    """
    parquet, text = folder / f"{stem}.parquet", folder / f"{stem}.csv"
    if parquet.is_file():
        table = read_parquet(parquet, columns).select(list(columns))
        return table.to_pandas(integer_object_nulls=True)
    if not text.is_file():
        raise DataError(
            f"{folder} has neither {parquet.name} nor {text.name}; name the folder that holds the "
            "original files."
        )
    _chosen(text, header(text, ",", "utf-8-sig"), columns, ())
    try:
        table = pyarrow.csv.read_csv(
            text,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(include_columns=list(columns)),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{text} cannot be read as CSV ({_first_line(error)}).") from error
    return table.to_pandas(integer_object_nulls=True)


def _read_csv(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str],
    delimiter: str,
    encoding: str | None,
    skip_ragged: bool,
) -> tuple[pa.Table, int]:
    encoding = encoding or encoding_of(path)
    names = _chosen(path, header(path, delimiter, encoding), columns, optional)
    ragged: list[pyarrow.csv.InvalidRow] = []

    def on_ragged(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                encoding="utf8" if encoding == "utf-8-sig" else encoding,
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_ragged
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except UnicodeError as error:
        raise _not_encoded(path, encoding) from error
    except (pa.ArrowException, OSError) as error:
        if "UTF8" in str(error):
            raise _not_encoded(path, encoding) from error
        raise DataError(f"{path} cannot be read as CSV ({_first_line(error)}).") from error
    if ragged and not skip_ragged:
        raise DataError(_ragged_message(path, ragged))
    return table, len(ragged)


def _ragged_message(path: Path, ragged: Sequence[pyarrow.csv.InvalidRow]) -> str:
    first = ragged[0]
    return (
        f"{path}: {len(ragged)} rows do not have the header's {first.expected_columns} fields "
        f"(first: {first.text[:80]!r} has {first.actual_columns}); correct them, or pass "
        "drop_invalid=True (--drop-invalid) to leave them out."
    )


def encoding_of(path: Path) -> str:
    """Return UTF-8, unless the file starts with another encoding's mark."""
    with opened(path) as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacking a .gz one. Raises DataError."""
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.GzipFile(path) if packed else open(path, "rb") as file:
            yield cast("IO[bytes]", file)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({_first_line(error)}).") from error


def header(path: Path, delimiter: str, encoding: str) -> list[str]:
    """Return the column names of a CSV file. Raises DataError."""
    if len(delimiter) != 1:
        raise DataError(f"A delimiter must be one character, not {delimiter!r}.")
    try:
        with opened(path) as file:
            text = io.TextIOWrapper(file, encoding=encoding, newline="")
            names = next(csv.reader(text, delimiter=delimiter), None)
    except LookupError as error:
        raise DataError(f"There is no text encoding named {encoding!r}.") from error
    except UnicodeError as error:
        raise _not_encoded(path, encoding) from error
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from error
    if not names:
        raise DataError(f"{path} is empty; a table needs a header and at least one row.")
    return names


def _not_encoded(path: Path, encoding: str) -> DataError:
    """Build the error for a file in another encoding; it names the first bad line."""
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    place = ""
    if plain == "utf-8":
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode(plain)
                except UnicodeDecodeError:
                    place = f" (line {number})"
                    break
    return DataError(
        f"{path} is not {plain} text{place}; save it as UTF-8, or name its encoding, for example "
        "encoding='cp1252'."
    )


def _chosen(
    path: Path, have: Sequence[str], need: Sequence[str], optional: Sequence[str]
) -> list[str]:
    missing = [column for column in need if column not in have]
    if missing:
        hint = " (is its delimiter another one?)" if len(have) == 1 else ""
        raise DataError(
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(have)}{hint}. Name "
            "the right columns."
        )
    names = [*dict.fromkeys(need), *(column for column in optional if column in have)]
    names = list(dict.fromkeys(names))
    twice = [column for column in names if list(have).count(column) > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]} more than once; rename one of them.")
    return names


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
