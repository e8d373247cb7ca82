"""Read and write prompt tables in single files; the suffix of a path decides the format."""

import hashlib
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.datasets.reading.column_values import as_ids
from puma_engine.datasets.reading.delimited import read_columns, read_head
from puma_engine.datasets.reading.parquet_files import parquet_file, read_parquet, refuse_bomb
from puma_engine.errors import DataError, StoreError
from puma_engine.exchange.packed import read_packed
from puma_engine.exchange.peft import is_peft, read_peft
from puma_engine.exchange.prompt_file import HEAD, Owner, PromptFile, checked, head_of, with_head
from puma_engine.exchange.published_checkpoints import published_prompts
from puma_engine.exchange.shards import INDEX
from puma_engine.exchange.user_ids import read_ids
from puma_engine.files import atomic_write, load_tensors, parse_json, sha256_file
from puma_engine.prompts.table import PromptTable

NAMES = ("vectors", "prompts", "prompt_embeddings", "embeddings")
VECTOR = "vector"


def read_prompts(
    path: str | Path,
    *,
    users: str | Path | None = None,
    tokens: int | None = None,
    owner: Owner = "user",
    vector_columns: str | None = None,
) -> PromptFile:
    """Read prompts that were fitted elsewhere, or any other table of vectors.

    path: a file of `puma prompts export` in any format, another .safetensors, .parquet, .csv, .tsv,
    .npz or .npy table, a checkpoint of the published code (.pt, .pth, .bin, .ckpt), or a folder
    with PEFT prompt tuning, of one user or with a folder for each. users: a file with the owner of
    each row, if the table has none. tokens: soft tokens of each user, if rows are flat. owner:
    whether rows belong to users or items, which a table names in the column user_id or item_id.
    vector_columns: for a .parquet, .csv or .tsv table with a column for each number of a vector:
    the names of these columns, separated by commas, where * stands for any text (default: all but
    the ids). Pickled code is never run. Raises DataError or StoreError.
    """
    path = Path(path)
    if path.is_dir():
        if (path / INDEX).is_file():
            return read_packed(path)
        if is_peft(path):
            return read_peft(path)
        raise DataError(
            f"The folder {path} holds no prompts: neither index.parquet (puma prompts export "
            "--format packed) nor adapter_config.json (PEFT prompt tuning), here or one level down."
        )
    if not path.is_file():
        raise StoreError(f"There is no file {path}.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"Prompts cannot be read from {path.name}; allowed are {', '.join(READERS)}, and folders."
        )
    if vector_columns is not None:
        if path.suffix.lower() not in TABLES:
            raise DataError(
                f"vector_columns names columns of a table ({', '.join(TABLES)}), and {path.name} is none; "
                "leave it out."
            )
        reader = partial(TABLES[path.suffix.lower()], patterns=vector_columns)
    ids, vectors, fields = reader(path, f"{owner}_id")
    if users is not None:
        ids = read_ids(users, len(vectors), owner)
    fields |= {"tokens": tokens or fields.get("tokens"), "owner": owner}
    return checked(path, ids, vectors, **fields)


# Ids, vectors, and further arguments of `checked`.
Table = tuple[list[Any] | None, np.ndarray, dict[str, Any]]


def _read_safetensors(path: Path, column: str) -> Table:
    arrays, meta = load_tensors(path)
    ids = f"{column}s"
    if isinstance(meta, dict) and ids in meta and "vectors" in arrays:
        fields = {"head": head_of(arrays), "meta": meta, "complete": True}
        return meta[ids], arrays["vectors"], fields
    return None, _only_table(path, arrays), {"head": head_of(arrays)}


def _only_table(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    named = [name for name in NAMES if name in arrays]
    tables = [name for name, a in arrays.items() if a.ndim in (2, 3) and not name.startswith(HEAD)]
    chosen = named[:1] or (tables if len(tables) == 1 else [])
    if not chosen:
        raise DataError(
            f"The file {path} has no tensor named {' or '.join(NAMES)}, but {', '.join(arrays) or 'none'}; "
            "rename the prompts' one."
        )
    return arrays[chosen[0]]


def _read_parquet(path: Path, column: str, patterns: str | None = None) -> Table:
    table = read_parquet(path)
    if column not in table.column_names or len(table.column_names) < 2:
        raise DataError(
            f"The file {path} needs the columns {column} and {VECTOR}, or {column} and a column for each "
            f"number of a vector; it has {', '.join(table.column_names)}."
        )
    if VECTOR not in table.column_names:
        chosen = _vector_columns(path, table.column_names, column, patterns)
        return _of_number_columns(path, table, column, chosen)
    if patterns is not None:
        raise DataError(
            f"The file {path} holds whole vectors in the column {VECTOR}; leave out vector_columns."
        )
    rows = table.column(VECTOR).to_pylist()
    if any(row is None for row in rows) or len({len(row) for row in rows}) != 1:
        raise DataError(f"Every vector in {path} must have the same length, above 0.")
    try:
        extra = parse_json(_metadata(path))
        if extra and not {"tokens", "meta"} <= extra.keys():
            raise ValueError("it lacks tokens or meta")
        head = {k: np.asarray(v, np.float32) for k, v in (extra.get("head") or {}).items()} or None
        vectors = np.array(rows, dtype=np.float32)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"The vectors or the metadata of {path} are damaged ({error}); export it again."
        ) from error
    fields = {"meta": extra.get("meta"), "head": head, "complete": "meta" in extra}
    fields["tokens"] = extra.get("tokens")
    return _ids_of(table, column), vectors, fields


