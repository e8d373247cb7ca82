"""Packed prompts: a folder of safetensors shards with an index, for tables larger than the memory.

Each shard holds `vectors` [rows, tokens, width] and, in its metadata, the user id of each row.
index.parquet has the columns user_id, shard and row; prompts.json describes the prompts.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.datasets.reading.column_values import as_ids
from puma_engine.datasets.reading.parquet_files import read_parquet
from puma_engine.errors import DataError
from puma_engine.exchange.prompt_file import (
    HEAD_FILE,
    PromptFile,
    as_float32,
    checked,
    checked_ids,
    read_head,
    write_head,
)
from puma_engine.exchange.shards import INDEX, TENSORS, VECTORS, Shard, open_shard, shards_of
from puma_engine.exchange.storage import DiskFolder, Folder
from puma_engine.files import load_tensors, read_json, save_tensors, write_json
from puma_engine.prompts.table import PromptTable
from puma_engine.selection.clustering import Projection

ABOUT = "prompts.json"
SHARD_USERS = 50_000


def read_packed(folder: Path) -> PromptFile:
    """Read packed shards. Raises DataError if a shard has other users than the index."""
    try:
        fields = ("user_id", "shard", "row")
        table = read_parquet(folder / INDEX, fields)
        columns = {name: as_ids(table[name], f"{name}s") for name in fields}
        index = pd.DataFrame(
            {name: np.array(ids.unique, object)[ids.codes] for name, ids in columns.items()}
        ).astype({"row": np.int64})
    except (DataError, KeyError, ValueError) as error:
        raise DataError(
            f"The index {folder / INDEX} is not a whole Parquet file with user_id, shard and row "
            f"({error}); export the prompts again."
        ) from error
    metadata = read_json(folder / ABOUT, "export the prompts again")
    ids, blocks = [], []
    names = {file.name for file in folder.glob(f"*{TENSORS}")} - {HEAD_FILE}
    for shard in index["shard"].unique():
        if shard not in names:
            raise DataError(
                f"The index of {folder} names the shard {str(shard)!r}, which is missing or outside of "
                "its folder; export the prompts again."
            )
    for shard, rows in index.groupby("shard", sort=True):
        arrays, meta = load_tensors(folder / str(shard))
        listed = rows.sort_values("row")["user_id"].tolist()
        users = meta.get("user_ids") if isinstance(meta, dict) else None
        if users != listed or VECTORS not in arrays or len(arrays[VECTORS]) != len(listed):
            raise DataError(
                f"The shard {shard} of {folder} holds other users than its index names; export again."
            )
        ids += listed
        blocks.append(arrays[VECTORS])
    vectors = np.concatenate(blocks)
    return checked(folder, ids, vectors, head=read_head(folder), meta=metadata, complete=True)


def write_packed(
    folder: Path, table: PromptTable, meta: dict[str, Any], *, shard_users: int = SHARD_USERS
) -> None:
    """Write shards of at most `shard_users` users, with an index by which a single user can be read."""
    count = max(1, -(-len(table.user_ids) // shard_users))
    index = []
    for number in range(count):
        rows = slice(number * shard_users, (number + 1) * shard_users)
        name = f"prompts-{number + 1:05}-of-{count:05}.safetensors"
        ids = table.user_ids[rows].tolist()
        save_tensors(folder / name, {VECTORS: table.vectors[rows]}, {"user_ids": ids})
        index.append(pd.DataFrame({"user_id": ids, "shard": name, "row": np.arange(len(ids))}))
    pd.concat(index, ignore_index=True).to_parquet(folder / INDEX, index=False)
    write_head(folder, table.head)
    write_json(folder / ABOUT, meta)


class PromptShards:
    """Prompts of a folder of shards, read in blocks; the folder needs no index.

    user_ids: [n] str, in the order of shards; shape: of one prompt. Raises DataError, StoreError.
    """

    def __init__(self, folder: Folder | Path) -> None:
        folder = DiskFolder(folder) if isinstance(folder, Path) else folder
        self.folder = folder
        self.shards = [open_shard(folder, name) for name in shards_of(folder)]
        if not self.shards:
            raise DataError(f"The folder {folder} has no shards (*.safetensors or *.parquet).")
        ids = []
        for shard in self.shards:
            users = shard.user_ids()
            if users is None:
                raise DataError(
                    f"The shard {folder}/{shard.name} does not name the user of each row; write it with "
                    "puma prompts export --format packed, or as Parquet with the column user_id."
                )
            ids.append(np.array(checked_ids(f"{folder}/{shard.name}", users), dtype=str))
        self.user_ids = np.concatenate(ids)
        shapes = {shard.shape for shard in self.shards}
        if len(shapes) != 1:
            raise DataError(
                f"The shards of {folder} have prompts of {len(shapes)} shapes: {shapes}."
            )
        self.shape = shapes.pop()
        self._start = np.cumsum([0, *(shard.rows for shard in self.shards)])
        duplicated = pd.Index(self.user_ids).duplicated()
        if duplicated.any():
            raise DataError(
                f"The user {str(self.user_ids[duplicated][0])!r} occurs twice in {folder}; each user has "
                "one prompt."
            )

    def projected(self, project: Projection, rows: int) -> np.ndarray:
        """Return the components [n, k] of all prompts, computed for at most `rows` prompts of a shard at a time."""
        width = 1 if project.axes is None else project.axes.shape[1]
        space = np.empty((len(self.user_ids), width), np.float32)
        full = [number for number, shard in enumerate(self.shards) if shard.rows]
        for number, part in self.projected_shards(project, rows, full):
            space[self._start[number] : self._start[number + 1]] = part
        return space

    def projected_shards(
        self, project: Projection, rows: int, numbers: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number and the components of some shards, in any order; see `projected`."""
        for number in numbers:
            yield number, projected_shard(self.shards[number], project, rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the prompts [len(rows), d] of some users, by the number of their rows."""
        prompts = np.empty((len(rows), int(np.prod(self.shape))), np.float32)
        for number, places, numbers in self.by_shard(rows):
            prompts[places] = taken_from_shard(self.shards[number], numbers)
        return prompts

    def by_shard(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield for each shard with some of these rows: its number, their positions in `rows`, and their numbers in the shard."""
        number_of = np.searchsorted(self._start, rows, side="right") - 1
        for number in np.unique(number_of):
            places = np.flatnonzero(number_of == number)
            yield int(number), places, rows[places] - self._start[number]


def projected_shard(shard: Shard, project: Projection, rows: int) -> np.ndarray:
    """Return the components of a shard's prompts, computed for at most `rows` of them at a time."""
    return np.concatenate([project(_flat(shard, block)) for block in shard.blocks(rows)])


def taken_from_shard(shard: Shard, rows: np.ndarray) -> np.ndarray:
    """Return some prompts of a shard [len(rows), d], by number."""
    return _flat(shard, shard.take(rows))


def _flat(shard: Shard, block: np.ndarray) -> np.ndarray:
    return as_float32(f"{shard.folder}/{shard.name}", block.reshape(len(block), -1))
