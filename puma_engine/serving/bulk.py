"""Map prompts and select users in folders of shards, with bounded memory and without a workspace."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puma_engine.backbone.templates import CONFIG_KEYS
from puma_engine.datasets.reading.column_values import as_ids, as_numbers
from puma_engine.datasets.reading.parquet_files import parquet_names, read_parquet
from puma_engine.defaults import CLUSTERS, MIN_CLUSTER, PAPER_STRATEGY, STRATA
from puma_engine.errors import (
    Cancelled,
    ConfigError,
    DataError,
    MigrationError,
    SelectionError,
    StoreError,
)
from puma_engine.exchange import packed
from puma_engine.exchange.packed import ABOUT, PromptShards
from puma_engine.exchange.prompt_file import HEAD_FILE, write_head
from puma_engine.exchange.shard_ids import CheckedIds, check_user_ids
from puma_engine.exchange.shards import (
    INDEX,
    SELECTION_FILE,
    MappedShard,
    metadata_of,
    open_shard,
    shards_of,
)
from puma_engine.exchange.storage import DiskFolder, Entry, Folder, folder_of, put_files
from puma_engine.files import new_folder, read_json, write_json
from puma_engine.prompts.table import PromptTable
from puma_engine.selection.clustering import streamed_components
from puma_engine.selection.signals import Signals
from puma_engine.selection.strategies import STRATEGIES, check_groups, select_users

if TYPE_CHECKING:
    from puma_engine.serving.mapper import Mapper

LOG = logging.getLogger(__name__)
# Metadata key of a mapped shard with its adapter and its input.
ORIGIN = "puma_stream"
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class ShardTask:
    """A shard to map. source, target: the folders' locations; origin: metadata of the mapped shard.

    chunk_rows: number of prompts in memory; dtype: of the mapped prompts.
    """

    source: str
    target: str
    name: str
    origin: str
    chunk_rows: int
    dtype: str


# Maps shards, and yields the name and number of prompts of each finished shard.
MapShards = Callable[[Sequence[ShardTask]], Iterator[tuple[str, int]]]


def migrate_stream(
    mapper: Mapper,
    source: str | Path,
    target: str | Path,
    *,
    chunk_rows: int = 4096,
    dtype: str = "float32",
    report: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    map_shards: MapShards | None = None,
) -> dict[str, Any]:
    """Map the prompts of every shard of a folder into a shard of the same name and kind.

    source, target: folders, or URLs of storage that fsspec reaches; shards as in `exchange.shards`.
    At most `chunk_rows` prompts are in memory. A shard gets its name when it is complete; an
    existing one with the same input and adapter is skipped. Metadata (user ids), other columns and
    index.parquet are copied, so that the result can be imported. User ids are checked first, see
    `exchange.shard_ids`; shards without user ids are mapped, too, and their prompts are counted.
    dtype: float32, or float16 for half the bytes. report: called with a shard's name, the number of
    finished shards, and of all. map_shards: maps shards elsewhere, such as
    `serving.cluster_bulk.ShardsOnCluster`. Returns counts and seconds. Raises ConfigError,
    MigrationError, DataError, StoreError, Cancelled.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"Mapped prompts are {' or '.join(DTYPES)}, not {dtype!r}.")
    source_folder, target_folder = folder_of(source), folder_of(target)
    shards = shards_of(source_folder)
    if not shards:
        raise MigrationError(
            f"The folder {source_folder} has no shards (*.safetensors or *.parquet)."
        )
    if source_folder.location == target_folder.location:
        raise MigrationError("The folder to write must be another than the one to read.")
    with target_folder.claimed(mapper.identity):
        users, started = 0, time.perf_counter()
        waiting = _unfinished(mapper, source_folder, target_folder, shards, chunk_rows, dtype)
        finished = skipped = len(shards) - len(waiting)

        def refuse_cancelled(name: str) -> None:
            if should_cancel is not None and should_cancel():
                raise Cancelled(f"Cancelled before {name}; run it again to go on.")

        def begin(name: str) -> None:
            refuse_cancelled(name)
            if report is not None:
                report(name, finished, len(shards))

        checked = (
            _checked_ids(source_folder, list(shards), refuse_cancelled) if waiting else CheckedIds()
        )
        map_here = partial(_map_here, mapper, begin)
        for name, rows in (map_shards or map_here)(waiting):
            users, finished = users + rows, finished + 1
            if map_shards is not None and report is not None:
                report(name, finished, len(shards))
        _write_description(mapper, source_folder, target_folder)
    seconds = time.perf_counter() - started
    return {
        "shards": len(shards),
        "skipped": skipped,
        "users": users,
        "without_user_id": checked.unnamed,
        "seconds": seconds,
    }


