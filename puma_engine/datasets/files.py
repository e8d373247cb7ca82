"""Reading the tables of an original folder, with errors that say which file and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from puma_engine.errors import DataError


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, all columns or those named. Raises DataError."""
    try:
        with pq.ParquetFile(path) as file:
            _need_columns(path, file.schema_arrow.names, columns or ())
            return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); check that it is complete."
        ) from error


def read_original(folder: Path, stem: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read `stem`.parquet, else `stem`.csv, of an original folder: the named columns.

    Column types are those of the file (for CSV, as inferred). Raises DataError.
    """
    parquet, csv = folder / f"{stem}.parquet", folder / f"{stem}.csv"
    if parquet.is_file():
        return read_parquet(parquet, columns).to_pandas()
    if not csv.is_file():
        raise DataError(
            f"{folder} has neither {parquet.name} nor {csv.name}; name the folder that holds the "
            "original files."
        )
    try:
        table = pyarrow.csv.read_csv(
            csv, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{csv} cannot be read as CSV ({_first_line(error)}).") from error
    _need_columns(csv, table.column_names, columns)
    return table.select(list(columns)).to_pandas()


def _need_columns(path: Path, have: Sequence[str], need: Sequence[str]) -> None:
    missing = [column for column in need if column not in have]
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(have)}.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
