"""Bulk migration over sharded safetensors: constant memory, shard by shard, resumable."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from puma_engine.errors import Cancelled, MigrationError
from puma_engine.exchange.prompt_file import with_head
from puma_engine.exchange.prompt_folders import ABOUT, INDEX
from puma_engine.exchange.shards import VECTORS, shard_files
from puma_engine.files import TensorFile, atomic_write, save_tensors, write_json
from puma_engine.serving.mapper import Mapper

STAMP = "puma_stream"
CHUNK_ROWS = 4096


def migrate_stream(
    mapper: Mapper,
    source: Path,
    target: Path,
    *,
    chunk_rows: int = CHUNK_ROWS,
    report: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Map `vectors` of every .safetensors shard of a folder into a shard of the same name.

    At most `chunk_rows` prompts are in memory. A shard appears when it is whole; one that is
    there already, from the same input and adapter, is not done again. Metadata (user ids)
    and index.parquet go along, so the result can be imported. Returns counts. Raises
    MigrationError, StoreError, Cancelled.
    """
    shards = shard_files(source)
    if not shards:
        raise MigrationError(f"The folder {source} has no shards (*.safetensors).")
    if source.resolve() == target.resolve():
        raise MigrationError("The folder to write must be another than the one to read.")
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(".*.tmp"):
        left.unlink()  # of a process that was killed
    users, skipped, started = 0, 0, time.perf_counter()
    for number, shard in enumerate(shards):
        if should_cancel is not None and should_cancel():
            raise Cancelled(f"Cancelled before {shard.name}; run it again to go on.")
        if report is not None:
            report(shard.name, number, len(shards))
        stamp = _stamp(mapper, shard)
        if _is_done(target / shard.name, stamp, mapper):
            skipped += 1
            continue
        users += _map_shard(mapper, shard, target / shard.name, stamp, chunk_rows)
    _companions(mapper, source, target)
    spent = time.perf_counter() - started
    return {"shards": len(shards), "skipped": skipped, "users": users, "seconds": spent}


def _stamp(mapper: Mapper, shard: Path) -> str:
    facts = shard.stat()
    return f"{mapper.identity}:{facts.st_size}:{facts.st_mtime_ns}"


def _is_done(file: Path, stamp: str, mapper: Mapper) -> bool:
    if not file.exists():
        return False
    found = TensorFile(file).metadata().get(STAMP, "")
    if found and found.split(":")[0] != mapper.identity:
        raise MigrationError(
            f"The file {file} was made by another adapter; give a folder of its own to each."
        )
    return found == stamp


def _map_shard(mapper: Mapper, shard: Path, target: Path, stamp: str, chunk_rows: int) -> int:
    file = TensorFile(shard)
    if VECTORS not in file.names():
        raise MigrationError(f"The shard {shard} has no tensor named {VECTORS}.")
    shape = file.shape(VECTORS)
    tokens = shape[1] if len(shape) == 3 else 1

    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            header = file.metadata() | {STAMP: stamp}
            begin_tensor_file(out, [shape[0], tokens, mapper.d_out], header)
            for start in range(0, shape[0], chunk_rows):
                block = mapper.check(file.read(VECTORS, start, start + chunk_rows))
                out.write(mapper(block).astype("<f4", copy=False).tobytes())

    atomic_write(target, write)
    return shape[0]


def begin_tensor_file(file: BinaryIO, shape: list[int], metadata: dict[str, str]) -> None:
    """Begin a safetensors file with one float32 tensor, whose rows follow."""
    size = int(np.prod(shape, dtype=np.int64)) * 4
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _companions(mapper: Mapper, source: Path, target: Path) -> None:
    """What makes the shards a packed table: the index, what they are, the target's head."""
    if not (source / INDEX).is_file():
        return
    atomic_write(target / INDEX, lambda temporary: _copy(source / INDEX, temporary))
    about = {"template": mapper.config.get("template"), "adapter": mapper.identity}
    end = mapper.config.get("target")
    if end:
        about["backbone"] = {"spec": end["backbone"], "fingerprint": end["fingerprint"]}
    write_json(target / ABOUT, about)
    if mapper.head:
        save_tensors(target / "head.safetensors", with_head(mapper.head))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
