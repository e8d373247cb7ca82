"""Read and map shards of prompts in blocks: safetensors with `vectors`, or Parquet with `vector`.

A safetensors shard has `vectors` [rows, width] or [rows, tokens, width], and the user id of each
row in its metadata. A Parquet shard has the columns user_id and vector, a list of tokens x width
numbers; the number of tokens is in its metadata, as `puma prompts export --format parquet` writes
it (default: 1).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puma_engine.datasets.reading.column_values import as_ids
from puma_engine.datasets.reading.parquet_files import parquet_errors, parquet_file
from puma_engine.errors import DataError, StoreError
from puma_engine.exchange.prompt_file import HEAD_FILE
from puma_engine.exchange.storage import DiskFolder, Entry, Folder
from puma_engine.files import TensorFile, parse_json

VECTORS, VECTOR = "vectors", "vector"
# Files in a folder of shards that are no shards.
INDEX, SELECTION_FILE = "index.parquet", "selection.parquet"
TENSORS, PARQUET = ".safetensors", ".parquet"
# The key of the metadata of `puma prompts export --format parquet`.
ABOUT_KEY = "puma"
# Largest header of safetensors, and bytes of a Parquet column that are read at once.
MAX_HEADER, BUFFER = 100_000_000, 1 << 20
_TYPES = {"float32": "F32", "float16": "F16"}


@dataclass(frozen=True)
class MappedShard:
    """The mapping of a shard. apply: maps [n, l, d] numbers to [n, l, width] of `dtype`.

    metadata: added to that of the shard; about: of a Parquet shard, what an import needs to know of
    the table.
    """

    apply: Callable[[np.ndarray], np.ndarray]
    width: int
    dtype: str
    chunk_rows: int
    metadata: dict[str, str]
    about: dict[str, Any]


class TensorShard:
    """A safetensors shard of a folder. Raises DataError, StoreError.

    rows: prompts; shape: of one; metadata: texts by name.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        with _tensor_header(folder, name) as file:
            if VECTORS not in file.names():
                raise DataError(f"The shard {folder}/{name} has no tensor named {VECTORS}.")
            self.rows, *shape = file.shape(VECTORS)
            self.shape, self.metadata = tuple(shape), file.metadata()

    def user_ids(self) -> Sequence[Any] | None:
        """Return the user of each row, or None if the shard has no ids."""
        with _tensor_header(self.folder, self.name) as file:
            users = file.meta.get("user_ids") if isinstance(file.meta, dict) else None
        return users if users is not None and len(users) == self.rows else None

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield the prompts in blocks of `rows` users."""
        with self.folder.fetched(self.name) as path:
            file = TensorFile(path)
            for start in range(0, self.rows, rows):
                yield file.read(VECTORS, start, start + rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return some prompts by their number, in the order of `rows`."""
        with self.folder.fetched(self.name) as path:
            return TensorFile(path).take(VECTORS, rows)

    def write_mapped(self, target: Path, mapped: MappedShard) -> None:
        """Write the shard of mapped prompts to a new file."""
        tokens = self.shape[0] if len(self.shape) == 2 else 1
        with target.open("wb") as out:
            header = self.metadata | mapped.metadata
            begin_tensor_file(out, [self.rows, tokens, mapped.width], header, mapped.dtype)
            for block in self.blocks(mapped.chunk_rows):
                out.write(np.ascontiguousarray(mapped.apply(block)).data)


