"""Mapping and selection over folders of shards, for more users than fit in memory, outside any workspace."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from puma_engine.backbone.templates import CONFIG_KEYS
from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.errors import Cancelled, ConfigError, MigrationError, SelectionError
from puma_engine.exchange import packed
from puma_engine.exchange.packed import ABOUT, INDEX, VECTORS, PromptShards
from puma_engine.exchange.prompt_file import HEAD_FILE, write_head
from puma_engine.files import (
    TensorFile,
    atomic_write,
    make_folder,
    new_folder,
    read_json,
    write_json,
)
from puma_engine.prompts.table import PromptTable
from puma_engine.selection.clustering import streamed_components
from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import STRATEGIES, select_users
from puma_engine.serving.mapper import Mapper
from puma_engine.store import locks

# The metadata key under which a mapped shard names its adapter and its input.
ORIGIN = "puma_stream"
SELECTION_FILE = "selection.parquet"


@dataclass(frozen=True)
class ShardTask:
    """A shard to map. made: the file to write; origin: its metadata; chunk_rows: prompts in memory."""

    shard: Path
    made: Path
    origin: str
    chunk_rows: int


# Called before a shard is mapped, with the number of those that are finished; raises Cancelled.
BeginShard = Callable[[Path, int], None]
# Maps shards and yields the number of prompts of each when it is finished.
MapShards = Callable[[Sequence[ShardTask], BeginShard], Iterator[int]]


def migrate_stream(
    mapper: Mapper,
    source: Path,
    target: Path,
    *,
    chunk_rows: int = 4096,
    report: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    map_shards: MapShards | None = None,
) -> dict[str, Any]:
    """Map `vectors` of every .safetensors shard of a folder into a shard of the same name.

    At most `chunk_rows` prompts are in memory. A shard gets its name when it is complete; one
    that is there already, from the same input and adapter, is skipped. Metadata (user ids)
    and index.parquet are copied, so the result can be imported. report: called with a shard's
    name, the number of finished shards, and of all. map_shards: maps shards elsewhere, such as
    `serving.cluster_bulk.ShardsOnCluster`. Returns counts and seconds. Raises MigrationError,
    StoreError, Cancelled.
    """
    shards = packed.shard_files(source)
    if not shards:
        raise MigrationError(f"The folder {source} has no shards (*.safetensors).")
    if source.resolve() == target.resolve():
        raise MigrationError("The folder to write must be another than the one to read.")
    make_folder(target)
    with locks.folder_lock(target) as alone:
        if not alone:
            raise MigrationError(
                f"Another process writes to the folder {target}; wait for it to end, or give another."
            )
        for unfinished in target.glob(".*.tmp"):
            unfinished.unlink()  # of a process that was killed
        users, started = 0, time.perf_counter()
        waiting = _unfinished(mapper, shards, target, chunk_rows)
        skipped = len(shards) - len(waiting)

        def begin(shard: Path, finished: int) -> None:
            if should_cancel is not None and should_cancel():
                raise Cancelled(f"Cancelled before {shard.name}; run it again to go on.")
            if report is not None:
                report(shard.name, skipped + finished, len(shards))

        for rows in (map_shards or partial(_map_here, mapper))(waiting, begin):
            users += rows
        _complete(mapper, source, target)
    seconds = time.perf_counter() - started
    return {"shards": len(shards), "skipped": skipped, "users": users, "seconds": seconds}


def _unfinished(
    mapper: Mapper, shards: list[Path], target: Path, chunk_rows: int
) -> list[ShardTask]:
    """Return what is to be done; raise MigrationError for a shard that another adapter made."""
    tasks = []
    for shard in shards:
        stat = shard.stat()
        origin = f"{mapper.identity}:{stat.st_size}:{stat.st_mtime_ns}"
        made = target / shard.name
        stored = TensorFile(made).metadata().get(ORIGIN, "") if made.exists() else ""
        if stored and stored.split(":")[0] != mapper.identity:
            raise MigrationError(
                f"The file {made} was made by another adapter; give a folder of its own to each."
            )
        if stored != origin:
            tasks.append(ShardTask(shard, made, origin, chunk_rows))
    return tasks


def _map_here(mapper: Mapper, tasks: Sequence[ShardTask], begin: BeginShard) -> Iterator[int]:
    for number, task in enumerate(tasks):
        begin(task.shard, number)
        yield map_shard(mapper, task)


def _complete(mapper: Mapper, source: Path, target: Path) -> None:
    """Write what makes mapped shards a packed table, if the source is one."""
    if (source / INDEX).is_file():
        atomic_write(target / INDEX, partial(shutil.copyfile, source / INDEX))
        about = {name: mapper.config[name] for name in CONFIG_KEYS if name in mapper.config}
        about["adapter"] = mapper.identity
        if end := mapper.config.get("target"):
            about["backbone"] = {"spec": end["backbone"], "fingerprint": end["fingerprint"]}
        write_json(target / ABOUT, about)
        write_head(target, mapper.head)


def map_shard(mapper: Mapper, task: ShardTask) -> int:
    """Map one shard, and return its number of prompts. Raises MigrationError, StoreError."""
    shard = task.shard
    file = TensorFile(shard)
    if VECTORS not in file.names():
        raise MigrationError(f"The shard {shard} has no tensor named {VECTORS}.")
    shape = file.shape(VECTORS)
    tokens = shape[1] if len(shape) == 3 else 1

    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            header = file.metadata() | {ORIGIN: task.origin}
            begin_tensor_file(out, [shape[0], tokens, mapper.d_out], header)
            for start in range(0, shape[0], task.chunk_rows):
                block = mapper.check(file.read(VECTORS, start, start + task.chunk_rows))
                out.write(mapper(block).astype("<f4", copy=False).tobytes())

    atomic_write(task.made, write)
    return shape[0]


def begin_tensor_file(file: BinaryIO, shape: list[int], metadata: dict[str, str]) -> None:
    """Begin a safetensors file with one float32 tensor `vectors`, whose rows follow.

    The library writes whole tensors only.
    """
    size = int(np.prod(shape, dtype=np.int64)) * 4
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": metadata, VECTORS: tensor}).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def select_stream(
    source: Path,
    target: Path,
    *,
    budget: int,
    strategy: str = PAPER_STRATEGY,
    signals: Path | None = None,
    seed: int = 0,
    clusters: int = 15,
    strata: int = 5,
    min_cluster: int = 50,
    groups: int | None = None,
) -> dict[str, Any]:
    """Select users of a folder of shards, and write the prompts of the selected as a folder.

    signals: a Parquet file with user_id and the columns that the strategy reads beside the
    prompts (variance, loss, ...). The folder to write is a packed table that can be imported,
    with selection.parquet: each user's cluster, stratum and whether selected. Returns counts and
    the report of the strategy. groups: deprecated name of strata. Raises
    ConfigError, SelectionError, DataError, StoreError.
    """
    started = time.perf_counter()
    allowed = [name for name, plan in STRATEGIES.items() if plan.space in (None, "pca")]
    if strategy not in allowed:
        raise ConfigError(
            f"The strategy {strategy!r} cannot be streamed; those that can are {', '.join(allowed)}."
        )
    prompts = PromptShards(source)
    space = streamed_components(prompts, seed) if STRATEGIES[strategy].space else None
    selection = select_users(
        strategy,
        Signals(prompts.user_ids, space=space, **_signals(signals, strategy, prompts.user_ids)),
        budget,
        seed=seed,
        clusters=clusters,
        strata=strata,
        min_cluster=min_cluster,
        groups=groups,
    )
    order = np.argsort(prompts.user_ids)
    rows = order[np.searchsorted(prompts.user_ids[order], selection.user_ids)]
    tokens, width = prompts.shape if len(prompts.shape) == 2 else (1, *prompts.shape)
    vectors = prompts.take(rows).reshape(len(rows), tokens, width)
    about = source / ABOUT
    meta = read_json(about) if about.is_file() else {}
    users = pd.DataFrame({"user_id": prompts.user_ids} | selection.group)
    users["selected"] = np.isin(np.arange(len(users)), rows)
    with new_folder(target) as folder:
        packed.write_packed(folder, PromptTable(selection.user_ids, vectors), meta)
        if (source / HEAD_FILE).is_file():
            shutil.copyfile(source / HEAD_FILE, folder / HEAD_FILE)
        users.to_parquet(folder / SELECTION_FILE, index=False)
    return {
        "users": len(users),
        "selected": len(rows),
        "seconds": time.perf_counter() - started,
        "report": selection.report,
    }


def _signals(path: Path | None, strategy: str, users: np.ndarray) -> dict[str, np.ndarray]:
    """Read the signals that a strategy needs, in the order of the users."""
    needed = sorted(STRATEGIES[strategy].needs)
    if not needed:
        return {}
    if path is None:
        raise ConfigError(
            f"The strategy {strategy!r} needs {', '.join(needed)} of each user: name a Parquet "
            f"file with user_id, {', '.join(needed)} (--signals)."
        )
    missing = {"user_id", *needed} - set(pq.read_schema(path).names)
    if missing:
        raise ConfigError(f"The file {path} has no column {', '.join(sorted(missing))}.")
    frame = pd.read_parquet(path, columns=["user_id", *needed])
    index = pd.Index(frame["user_id"].astype(str))
    if not index.is_unique:
        raise SelectionError(f"The file {path} names a user twice; each user has one row.")
    rows = index.get_indexer(pd.Index(users))
    if (rows < 0).any():
        raise SelectionError(
            f"{int((rows < 0).sum())} users of the shards are not in {path} (first: "
            f"{str(users[rows < 0][0])!r}); add them or leave them out of the shards."
        )
    return {name: frame[name].to_numpy()[rows] for name in needed}