def _metadata(path: Path) -> bytes:
    """Return our metadata of a Parquet file as JSON. Raises ValueError if its two copies differ.

    Arrow stores metadata in the metadata of the file and again in its schema.
    """
    with parquet_file(path) as file:
        stored, copy = (
            (metadata or {}).get(b"puma", b"{}")
            for metadata in (file.metadata.metadata, file.schema_arrow.metadata)
        )
    if stored != copy:
        raise ValueError("its two copies differ")
    return stored


def _read_delimited(path: Path, column: str, patterns: str | None = None) -> Table:
    names = read_head(path, 1)[0]
    chosen = _vector_columns(path, names, column, patterns)
    read = read_columns(path, [column, *chosen])
    if read.bad:
        first = read.bad[0]
        raise DataError(
            f"{len(read.bad):,} rows of {path} are unusable, the first {first.reason} ({first})."
        )
    return _of_number_columns(path, read.table, column, chosen)


def _vector_columns(path: Path, names: list[str], column: str, patterns: str | None) -> list[str]:
    """Return the names of the columns with numbers of a vector: those that match, or all but the ids.

    patterns: names with wildcards, separated by commas. Raises DataError if there are none and some
    columns are numbered, such as d0 to d127, while others are not, such as age.
    """
    others = [name for name in names if name != column]
    if patterns is not None:
        chosen: list[str] = []
        for pattern in map(str.strip, patterns.split(",")):
            matching = [name for name in others if fnmatchcase(name, pattern)]
            if not matching:
                raise DataError(
                    f"The file {path} has no column {pattern!r} beside {column}; it has "
                    f"{', '.join(others[:20]) or 'none'}."
                )
            chosen += [name for name in _sorted_by_number(matching) if name not in chosen]
        return chosen
    stems = [re.sub("[0-9]+", "#", name) for name in others]
    numbered = Counter(stem for stem in stems if "#" in stem)
    (stem, count), *_ = numbered.most_common(1) or [("", 0)]
    odd = [name for name, own in zip(others, stems, strict=True) if own != stem]
    for name in odd:
        _refuse_row_numbers(path, name, column)
    # If the column of ids is missing, reading reports it.
    if column in names and count > 1 and odd:
        alike = [name for name in others if name not in odd]
        raise DataError(
            f"The column {odd[0]!r} of {path} is named otherwise than the {count:,} columns {alike[0]!r} to "
            f"{alike[-1]!r}, and may not be part of the vectors. Remove it, or say which columns are: "
            f"--vector-columns '{stem.replace('#', '*')}', or, with it, '{stem.replace('#', '*')},{odd[0]}'."
        )
    return _sorted_by_number(others)


def _of_number_columns(path: Path, table: pa.Table, column: str, chosen: list[str]) -> Table:
    """Read a table with ids and a column for each number of a vector, in the order of `chosen`.

    Raises DataError for a column that numbers the rows, as programs add to tables.
    """
    numbers = []
    for name in chosen:
        try:
            values = table.column(name)
            if pa.types.is_dictionary(values.type):
                values = values.cast(values.type.value_type)
            numbers.append(values.cast(pa.float64()).to_numpy())
        except (pa.ArrowException, ValueError) as error:
            raise DataError(
                f"The column {name!r} of {path} holds something that is not a number ({error}); beside "
                f"{column}, every column is one number of the vectors."
            ) from error
        _refuse_row_numbers(path, name, column, numbers[-1])
    if not numbers:
        raise DataError(
            f"The file {path} has no column beside {column}; every other column is one number of the "
            "vectors."
        )
    return _ids_of(table, column), np.column_stack(numbers), {}


def _sorted_by_number(names: list[str]) -> list[str]:
    """Return the names of columns in the order of the numbers in them, if all have one.

    Programs that sort names put d10 before d2.
    """
    parts = [re.fullmatch(r"(.*?)([0-9]+)(\D*)", name) for name in names]
    places = [int(part[2]) for part in parts if part]
    affixes = {(part[1], part[3]) if part else None for part in parts}
    if len(affixes) > 1 or None in affixes or len(set(places)) < len(names):
        return names
    return [name for _, name in sorted(zip(places, names, strict=True))]