class ParquetShard:
    """A Parquet shard of a folder, with the methods of `TensorShard`."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name, label = folder, name, f"{folder}/{name}"
        with parquet_errors(label), folder.open(name) as opened, pq.ParquetFile(opened) as file:
            self.rows, self._schema = file.metadata.num_rows, file.schema_arrow
            self.metadata = _texts(self._schema.metadata)
            declared = parse_json(self.metadata.get(ABOUT_KEY, "{}"))
            if not isinstance(declared, dict):
                raise DataError(
                    f"The metadata {ABOUT_KEY!r} of the shard {label} are no JSON object."
                )
            tokens = declared.get("tokens", 1)
            kind = self._schema.field(VECTOR).type if VECTOR in self._schema.names else pa.null()
            if not (_is_list(kind) and pa.types.is_floating(kind.value_type)):
                raise DataError(
                    f"The shard {label} has no column {VECTOR} of lists of floating-point numbers; it has "
                    f"{', '.join(self._schema.names) or 'none'}."
                )
            if pa.types.is_fixed_size_list(kind):
                numbers = kind.list_size
            else:
                first = next(file.iter_batches(1, columns=[VECTOR]), None) if self.rows else None
                numbers = 0 if first is None else _matrix(first.column(VECTOR), label).shape[1]
            if not isinstance(tokens, int) or tokens < 1 or numbers % tokens:
                raise DataError(
                    f"The shard {label} has {numbers} numbers for each user, which do not make {tokens!r} tokens."
                )
            self.shape = (tokens, numbers // tokens)

    def user_ids(self) -> Sequence[Any] | None:
        """Return the user of each row, or None if the shard has no ids."""
        label = f"{self.folder}/{self.name}"
        if "user_id" not in self._schema.names:
            return None
        with parquet_errors(label), self.folder.open(self.name) as opened:
            table = pq.read_table(opened, columns=["user_id"], page_checksum_verification=True)
            ids = as_ids(table.column(0), f"user ids of {label}")
        return np.array(ids.unique, object)[ids.codes].tolist()

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield the prompts in blocks of `rows` users."""
        for batch in self._batches(rows, [VECTOR]):
            yield self._prompts(batch)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return some prompts by their number, in the order of `rows`."""
        values, start = np.empty((len(rows), *self.shape), np.float32), 0
        for block in self.blocks(4096):
            mine = (rows >= start) & (rows < start + len(block))
            values[mine] = block[rows[mine] - start]
            start += len(block)
        return values

    def write_mapped(self, target: Path, mapped: MappedShard) -> None:
        """Write the shard of mapped prompts, with its other columns, to a new file."""
        tokens = self.shape[0]
        numbers = pa.list_(pa.from_numpy_dtype(np.dtype(mapped.dtype)), tokens * mapped.width)
        copied = {name: text for name, text in self.metadata.items() if name != "pandas"}
        metadata = {ABOUT_KEY: json.dumps({"tokens": tokens} | mapped.about)}
        place = self._schema.get_field_index(VECTOR)
        schema = self._schema.set(place, pa.field(VECTOR, numbers))
        schema = schema.with_metadata(copied | mapped.metadata | metadata)
        others = [name for name in schema.names if name != VECTOR]
        with pq.ParquetWriter(
            target,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=others,
            write_page_checksum=True,
        ) as out:
            for batch in self._batches(mapped.chunk_rows):
                values = pa.array(mapped.apply(self._prompts(batch)).reshape(-1))
                column = pa.FixedSizeListArray.from_arrays(values, numbers.list_size)
                columns = [*batch.columns[:place], column, *batch.columns[place + 1 :]]
                out.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))

    def _batches(self, rows: int, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        with (
            self.folder.fetched(self.name) as path,
            parquet_file(path, columns, buffer_size=BUFFER) as file,
        ):
            yield from file.iter_batches(rows, columns=list(columns) or None)

    def _prompts(self, batch: pa.RecordBatch) -> np.ndarray:
        flat = _matrix(batch.column(VECTOR), f"{self.folder}/{self.name}")
        if flat.shape[1] != self.shape[0] * self.shape[1]:
            raise DataError(f"The vectors of {self.folder}/{self.name} have several lengths.")
        return flat.reshape(len(flat), *self.shape)


Shard = TensorShard | ParquetShard


def open_shard(folder: Folder, name: str) -> Shard:
    """Open a shard to read parts of it. Raises DataError, StoreError."""
    return TensorShard(folder, name) if name.endswith(TENSORS) else ParquetShard(folder, name)


def shards_of(folder: Folder) -> dict[str, Entry]:
    """Return the shards of a folder, by name, all of one kind. Raises DataError for two kinds."""
    files = {name: entry for name, entry in folder.entries().items() if not name.startswith(".")}
    tensors = {n: e for n, e in files.items() if n.endswith(TENSORS) and n != HEAD_FILE}
    tables = {
        n: e for n, e in files.items() if n.endswith(PARQUET) and n not in (INDEX, SELECTION_FILE)
    }
    if not tensors:
        return tables
    for name in tables:
        with parquet_errors(f"{folder}/{name}"), folder.open(name) as file:
            if VECTOR in pq.read_schema(file).names:
                raise DataError(
                    f"The folder {folder} has shards of two kinds, such as {next(iter(tensors))} and {name}; "
                    "give a folder to each kind."
                )
    return tensors


def metadata_of(folder: Folder, name: str) -> dict[str, str]:
    """Return the metadata of a shard; {} for an incomplete file."""
    try:
        if name.endswith(TENSORS):
            with _tensor_header(folder, name) as file:
                return file.metadata()
        with parquet_errors(name), folder.open(name) as opened:
            return _texts(pq.read_schema(opened).metadata)
    except DataError:
        return {}


def begin_tensor_file(
    file: BinaryIO, shape: list[int], metadata: dict[str, str], dtype: str = "float32"
) -> None:
    """Write the header of a safetensors file with one tensor `vectors` of float32 or float16.

    The caller appends the rows; the library can only write whole tensors.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    tensor = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": metadata, VECTORS: tensor}).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


@contextlib.contextmanager
def _tensor_header(folder: Folder, name: str) -> Iterator[TensorFile]:
    """Context manager: open a safetensors file to read its header; from storage only that is fetched."""
    if isinstance(folder, DiskFolder):
        yield TensorFile(folder.path / name)
        return
    with folder.open(name) as file:
        try:
            start = file.read(8)
            header = file.read(min(int.from_bytes(start, "little"), MAX_HEADER))
            size = file.seek(0, 2)
        except OSError as error:
            raise StoreError(f"{folder}/{name} cannot be read ({error}).") from error
    with folder.scratch_file(name) as path:
        with path.open("wb") as copy:
            copy.write(start + header)
            copy.truncate(size)
        yield TensorFile(path)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)


def _matrix(column: pa.Array, label: str) -> np.ndarray:
    """Return lists of one length as an array [rows, numbers]. Raises DataError."""
    values = column.flatten()
    if column.null_count or values.null_count:
        raise DataError(f"The vectors of {label} have gaps; each user needs every number.")
    lengths = pc.unique(pc.list_value_length(column))
    if len(lengths) > 1:
        raise DataError(f"The vectors of {label} have several lengths.")
    # A copy, since torch warns of arrays that cannot be written to, as Arrow's.
    return np.array(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def _texts(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in (metadata or {}).items()}
