"""Prompts of a folder of shards, read in parts: for more users than fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.files import TensorFile

VECTORS = "vectors"
COMPANIONS = ("head.safetensors",)


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a folder by name: its .safetensors files but the head."""
    return [file for file in sorted(folder.glob("*.safetensors")) if file.name not in COMPANIONS]


class PromptShards:
    """Prompts in shards with `vectors` [rows, tokens, width] and the user ids in their metadata.

    user_ids: [n] str, shard after shard. Raises DataError, StoreError.
    """

    def __init__(self, folder: Path) -> None:
        self.files = [TensorFile(file) for file in shard_files(folder)]
        if not self.files:
            raise DataError(f"The folder {folder} has no shards (*.safetensors).")
        self.user_ids = np.concatenate([_ids(file) for file in self.files])
        shapes = {file.shape(VECTORS)[1:] for file in self.files}
        if len(shapes) != 1:
            raise DataError(
                f"The shards of {folder} have prompts of {len(shapes)} shapes: {shapes}."
            )
        self.shape = shapes.pop()
        self._start = np.cumsum([0, *(file.shape(VECTORS)[0] for file in self.files)])
        twice = pd.Index(self.user_ids).duplicated()
        if twice.any():
            raise DataError(
                f"The user {str(self.user_ids[twice][0])!r} is twice in {folder}; each user has "
                "one prompt."
            )

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Give the first row's number and the prompts [up to `rows`, d] of each block."""
        for number, file in enumerate(self.files):
            count = file.shape(VECTORS)[0]
            for start in range(0, count, rows):
                block = file.read(VECTORS, start, min(start + rows, count))
                yield int(self._start[number]) + start, _checked(file, block)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the prompts [len(rows), d] of some users, by the number of their rows."""
        shard = np.searchsorted(self._start, rows, side="right") - 1
        found = np.empty((len(rows), int(np.prod(self.shape))), np.float32)
        for number in np.unique(shard):
            mine, file = shard == number, self.files[number]
            found[mine] = _checked(file, file.take(VECTORS, rows[mine] - self._start[number]))
        return found


def _ids(file: TensorFile) -> np.ndarray:
    if VECTORS not in file.names():
        raise DataError(f"The shard {file.path} has no tensor named {VECTORS}.")
    ids = file.meta.get("user_ids") if isinstance(file.meta, dict) else None
    if ids is None or len(ids) != file.shape(VECTORS)[0]:
        raise DataError(
            f"The shard {file.path} does not name the user of each row in its metadata; write it "
            "with puma prompts export --form packed."
        )
    return np.array(ids, dtype=str)


def _checked(file: TensorFile, block: np.ndarray) -> np.ndarray:
    flat = block.reshape(len(block), -1).astype(np.float32, copy=False)
    if not np.isfinite(flat).all():
        raise DataError(
            f"The prompts of {file.path} hold NaN or infinite values; export them again."
        )
    return flat
