"""Read Parquet files; refuse those that would unpack to far more than their size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puma_engine.errors import DataError

PARQUET = (".parquet", ".pq")
# A file is refused if it declares more bytes than MAX_UNPACKED and more than MAX_RATIO times its size.
# Repeated values compress well, but a table of interactions not that well.
MAX_UNPACKED = 1 << 30
MAX_RATIO = 500
_VALUE_BYTES = 8
_LIST_ROWS = 256


def unpacked_bytes(metadata: pq.FileMetaData, columns: Sequence[str] = ()) -> int:
    """Return the bytes that a file declares for some columns, or for all if none are named.

    A repeated text counts once, and 8 bytes for each row, as `parquet_file` reads it with
    texts_once.
    """
    # Statistics of column chunks are not read, since that crashes the process for damaged files.
    leaves = [
        metadata.schema.column(number).path.split(".")[0] for number in range(metadata.num_columns)
    ]
    read = sum(not columns or leaf in columns for leaf in leaves)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return sum(group.num_rows * read * _VALUE_BYTES + group.total_byte_size for group in groups)


def read_parquet(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """Read some columns of a Parquet file, or all if none are named.

    Columns of text are read as dictionaries, in which a repeated value is stored once. Raises
    DataError, also for text that is not UTF-8, for damaged dictionaries, and for lists that unpack
    to far more than the size of the file.
    """
    with parquet_file(path, columns, texts_once=True) as file:
        chosen = [field for field in file.schema_arrow if not columns or field.name in columns]
        lists = [field for field in chosen if pa.types.is_nested(field.type)]
        table = file.read(columns=[field.name for field in chosen if field not in lists])
        for field in lists:
            # The length of lists is only known when they are read.
            parts, unpacked = [], 0
            for batch in file.iter_batches(_LIST_ROWS, columns=[field.name]):
                parts.append(batch.column(0))
                unpacked += parts[-1].nbytes
                refuse_bomb(path, unpacked)
            table = table.append_column(field, pa.chunked_array(parts, field.type))
        table = table.select([field.name for field in chosen])
        table.validate(full=True)
    return table


def expanded_bytes(path: Path) -> int:
    """Return the bytes that a table takes in memory if repeated texts are not shared.

    Raises DataError for a file that `read_parquet` refuses.
    """
    total = 0
    for column in read_parquet(path).columns:
        if not pa.types.is_dictionary(column.type):
            total += column.nbytes
            continue
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary.cast(pa.large_binary()))
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return total


def refuse_bomb(path: Path, unpacked: int) -> None:
    """Raise DataError for a file that declares far more bytes than it has."""
    packed = path.stat().st_size
    if unpacked > MAX_UNPACKED and unpacked > MAX_RATIO * packed:
        raise DataError(
            f"{path} has {packed:,} bytes and unpacks to {unpacked:,} or more; a table does not "
            "shrink that much. If it is meant, write it without compression."
        )


def parquet_names(path: Path) -> list[str]:
    """Return the names of a file's columns. Raises DataError."""
    with parquet_errors(path):
        return list(pq.read_schema(path).names)


@contextmanager
def parquet_file(
    path: Path, columns: Sequence[str] = (), *, texts_once: bool = False, buffer_size: int = 0
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to read some columns, or all if none are named. Raises DataError.

    texts_once: read columns of text as dictionaries, in which a repeated value is stored once.
    buffer_size: bytes of a column that are read at once; 0 for a whole row group.
    """
    with parquet_errors(path):
        metadata = pq.read_metadata(path)
        refuse_bomb(path, unpacked_bytes(metadata, columns))
        leaves = [metadata.schema.column(number) for number in range(len(metadata.schema))]
        texts = [
            leaf.path
            for leaf in leaves
            if texts_once and leaf.physical_type == "BYTE_ARRAY" and leaf.path == leaf.name
        ]
        with pq.ParquetFile(
            path,
            metadata=metadata,
            read_dictionary=texts,
            page_checksum_verification=True,
            buffer_size=buffer_size,
            pre_buffer=not buffer_size,
        ) as file:
            yield file


@contextmanager
def parquet_errors(path: Path | str) -> Iterator[None]:
    """Context manager: turn errors of pyarrow for a damaged file into DataError, which names `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except (pa.ArrowException, ValueError, OSError) as error:  # ValueError: names are no UTF-8
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{path} cannot be read as Parquet ({reason}); check that it is complete."
        ) from error
