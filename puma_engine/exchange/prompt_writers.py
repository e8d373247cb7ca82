"""Prompt tables as files: one table, or packed shards with an index; read by `imports`."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.errors import StoreError
from puma_engine.exchange.prompt_file import with_head
from puma_engine.exchange.prompt_folders import ABOUT, INDEX
from puma_engine.files import atomic_write, save_tensors, write_json

if TYPE_CHECKING:
    from puma_engine.prompts.table import PromptTable

SHARD_USERS = 50_000


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which gets its name when it is whole, and is gone otherwise."""
    if path.exists():
        raise StoreError(f"There is already something at {path}; give a folder that is not there.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_parquet(path: Path, table: PromptTable, meta: dict[str, Any]) -> None:
    """Write columns user_id and vector (tokens x width numbers each) to a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(table.vectors).reshape(-1))
    columns = {
        "user_id": pa.array(table.user_ids.tolist(), pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, table.tokens * table.width),
    }
    head = {name: value.tolist() for name, value in (table.head or {}).items()}
    about = json.dumps({"tokens": table.tokens, "meta": meta, "head": head or None})
    found = pa.table(columns).replace_schema_metadata({"puma": about})
    atomic_write(path, lambda temporary: pq.write_table(found, temporary))


def write_numpy(path: Path, table: PromptTable, meta: dict[str, Any]) -> None:
    """Write the arrays vectors [n, l, d] and user_ids [n] to an .npz file, nothing pickled."""
    arrays = {"vectors": table.vectors, "user_ids": table.user_ids.astype(str)}
    arrays |= with_head(table.head) | {"meta": np.array(json.dumps(meta))}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    atomic_write(path, write)


def write_packed(
    folder: Path, table: PromptTable, meta: dict[str, Any], *, shard_users: int = SHARD_USERS
) -> None:
    """Write shards of at most `shard_users` users, and index.parquet: user_id, shard, row.

    Each shard holds vectors [n, l, d] and, in its metadata, the user ids of its rows, so
    that one user is found by the index and read alone.
    """
    import pandas as pd

    count = max(1, -(-len(table.user_ids) // shard_users))
    index = []
    for number in range(count):
        rows = slice(number * shard_users, (number + 1) * shard_users)
        name, ids = shard_name(number, count), table.user_ids[rows].tolist()
        save_tensors(folder / name, {"vectors": table.vectors[rows]}, {"user_ids": ids})
        index.append(pd.DataFrame({"user_id": ids, "shard": name, "row": np.arange(len(ids))}))
    pd.concat(index, ignore_index=True).to_parquet(folder / INDEX, index=False)
    write_head(folder, table.head)
    write_json(folder / ABOUT, meta)


def shard_name(number: int, count: int) -> str:
    """Return the file name of a shard, in the hub's way of counting."""
    return f"prompts-{number + 1:05}-of-{count:05}.safetensors"


def write_head(folder: Path, head: dict[str, np.ndarray] | None) -> None:
    """Write the task's head beside what it was trained with, if there is one."""
    if head:
        save_tensors(folder / "head.safetensors", with_head(head))