def _checked_ids(folder: Folder, shards: Sequence[str], begin: Callable[[str], None]) -> CheckedIds:
    """Check user ids, and log warnings. Raises MigrationError, StoreError."""
    try:
        checked = check_user_ids(folder, shards, begin=begin)
    except DataError as error:
        raise MigrationError(str(error)) from error
    if checked.unnamed:
        LOG.warning(
            "%s prompts are in shards that do not name their users, so nothing says whether a user is there "
            "twice.",
            f"{checked.unnamed:,}",
        )
    if checked.alike:
        LOG.warning(
            "%s user ids differ from others only by spaces or quotation marks around them, by .0 or by how "
            "letters are encoded (one is %r) and count as other users.",
            f"{checked.alike:,}",
            checked.example,
        )
    return checked


def _unfinished(
    mapper: Mapper,
    source: Folder,
    target: Folder,
    shards: Mapping[str, Entry],
    chunk_rows: int,
    dtype: str,
) -> list[ShardTask]:
    """Return the tasks of unfinished shards. Raises MigrationError for a shard that another adapter made."""
    tasks, existing = [], target.entries()
    for name, entry in shards.items():
        origin = f"{mapper.identity}:{entry.version}"
        # Files of earlier versions have float32, without an entry.
        origin += "" if dtype == DTYPES[0] else f":{dtype}"
        stored = metadata_of(target, name).get(ORIGIN, "") if name in existing else ""
        if stored and stored.split(":")[0] != mapper.identity:
            raise MigrationError(
                f"The file {target}/{name} was made by another adapter; give a folder of its own to each."
            )
        if stored != origin:
            tasks.append(
                ShardTask(source.location, target.location, name, origin, chunk_rows, dtype)
            )
    return tasks


def _map_here(
    mapper: Mapper, begin: Callable[[str], None], tasks: Sequence[ShardTask]
) -> Iterator[tuple[str, int]]:
    for task in tasks:
        begin(task.name)
        yield task.name, map_shard(mapper, task)


def _write_description(mapper: Mapper, source: Folder, target: Folder) -> None:
    """Write the index and description of a packed table, if the source is one."""
    if INDEX not in source.entries():
        return
    with source.fetched(INDEX) as index:
        target.write(INDEX, partial(shutil.copyfile, index))
    with tempfile.TemporaryDirectory() as name:
        write_json(Path(name) / ABOUT, _import_metadata(mapper))
        write_head(Path(name), mapper.head)
        put_files(Path(name), target)


def _import_metadata(mapper: Mapper) -> dict[str, Any]:
    """Return the metadata that an import of mapped prompts needs."""
    metadata = {name: mapper.config[name] for name in CONFIG_KEYS if name in mapper.config}
    metadata["adapter"] = mapper.identity
    if end := mapper.config.get("target"):
        metadata["backbone"] = {"spec": end["backbone"], "fingerprint": end["fingerprint"]}
    return metadata


def map_shard(mapper: Mapper, task: ShardTask) -> int:
    """Map one shard, and return its number of prompts. Raises MigrationError, StoreError."""
    head = {name: value.tolist() for name, value in (mapper.head or {}).items()}

    def apply(prompts: np.ndarray) -> np.ndarray:
        vectors = mapper(mapper.check(prompts))
        largest = max(vectors.max(initial=0), -vectors.min(initial=0))
        if largest > np.finfo(task.dtype).max:
            raise MigrationError(
                f"A mapped prompt of {task.name} has a number that {task.dtype} cannot hold; use float32."
            )
        return vectors.astype(task.dtype, copy=False)

    try:
        shard = open_shard(folder_of(task.source), task.name)
    except DataError as error:
        raise MigrationError(str(error)) from error
    mapped = MappedShard(
        apply,
        mapper.d_out,
        task.dtype,
        task.chunk_rows,
        {ORIGIN: task.origin},
        {"meta": _import_metadata(mapper), "head": head or None},
    )
    folder_of(task.target).write(task.name, partial(shard.write_mapped, mapped=mapped))
    return shard.rows