def _refuse_row_numbers(
    path: Path, name: str, column: str, values: np.ndarray | None = None
) -> None:
    """Raise DataError for a column that numbers the rows, by its values (0, 1, 2, ...) or its name."""
    plain = name.strip().casefold()
    by_name = plain in ("", "index", "row", "level_0")
    by_name |= plain.startswith(("unnamed:", "__index_level"))
    by_value = (
        values is not None
        and len(values) > 2
        and any(np.array_equal(values, np.arange(len(values)) + first) for first in (0, 1))
    )
    if by_name or by_value:
        raise DataError(
            f"The column {name!r} of {path} numbers the rows; it is not part of the vectors. Remove "
            f"it: beside {column}, every column is one number of the vectors."
        )


def _ids_of(table: pa.Table, column: str) -> list[Any]:
    ids = as_ids(table.column(column), f"{column.removesuffix('_id')} ids")
    return list(np.array(ids.unique, dtype=object)[ids.codes])


def _check_declared_sizes(path: Path) -> None:
    """Raise ValueError or DataError if arrays declare other sizes than the file has, before reading them.

    NumPy allocates the size that a header declares, and unpacks compressed members of any size.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            _check_declared_size(file, path.stat().st_size)
        return
    _refuse_zip_bomb(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                _check_declared_size(file, member.file_size)


def _refuse_zip_bomb(path: Path) -> None:
    """Raise DataError for an archive that unpacks to far more than it is."""
    with zipfile.ZipFile(path) as archive:
        refuse_bomb(path, sum(member.file_size for member in archive.infolist()))


def _check_declared_size(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the array has the number of bytes that its header declares."""
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read_header is None:
        raise ValueError("its format is another than 1.0 and 2.0")
    shape, _, dtype = read_header(file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and declared != size - file.tell():
        raise ValueError(
            f"its header declares {declared:,} bytes of values, and {size - file.tell():,} are there"
        )


def _read_numpy(path: Path, column: str) -> Table:
    try:
        _check_declared_sizes(path)
        loaded = np.load(path, allow_pickle=False)
        arrays = {"vectors": loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except DataError:
        raise
    except Exception as error:
        # NumPy and zipfile raise errors of many kinds for a damaged file; their texts may quote its content.
        raise DataError(
            f"The file {path} cannot be read as NumPy arrays ({str(error)[:200]}); pickled ones are never "
            "loaded."
        ) from error
    ids = arrays.pop(f"{column}s", None)
    try:
        meta = parse_json(str(arrays.pop("meta"))) if "meta" in arrays else None
    except ValueError as error:
        raise DataError(f"The metadata of {path} is no JSON ({error}); export it again.") from error
    fields = {"head": head_of(arrays), "meta": meta, "complete": meta is not None}
    return None if ids is None else ids.tolist(), _only_table(path, arrays), fields


def _read_checkpoint(path: Path, _column: str) -> Table:
    import torch

    try:
        if zipfile.is_zipfile(path):
            _refuse_zip_bomb(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:
        # The error of torch for a file that is no checkpoint depends on the version.
        first = str(error).strip().splitlines()[0][:200]
        raise DataError(
            f"The checkpoint {path} holds more than tensors, or is damaged ({first}); save its "
            "state_dict alone."
        ) from error
    vectors, head = published_prompts(path, state)
    return None, vectors, {"head": head}


TABLES: dict[str, Callable[..., Table]] = {
    ".parquet": _read_parquet,
    **dict.fromkeys((".csv", ".tsv"), _read_delimited),
}
READERS: dict[str, Callable[[Path, str], Table]] = {
    ".safetensors": _read_safetensors,
    **TABLES,
    **dict.fromkeys((".npz", ".npy"), _read_numpy),
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _read_checkpoint),
}


def write_parquet(path: Path, table: PromptTable, meta: dict[str, Any]) -> None:
    """Write the columns user_id and vector (tokens x width numbers) to a Parquet file."""
    flat = pa.array(np.ascontiguousarray(table.vectors).reshape(-1))
    columns = {
        "user_id": pa.array(table.user_ids.tolist(), pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, table.tokens * table.width),
    }
    head = {name: value.tolist() for name, value in (table.head or {}).items()}
    metadata = json.dumps({"tokens": table.tokens, "meta": meta, "head": head or None})
    rows = pa.table(columns).replace_schema_metadata({"puma": metadata})
    atomic_write(path, lambda temporary: pq.write_table(rows, temporary, write_page_checksum=True))


def write_numpy(path: Path, table: PromptTable, meta: dict[str, Any]) -> None:
    """Write the arrays vectors [n, l, d] and user_ids [n] to an .npz file, without pickle."""
    arrays = {"vectors": table.vectors, "user_ids": table.user_ids.astype(str)}
    arrays |= with_head(table.head) | {"meta": np.array(json.dumps(meta))}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    atomic_write(path, write)


def content_hash(path: str | Path, *others: str | Path | None) -> str:
    """Return 16 hexadecimal digits of the content of a file or folder, and of other files."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    extra = [Path(other) for other in others if other is not None]
    if len(files) == 1 and not extra:
        return sha256_file(files[0])[:16]
    digest = hashlib.sha256()
    for file in [*files, *extra]:
        digest.update(f"{file.name}:{sha256_file(file)};".encode())
    return digest.hexdigest()[:16]
