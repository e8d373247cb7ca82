"""Keys and values of items' texts, stored on disk between runs.

A large model reads only a few items a second on a CPU, and the keys and values of a text before the
prompt slot never change. Each text has one file, named by the hash of its token ids, in a folder
for the model, its precision and the versions that computed it. Files are written atomically, have a
checksum and are readable by their owner alone. The least recently used ones make room for new ones.

Only texts of a data set's items are stored: no user's history, and no title that somebody typed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from puma_engine.config import stable_hash

FORMAT = 1
SUFFIX = ".kv"
DIGEST = 32
SECONDS = "seconds"
# The least recently used files are removed until this share of the budget is left.
LOW_WATER = 0.9

_log = logging.getLogger("puma_engine.backbone")


def store_key(fingerprint: str, dtype: torch.dtype, quantised: str | None = None) -> str:
    """Return the folder name for a model, its precision and the versions of the libraries."""
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
    return f"{fingerprint}-{stable_hash([FORMAT, str(dtype), quantised, versions])}"


@dataclass
class PrefixStore:
    """The stored keys and values of one model.

    folder: of all models; key: see `store_key`; budget: bytes of all files in the folder. hits:
    number of texts read from disk; hit_seconds: the time that their computation took.
    """

    folder: Path
    key: str
    budget: int
    hits: int = 0
    hit_seconds: float = 0.0
    _written: int = 0
    _failed: bool = field(default=False, repr=False)

    def forget(self) -> None:
        """Reset hits and hit_seconds to 0."""
        self.hits, self.hit_seconds = 0, 0.0

    def read(self, ids: Sequence[int], start: int) -> list[Tensor] | None:
        """Return keys and values of the tokens ids[start:] for each layer, [2, kv_heads, n, head_dim].

        None if they are not stored. A damaged file is removed.
        """
        path = self._path(ids, start)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, payload = content[:DIGEST], content[DIGEST:]
        try:
            if hashlib.sha256(payload).digest() != digest:
                raise ValueError("the checksum differs")
            tensors = load(payload)
            seconds = float(tensors.pop(SECONDS))
            layers = [tensors[str(number)] for number in range(len(tensors))]
            if any(layer.shape[2] != len(ids) - start for layer in layers):
                raise ValueError("it has another number of tokens")
        except (ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
            _log.warning("The cached item %s is damaged (%s); it is computed again.", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self.hits += 1
        self.hit_seconds += seconds
        return layers

    def write(
        self, ids: Sequence[int], start: int, layers: Sequence[Tensor], seconds: float
    ) -> None:
        """Store what `read` returns, and how long it took to compute; a full disk is not a failure.

        One object writes no more than the budget, since more would only displace its own files.
        """
        tensors = {str(number): layer.contiguous() for number, layer in enumerate(layers)}
        payload = save(tensors | {SECONDS: torch.tensor(seconds, dtype=torch.float64)})
        size = DIGEST + len(payload)
        if self._failed or self._written + size > LOW_WATER * self.budget:
            return
        path = self._path(ids, start)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest())
                file.write(payload)
            # Not synced to disk: a file that a crash leaves incomplete fails its checksum.
            temporary.replace(path)
        except OSError as error:
            self._failed = True
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            _log.warning("Items are not kept on disk: %s cannot be written (%s).", path, error)
            return
        self._written += size

    def make_room(self) -> None:
        """Remove the least recently used files if all together exceed the budget."""
        files = []
        for path in self.folder.glob(f"*/*/*{SUFFIX}"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self.budget:
            return
        for _, size, path in sorted(files):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            total -= size
            if total <= LOW_WATER * self.budget:
                break

    def _path(self, ids: Sequence[int], start: int) -> Path:
        name = hashlib.sha256(f"{start}:{','.join(map(str, ids))}".encode()).hexdigest()
        return self.folder / self.key / name[:2] / f"{name[2:40]}{SUFFIX}"