def select_stream(
    source: str | Path,
    target: str | Path,
    *,
    budget: int,
    strategy: str = PAPER_STRATEGY,
    signals: Path | None = None,
    seed: int = 0,
    clusters: int = CLUSTERS,
    strata: int = STRATA,
    min_cluster: int = MIN_CLUSTER,
    groups: int | None = None,
    open_prompts: Callable[[Folder], PromptShards] = PromptShards,
) -> dict[str, Any]:
    """Select users in a folder of shards, and write their prompts to another folder.

    source, target: folders, or URLs of storage that fsspec reaches; the target must be new.
    signals: a Parquet file with user_id and the columns that the strategy reads besides the prompts
    (variance, loss, ...). The target is a packed table that can be imported, with
    selection.parquet: cluster and stratum of each user, and whether the user was selected. Returns
    counts and the report of the strategy. groups: deprecated name of strata. open_prompts: opens
    the folder to read, such as `serving.cluster_bulk.PromptsOnCluster`. Raises ConfigError,
    SelectionError, DataError, StoreError.
    """
    started = time.perf_counter()
    allowed = [name for name, plan in STRATEGIES.items() if plan.space in (None, "pca")]
    if strategy not in allowed:
        raise ConfigError(
            f"The strategy {strategy!r} cannot be streamed; those that can are {', '.join(allowed)}."
        )
    strata = strata if groups is None else groups
    check_groups(strategy, clusters=clusters, strata=strata, min_cluster=min_cluster)
    source_folder, target_folder = folder_of(source), folder_of(target)
    if target_folder.entries():
        raise StoreError(
            f"There is already something at {target_folder}; give a folder that is not there."
        )
    prompts = open_prompts(source_folder)
    space = streamed_components(prompts, seed) if STRATEGIES[strategy].space else None
    selection = select_users(
        strategy,
        Signals(prompts.user_ids, space=space, **_signals(signals, strategy, prompts.user_ids)),
        budget,
        seed=seed,
        clusters=clusters,
        strata=strata,
        min_cluster=min_cluster,
    )
    order = np.argsort(prompts.user_ids)
    rows = order[np.searchsorted(prompts.user_ids[order], selection.user_ids)]
    tokens, width = prompts.shape if len(prompts.shape) == 2 else (1, *prompts.shape)
    vectors = prompts.take(rows).reshape(len(rows), tokens, width)
    users = pd.DataFrame({"user_id": prompts.user_ids} | selection.group)
    users["selected"] = np.isin(np.arange(len(users)), rows)
    table = PromptTable(selection.user_ids, vectors)
    if isinstance(target_folder, DiskFolder):
        with new_folder(target_folder.path) as folder:
            _write_selected(source_folder, folder, table, users)
    else:
        with tempfile.TemporaryDirectory() as name:
            _write_selected(source_folder, Path(name), table, users)
            put_files(Path(name), target_folder)
    return {
        "users": len(users),
        "selected": len(rows),
        "seconds": time.perf_counter() - started,
        "report": selection.report,
    }


def _write_selected(source: Folder, folder: Path, table: PromptTable, users: pd.DataFrame) -> None:
    """Write a packed table with the metadata of its source, and the table of the selection."""
    names, meta = source.entries(), {}
    if ABOUT in names:
        with source.fetched(ABOUT) as metadata_file:
            meta = read_json(metadata_file)
    packed.write_packed(folder, table, meta)
    if HEAD_FILE in names:
        with source.fetched(HEAD_FILE) as head:
            shutil.copyfile(head, folder / HEAD_FILE)
    users.to_parquet(folder / SELECTION_FILE, index=False)


def _signals(path: Path | None, strategy: str, users: np.ndarray) -> dict[str, np.ndarray]:
    """Read the signals that a strategy needs, in the order of the users."""
    needed = sorted(STRATEGIES[strategy].needs)
    if not needed:
        if path is not None:
            raise ConfigError(
                f"The strategy {strategy!r} reads prompts alone, and no signals; leave --signals out."
            )
        return {}
    if path is None:
        raise ConfigError(
            f"The strategy {strategy!r} needs {', '.join(needed)} of each user: name a Parquet "
            f"file with user_id, {', '.join(needed)} (--signals)."
        )
    missing = {"user_id", *needed} - set(parquet_names(path))
    if missing:
        raise ConfigError(f"The file {path} has no column {', '.join(sorted(missing))}.")
    table = read_parquet(path, ["user_id", *needed])
    ids = as_ids(table["user_id"], f"user ids of {path}")
    index = pd.Index(np.array(ids.unique, dtype=object)[ids.codes])
    if not index.is_unique:
        raise SelectionError(f"The file {path} names a user twice; each user has one row.")
    rows = index.get_indexer(pd.Index(users))
    if (rows < 0).any():
        raise SelectionError(
            f"{int((rows < 0).sum())} users of the shards are not in {path} (first: "
            f"{str(users[rows < 0][0])!r}); add them or leave them out of the shards."
        )
    return {name: as_numbers(table[name], f"{name} of {path}")[rows] for name in needed}
