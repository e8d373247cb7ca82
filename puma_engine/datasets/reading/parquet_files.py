"""Parquet files, refused before they are read where they would unpack to far more than they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.errors import DataError

PARQUET = (".parquet", ".pq")
# A file is refused if it declares more bytes than both. Repeated values pack well, but a table
# of interactions does not pack to less than this share.
MAX_UNPACKED = 1 << 30
MAX_RATIO = 500
_VALUE_BYTES = 8


def unpacked_bytes(facts: pq.FileMetaData, columns: Sequence[str] = ()) -> int:
    """Return how many bytes a file declares that its columns take, all if none are named.

    Repeated text counts once and 8 bytes a row, as `parquet_file` reads it with texts_once.
    """
    total = 0
    for group in map(facts.row_group, range(facts.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if not columns or chunk.path_in_schema.split(".")[0] in columns:
                total += chunk.num_values * _VALUE_BYTES + chunk.total_uncompressed_size
    return total


def read_parquet(path: Path, columns: Sequence[str] = (), *, texts_once: bool = False) -> pa.Table:
    """Read some columns of a Parquet file, or all if none are named; see parquet_file.

    Raises DataError, for text that is no UTF-8 and damaged dictionaries, too.
    """
    with parquet_file(path, columns, texts_once=texts_once) as file:
        table = file.read(columns=list(columns) or None)
        table.validate(full=True)
    return table


def parquet_names(path: Path) -> list[str]:
    """Return the names of a file's columns. Raises DataError."""
    with _parquet_errors(path):
        return list(pq.read_schema(path).names)


@contextmanager
def parquet_file(
    path: Path, columns: Sequence[str] = (), *, texts_once: bool = False
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to read some columns, or all if none are named. Raises DataError.

    texts_once: read columns of text as dictionaries, so that a repeated value takes the memory
    of one.
    """
    with _parquet_errors(path):
        facts = pq.read_metadata(path)
        packed, unpacked = path.stat().st_size, unpacked_bytes(facts, columns)
        if unpacked > MAX_UNPACKED and unpacked > MAX_RATIO * packed:
            raise DataError(
                f"{path} has {packed:,} bytes and unpacks to {unpacked:,}; a table does not shrink "
                "that much. If it is meant, write it without compression."
            )
        leaves = [facts.schema.column(number) for number in range(len(facts.schema))]
        texts = [
            leaf.path
            for leaf in leaves
            if texts_once and leaf.physical_type == "BYTE_ARRAY" and leaf.path == leaf.name
        ]
        with pq.ParquetFile(path, metadata=facts, read_dictionary=texts) as file:
            yield file


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except (pa.ArrowException, ValueError, OSError) as error:  # ValueError: names are no UTF-8
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{path} cannot be read as Parquet ({reason}); check that it is complete."
        ) from error
